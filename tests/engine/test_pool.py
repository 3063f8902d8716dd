"""Proves how a pool runs items: how many at once, where, with what retries and timeouts; and each ends exactly once."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from restate_nb.engine.function import Function
from restate_nb.engine.outbox import MAX_GROUP_BYTES, ShardQueue, entries
from restate_nb.engine.pool import Pool
from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT, Attempt, Failure, decode_group
from restate_nb.limits import Range
from restate_nb.policy import Retry, RunPolicy
from restate_nb.values.codec import decode, encode

FAST_RETRY = Retry(max_attempts=3, initial_interval=0.01, jitter=0)


class Spy:
    """Counts how many calls run at once. The first do not end before `together` run."""

    def __init__(self, wait: float = 0.01, together: int = 0) -> None:
        self.now = self.peak = self.calls = 0
        self._wait = wait
        self._together = together
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self.now += 1
            self.calls += 1
            self.peak = max(self.peak, self.now)

    def leave(self) -> None:
        with self._lock:
            self.now -= 1

    async def on_loop(self, item: int) -> int:
        self.enter()
        try:
            await asyncio.sleep(self._wait)
            while self.peak < self._together:
                await asyncio.sleep(self._wait)
        finally:
            self.leave()
        return item * 2

    def in_thread(self, item: int) -> int:
        self.enter()
        time.sleep(self._wait)
        while self.peak < self._together:
            time.sleep(self._wait)
        self.leave()
        return item * 2


def queue_of(*items: Any) -> ShardQueue:
    payloads = {position: encode(item) for position, item in enumerate(items)}
    return ShardQueue(len(payloads), lambda: entries(payloads, {}))


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(asyncio.get_running_loop(), "test")
    yield pool
    pool.close()
    await asyncio.sleep(0)


def unrecorded(queue: ShardQueue) -> bool:
    return bool(queue.outcomes_waiting or queue.in_group)


def unsettled(queue: ShardQueue) -> bool:
    return bool(queue.waiting or queue.open) or unrecorded(queue)


async def outcomes(queue: ShardQueue) -> list[Attempt]:
    """All attempts of a queue, in the order in which they ended."""
    attempts: list[Attempt] = []
    while unsettled(queue):
        group = decode_group(await asyncio.wait_for(queue.next_group(), 10))
        queue.acknowledge(group)
        attempts += group
    return attempts


async def run(pool: Pool, fn: Callable[..., Any], *items: Any, policy: RunPolicy | None = None) -> list[Attempt]:
    queue = queue_of(*items)
    pool.add(queue)
    pool.provide(Function(fn).item_call(), policy or RunPolicy())
    return await outcomes(queue)


@pytest.mark.parametrize("how", ["on_loop", "in_thread"])
@pytest.mark.parametrize("limit", [1, 7, 80])
async def test_as_many_run_at_once_as_are_allowed_and_no_more(pool: Pool, how: str, limit: int) -> None:
    spy = Spy(together=limit)
    attempts = await run(pool, getattr(spy, how), *range(2 * limit), policy=RunPolicy(concurrency=limit))
    assert spy.peak == limit
    assert sorted(decode(each.value) for each in attempts) == [2 * item for item in range(2 * limit)]


async def test_a_plain_function_never_blocks_the_loop(pool: Pool) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.perf_counter())
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    await run(pool, lambda _: time.sleep(0.3), 1, 2, 3)
    ticking.cancel()
    longest = max(after - before for before, after in zip(ticks, ticks[1:], strict=False))
    assert longest < 0.2, "the loop stood still while a plain function slept"


async def test_items_that_never_wait_leave_the_loop_to_others(pool: Pool) -> None:
    async def burn(_: int) -> None:
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(others())
    await run(pool, burn, *range(100), policy=RunPolicy(concurrency=1))
    watching.cancel()
    assert turns >= 100 / 16, "more than 16 items were called in one turn of the loop"


async def test_an_exception_is_the_items_error_with_type_message_and_place(pool: Pool) -> None:
    def fails(item: int) -> int:
        raise ValueError(f"no {item}")

    (attempt,) = await run(pool, fails, 7)
    assert (attempt.status, attempt.number, attempt.final) == (ERROR, 1, True)
    assert attempt.failure is not None
    assert (attempt.failure.type, attempt.failure.message) == ("ValueError", "no 7")
    assert attempt.failure.where.startswith("test_pool.py:")
    assert attempt.failure.where.endswith(" in fails")
    assert "restate_nb/engine" not in attempt.failure.traceback


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()])
@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_an_exception_that_would_end_a_thread_or_a_loop_is_only_the_items_error(
    pool: Pool, error: BaseException, where: str
) -> None:
    def fails(_: int) -> None:
        raise error

    async def fails_on_loop(_: int) -> None:
        raise error

    attempts = await run(pool, fails if where == "thread" else fails_on_loop, 1, 2, policy=RunPolicy(concurrency=1))
    assert [each.status for each in attempts] == [ERROR, ERROR]


async def test_a_value_without_a_json_form_is_the_items_error(pool: Pool) -> None:
    (attempt,) = await run(pool, lambda _: object(), 1)
    assert attempt.failure is not None
    assert attempt.failure.type == "NotEncodable"


async def test_a_failing_item_is_tried_again_and_every_attempt_is_told(pool: Pool) -> None:
    calls: dict[int, int] = {}

    async def flaky(item: int) -> int:
        calls[item] = calls.get(item, 0) + 1
        if calls[item] < item:
            raise OSError("later")
        return item

    attempts = await run(pool, flaky, 1, 2, 3, 4, policy=RunPolicy(retry=FAST_RETRY))
    story = {position: [] for position in range(4)}  # type: dict[int, list[tuple[int, int]]]
    for each in attempts:
        story[each.position].append((each.number, each.status))
    assert story == {
        0: [(1, OK)],
        1: [(1, ERROR), (2, OK)],
        2: [(1, ERROR), (2, ERROR), (3, OK)],
        3: [(1, ERROR), (2, ERROR), (3, ERROR)],
    }


async def test_a_waiting_retry_leaves_its_place_to_others(pool: Pool) -> None:
    order: list[int] = []

    async def first_fails(item: int) -> None:
        order.append(item)
        if item == 0 and order.count(0) == 1:
            raise OSError

    retry = Retry(max_attempts=2, initial_interval=0.1, jitter=0)
    await run(pool, first_fails, 0, 1, 2, policy=RunPolicy(concurrency=1, retry=retry))
    assert order == [0, 1, 2, 0]


async def test_a_coroutine_that_hangs_is_cut_off_at_its_timeout(pool: Pool) -> None:
    cancelled = asyncio.Event()

    async def hangs(_: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    (attempt,) = await run(pool, hangs, 1, policy=RunPolicy(timeout=0.05))
    assert attempt.status == TIMEOUT
    assert attempt.failure is not None
    assert attempt.failure.type == "ItemTimeout"
    assert 0.04 < attempt.ran < 1
    assert cancelled.is_set()


async def test_an_attempt_keeps_its_timeout_when_a_function_without_one_comes(pool: Pool) -> None:
    queue = queue_of(30)
    pool.add(queue)
    pool.provide(Function(asyncio.sleep).item_call(), RunPolicy(timeout=0.1))
    while not pool.running:
        await asyncio.sleep(0.001)
    pool.provide(Function(asyncio.sleep).item_call(), RunPolicy())
    (attempt,) = await outcomes(queue)
    assert attempt.status == TIMEOUT
    assert attempt.failure is not None
    assert "timeout=0.1 seconds" in attempt.failure.message


async def test_a_timeout_of_the_users_own_is_an_error_and_no_timeout_of_the_item(pool: Pool) -> None:
    async def own(_: int) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    (attempt,) = await run(pool, own, 1, policy=RunPolicy(timeout=5))
    assert attempt.status == ERROR


async def test_a_hung_thread_is_told_of_at_once_and_holds_up_nobody(pool: Pool) -> None:
    release = threading.Event()

    def hangs(item: int) -> int:
        if item < 2:
            release.wait(10)
        return item

    attempts = await run(pool, hangs, *range(6), policy=RunPolicy(concurrency=2, timeout=0.1))
    assert {each.position: each.status for each in attempts} == {0: TIMEOUT, 1: TIMEOUT, 2: OK, 3: OK, 4: OK, 5: OK}
    assert pool.hung == 2
    release.set()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not pool.hung:
            break
    assert pool.hung == 0


async def test_a_lambda_or_partial_that_gives_a_coroutine_is_awaited(pool: Pool) -> None:
    async def double(item: int) -> int:
        await asyncio.sleep(0)
        return 2 * item

    (attempt,) = await run(pool, lambda item: double(item), 4)
    assert decode(attempt.value) == 8
    (attempt,) = await run(pool, functools.partial(double), 5)
    assert decode(attempt.value) == 10


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_items_see_the_callers_context_and_not_each_others(pool: Pool, where: str) -> None:
    def look(item: int) -> str:
        seen = variable.get()
        variable.set(f"item {item}")
        return seen

    async def look_on_loop(item: int) -> str:
        seen = look(item)
        await asyncio.sleep(0)
        assert variable.get() == f"item {item}"
        return seen

    variable.set("cell")
    attempts = await run(pool, look if where == "thread" else look_on_loop, *range(4), policy=RunPolicy(concurrency=2))
    assert [decode(each.value) for each in attempts] == ["cell"] * 4


async def test_cancelling_gives_each_open_item_the_outcome_cancelled_at_once(pool: Pool) -> None:
    queue = queue_of(*range(5))
    release = threading.Event()
    stopped: list[int] = []

    async def hangs(item: int) -> int:
        if item == 0:
            return 0
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(item)
            raise
        return item

    pool.add(queue)
    pool.provide(Function(hangs).item_call(), RunPolicy(concurrency=2))
    while pool.running_positions() != {1, 2}:
        await asyncio.sleep(0.01)
    pool.cancel(queue)
    attempts = await outcomes(queue)
    assert {each.position: each.status for each in attempts} == {0: OK, **dict.fromkeys(range(1, 5), CANCELLED)}
    assert {each.position for each in attempts if each.started} == {0, 1, 2}
    await asyncio.sleep(0.01)
    assert sorted(stopped) == [1, 2]
    release.set()


async def test_the_limit_can_change_while_items_run(pool: Pool) -> None:
    """Items end when the test lets them, so that how many run at once depends on no clock."""
    now, let = 0, asyncio.Semaphore(0)

    async def work(item: int) -> None:
        nonlocal now
        now += 1
        await let.acquire()
        now -= 1

    async def come_to(expected: int) -> None:
        async with asyncio.timeout(20):
            while now != expected:
                await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0)
            assert now == expected

    def let_out(count: int) -> None:
        for _ in range(count):
            let.release()

    queue = queue_of(*range(100))
    pool.add(queue)
    pool.provide(Function(work).item_call(), RunPolicy(concurrency=8))
    await come_to(8)
    pool.set_concurrency(Range(2, 2))
    let_out(5)
    await come_to(3)
    let_out(1)
    await come_to(2)
    for _ in range(5):
        let_out(1)
        await asyncio.sleep(0.005)
        await come_to(2)
    pool.set_concurrency(Range(16, 16))
    await come_to(16)
    let_out(100)
    assert len(await outcomes(queue)) == 100
    assert now == 0


async def test_nothing_starts_while_paused(pool: Pool) -> None:
    spy = Spy()
    queue = queue_of(*range(20))
    pool.pause()
    pool.add(queue)
    pool.provide(Function(spy.on_loop).item_call(), RunPolicy())
    await asyncio.sleep(0.05)
    assert spy.calls == 0
    pool.resume()
    assert len(await outcomes(queue)) == 20


async def test_a_new_function_is_used_for_what_is_still_to_start(pool: Pool) -> None:
    gate = asyncio.Event()

    async def old(item: int) -> str:
        await gate.wait()
        return f"old {item}"

    async def new(item: int) -> str:
        return f"new {item}"

    queue = queue_of(*range(4))
    pool.add(queue)
    pool.provide(Function(old).item_call(), RunPolicy(concurrency=2))
    await asyncio.sleep(0.01)
    pool.provide(Function(new).item_call(), RunPolicy(concurrency=2))
    gate.set()
    attempts = await outcomes(queue)
    assert sorted(decode(each.value) for each in attempts) == ["new 2", "new 3", "old 0", "old 1"]


async def test_an_outcome_is_offered_until_it_is_acknowledged(pool: Pool) -> None:
    queue = queue_of(*range(3))
    pool.add(queue)
    pool.provide(Function(len).item_call(), RunPolicy())
    first = await queue.next_group()
    assert await queue.next_group() == first
    queue.acknowledge(decode_group(first))
    while unsettled(queue):
        queue.acknowledge(decode_group(await queue.next_group()))


async def test_a_group_is_bounded_in_bytes(pool: Pool) -> None:
    attempts_in_groups = []
    queue = queue_of(*range(6))
    pool.add(queue)
    pool.provide(Function(lambda _: "x" * (MAX_GROUP_BYTES // 2)).item_call(), RunPolicy())
    while queue.waiting or queue.open:
        await asyncio.sleep(0.01)
    while unrecorded(queue):
        group = await queue.next_group()
        assert len(group) < 2 * MAX_GROUP_BYTES
        attempts_in_groups.append(len(decode_group(group)))
        queue.acknowledge(decode_group(group))
    assert sum(attempts_in_groups) == 6
    assert max(attempts_in_groups) == 1


async def test_a_queue_goes_on_from_the_attempts_that_are_recorded(pool: Pool) -> None:
    calls: list[int] = []

    async def fails(item: int) -> None:
        calls.append(item)
        raise OSError

    before = Attempt(0, 2, ERROR, time.time(), 0.0, failure=Failure("OSError", "", retry_in=0.05))
    queue = ShardQueue(1, lambda: entries({0: encode(0)}, {0: before}))
    started = time.perf_counter()
    pool.add(queue)
    pool.provide(Function(fails).item_call(), RunPolicy(retry=FAST_RETRY))
    attempts = await outcomes(queue)
    assert [each.number for each in attempts] == [3]
    assert calls == [0]
    assert time.perf_counter() - started > 0.04


async def test_threads_end_when_the_pool_is_closed() -> None:
    pool = Pool(asyncio.get_running_loop(), "ending")
    await run(pool, lambda item: item, *range(10))
    assert any(each.name.startswith("rnb-ending") for each in threading.enumerate())
    pool.close()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not any(each.name.startswith("rnb-ending") for each in threading.enumerate()):
            return
    raise AssertionError("a thread of the pool lives on")


async def test_an_attempt_that_is_over_never_takes_the_wake_up_of_the_next(pool: Pool) -> None:
    """Two wait for outcomes: the attempt whose connection broke, and the next one."""
    queue = queue_of(*range(3))
    queue.load()
    over, following = asyncio.create_task(queue.next_group()), asyncio.create_task(queue.next_group())
    await asyncio.sleep(0)
    queue.add(Attempt(0, 1, OK, 1.0, 0.0))
    group = decode_group(await asyncio.wait_for(following, 1))
    queue.acknowledge(group)
    following = asyncio.create_task(queue.next_group())
    await asyncio.wait_for(over, 1)
    late = asyncio.create_task(queue.next_group())  # it asks once more before it learns that it is over
    await asyncio.sleep(0)
    queue.add(Attempt(1, 1, OK, 1.0, 0.0))
    assert [each.position for each in decode_group(await asyncio.wait_for(following, 1))] == [1]
    await asyncio.wait_for(late, 1)


async def test_no_item_starts_while_too_many_outcomes_wait_to_be_recorded(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restate_nb.engine.outbox.MAX_UNRECORDED", 100)
    queues = [queue_of(*range(150)), queue_of(*range(150))]
    for queue in queues:
        pool.add(queue)
    pool.provide(Function(lambda item: item).item_call(), RunPolicy(concurrency=3))
    while not pool.backlog_full:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    waiting = sum(queue.unrecorded()[0] for queue in queues)
    assert 100 <= waiting <= 100 + 16 + 3  # it looks every 16 items, and lets three end
    for queue in queues:
        while unsettled(queue):
            queue.acknowledge(decode_group(await asyncio.wait_for(queue.next_group(), 10)))
            pool.recorded()
    assert all(queue.unrecorded() == (0, 0, 0.0) for queue in queues)


async def test_no_item_starts_while_nothing_has_been_recorded_for_long(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restate_nb.engine.outbox.MAX_UNRECORDED_SECONDS", 0.2)
    queue = queue_of(*range(400))
    pool.add(queue)
    pool.provide(Function(lambda item: time.sleep(0.01)).item_call(), RunPolicy(concurrency=2))
    while not pool.backlog_full:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    waiting = queue.unrecorded()[0]
    await asyncio.sleep(0.2)
    assert queue.unrecorded()[0] == waiting < 200
    while unsettled(queue):
        queue.acknowledge(decode_group(await asyncio.wait_for(queue.next_group(), 10)))
        pool.recorded()


class Gate:
    """Items that run until they are let go; which have begun, and which were broken off."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.begun: list[int] = []
        self.stopped: list[int] = []

    async def __call__(self, item: int) -> int:
        self.begun.append(item)
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.stopped.append(item)
            raise
        return item

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                await asyncio.sleep(0.001)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(self.begun) == count


