"""Items of durable functions: one invocation each, as many at once as the job allows."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from restate_nb.backends.base import CANCELLED_CODE, Backend, waits_for_store
from restate_nb.backends.connection import Connection
from restate_nb.engine import nesting
from restate_nb.engine.asking import refuse_in_items
from restate_nb.engine.function import Function, Passing
from restate_nb.engine.keeping import Keeper
from restate_nb.engine.outbox import FAIL_FAST, cancelled
from restate_nb.engine.record import CANCELLED, ERROR, Attempt, Failure
from restate_nb.environment import in_notebook
from restate_nb.errors import InvocationFailed, ServerError
from restate_nb.limits import Range
from restate_nb.policy import DEFAULT_CONCURRENCY, RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.results.spool import Spool
from restate_nb.server.admin import order_all
from restate_nb.server.http import UnknownInvocation
from restate_nb.service.durable_handler import DURABLE_HANDLER, WAITING, DurableRequest, attempt_decoder, no_executor
from restate_nb.service.wire import Manifest, decode_received, encode, items_service

_SWEEP_SECONDS: Final = 0.2
_SWEEP_SECONDS_LONGEST: Final = 5.0
_ENDED_BY_RESTATE: Final = frozenset({"cancelled", "killed"})
"""What Restate says of such invocations; other words are those of a handler's own error of that code."""


