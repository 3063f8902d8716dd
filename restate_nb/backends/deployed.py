"""Items that are invocations of a deployed handler: one each, recorded by Restate itself under a key of their own."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from restate_nb.backends.base import CANCELLED_CODE
from restate_nb.backends.connection import Connection
from restate_nb.backends.deployed_handler import DeployedHandler
from restate_nb.backends.introspection import Invocation, columns_of, last_of, position_of
from restate_nb.backends.pooled import PooledBackend
from restate_nb.backends.shards import unended
from restate_nb.engine.function import Function
from restate_nb.engine.outbox import Entry, ShardQueue, cancelled
from restate_nb.engine.record import CANCELLED, ERROR, TIMEOUT, Failure, Group, Recorded, describe
from restate_nb.errors import InvalidInput, InvocationFailed, ItemTimeout, ServerError
from restate_nb.policy import RunPolicy
from restate_nb.results.key_table import EncodedItems
from restate_nb.results.ledger import Ledger
from restate_nb.server.http import BadAnswer, Rejected, UnknownInvocation, Unreachable
from restate_nb.server.ingress import Reply
from restate_nb.service.wire import Manifest

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.2
_GATHER_SECONDS: Final = 0.02  # they are recorded already: the two loops need not wake each other for every one
_REFUSED: Final = frozenset({401, 403, 404})
"""What holds for every item: the token is wrong, or there is no such service. No item is to blame for it."""


class DeployedBackend(PooledBackend):
    """The calls of one job.

    They are items of a pool, as those of plain functions are: so concurrency, rates, limits, retries and fail_fast are
    the same. To run one means to ask Restate, which keeps the outcome under an idempotency key, so asking again is
    cheap and starts nothing: that is how a job is found again, by whatever process.
    """

    _handler: DeployedHandler

    def __init__(self, connection: Connection, manifest: Manifest, encoded: EncodedItems, ledger: Ledger) -> None:
        super().__init__(connection, manifest, encoded, ledger)
        self._timeout: float | None = None
        self._queue: ShardQueue | None = None
        self._failed: dict[tuple[int, int], int] = {}  # by round and position: invocations that ended without a value
        self._runs_once_a_key = False  # as a workflow does
        self._known: dict[str, Invocation] = {}  # by idempotency key
        self._ids: dict[int, str] = {}
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._cancelling: asyncio.Task[None] | None = None

    def set_function(self, function: Function, policy: RunPolicy) -> None:
        assert isinstance(function, DeployedHandler)
        function.bind(self._call)
        self._handler = function
        self._timeout = policy.timeout
        self._run = self._connection.runs.get(self._manifest.name, self._manifest.generation)
        super().set_function(function, dataclasses.replace(policy, timeout=None))  # its end is ours to see to

    def set_executor(self, function: Function) -> None:
        raise InvalidInput(
            f"{function.name} is a deployed handler: it runs where it is deployed, so this job has no executor."
        )

    # ------------------------------------------------------------ on the session's loop

    async def run_round(
        self,
        round_: int,
        positions: Sequence[int],
        submitted: Callable[[], Awaitable[None]] | None,
        first: int = 0,
    ) -> None:
        if submitted is not None:
            await submitted()  # what Restate does not have yet is sent when it is its turn
        self._latest = max(self._latest, round_)
        self._broken = self._loop.create_future()
        await self._look_up()
        left = unended(self._ledger, positions)
        if self._cancelled:  # what was begun has an outcome, which Restate is asked for like any other
            begun = {position_of(key) for key in self._known}
            self._ledger.apply(round_, [cancelled(each, 1) for each in left if each not in begun], 0)
            left = [each for each in left if each in begun]
        run, shard = self._run, (round_, first)
        self._queue = queue = run.queue(shard, len(left), lambda: (Entry(each, (round_, each)) for each in left))
        still_open = set(left)
        try:
            while still_open:
                attempts = await self._offered(queue)
                queue.acknowledge(attempts)
                run.publish(round_, attempts)
                still_open.difference_update(attempts.finals())
                if still_open:
                    await asyncio.sleep(_GATHER_SECONDS)
        except ServerError:
            self._connection.runs.forget(self._manifest.name, self._manifest.generation)
            raise
        finally:
            self._queue = None
        run.finish(shard)
        await self._look_up()
        for position, invocation in last_of(self._known).items():
            if invocation.ended is not None:  # by Restate's clock, so that who attaches later sees the same times
                self._ledger.retime(position, invocation.started, invocation.ended - invocation.started)

    async def _offered(self, queue: ShardQueue) -> Group:
        """The outcomes that wait to be recorded: they are, by Restate.

        Raises:
            ServerError: the job cannot be followed.
        """
        taking = asyncio.ensure_future(queue.next_attempts())
        try:
            waiting: set[asyncio.Future[Any]] = {taking, self._broken}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
            return await taking
        finally:
            taking.cancel()

    async def cancel(self) -> None:
        self._cancelled = True
        if self._queue is None:
            return
        if self._connection.admin_if_any is None:
            print("The session has no admin API: calls that Restate has begun go on there, and nobody waits for them.")
            self._run.cancel()
            return
        await self._look_up()
        begun = {position_of(key) for key in self._known}
        self._run.pool.stop("The job was cancelled.", "CancelledError", begun)
        await self._cancel_live()
        self._cancelling = asyncio.create_task(self._cancel_the_rest())

    async def _cancel_the_rest(self) -> None:
        """What was on its way to Restate when it was asked what had begun."""
        while self._queue is not None and self._cancelled:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look_up()
                await self._cancel_live()
            except ServerError:
                continue  # it is away; the next look finds it

    async def _cancel_live(self) -> None:
        await self._connection.admin.cancel_all(each.id for each in self._known.values() if each.ended is None)

    # ------------------------------------------------------------ introspection

    async def _look_up(self) -> None:
        admin = self._connection.admin_if_any
        if admin is not None:
            handler = self._handler
            runs = handler.keys if handler.kind == "workflow" else None
            self._known = await self.invocations.of_handler(admin, handler.handler, runs)

    def columns(self) -> Mapping[str, Sequence[Any]]:
        if self._queue is not None and self._connection.admin_if_any is not None:
            with suppress(ServerError, TimeoutError):  # away for now: the columns say what was known before
                asyncio.run_coroutine_threadsafe(self._look_up(), self._loop).result(_LOOK_SECONDS * 10)
        return columns_of(self._ledger.total, self._known, self._ids)

    # ------------------------------------------------------------ on the loop of the items

    async def _call(self, at: tuple[int, int]) -> Recorded:
        """One attempt: an invocation, or what became of it if there was one."""
        position = at[1]
        key = self._idempotency_key(*at)
        before = self._known.get(key)
        started, clock = time.time(), time.perf_counter()

        def recorded(**outcome: Any) -> Recorded:
            if before is not None and before.ended is not None:  # in an earlier process
                return Recorded(before.started, before.ended - before.started, **outcome)
            return Recorded(started, time.perf_counter() - clock, **outcome)

        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                reply = await self._invoke(position, key)
            self._ids[position] = reply.invocation_id
            return recorded(value=self._handler.recorded(reply))
        except TimeoutError:
            if not deadline.expired():
                raise
            self._count_failed(at)
            return recorded(error=ItemTimeout(await self._too_late(position, key)), status=TIMEOUT)
        except InvocationFailed as error:
            self._count_failed(at)
            self._ids[position] = error.invocation_id
            return self._failure_of(error, recorded)
        except BadAnswer as error:
            return recorded(failure=describe(error), status=ERROR)
        except (Unreachable, Rejected) as error:
            if isinstance(error, Rejected) and error.status not in _REFUSED:
                return recorded(error=error, status=ERROR)
            trouble = await self._with_services(error)
            self._loop.call_soon_threadsafe(self._stop_following, trouble)
            return await asyncio.Future()  # no outcome: the job cannot be followed, and is ended

    def _failure_of(self, error: InvocationFailed, recorded: Callable[..., Recorded]) -> Recorded:
        if error.code == CANCELLED_CODE and error.reason == "cancelled":
            if self._cancelled or self._timeout is None:
                text = "The job was cancelled." if self._cancelled else f"{error}, by somebody else."
                return recorded(failure=Failure("CancelledError", text), status=CANCELLED)
            text = f"Restate cancelled the invocation after timeout={self._timeout:g} seconds, or somebody else did."
            return recorded(error=ItemTimeout(text), status=TIMEOUT)
        if self._runs_once_a_key:
            return recorded(failure=describe(error), status=ERROR)  # a workflow's key has its outcome, for good
        return recorded(error=error, status=ERROR)

    async def _invoke(self, position: int, key: str) -> Reply:
        target, ingress = self._handler, self._connection.item_ingress
        body, object_key = self._encoded[position], target.key(position)
        headers = {"Content-Type": target.content_type} if target.content_type is not None else None
        service, handler = target.service, target.handler
        if not self._runs_once_a_key:
            try:
                return await ingress.invoke(
                    service, handler, body, key=object_key, idempotency_key=key, headers=headers, patience=None
                )
            except Rejected as error:
                if target.kind != "workflow" or error.status != 400 or "idempotency key" not in error.reason:
                    raise
                self._runs_once_a_key = True
        self._ids[position] = await ingress.send(
            service, handler, body, key=object_key, headers=headers, patience=None, repeatable=True
        )
        return await ingress.attach_reply(self._ids[position])

    async def _too_late(self, position: int, key: str) -> str:
        """End the invocation in Restate, since nobody waits for it."""
        text = f"The invocation ran longer than timeout={self._timeout:g} seconds"
        if self._connection.admin_if_any is None:
            return f"{text}; it goes on in Restate, since the session has no admin API to cancel it."
        try:
            await self._on_session_loop(self._end(position, key))
        except ServerError as error:
            return f"{text}, and could not be cancelled: {error}"
        return f"{text}, and was cancelled."

    async def _end(self, position: int, key: str) -> None:
        target = self._handler
        if self._runs_once_a_key:
            invocation = self._ids.get(position)
        else:
            invocation = await self._connection.ingress.lookup(
                target.service, target.handler, key, target.key(position)
            )
        if invocation:
            try:
                await self._connection.admin.cancel(invocation)
            except UnknownInvocation:
                return  # it did not come to be

    async def _with_services(self, error: ServerError) -> ServerError:
        """The error, and what to do where a service is not there."""
        if not isinstance(error, Rejected) or error.status != 404:
            return error
        served = await self._on_session_loop(self._connection.ingress.services())
        names = sorted(name for name in served if not name.startswith("rnb-"))
        return ServerError(f"{error}. Restate has these services: {', '.join(names) or 'none'}.")

    async def _on_session_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _stop_following(self, error: ServerError) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    def _count_failed(self, at: tuple[int, int]) -> None:
        self._failed[at] = self._failed.get(at, 0) + 1

    def _idempotency_key(self, round_: int, position: int) -> str:
        """The idempotency key of the next invocation for an item: those that ended without a value had others."""
        failed = self._failed.get((round_, position), 0)
        return f"{self._key}/{round_}/{position}" + (f".{failed}" if failed else "")
