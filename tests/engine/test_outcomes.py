"""Proves that every item has an outcome, whatever it raises and whatever it does to its task or its loop, and that the
items beside it, and those that come after, have theirs."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from restate_nb.engine.function import Function
from restate_nb.engine.loop_thread import LoopThread
from restate_nb.engine.outbox import ShardQueue, entries
from restate_nb.engine.pool import Pool
from restate_nb.engine.record import ERROR, OK, Attempt, decode_group
from restate_nb.engine.threads import NoThread, Threads
from restate_nb.policy import Retry, RunPolicy
from restate_nb.values.codec import encode
from tests.engine.ways_out import async_ways, awaited, plain, sync_ways

GOES_WELL = (
    "_cancels_itself_and_ends",
    "_cancels_itself_and_goes_on",
    "_stops_the_loop",
    "cancelled_in_group",  # a TaskGroup does not mind
)
ORPHANS = "_ends_in_a_callback", "_ends_in_a_forgotten_task", "_ends_when_a_task_is_done"


@pytest.fixture
def items() -> Iterator[LoopThread]:
    """A loop like the one on which a session runs items."""
    thread = LoopThread("rnb-test")
    yield thread
    assert thread.close(), "the loop does not end"


def ended(thread: LoopThread, fn: Any, ways: list[str], policy: RunPolicy | None = None) -> dict[int, list[Attempt]]:
    """The attempts at each item."""
    pool = Pool(thread.loop, "test")
    queue = ShardQueue(len(ways), lambda: entries({at: encode(way) for at, way in enumerate(ways)}, {}))
    found: dict[int, list[Attempt]] = {at: [] for at in range(len(ways))}

    async def take() -> None:
        pool.add(queue)
        pool.provide(Function(fn).item_call(), policy or RunPolicy(concurrency=4))
        while queue.waiting or queue.open or queue.outcomes_waiting or queue.in_group:
            group = decode_group(await queue.next_group())
            queue.acknowledge(group)
            for each in group:
                found[each.position].append(each)

    thread.run(take(), 30)
    pool.soon(pool.close)
    return found


def status_of(found: dict[int, list[Attempt]], ways: list[str]) -> dict[str, int]:
    return {way: found[at][-1].status for at, way in enumerate(ways)}


def test_whatever_a_plain_item_raises_is_its_error(items: LoopThread) -> None:
    ways = ["fine", *sync_ways(), "fine too"]
    assert status_of(ended(items, plain, ways), ways) == {
        "fine": OK,
        **dict.fromkeys(sync_ways(), ERROR),
        "fine too": OK,
    }


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize("limited", [False, True])
def test_whatever_a_coroutine_raises_or_does_is_its_own_affair(
    items: LoopThread, timeout: float | None, limited: bool
) -> None:
    ways = ["fine", *async_ways(), "fine too"]
    policy = RunPolicy(concurrency=3, timeout=timeout, max_per_second=100_000 if limited else None)
    found = status_of(ended(items, awaited, ways, policy), ways)
    good = {"fine", "fine too", *GOES_WELL, *ORPHANS}
    assert {way: status for way, status in found.items() if (status == OK) != (way in good)} == {}


def test_what_ends_the_loop_is_told_of_and_the_loop_goes_on(
    items: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    ended(items, awaited, [*ORPHANS, "_stops_the_loop", "keyboard interrupt_in_task"])
    told = [each.getMessage() for each in caplog.records if each.name == "restate_nb.engine.loop_thread"]
    assert any("(SystemExit: 1)" in each for each in told)
    assert any("It was stopped." in each for each in told)
    assert any("KeyboardInterrupt" in each for each in told)
    assert items.run(asyncio.sleep(0, result=5)) == 5


def test_what_ends_the_loop_again_and_again_is_told_of_a_few_times(
    items: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    ended(items, awaited, ["_ends_in_a_callback"] * 300)
    told = [each for each in caplog.records if each.name == "restate_nb.engine.loop_thread"]
    assert len(told) == 3, "the first, the tenth, and the hundredth"


def test_random_ways_out_leave_no_item_and_no_later_job_without_an_outcome(items: LoopThread) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(12):
        fn, ways = rng.choice([(plain, list(sync_ways())), (awaited, list(async_ways()))])
        chosen = [rng.choice([*ways, "fine", "fine"]) for _ in range(rng.randrange(1, 60))]
        policy = RunPolicy(
            concurrency=rng.choice([1, 2, 7, 50]),
            retry=Retry(max_attempts=rng.choice([1, 2]), initial_interval=0.001, jitter=0, retry_on=BaseException),
            timeout=rng.choice([None, 5]),
            max_per_second=rng.choice([None, None, 100_000]),
        )
        found = ended(items, fn, chosen, policy)
        assert all(attempts[-1].final for attempts in found.values())
        assert ended(items, fn, ["fine"] * 3)[2][-1].status == OK


def test_a_worker_that_is_lost_leaves_its_item_an_error(items: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    add_ok = ShardQueue.add_ok

    def add_or_break(self: ShardQueue, position: int, *rest: Any) -> None:
        if position % 2:
            raise asyncio.CancelledError if position == 1 else RuntimeError("a defect")
        add_ok(self, position, *rest)

    monkeypatch.setattr(ShardQueue, "add_ok", add_or_break)
    ways = ["a", "b", "c", "d", "e"]
    items.loop.set_exception_handler(lambda *_: None)  # the defect is reported, too
    assert status_of(ended(items, awaited, ways), ways) == {"a": OK, "b": ERROR, "c": OK, "d": ERROR, "e": OK}


class Few(Threads):
    """A machine that gives few threads; how many can change."""

    most = 3

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.refused = 0

    def run(self, name: str, task: Any, then: Any = lambda: None) -> None:
        if self.now >= self.most:
            self.refused += 1
            raise NoThread
        self.now += 1
        self.peak = max(self.peak, self.now)

        def less() -> None:
            self.now -= 1
            then()

        super().run(name, task, less)


@pytest.mark.parametrize("limited", [False, True])
async def test_where_the_machine_gives_few_threads_fewer_items_run_at_once(limited: bool) -> None:
    threads = Few()
    pool = Pool(asyncio.get_running_loop(), "few", threads)
    release = threading.Event()
    queue = ShardQueue(40, lambda: entries({at: encode(at) for at in range(40)}, {}))
    pool.add(queue)
    limit = 100_000 if limited else None
    pool.provide(Function(lambda _: release.wait(10)).item_call(), RunPolicy(concurrency=30, max_per_second=limit))
    async with asyncio.timeout(10):
        while pool.thread_limit is None or pool.running < 3:
            await asyncio.sleep(0.001)
    assert (pool.thread_limit, pool.running) == (3, 3)
    release.set()
    positions: list[int] = []
    while len(positions) < 40:
        group = decode_group(await asyncio.wait_for(queue.next_group(), 10))
        queue.acknowledge(group)
        assert all(each.status == OK and each.number == 1 for each in group)
        positions += [each.position for each in group]
    assert sorted(positions) == list(range(40))
    assert threads.peak == 3
    pool.close()
    threads.close()


async def test_a_pool_for_which_there_is_no_thread_at_all_begins_when_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("restate_nb.engine.runner.GROW_SECONDS", 0.02)
    threads = Few()
    threads.most = 0
    pool = Pool(asyncio.get_running_loop(), "none", threads)
    queue = ShardQueue(5, lambda: entries({at: encode(at) for at in range(5)}, {}))
    pool.add(queue)
    pool.provide(Function(lambda item: item).item_call(), RunPolicy(concurrency=5))
    async with asyncio.timeout(10):
        while threads.refused < 3:
            await asyncio.sleep(0.001)
        assert pool.thread_limit is not None
        threads.most = 5
        while len(queue.outcomes_waiting) != 5:
            await asyncio.sleep(0.001)
        while pool.thread_limit is not None:
            await asyncio.sleep(0.001)
    pool.close()
    threads.close()


async def test_an_item_that_ends_in_the_turn_of_its_deadline_leaves_no_hung_thread() -> None:
    pool = Pool(asyncio.get_running_loop(), "turn")
    queue = ShardQueue(4, lambda: entries({at: encode(at) for at in range(4)}, {}))
    began, release = threading.Barrier(5), threading.Event()

    def item(_: int) -> None:
        began.wait(10)
        release.wait(10)

    pool.add(queue)
    pool.provide(Function(item).item_call(), RunPolicy(concurrency=4, timeout=0.5))
    await asyncio.to_thread(began.wait, 10)
    release.set()
    until = asyncio.get_running_loop().time() + 0.7
    while asyncio.get_running_loop().time() < until:
        pass  # the loop is busy while they end and their deadline passes
    statuses = []
    while len(statuses) < 4:
        group = decode_group(await asyncio.wait_for(queue.next_group(), 10))
        queue.acknowledge(group)
        statuses += [each.status for each in group]
    assert statuses == [OK] * 4, "what they returned was there"
    assert pool.hung == 0
    pool.close()
