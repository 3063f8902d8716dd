"""Proves that threads and tasks which take their items themselves are as many as help, keep exactly to every limit that
changes meanwhile, and neither lose an item nor run one twice."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from restate_nb.engine.function import Function
from restate_nb.engine.outbox import ShardQueue, entries
from restate_nb.engine.pool import Pool
from restate_nb.engine.record import CANCELLED, OK, TIMEOUT, Attempt
from restate_nb.engine.threads import Threads
from restate_nb.limits import Range
from restate_nb.policy import Retry, RunPolicy
from restate_nb.values.codec import decode, encode


def queue_of(*items: Any) -> ShardQueue:
    payloads = {position: encode(item) for position, item in enumerate(items)}
    return ShardQueue(len(payloads), lambda: entries(payloads, {}))


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(asyncio.get_running_loop(), "pulls")
    yield pool
    pool.close()
    await asyncio.sleep(0)


async def outcomes(queue: ShardQueue) -> list[Attempt]:
    """All attempts of a queue, in the order in which they ended."""
    found: list[Attempt] = []
    while queue.waiting or queue.open or queue.outcomes_waiting or queue.in_group:
        group = await asyncio.wait_for(queue.next_attempts(), 30)
        queue.acknowledge(group)
        found += list(group)
    return found


class Threaded:
    """Notes in which threads it is called."""

    def __init__(self) -> None:
        self.idents: set[int] = set()

    def __call__(self, item: int) -> int:
        self.idents.add(threading.get_ident())
        return item


async def test_functions_that_never_wait_share_few_threads(pool: Pool) -> None:
    noop, queue = Threaded(), queue_of(*range(20_000))
    pool.add(queue)
    pool.provide(Function(noop).item_call(), RunPolicy(concurrency=64))
    assert len(await outcomes(queue)) == 20_000
    assert len(noop.idents) <= 8


async def test_functions_that_compute_share_few_threads_and_the_pool_says_so(pool: Pool) -> None:
    computes = Threaded()
    seen: set[bool] = set()

    def work(item: int) -> int:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        seen.add(pool.gil_bound)
        return computes(item)

    queue = queue_of(*range(40))
    pool.add(queue)
    pool.provide(Function(work).item_call(), RunPolicy(concurrency=32))
    assert len(await outcomes(queue)) == 40
    assert len(computes.idents) <= 8
    assert True in seen
    assert not pool.gil_bound, "nothing is left"


async def test_functions_that_wait_have_a_thread_each(pool: Pool) -> None:
    all_wait = threading.Barrier(100)

    def waits(item: int) -> int:
        all_wait.wait(20)
        return item

    queue = queue_of(*range(100))
    pool.add(queue)
    pool.provide(Function(waits).item_call(), RunPolicy(concurrency=100))
    assert all(each.status == OK for each in await outcomes(queue))


async def test_items_after_fast_ones_wait_in_a_thread_each_too(pool: Pool) -> None:
    all_wait = threading.Barrier(30)

    def waits_late(item: int) -> int:
        if item >= 5_000:
            all_wait.wait(20)
        return item

    queue = queue_of(*range(5_030))
    pool.add(queue)
    pool.provide(Function(waits_late).item_call(), RunPolicy(concurrency=30))
    assert all(each.status == OK for each in await outcomes(queue))


async def test_coroutines_after_ones_that_never_wait_run_beside_each_other(pool: Pool) -> None:
    now = peak = 0

    async def waits_late(item: int) -> int:
        nonlocal now, peak
        if item >= 5_000:
            now += 1
            peak = max(peak, now)
            while peak < 30:
                await asyncio.sleep(0.001)
            now -= 1
        return item

    queue = queue_of(*range(5_030))
    pool.add(queue)
    pool.provide(Function(waits_late).item_call(), RunPolicy(concurrency=30))
    assert all(each.status == OK for each in await outcomes(queue))
    assert peak == 30


@pytest.mark.parametrize("on_loop", [True, False])
async def test_after_a_pause_no_item_begins_however_many_were_taken(pool: Pool, on_loop: bool) -> None:
    begun = 0

    def count(item: int) -> int:
        nonlocal begun
        begun += 1
        if begun == 3_000:
            pool.pause()
        return item

    async def counts(item: int) -> int:
        return count(item)

    queue = queue_of(*range(6_000))
    pool.add(queue)
    pool.provide(Function(counts if on_loop else count).item_call(), RunPolicy(concurrency=1))
    while begun < 3_000:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert (begun, pool.running) == (3_000, 0)
    pool.resume()
    assert len(await outcomes(queue)) == 6_000
    assert begun == 6_000


async def test_an_item_that_is_given_up_leaves_its_place_and_its_thread_ends_unheard(pool: Pool) -> None:
    let, threads = threading.Event(), Counter[str]()

    def hangs(item: int) -> int:
        threads[threading.current_thread().name] += 1
        if item < 3:
            let.wait(20)
        return item

    queue = queue_of(*range(8))
    pool.add(queue)
    pool.provide(Function(hangs).item_call(), RunPolicy(concurrency=3, timeout=0.05))
    found = {each.position: each.status for each in await outcomes(queue)}
    assert found == {at: TIMEOUT if at < 3 else OK for at in range(8)}
    assert pool.hung == 3
    assert [each.seconds for each in pool.running_items()] == [None] * 3
    let.set()
    async with asyncio.timeout(10):
        while pool.hung:
            await asyncio.sleep(0.001)
    assert pool.running == 0


class Exact:
    """Counts how often each item is begun, and how many run at once beyond what the limit has been since they began."""

    def __init__(self, pool: Pool) -> None:
        self.begun = Counter[int]()
        self.now = self.over = 0
        self.allowed = 1
        self._lock = threading.Lock()
        self._pool = pool

    def enter(self, item: int) -> None:
        with self._lock:
            self.begun[item] += 1
            self.now += 1
            self.over = max(self.over, self.now - self.allowed)

    def leave(self) -> None:
        with self._lock:
            self.now -= 1

    def allow(self, most: int) -> None:
        """More from now on, or fewer once those that run, or are about to, have ended."""
        if most > self.allowed:
            self.allowed = most
        self._pool.set_concurrency(Range(most, most))
        self.allowed = max(most, self._pool.running)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("on_loop", [True, False])
async def test_whatever_is_changed_while_they_run_each_item_ends_once(pool: Pool, on_loop: bool, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    exact = Exact(pool)
    waits = [rng.choice([0, 0, 0.0005, 0.003]) for _ in range(1_500)]
    fails = {item: rng.random() < 0.1 for item in range(1_500)}

    def begin(item: int) -> None:
        exact.enter(item)
        if fails[item] and exact.begun[item] == 1:
            raise OSError("again")

    async def coroutine(item: int) -> int:
        try:
            begin(item)
            if waits[item]:
                await asyncio.sleep(waits[item])
        finally:
            exact.leave()
        return item

    def plain(item: int) -> int:
        try:
            begin(item)
            if waits[item]:
                time.sleep(waits[item])
        finally:
            exact.leave()
        return item

    halves = [range(500), range(500, 1_000), range(1_000, 1_500)]
    queues = [
        ShardQueue(len(part), lambda part=part: entries({at: encode(at) for at in part}, {}))  # type: ignore[misc]
        for part in halves
    ]
    retry = Retry(max_attempts=2, initial_interval=0.001, jitter=0)
    pool.provide(Function(coroutine if on_loop else plain).item_call(), RunPolicy(concurrency=1, retry=retry))
    for queue in queues:
        pool.add(queue)
    all_found = asyncio.gather(*map(outcomes, queues))
    dropped = False
    while not all_found.done():
        choice = rng.randrange(6)
        if choice == 0:
            pool.pause()
            await asyncio.sleep(rng.random() * 0.01)
            pool.resume()
        elif choice < 4 and not dropped:
            exact.allow(rng.choice([1, 2, 7, 40]))
        elif choice == 4 and not dropped and rng.random() < 0.2:
            dropped, exact.allowed = True, 2_000  # threads of cancelled items run on
            pool.cancel(queues[1])
        await asyncio.sleep(rng.random() * 0.01)
    found = [attempt for attempts in await all_found for attempt in attempts]
    finals = Counter(each.position for each in found if each.final)
    assert finals == Counter(range(1_500))
    for each in found:
        if each.status == OK:
            assert decode(each.value) == each.position
            assert exact.begun[each.position] == each.number == 1 + fails[each.position]
        elif each.status == CANCELLED:
            assert each.position in halves[1]
            assert exact.begun[each.position] <= each.number
    assert exact.over <= 0
    async with asyncio.timeout(10):
        while exact.now or pool.running:
            await asyncio.sleep(0.001)


async def test_jobs_that_share_threads_end_with_none_that_looks_for_items() -> None:
    threads = Threads(idle=0.05)
    pools = [Pool(asyncio.get_running_loop(), f"shares-{each}", threads) for each in range(5)]
    queues = [queue_of(*range(200)) for _ in pools]
    for pool, queue in zip(pools, queues, strict=True):
        pool.add(queue)
        pool.provide(Function(lambda item: time.sleep(0.0005) or item).item_call(), RunPolicy(concurrency=8))
    for queue in queues:
        assert len(await outcomes(queue)) == 200
    async with asyncio.timeout(10):
        while any(each.name.startswith("rnb-shares") for each in threading.enumerate()):
            await asyncio.sleep(0.01)
    for pool in pools:
        pool.close()
    threads.close()


async def test_no_coroutine_begins_before_others_that_come_long_before_it(pool: Pool) -> None:
    begun: list[int] = []

    async def waits_late(item: int) -> int:
        begun.append(item)
        if item >= 5 and item % 3:
            await asyncio.sleep(0.01)
        return item

    queue = queue_of(*range(200))
    pool.add(queue)
    pool.provide(Function(waits_late).item_call(), RunPolicy(concurrency=10))
    await outcomes(queue)
    assert max(item - at for at, item in enumerate(begun)) < 10
