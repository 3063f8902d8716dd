"""Items that workers run: small shards, sent to Restate all at once, in lanes that run one shard at a time each.

The lanes are keys of a virtual object, so Restate itself keeps the order and the bound, whoever looks on: with as many
lanes as items may run at once, or fewer that share the concurrency, no more than that run on all workers together.
Shards are small, and their outputs are all that is needed to see the job advance.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from restate_nb.backends.base import CANCELLED_CODE, Backend, WorkerShare
from restate_nb.backends.connection import Connection
from restate_nb.backends.introspection import JobInvocations
from restate_nb.backends.shards import Shards, unended, why_ended_outside
from restate_nb.engine.function import Function
from restate_nb.engine.outbox import FAIL_FAST, cancelled
from restate_nb.engine.record import ERROR, WIRE_VERSION, Attempt, Failure
from restate_nb.errors import InvalidInput, InvocationFailed, ServerError
from restate_nb.limits import Range
from restate_nb.policy import RunPolicy
from restate_nb.results.key_table import EncodedItems
from restate_nb.results.ledger import Ledger
from restate_nb.server.admin import order_all
from restate_nb.server.http import UnknownInvocation
from restate_nb.service.run_spec import share_of
from restate_nb.service.shard_handler import UNREADABLE
from restate_nb.service.shard_wire import ShardOutput, WorkerName, decode_output
from restate_nb.service.wire import Manifest, decoding

MAX_LANES: Final = 32
"""How many shards of a job run at once, at most: enough for the cores of some machines. One shard has the concurrency
of its lane, so more lanes mean fewer items at once in each."""

SHARDS_A_LANE: Final = 8
MAX_SHARD_ITEMS: Final = 1_000
MAX_SHARD_BYTES: Final = 1024 * 1024
"""Small enough that outputs come often, and that little is lost where a lane waits for the last item of a shard."""

_SUBMIT_AT_ONCE: Final = 16
_LOOK: Final = 0.2  # seconds
_LONGEST_LOOK: Final = 5.0


def lanes_for(policy: RunPolicy, total: int | None) -> int:
    """How many lanes a job of so many items has; `total`: None for one that may grow."""
    return max(1, min(policy.bounds.high, MAX_LANES, MAX_LANES if total is None else total))


class WorkersBackend(Backend):
    """The shards of one job: Restate sends them to workers, and this process only looks on."""

    def __init__(self, connection: Connection, manifest: Manifest, encoded: EncodedItems, ledger: Ledger) -> None:
        assert manifest.lanes is not None
        super().__init__(connection, manifest, encoded, ledger)
        self._lanes = manifest.lanes
        self._shards = Shards(connection.ingress, connection.session, manifest, encoded)
        self._concurrency = 0
        self._run_spec = manifest.recipe
        self._ending: asyncio.Task[None] | None = None
        self._pause = WorkerPause(connection, self.invocations)
        self._open_rounds = 0
        self._shards_of: Counter[WorkerName] = Counter()
        self._items_of: Counter[WorkerName] = Counter()

    @property
    def concurrency(self) -> int:
        return self._concurrency

    def set_concurrency(self, bounds: Range) -> None:
        raise InvalidInput(
            "What is sent to workers carries its concurrency with it. Cancel the job, and go on with another one: "
            "job.cancel(), then run its cell with the new concurrency=, then job.retry_failed()."
        )

    def set_executor(self, function: Function) -> None:
        raise InvalidInput(
            "What is sent to workers carries its executor with it. Cancel the job, and go on with another one: "
            "job.cancel(), then run its cell with the new executor=, then job.retry_failed()."
        )

    @property
    def concurrency_note(self) -> str:
        concurrency, lanes = self._concurrency or self._lanes, self._lanes
        if lanes >= concurrency:
            return f"on workers: Restate runs {concurrency:,} shards at once, one item at a time in each"
        low, rest = divmod(concurrency, lanes)
        each = f"{low:,} or {low + 1:,}" if rest else f"{low:,}"
        return f"on workers: Restate runs {lanes} shards at once, and {each} items at a time in each"

    def obstacles(self) -> list[str]:
        found = [] if self._stopped_by_rule is None else [f"It starts no further item. {self._stopped_by_rule}"]
        return [*found, "It is paused: job.resume() goes on."] if self._pause.paused else found

    def workers(self) -> list[WorkerShare]:
        return [
            WorkerShare(each.host, each.process, each.code, shards, self._items_of[each])
            for each, shards in self._shards_of.items()
        ]

    def _count(self, output: ShardOutput) -> None:
        if (worker := output.worker) is not None:
            self._shards_of[worker] += 1
            self._items_of[worker] += sum(group.final_count for group in output.groups)

    def set_function(self, function: Function, policy: RunPolicy) -> None:
        if policy.bounds.high < self._lanes:
            raise InvalidInput(
                f"The job {self._manifest.name!r} was begun with more items at once, and {self._lanes} of its shards "
                f"run side by side: concurrency={self._lanes} is the least. With fresh=True it begins anew."
            )
        if policy.stop_rule is not None:
            _ = self._connection.admin  # there is no other way to end what runs
        self._concurrency = policy.bounds.high
        self._rule = policy.stop_rule
        self._run_spec = self._manifest.recipe

    def pause(self) -> None:
        if not self._manifest.paused:
            _ = self._connection.admin  # there is no other way to do it
        self._pause.pause()

    def resume(self) -> None:
        self._pause.resume()

    async def cancel(self) -> None:
        if self._manifest.cancelled and self._connection.admin_if_any is None:
            self._cancelled = True  # as was done where there was a way to do it
            return
        _ = self._connection.admin  # there is no other way
        self._cancelled = True
        self._pause.resume()
        await self.invocations.cancel(self._connection.admin)

    # ------------------------------------------------------------ on the session's loop

    async def run_round(
        self,
        round_: int,
        positions: Sequence[int],
        submitted: Callable[[], Awaitable[None]] | None,
        first: int = 0,
    ) -> None:
        shards = list(enumerate(self._cut(positions), first))
        sent = [asyncio.get_running_loop().create_future() for _ in shards]
        looking = asyncio.Semaphore(2 * self._lanes)
        self._open_rounds += 1
        try:
            async with asyncio.TaskGroup() as group:
                if submitted is None:
                    for each in sent:
                        each.set_result(True)
                else:
                    group.create_task(self._submit_all(round_, shards, sent, submitted))
                for (shard, part), each in zip(shards, sent, strict=True):
                    await looking.acquire()  # lanes go forward side by side, so these are the ones that end next
                    task = group.create_task(self._follow(round_, shard, part, each))
                    task.add_done_callback(lambda _: looking.release())
        finally:
            self._open_rounds -= 1
            if not self._open_rounds:
                self._close()

    def _close(self) -> None:
        """Nothing is followed any more."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        self._pause.close()

    def _cut(self, positions: Sequence[int]) -> list[Sequence[int]]:
        of = self._manifest.total if self._manifest.keyed is None else len(positions)  # in whatever process
        most = min(max(-(-of // (self._lanes * SHARDS_A_LANE)), 1), MAX_SHARD_ITEMS)
        return self._shards.cut(positions, most, MAX_SHARD_BYTES)

    def _lane(self, shard: int) -> str:
        return f"{self._key}/{shard % self._lanes}"

    async def _submit_all(
        self,
        round_: int,
        shards: Sequence[tuple[int, Sequence[int]]],
        sent: Sequence[asyncio.Future[bool]],
        submitted: Callable[[], Awaitable[None]],
    ) -> None:
        if self._run_spec is None:
            raise InvalidInput(f"Not all items of {self._manifest.name!r} were submitted. Run its cell again.")
        slots = asyncio.Semaphore(_SUBMIT_AT_ONCE)
        run_specs = [share_of(self._run_spec, self._lanes, lane) for lane in range(self._lanes)]

        async def submit(shard: int, positions: Sequence[int], done: asyncio.Future[bool]) -> None:
            try:
                if not self.is_stopping(round_):
                    lane, run_spec = self._lane(shard), run_specs[shard % self._lanes]
                    await self._shards.submit(round_, shard, positions, lane=lane, run_spec=run_spec)
                done.set_result(not self.is_stopping(round_))
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            for (shard, part), done in zip(shards, sent, strict=True):
                await self._pause.until_resumed()
                await slots.acquire()
                group.create_task(submit(shard, part, done))
        await submitted()

    async def _follow(self, round_: int, shard: int, positions: Sequence[int], sent: asyncio.Future[bool]) -> None:
        submitted = await sent
        key: str | None = self._shards.key(round_, shard)
        while key is not None:
            try:
                body = await self._shards.attach(key, lane=self._lane(shard))
            except UnknownInvocation as failure:
                # never sent, or cancelled in the queue of its lane; or purged
                self._end(round_, positions, failure if submitted and not self.is_stopping(round_) else None)
                return
            except InvocationFailed as failure:
                self._end(round_, positions, failure)
                return
            with decoding("a shard's outcomes"):
                output = decode_output(body)
            self._count(output)
            for group in output.groups:
                self._ledger.apply(round_, group, time.time())
                self._look_for_unkept(group)
            key = output.next
            if self._rule is not None and not self._cancelled and self.is_stopping(round_) and self._ending is None:
                self._ending = asyncio.create_task(self._end_the_rest())

    async def _end_the_rest(self) -> None:
        while True:
            with suppress(ServerError):  # Restate is away, and runs nothing meanwhile
                await self.cancel()
            await asyncio.sleep(_LOOK)  # some may have been on their way

    def _end(self, round_: int, positions: Sequence[int], failure: InvocationFailed | UnknownInvocation | None) -> None:
        """The shard was not run, or not to its end: its open items will have no other outcome."""
        lost = unended(self._ledger, positions)
        if isinstance(failure, UnknownInvocation):
            attempts = [cancelled(position, 1, reason=why_ended_outside(failure)) for position in lost]
        elif self._stopped_by_rule is not None and (failure is None or failure.code == CANCELLED_CODE):
            attempts = [cancelled(position, 1, reason=self._stopped_by_rule, kind=FAIL_FAST) for position in lost]
        elif failure is None or (failure.code == CANCELLED_CODE and self._cancelled):
            attempts = [cancelled(position, 1) for position in lost]
        elif failure.code == CANCELLED_CODE:
            attempts = [cancelled(position, 1, reason=why_ended_outside(failure)) for position in lost]
        else:
            why = Failure(type(failure).__name__, _reason(failure))
            attempts = [Attempt(position, 1, ERROR, time.time(), 0.0, failure=why) for position in lost]
        self._ledger.apply(round_, attempts, 0)


def _reason(failure: InvocationFailed) -> str:
    if not failure.reason.startswith(UNREADABLE):
        return failure.reason
    return (
        f"{failure.reason} The workers have another version of restate_nb than this session, which writes shards in "
        f"format {WIRE_VERSION}: install the same version there, start them again, and job.retry_failed()."
    )


class WorkerPause:
    """Whether a job on workers is paused. Its methods belong to the session's loop.

    Restate holds the shard at the head of each lane, and so all behind it. It pauses an invocation when its current
    step has ended, which is when an item has. The workers then start nothing more of it, and what runs there goes on.

    Attributes:
        paused: whether nothing more is to be started.
    """

    def __init__(self, connection: Connection, invocations: JobInvocations) -> None:
        self._connection = connection
        self._invocations = invocations
        self.paused = False
        self._asked: set[str] = set()  # may still become paused
        self._going = asyncio.Event()
        self._going.set()
        self._task: asyncio.Task[None] | None = None

    async def until_resumed(self) -> None:
        """Wait until it is not paused."""
        await self._going.wait()

    def pause(self) -> None:
        """Have Restate hold what runs, and what takes its place."""
        if not self.paused:
            self.paused = True
            self._asked.clear()
            self._going.clear()
            if self._connection.admin_if_any is not None:
                self._start(self._hold())

    def resume(self) -> None:
        """Let all go on that is held by now, or about to be."""
        if self.paused:
            self.paused = False
            self._going.set()
            self._start(self._release())

    def close(self) -> None:
        """The job has ended, or is not followed any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.close()
        self._task = asyncio.create_task(work)

    async def _hold(self) -> None:
        wait = _LOOK

        async def hold(invocation: str) -> bool:
            self._asked.add(invocation)
            return await self._connection.admin.pause(invocation)

        while True:
            try:
                going = await self._invocations.going(self._connection.admin)
                wait = min(2 * wait, _LONGEST_LOOK) if self._asked.issuperset(going) else _LOOK
                await order_all(hold, going)
            except ServerError:
                wait = _LONGEST_LOOK  # Restate is away, and runs nothing meanwhile
            await asyncio.sleep(wait)

    async def _release(self) -> None:
        """`JobRunner.pause` has let those go on that it found; some may be paused when their step has ended."""
        wait = _LOOK
        while self._asked:
            admin = self._connection.admin
            try:
                paused = await self._invocations.paused(admin)
                await order_all(admin.resume, paused)
                self._asked.difference_update(paused)
                self._asked.intersection_update(await self._invocations.going(admin))
            except ServerError:
                pass  # Restate is away: they are let go when it is back
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_LOOK)