class DurableBackend(Backend):
    """The invocations of one job: this process calls them in turn, and serves them to Restate."""

    def __init__(self, connection: Connection, manifest: Manifest, encoded: Spool, ledger: Ledger) -> None:
        super().__init__(connection, manifest, encoded, ledger)
        self._service = items_service(connection.session)
        self._limit = DEFAULT_CONCURRENCY
        self._passing: Passing = "value"
        self._running: dict[asyncio.Task[None], int] = {}
        self._changed = asyncio.Event()
        self._ending = False  # nothing more is begun
        self._begun: frozenset[str] = frozenset()  # when it was cancelled
        self._paused = False
        self._restarting: dict[int, str] = {}
        store, folder = connection.store, manifest.folder
        self._keeper = Keeper(store, folder) if folder and store is not None else None

    @property
    def concurrency(self) -> int:
        return self._limit

    def set_concurrency(self, bounds: Range) -> None:
        self._limit = bounds.high
        self._loop.call_soon_threadsafe(self._changed.set)

    def set_executor(self, function: Function) -> None:
        raise no_executor(function.name)

    def running_positions(self) -> frozenset[int]:
        return frozenset(list(self._running.values()))

    def obstacles(self) -> list[str]:
        found = []
        if self._keeper is not None and self._keeper.trouble:
            found.append(waits_for_store(self._keeper.trouble))
        if not self._connection.functions.knows(self._key):
            found.append(f"It waits for {self._manifest.function}: run the cell that maps it.")
        if self._paused:
            found.append("It is paused: job.resume() goes on.")
        if self._stopped_by_rule is not None:
            found.append(f"It starts no further item. {self._stopped_by_rule}")
        return found

    def set_function(self, function: Function, policy: RunPolicy) -> None:
        self._passing = function.passing
        refuse_in_items()
        context = self.prints.context(bounded=in_notebook())
        context.run(nesting.enter, self.prints.job, lambda _: None)
        functions = self._connection.functions
        context.run(functions.provide, self._key, function.fn, policy.retry, function.classes, self._keeper)
        weakref.finalize(self, functions.forget, self._key, function.fn).atexit = False
        self._limit = policy.bounds.high
        self._rule = policy.stop_rule

    @property
    def mismatched(self) -> int:
        return len(self._connection.functions.mismatched(self._key))

    async def restart(self) -> int:
        found = self._connection.functions.mismatched(self._key)
        for invocation, position in found.items():
            self._restarting[position] = invocation
            with suppress(UnknownInvocation):  # it ended meanwhile, and is no longer kept
                await self._connection.admin.kill(invocation)
            self._connection.functions.forget_invocation(self._key, invocation)
        return len(found)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._loop.call_soon_threadsafe(self._changed.set)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    async def cancel(self) -> None:
        """End the items that have no outcome.

        Raises:
            ServerError: Restate does not answer; then nothing has changed, and the job goes on.
        """
        self._ending = True  # what is begun from here on would not be found
        try:
            found = await self.invocations.all(self._connection.admin)
        except BaseException:
            self._ending = False
            self._changed.set()
            raise
        self._begun = frozenset(row["idempotency_key"] for row in found)
        self._cancelled = True
        self._changed.set()
        with suppress(ServerError):  # the server is gone again: `_sweep` ends what is left
            await self._end_invocations(found)

    async def _end_invocations(self, found: Sequence[Mapping[str, Any]]) -> None:
        admin, functions = self._connection.admin, self._connection.functions
        # One that has no function, or does not match its journal, never comes to where it hears of a cancellation.
        lost = {row["id"] for row in found if WAITING in str(row.get("last_failure"))}
        lost.update(functions.mismatched(self._key))

        async def end(invocation: str) -> bool:
            if invocation not in lost:
                return await admin.cancel(invocation)
            with suppress(UnknownInvocation):  # it ended, and is no longer kept
                await admin.kill(invocation)
            functions.forget_invocation(self._key, invocation)
            return True

        await order_all(end, [row["id"] for row in found if row["status"] != "completed"])

    async def _sweep(self) -> None:
        """End what was on its way to Restate when it was asked what had begun, and what could not be reached then."""
        pause = _SWEEP_SECONDS
        while self._cancelled:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _SWEEP_SECONDS_LONGEST)
            with suppress(ServerError):  # it is away; the next time finds it
                await self._end_invocations(await self.invocations.all(self._connection.admin))

    def reopen(self) -> None:
        super().reopen()
        self._ending = False

    def is_stopping(self, round_: int) -> bool:
        return super().is_stopping(round_) or self._ending

    async def run_round(
        self,
        round_: int,
        positions: Sequence[int],
        submitted: Callable[[], Awaitable[None]] | None,
        first: int = 0,
    ) -> None:
        if submitted is not None:
            await submitted()  # an invocation is idempotent: those that Restate does not have are sent in their turn
        pending = deque(positions)
        sweeping: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            while pending or self._running:
                self._changed.clear()
                self._drop(round_, pending)
                if self._cancelled and sweeping is None:
                    sweeping = group.create_task(self._sweep())
                held = not self._cancelled and (self._paused or self._ending)
                while pending and not held and len(self._running) < self._limit:
                    position = pending.popleft()
                    task = group.create_task(self._invoke(round_, position))
                    self._running[task] = position
                    task.add_done_callback(self._ended)
                if pending or self._running:
                    await self._changed.wait()
            if sweeping is not None:
                sweeping.cancel()

    def _drop(self, round_: int, pending: deque[int]) -> None:
        """Take those that will not be begun any more out of `pending`: they end as cancelled."""
        if self._cancelled:  # what was begun has an outcome, which Restate is asked for like any other
            never = [each for each in pending if self._idempotency_key(round_, each) not in self._begun]
            begun = [each for each in pending if self._idempotency_key(round_, each) in self._begun]
            pending.clear()
            pending.extend(begun)
            self._ledger.apply(round_, [cancelled(position, 1) for position in never], 0)
        elif (reason := self._stopped_by_rule) is not None:
            dropped = [cancelled(position, 1, reason=reason, kind=FAIL_FAST) for position in pending]
            pending.clear()
            self._ledger.apply(round_, dropped, 0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._changed.set()

    def _idempotency_key(self, round_: int, position: int) -> str:
        return f"{self._key}/{round_}/{position}"

    async def _invoke(self, round_: int, position: int) -> None:
        request = DurableRequest(
            function=self._key,
            name=self._manifest.function,
            position=position,
            passing=self._passing,
            item=msgspec.Raw(self._encoded[position]),
        )
        key = self._idempotency_key(round_, position)
        began = time.time()
        try:
            body = await self._call(key, request)
        except InvocationFailed as error:
            ended = error.code == CANCELLED_CODE and error.reason in _ENDED_BY_RESTATE
            status = CANCELLED if ended else ERROR
            failure = Failure(type(error).__name__, str(error))
            attempt = Attempt(position, 1, status, began, time.time() - began, failure=failure)
        else:
            attempt = decode_received(attempt_decoder, body, "an item's outcome")
            if attempt.position != position:
                raise ServerError(f"Restate gives the outcome of item {attempt.position} for that of item {position}.")
        self._ledger.apply(round_, [msgspec.structs.replace(attempt, number=1)], time.time())
        self._look_for_unkept([attempt])
        self._check_rule(round_)

    async def _call(self, key: str, request: DurableRequest) -> bytes:
        """Call the function, and again from the beginning when its invocation was ended to restart it."""
        while True:
            try:
                return await self._connection.ingress.call(
                    self._service, DURABLE_HANDLER, encode(request), idempotency_key=key, patience=None
                )
            except InvocationFailed:
                ended = self._restarting.pop(request.position, None)
                if ended is None:
                    raise
                with suppress(UnknownInvocation):
                    await self._connection.admin.purge(ended)  # else the key would bring its failure again
