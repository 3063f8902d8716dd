"""The jobs that run in this process: their pools, their shards' queues, and who is told of recorded outcomes."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from restate_nb.engine.keeping import Keeper
from restate_nb.engine.outbox import Entry, ShardQueue
from restate_nb.engine.pool import ItemCall, OnUnkept, Pool
from restate_nb.engine.processes import Processes
from restate_nb.engine.record import Attempt, Group, decode_group
from restate_nb.engine.threads import Threads
from restate_nb.policy import RunPolicy
from restate_nb.store.base import Store

Listener = Callable[[int, Sequence[Attempt]], None]
"""Called with the recorded attempts of a round, in the handler's loop; by a replay once more."""

ShardId = tuple[int, int]
"""Round and number of a shard. The shards that go on with its rest share its queue."""


class JobRun:
    """One job in this process. Made by whoever comes first: the cell that submits it, or the server that resumes it.

    Attributes:
        pool: runs its items.
        keeper: stores its values; None where all of them go into the journal.
    """

    def __init__(
        self,
        job: str,
        loop: asyncio.AbstractEventLoop,
        threads: Threads | None = None,
        processes: Processes | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`threads` and `processes`: which it shares with other jobs."""
        self.keeper = keeper
        self.pool = Pool(loop, job, threads, processes)
        self._queues: dict[ShardId, ShardQueue] = {}
        self._listener: Listener | None = None
        self._unpublished: list[tuple[int, Sequence[Attempt]]] = []
        self._cancelled = False
        self._lock = threading.Lock()  # cells and handlers live in different threads

    def provide(self, call: ItemCall, policy: RunPolicy) -> None:
        """Bring the function, and how it is run: what waited for it starts, and items to come use it."""
        self.pool.provide(call, policy)

    def replace_call(self, call: ItemCall) -> None:
        """Have another executor run what has not begun; see `Pool.replace_call`."""
        self.pool.replace_call(call)

    def listen(self, listener: Listener) -> None:
        """Set the one listener; it is first called with what it has missed."""
        with self._lock:
            self._listener = listener
            missed, self._unpublished = self._unpublished, []
            for round_, attempts in missed:
                listener(round_, attempts)

    def publish(self, round_: int, attempts: Sequence[Attempt]) -> None:
        """Pass recorded attempts to the listener."""
        with self._lock:
            if self._listener is not None:
                self._listener(round_, attempts)
            else:
                self._unpublished.append((round_, attempts))

    def queue(
        self, shard: ShardId, count: int, load: Callable[[], Iterable[Entry]], ended: Collection[int] = ()
    ) -> ShardQueue:
        """The shard's queue: taken over from an earlier attempt of its handler, or a new one; see `ShardQueue`.

        Args:
            shard: which shard.
            count: how many entries a new queue has.
            load: brings them.
            ended: what the journal has outcomes of. A queue that does not know of them is given up.
        """
        with self._lock:
            queue = self._queues.get(shard)
            if queue is not None and queue.is_stale(ended, count):
                self.pool.cancel(queue)
                queue = None
            if queue is None:
                queue = self._queues[shard] = ShardQueue(count, load, self.keeper)
                (self.pool.cancel if self._cancelled else self.pool.add)(queue)
            return queue

    def recorded(self, shard: ShardId, raw: bytes) -> Group:
        """This group is in the journal; it is returned decoded.

        Raises:
            ValueError: it is no group.
        """
        queue = self._queues.get(shard)
        if queue is None:
            return decode_group(raw)
        group = queue.recorded(raw)
        self.pool.recorded()
        return group

    def cancel_shard(self, shard: ShardId) -> None:
        """End the items of one shard."""
        queue = self._queues.get(shard)
        if queue is not None:
            self.pool.cancel(queue)

    @property
    def busy(self) -> bool:
        """Whether items run, or have run and are not recorded."""
        return bool(self.pool.running) or any(queue.unrecorded()[0] for queue in list(self._queues.values()))

    def drop_others(self, than: ShardId) -> None:
        """All shards but this one have ended, here or elsewhere."""
        with self._lock:
            others = [shard for shard in self._queues if shard != than]
        for shard in others:
            self.drop(shard)

    def drop(self, shard: ShardId) -> None:
        """The shard was ended from outside: its items are of no use any more."""
        with self._lock:
            queue = self._queues.pop(shard, None)
        if queue is not None:
            self.pool.drop(queue)

    def cancel(self) -> None:
        """End all items, those of shards that are still to come included."""
        with self._lock:
            self._cancelled = True
            for queue in self._queues.values():
                self.pool.cancel(queue)

    def stop(self, reason: str) -> None:
        """Start no further item, in shards that are still to come either: they end as cancelled, for this reason."""
        self.pool.stop(reason)

    @property
    def is_stopping(self) -> bool:
        """Whether items that have not begun will end as cancelled."""
        return self._cancelled or bool(self.pool.stopped)

    def pause(self) -> None:
        """Start nothing more, until `resume`; what runs goes on."""
        self.pool.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self.pool.resume()

    def pause_on_unkept(self, on_unkept: OnUnkept | None) -> None:
        """Pause by itself when what an item returned cannot be kept; see `Pool.pause_on_unkept`."""
        self.pool.pause_on_unkept(on_unkept)

    def reopen(self) -> None:
        """Take `cancel` and `stop` back, for a further round."""
        with self._lock:
            self._cancelled = False
        self.pool.reopen()

    def finish(self, shard: ShardId) -> None:
        """The shard is done: its queue is not needed any more."""
        with self._lock:
            self._queues.pop(shard, None)

    @property
    def idle(self) -> bool:
        """Whether it has no shard, and nothing to publish: it need not be kept for itself."""
        return not self._queues and not self._unpublished

    @property
    def cancels_shards_to_come(self) -> bool:
        """Whether it is there to cancel what may still come, of a job whose function never was here."""
        return self._cancelled and not self.pool.has_function

    def close(self) -> None:
        """End everything and record nothing."""
        if self.keeper is not None:
            self.keeper.close()
        self.pool.soon(self.pool.close)


_IDLE_KEPT: Final = 20
"""Runs without a shard that are kept though nobody else holds them. One that has just been made is among them."""
_TO_CANCEL_KEPT: Final = 500
"""Of those that are there to cancel what may still come; they are small."""


class JobRuns:
    """All jobs of a session that run in this process, by name and generation.

    What a job needs to be taken up again (its function, its queues) is kept by its handle, and by its shards while
    there are any; here it is only found. So a session of thousands of jobs does not keep what nobody asks for any more.

    Attributes:
        store: where values lie that are too large for a journal; None where there is none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, store: Store | None = None) -> None:
        """`loop` is where items run, `store` where values lie that are too large for a journal."""
        self.store = store
        self._loop = loop
        self._threads = Threads()
        self._processes = Processes()
        self._runs: weakref.WeakValueDictionary[tuple[str, int], JobRun] = weakref.WeakValueDictionary()
        self._kept: dict[tuple[str, int], JobRun] = {}  # the latest last
        self._closed: list[Pool] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, job: str, generation: int, folder: str = "") -> JobRun:
        """The run of that job; made when there is none.

        Args:
            job: its name.
            generation: which of those of this name.
            folder: its own in the store; empty where it has none.
        """
        key = job, generation
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                keeper = Keeper(self.store, folder) if folder and self.store is not None else None
                run = self._runs[key] = JobRun(job, self._loop, self._threads, self._processes, keeper)
            self._kept.pop(key, None)
            self._kept[key] = run
            if len(self._kept) > _IDLE_KEPT:
                self._forget_idle()
            return run

    def _forget_idle(self) -> None:
        idle = [(key, run.cancels_shards_to_come) for key, run in self._kept.items() if run.idle]
        for to_cancel, most in ((False, _IDLE_KEPT), (True, _TO_CANCEL_KEPT)):
            for key in [key for key, awaits in idle if awaits is to_cancel][:-most]:
                del self._kept[key]

    def forget(self, job: str, generation: int) -> None:
        """The job was deleted: nothing of it is to be taken over."""
        with self._lock:
            run = self._runs.pop((job, generation), None)
            self._kept.pop((job, generation), None)
        if run is not None:
            run.close()

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            for run in list(self._runs.values()):
                run.close()
            self._closed = [run.pool for run in self._runs.values()]
            self._runs.clear()
            self._kept.clear()
        self._threads.close()
        self._processes.close()

    def kill(self, until: float) -> bool:
        """End the worker processes of what was closed, though the loop of the items may be busy for ever.

        Args:
            until: when to wait no longer for them to be gone, on `time.monotonic`.

        Returns:
            Whether they are.
        """
        pools, self._closed = self._closed, []
        for pool in pools:
            pool.kill()
        gone = [pool.wait_until_gone(until) for pool in pools]
        return self._processes.wait_until_gone(until) and all(gone)