def numbered(*positions: int) -> ShardQueue:
    payloads = {position: encode(position) for position in positions}
    return ShardQueue(len(payloads), lambda: entries(payloads, {}))


async def test_cancelling_one_queue_leaves_others_alone_and_says_how_long_items_ran(pool: Pool) -> None:
    gate, mine, other = Gate(), numbered(0, 1), numbered(10, 11)
    pool.add(mine)
    pool.add(other)
    pool.provide(Function(gate).item_call(), RunPolicy())
    await gate.wait_for(4)
    await asyncio.sleep(0.02)
    pool.cancel(mine)
    attempts = await outcomes(mine)
    assert [each.status for each in attempts] == [CANCELLED] * 2
    assert all(0.02 <= each.ran < 10 for each in attempts)
    while len(gate.stopped) < 2:
        await asyncio.sleep(0)  # they hear of it in the next turn of the loop
    assert sorted(gate.stopped) == [0, 1]
    gate.let.set()
    assert [each.status for each in await outcomes(other)] == [OK] * 2


async def test_the_room_of_a_queue_that_is_dropped_is_for_the_others(pool: Pool) -> None:
    gate, mine, other = Gate(), numbered(0, 1), numbered(10, 11)
    pool.add(mine)
    pool.add(other)
    pool.provide(Function(gate).item_call(), RunPolicy(concurrency=2))
    await gate.wait_for(2)
    pool.drop(mine)
    await gate.wait_for(4)
    assert sorted(gate.begun) == [0, 1, 10, 11]
    assert sorted(gate.stopped) == [0, 1]
    gate.let.set()
    assert len(await outcomes(other)) == 2


