"""Proves that limits hold: the rate in every window, shared limits over several pools, and what adaptive concurrency
does with the other side's answers. The arithmetic has a virtual clock; pools run on the real one, with a spy."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any, ClassVar

import aiohttp
import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from restate.exceptions import RetryableError
from yarl import URL

import restate_nb as rnb
from restate_nb.backpressure import pushback, retry_after
from restate_nb.engine.adaptive import AdaptiveConcurrency
from restate_nb.engine.function import Function
from restate_nb.engine.limiter import SharedLimiter
from restate_nb.engine.pool import Pool
from restate_nb.engine.rate import RateLimiter
from restate_nb.engine.record import ERROR, OK
from restate_nb.limits import Range, Rate, StopRule
from restate_nb.policy import Limit, Retry, RunPolicy
from tests.engine.test_pool import Spy, outcomes, queue_of, run


def most_in_a_window(starts: Sequence[float], seconds: float) -> int:
    """The most starts in any half-open window of so many seconds."""
    starts = sorted(starts)
    return max(sum(begin <= each < begin + seconds for each in starts[at:]) for at, begin in enumerate(starts))


# ---------------------------------------------------------------- rates


@given(
    st.integers(1, 20),
    st.floats(0.1, 100),
    st.lists(st.floats(0, 5), min_size=1, max_size=200),
    st.integers(0, 2**32),
)
def test_no_window_has_more_starts_than_the_rate_whenever_one_asks(
    count: int, seconds: float, gaps: list[float], seed: int
) -> None:
    pace, now, starts, rng = RateLimiter(Rate(count, seconds)), 100.0, [], random.Random(seed)
    for gap in gaps:
        now += gap * rng.choice((0, 0, seconds / count, seconds))
        wait = pace.ready_in(now)
        if wait > 0:
            now += wait + rng.choice((0, 0.001, seconds))
            now += max(0.0, pace.ready_in(now))  # what rounding left
        pace.start(now)
        starts.append(now)
    assert most_in_a_window(starts, seconds * (1 - 1e-9)) <= count


def test_starts_are_spread_evenly_from_the_first_on() -> None:
    pace, now, starts = RateLimiter(Rate(5, 1.0)), 0.0, []
    for _ in range(11):
        now += max(0.0, pace.ready_in(now))
        pace.start(now)
        starts.append(round(now, 6))
    assert starts == [pytest.approx(0.2 * each, abs=0.06) for each in range(11)]
    assert starts[-1] == pytest.approx(2.0, abs=0.06)


def test_a_new_rate_counts_the_starts_of_the_old_one() -> None:
    old = RateLimiter(Rate(10, 1.0))
    for each in range(10):
        old.start(each / 10)
    new = RateLimiter(Rate(2, 1.0))
    new.continue_from(old)
    assert new.ready_in(0.91) == pytest.approx(0.8 + 1.0 - 0.91)


async def test_a_pool_keeps_to_its_rate_over_queues_and_retries() -> None:
    pool, starts = Pool(asyncio.get_running_loop(), "rate"), []

    async def work(item: int) -> int:
        starts.append(time.monotonic())
        if item % 3 == 0 and len(starts) < 30:
            raise OSError
        return item

    queues = queue_of(*range(20)), queue_of(*range(20))
    retry = Retry(max_attempts=50, initial_interval=0.01, jitter=0)
    for queue in queues:
        pool.add(queue)
    pool.provide(Function(work).item_call(), RunPolicy(max_per_second=(10, 0.25), retry=retry))
    for queue in queues:
        await outcomes(queue)
    pool.close()
    assert len(starts) > 45
    assert most_in_a_window(starts, 0.24) <= 10
    assert starts[-1] - starts[0] < 5


async def test_a_rate_that_is_lifted_holds_nothing_up_any_more() -> None:
    pool, queue = Pool(asyncio.get_running_loop(), "lifted"), queue_of(*range(100))
    pool.add(queue)
    work = Function(Spy().on_loop).item_call()
    pool.provide(work, RunPolicy(max_per_second=1))
    await asyncio.sleep(0.05)
    assert pool.waits_for == "max_per_second"
    pool.provide(work, RunPolicy())
    assert len(await asyncio.wait_for(outcomes(queue), 5)) == 100
    pool.close()


# ---------------------------------------------------------------- limits that are shared


async def test_pools_that_share_a_limit_stay_within_it_together_and_take_turns() -> None:
    loop, spy, order = asyncio.get_running_loop(), Spy(wait=0.005), []
    pools, queues = [], []

    def work_of(who: int) -> Any:
        async def work(item: int) -> int:
            order.append(who)
            return await spy.on_loop(item)

        return work

    for who in range(3):
        pool, queue = Pool(loop, f"shared-{who}"), queue_of(*range(40))
        pool.add(queue)
        pool.provide(Function(work_of(who)).item_call(), RunPolicy(concurrency=10, limit=Limit("api", concurrency=4)))
        pools.append(pool)
        queues.append(queue)
    for queue in queues:
        assert len(await outcomes(queue)) == 40
    assert spy.peak == 4
    assert min(order[:60].count(who) for who in range(3)) >= 10, "one pool starved the others"
    assert SharedLimiter.of(loop, Limit("api", concurrency=4)).running == 0
    for pool in pools:
        pool.close()


async def test_a_shared_limit_takes_the_numbers_that_were_given_last() -> None:
    loop, spy = asyncio.get_running_loop(), Spy(wait=0.02)
    pool, queue = Pool(loop, "numbers"), queue_of(*range(60))
    pool.add(queue)
    pool.provide(Function(spy.on_loop).item_call(), RunPolicy(limit=Limit("n", concurrency=2)))
    await asyncio.sleep(0.1)
    assert spy.peak == 2
    SharedLimiter.of(loop, Limit("n", concurrency=6))
    await outcomes(queue)
    assert spy.peak == 6
    pool.close()


async def test_pools_share_a_rate() -> None:
    loop, starts = asyncio.get_running_loop(), []

    async def work(item: int) -> None:
        starts.append(time.monotonic())

    pools, queues = [Pool(loop, f"rated-{each}") for each in range(2)], [queue_of(*range(15)) for _ in range(2)]
    for pool, queue in zip(pools, queues, strict=True):
        pool.add(queue)
        pool.provide(Function(work).item_call(), RunPolicy(limit=Limit("rate", per_second=(10, 0.5))))
    for queue in queues:
        await outcomes(queue)
    # A tenth of a second for what a busy machine takes from being let in to running.
    assert most_in_a_window(starts, 0.4) <= 10
    assert len(starts) == 30
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("seed", range(5))
async def test_a_waiting_pool_that_is_paused_cancelled_or_closed_lets_others_pass(seed: int) -> None:
    loop, spy, rng = asyncio.get_running_loop(), Spy(wait=0.002), random.Random(seed)
    limit = Limit(f"mixed-{seed}", concurrency=2, per_second=2000)
    pools, queues = [], []
    for each in range(6):
        pool, queue = Pool(loop, f"mixed-{each}"), queue_of(*range(40))
        pool.add(queue)
        pool.provide(Function(spy.on_loop).item_call(), RunPolicy(concurrency=5, limit=limit))
        pools.append(pool)
        queues.append(queue)
    fate = [pools[0].pause, lambda: pools[1].cancel(queues[1]), pools[2].close, lambda: pools[3].stop("enough")]
    for act in fate:
        await asyncio.sleep(rng.uniform(0, 0.02))
        act()
    for at in (3, 4, 5):
        assert len(await asyncio.wait_for(outcomes(queues[at]), 10)) == 40
    pools[0].resume()
    assert len(await asyncio.wait_for(outcomes(queues[0]), 10)) == 40
    assert spy.peak <= 2 + 1, "of the closed pool one may end late"
    for pool in pools:
        pool.close()
    await asyncio.sleep(0.01)
    assert SharedLimiter.of(loop, limit).running == 0


# ---------------------------------------------------------------- adaptive concurrency


class Service:
    """Serves `capacity` at once, each for `takes` seconds; more than that wait (or, with `refuses`, get a 429)."""

    def __init__(self, capacity: int, takes: float = 0.01, refuses: bool = False) -> None:
        self._slots = asyncio.Semaphore(capacity)
        self._capacity, self._takes, self._refuses = capacity, takes, refuses
        self.now = self.peak = self.refused = 0

    async def __call__(self, item: int) -> int:
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            if self._refuses and self.now > self._capacity:
                self.refused += 1
                request = httpx.Request("GET", "http://localhost")
                raise httpx.HTTPStatusError("slow", request=request, response=httpx.Response(429, request=request))
            async with self._slots:
                await asyncio.sleep(self._takes)
            return item
        finally:
            self.now -= 1


async def test_concurrency_grows_to_its_bound_where_nothing_says_no() -> None:
    service, pool, queue = Service(1000), Pool(asyncio.get_running_loop(), "grows"), queue_of(*range(600))
    pool.add(queue)
    pool.provide(Function(service).item_call(), RunPolicy(concurrency=(2, 40)))
    await outcomes(queue)
    assert service.peak == 40
    pool.close()


async def test_concurrency_falls_when_the_other_side_says_slow_down() -> None:
    service, pool, queue = Service(8, refuses=True), Pool(asyncio.get_running_loop(), "falls"), queue_of(*range(800))
    pool.add(queue)
    retry = Retry(max_attempts=100, initial_interval=0.01)
    pool.provide(Function(service).item_call(), RunPolicy(concurrency=(1, 100), retry=retry))
    attempts = await outcomes(queue)
    assert sum(each.status == OK for each in attempts) == 800
    assert 3 <= pool.concurrency <= 16
    assert service.refused < 200, "with a fixed 100 at once it is thousands"
    pool.close()


async def test_concurrency_follows_rising_latency() -> None:
    pool, queue, limits = Pool(asyncio.get_running_loop(), "latency"), queue_of(*range(1500)), []
    pool.add(queue)
    pool.provide(Function(Service(10, takes=0.02)).item_call(), RunPolicy(concurrency=(1, 200)))
    watching = asyncio.create_task(outcomes(queue))
    while not watching.done():
        limits.append(pool.concurrency)
        await asyncio.sleep(0.05)
    latter = sorted(limits[len(limits) // 2 :])
    assert latter[len(latter) // 2] < 60, limits
    pool.close()


def simulated(adaptive: AdaptiveConcurrency, durations: Sequence[float], capacity: int) -> list[int]:
    """The limits over time, of a service that serves so many at once, first come, first served."""
    now, served, waiting, limits, started = 0.0, list[tuple[float, float]](), deque[tuple[float, float]](), [], 0
    while len(limits) < len(durations):
        while len(served) + len(waiting) < adaptive.limit and started < len(durations):
            waiting.append((now, durations[started]))
            started += 1
        while waiting and len(served) < capacity:
            began, takes = waiting.popleft()
            heapq.heappush(served, (now + takes, began))
        busy = len(served) + len(waiting)
        now, began = heapq.heappop(served)
        adaptive.on_success(began, now, busy)
        limits.append(adaptive.limit)
    return limits


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_latency_from_a_full_service_brings_concurrency_down_to_what_it_serves(spread: float) -> None:
    rng = random.Random(1)
    durations = [0.1 * (1 + spread * rng.uniform(-1, 1)) for _ in range(5000)]
    limits = simulated(AdaptiveConcurrency(Range(1, 200)), durations, capacity=20)
    assert all(20 <= each <= 90 for each in limits[1500:])


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_items_that_just_take_longer_do_not_bring_concurrency_down(spread: float) -> None:
    rng = random.Random(1)
    durations = [(0.1 if each < 3000 else 1.0) * (1 + spread * rng.uniform(-1, 1)) for each in range(8000)]
    limits = simulated(AdaptiveConcurrency(Range(1, 200)), durations, capacity=1000)
    assert limits[2999] == limits[-1] == 200
    assert min(limits[3000:]) >= 120


@given(st.lists(st.tuples(st.sampled_from(["ok", "no", "wait"]), st.floats(0, 10)), max_size=300), st.integers(1, 50))
def test_adaptive_concurrency_never_leaves_its_bounds(events: list[tuple[str, float]], low: int) -> None:
    adaptive, now = AdaptiveConcurrency(Range(low, low + 20)), 0.0
    for what, took in events:
        now += 0.1
        if what == "ok":
            adaptive.on_success(now - took, now, busy=1000)
        else:
            adaptive.on_pushback(now - took, now, 30.0 if what == "wait" else 0.0)
        assert low <= adaptive.limit <= low + 20


def test_one_round_of_refusals_is_one_cut() -> None:
    adaptive = AdaptiveConcurrency(Range(1, 64), first=64)
    for _ in range(64):
        adaptive.on_pushback(1.0, 2.0, 0.0)
    assert adaptive.limit == 32


async def test_retry_after_holds_up_all_items_of_an_adaptive_job() -> None:
    starts: list[float] = []

    async def work(item: int) -> int:
        starts.append(time.monotonic())
        if len(starts) == 5:
            raise RetryableError("later", retry_after=0.5)
        await asyncio.sleep(0.01)
        return item

    pool = Pool(asyncio.get_running_loop(), "holds")
    await run(pool, work, *range(40), policy=RunPolicy(concurrency=(1, 4), retry=Retry(max_attempts=2)))
    gaps = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert max(gaps) > 0.45
    pool.close()


# ---------------------------------------------------------------- what errors say of the pace


def httpx_error(status: int, **headers: str) -> Exception:
    request = httpx.Request("GET", "http://localhost")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, headers=headers, request=request))


def aiohttp_error(status: int, **headers: str) -> Exception:
    url, sent = URL("http://localhost"), CIMultiDictProxy(CIMultiDict[str]())
    info = aiohttp.RequestInfo(url, "GET", sent, url)
    return aiohttp.ClientResponseError(info, (), status=status, headers=CIMultiDict(headers))


def requests_error(status: int, **headers: str) -> Exception:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return requests.HTTPError("", response=response)


class BotoError(Exception):
    response: ClassVar = {"ResponseMetadata": {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": "4"}}}


class Awkward(Exception):
    @property
    def response(self) -> Any:
        raise RuntimeError("there is none")


@pytest.mark.parametrize("client", [httpx_error, aiohttp_error, requests_error])
def test_http_errors_are_known_by_their_shape(client: Any) -> None:
    assert pushback(client(429)) == 0
    assert pushback(client(503, **{"Retry-After": "7"})) == 7
    assert pushback(client(500)) is None
    assert retry_after(client(404, **{"Retry-After": "soon"})) == 0
    dated = client(429, Date=formatdate(1_000_000, usegmt=True), **{"Retry-After": formatdate(1_000_030, usegmt=True)})
    assert pushback(dated) == 30
    assert retry_after(client(429, **{"Retry-After": formatdate(1_000_030, usegmt=True)}), now=1_000_010) == 20


def test_errors_of_any_library_are_asked_when_to_try_again() -> None:
    wrapped = RuntimeError("mine")
    wrapped.__cause__ = httpx_error(429, **{"Retry-After": "3"})
    assert pushback(wrapped) == 3
    assert pushback(BotoError()) == 4
    assert pushback(RetryableError("", retry_after=2)) == 2
    assert pushback(Awkward()) is None
    assert pushback(ValueError()) is None
    assert Retry(initial_interval=0).delay_after(1, wrapped) == 3


@pytest.mark.parametrize(
    ("rule", "failed", "ended", "breaks"),
    [
        (StopRule(failures=1), 0, 5, False),
        (StopRule(failures=1), 1, 1, True),
        (StopRule(failures=3), 2, 100, False),
        (StopRule(share=0.1), 19, 19, False),
        (StopRule(share=0.1), 2, 20, True),
        (StopRule(share=0.1), 2, 21, False),
    ],
)
def test_when_a_job_gives_up(rule: StopRule, failed: int, ended: int, breaks: bool) -> None:
    assert bool(rule.broken(failed, ended)) is breaks


async def test_a_pool_that_gives_up_lets_running_items_end_and_starts_nothing() -> None:
    calls: list[int] = []

    async def work(item: int) -> int:
        calls.append(item)
        if item == 1:
            await asyncio.sleep(0.01)
            raise ValueError("no")
        await asyncio.sleep(0.05)
        if item == 2:
            raise OSError("would be tried again")
        return item

    pool = Pool(asyncio.get_running_loop(), "stops")
    retry = Retry(max_attempts=3, initial_interval=0.01, retry_on=OSError)
    policy = RunPolicy(concurrency=3, fail_fast=True, retry=retry)
    attempts = {each.position: each for each in await run(pool, work, *range(10), policy=policy)}
    assert calls == [0, 1, 2]
    assert [attempts[each].status for each in range(3)] == [OK, ERROR, ERROR]
    assert {attempts[each].failure.type for each in range(3, 10)} == {"FailFast"}  # type: ignore[union-attr]
    pool.reopen()
    assert {each.status for each in await run(pool, work, *range(10, 20), policy=policy)} == {OK}
    assert len(calls) == 13
    pool.close()


def test_a_limit_is_public() -> None:
    assert rnb.Limit("openai", concurrency=20, per_second=5).name == "openai"
