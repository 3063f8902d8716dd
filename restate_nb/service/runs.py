"""The jobs that run in this process: their pools, their shards' lanes, and who wants to know of outcomes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from restate_nb.engine.lane import Entry, Lane
from restate_nb.engine.pool import Pool, ToldUnkept, Work
from restate_nb.engine.record import Attempt
from restate_nb.policy import RunPolicy

Listener = Callable[[int, Sequence[Attempt]], None]
"""Told of the recorded attempts of a round, in the handler's loop. A replay tells them again."""

ShardId = tuple[int, int]
"""Round and number of a shard. The shards that go on with its rest share its lane."""


class JobRun:
    """One job in this process. Made by whoever comes first: the cell that submits it, or the server that resumes it."""

    def __init__(self, job: str, loop: asyncio.AbstractEventLoop) -> None:
        self.pool = Pool(loop, job)
        self._lanes: dict[ShardId, Lane] = {}
        self._listener: Listener | None = None
        self._untold: list[tuple[int, Sequence[Attempt]]] = []
        self._cancelled = False
        self._lock = threading.Lock()  # cells and handlers live in different threads

    def provide(self, work: Work, policy: RunPolicy) -> None:
        """Bring the function, and how it is run: what waited for it starts, and items to come use it."""
        self.pool.soon(self.pool.provide, work, policy)

    def listen(self, listener: Listener) -> None:
        """Set the one listener; it is first told what it has missed."""
        with self._lock:
            self._listener = listener
            missed, self._untold = self._untold, []
            for round_, attempts in missed:
                listener(round_, attempts)

    def publish(self, round_: int, attempts: Sequence[Attempt]) -> None:
        """Tell of recorded attempts."""
        with self._lock:
            if self._listener is not None:
                self._listener(round_, attempts)
            else:
                self._untold.append((round_, attempts))

    def lane(
        self, shard: ShardId, count: int, load: Callable[[], Iterable[Entry]], ended: Collection[int] = ()
    ) -> Lane:
        """The shard's lane: taken over from an earlier attempt of its handler, or a new one; see `Lane`.

        Args:
            shard: which shard.
            count: how many entries a new lane has.
            load: brings them.
            ended: what the journal has outcomes of. A lane that does not know of them is given up.
        """
        with self._lock:
            lane = self._lanes.get(shard)
            if lane is not None and lane.behind(ended, count):
                self.pool.soon(self.pool.cancel, lane)
                lane = None
            if lane is None:
                lane = self._lanes[shard] = Lane(count, load)
                self.pool.soon(self.pool.cancel if self._cancelled else self.pool.add, lane)
            return lane

    def acknowledge(self, shard: ShardId, recorded: Iterable[Attempt]) -> None:
        """These are in the journal."""
        lane = self._lanes.get(shard)
        if lane is not None:
            lane.acknowledge(recorded)
            self.pool.recorded()

    def cancel_shard(self, shard: ShardId) -> None:
        """End the items of one shard."""
        lane = self._lanes.get(shard)
        if lane is not None:
            self.pool.soon(self.pool.cancel, lane)

    @property
    def busy(self) -> bool:
        """Whether items run, or have run and are not recorded."""
        return bool(self.pool.running) or any(lane.backlog()[0] for lane in list(self._lanes.values()))

    def drop_others(self, than: ShardId) -> None:
        """All shards but this one have ended, here or elsewhere."""
        with self._lock:
            others = [shard for shard in self._lanes if shard != than]
        for shard in others:
            self.drop(shard)

    def drop(self, shard: ShardId) -> None:
        """The shard was ended from outside: its items are of no use any more."""
        with self._lock:
            lane = self._lanes.pop(shard, None)
        if lane is not None:
            self.pool.soon(self.pool.drop, lane)

    def cancel(self) -> None:
        """End all items, those of shards that are still to come included."""
        with self._lock:
            self._cancelled = True
            for lane in self._lanes.values():
                self.pool.soon(self.pool.cancel, lane)

    def stop(self, reason: str) -> None:
        """Start no further item, in shards that are still to come either: they end as cancelled, for this reason."""
        self.pool.soon(self.pool.stop, reason)

    @property
    def ends(self) -> bool:
        """Whether items that have not begun will end as cancelled."""
        return self._cancelled or bool(self.pool.stopped)

    def pause(self) -> None:
        """Start nothing more, until `resume`; what runs goes on."""
        self.pool.soon(self.pool.pause)

    def resume(self) -> None:
        """Go on after `pause`."""
        self.pool.soon(self.pool.resume)

    def hold(self, told: ToldUnkept | None) -> None:
        """Pause by itself when what an item returned cannot be kept; see `Pool.hold`."""
        self.pool.soon(self.pool.hold, told)

    def reopen(self) -> None:
        """Take `cancel` and `stop` back, for a further round."""
        with self._lock:
            self._cancelled = False
        self.pool.soon(self.pool.reopen)

    def finish(self, shard: ShardId) -> None:
        """The shard is done: its lane is not needed any more."""
        with self._lock:
            self._lanes.pop(shard, None)

    def close(self) -> None:
        """End everything and record nothing."""
        self.pool.soon(self.pool.close)


class JobRuns:
    """All jobs of a session that run in this process, by name and generation."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is where items run."""
        self._loop = loop
        self._runs: dict[tuple[str, int], JobRun] = {}
        self._lock = threading.Lock()

    def get(self, job: str, generation: int) -> JobRun:
        """The run of that job; made when there is none."""
        with self._lock:
            run = self._runs.get((job, generation))
            if run is None:
                run = self._runs[job, generation] = JobRun(job, self._loop)
            return run

    def forget(self, job: str, generation: int) -> None:
        """The job was deleted: nothing of it is to be taken over."""
        with self._lock:
            run = self._runs.pop((job, generation), None)
        if run is not None:
            run.close()

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            for run in self._runs.values():
                run.close()
            self._runs.clear()