async def test_a_closed_pool_ends_what_runs_and_starts_nothing_more(pool: Pool) -> None:
    gate, calls = Gate(), list[int]()

    async def fails_or_hangs(item: int) -> int:
        if item == 0:
            calls.append(item)
            raise OSError("again")
        return await gate(item)

    queue = numbered(0, 1, 2, 3, 4)
    pool.add(queue)
    retry = Retry(max_attempts=9, initial_interval=0.05, jitter=0)
    pool.provide(Function(fails_or_hangs).item_call(), RunPolicy(concurrency=3, retry=retry))
    await gate.wait_for(3)
    assert calls == [0], "it waits for its next attempt"
    pool.close()
    pool.resume()
    pool.set_concurrency(Range(50, 50))
    pool.add(numbered(20))
    await asyncio.sleep(0.15)
    assert (calls, sorted(gate.begun), sorted(gate.stopped)) == ([0], [1, 2, 3], [1, 2, 3])
    assert not pool.running


@pytest.mark.parametrize("how", ["on_loop", "in_thread"])
async def test_a_defect_of_the_pool_is_reported_and_is_what_became_of_its_item(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    told: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    add_ok = ShardQueue.add_ok

    def add_or_break(self: ShardQueue, position: int, *rest: Any) -> None:
        if position == 1:
            raise RuntimeError("a defect")
        add_ok(self, position, *rest)

    monkeypatch.setattr(ShardQueue, "add_ok", add_or_break)
    queue = numbered(*range(6))
    pool.add(queue)

    async def on_loop(item: int) -> int:
        return item

    def in_thread(item: int) -> int:
        return item

    fn = {"on_loop": on_loop, "in_thread": in_thread}[how]
    pool.provide(Function(fn).item_call(), RunPolicy(concurrency=2))
    attempts = {each.position: each for each in await outcomes(queue)}
    assert {position for position, each in attempts.items() if each.status == OK} == {0, 2, 3, 4, 5}
    failure = attempts[1].failure
    assert failure is not None
    assert (failure.type, failure.message) == ("RuntimeError", "a defect")
    async with asyncio.timeout(10):
        while not told:
            await asyncio.sleep(0.001)
    assert [str(each) for each in told] == ["a defect"]


async def test_items_of_all_queues_start_when_the_limit_is_raised_at_once(pool: Pool) -> None:
    gate = Gate()
    queues = [numbered(*range(10 * each, 10 * each + 3)) for each in range(4)]
    for queue in queues:
        pool.add(queue)
    pool.provide(Function(gate).item_call(), RunPolicy(concurrency=1))
    await gate.wait_for(1)
    pool.set_concurrency(Range(7, 7))
    await gate.wait_for(7)
    pool.pause()
    pool.set_concurrency(Range(12, 12))
    await asyncio.sleep(0.01)
    assert len(gate.begun) == 7
    pool.resume()
    await gate.wait_for(12)
    gate.let.set()
    for queue in queues:
        assert len(await outcomes(queue)) == 3


async def test_a_queue_added_after_the_stop_ends_with_the_reason_until_a_reopen(pool: Pool) -> None:
    gate = Gate()
    pool.provide(Function(gate).item_call(), RunPolicy())
    pool.stop("enough")
    pool.stop("too much")
    (attempt,) = await added(pool, numbered(3))
    assert attempt.status == CANCELLED
    assert attempt.failure is not None and attempt.failure.message == "enough", "the first reason stands"
    pool.reopen()
    gate.let.set()
    (attempt,) = await added(pool, numbered(4))
    assert attempt.status == OK


async def added(pool: Pool, queue: ShardQueue) -> list[Attempt]:
    pool.add(queue)
    return await outcomes(queue)
