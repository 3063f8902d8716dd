"""Proves that the limits of jobs hold on the real server: over shards and retries, and over jobs that share one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import restate

import restate_nb as rnb
from restate_nb.backends import local
from restate_nb.handle.job import runner_of
from restate_nb.session.session import Session
from tests.engine.test_limits import most_in_a_window
from tests.support import submit


class Starts:
    """Notes when calls start, and how many run at once; every seventh call fails."""

    def __init__(self, takes: float = 0.0, fails: bool = False) -> None:
        self.at: list[float] = []
        self.now = self.peak = 0
        self._takes, self._fails = takes, fails

    async def __call__(self, item: int) -> int:
        self.at.append(time.monotonic())
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            if self._fails and len(self.at) % 7 == 0:
                raise OSError("again")
            await asyncio.sleep(self._takes)
            return item
        finally:
            self.now -= 1


def test_the_rate_holds_over_shards_and_retries(any_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_SHARD_ITEMS", 10)
    starts = Starts(fails=True)
    retry = rnb.Retry(max_attempts=20, initial_interval=0.01)
    job = submit(any_session, starts, range(60), max_per_second=(12, 0.3), retry=retry, name="rate")
    assert job.values() == list(range(60))
    assert len(starts.at) >= 69
    assert most_in_a_window(starts.at, 0.28) <= 12
    assert starts.at[-1] - starts.at[0] > 0.3 * (len(starts.at) / 12 - 1) * 0.9


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        ({"concurrency": 7}, []),
        ({"max_per_second": 200.0}, [200]),
        ({"max_per_second": 200.0, "limit": rnb.Limit("drawn", per_second=(50, 0.5))}, [100]),
    ],
)
def test_the_chart_of_throughput_has_the_rate_limit(session: Session, options: Any, drawn: list[float]) -> None:
    job = submit(session, Starts(), range(20), name=f"drawn {drawn}", **options)
    job.result()
    assert [line.get_ydata()[0] for line in job.throughput().lines if line.get_label() == "limit"] == drawn


def test_the_chart_of_throughput_has_the_limits_as_they_were_changed(session: Session) -> None:
    async def slow(item: int) -> int:
        await asyncio.sleep(0.02)
        return item

    job = submit(session, slow, range(150), name="by hand", concurrency=3)
    for concurrency in (9, 6):
        began = job.counts["ok"]
        while job.counts["ok"] < began + 15:
            time.sleep(0.01)
        job.concurrency = concurrency
    job.result()
    assert list(runner_of(job).data.limits.frame()["concurrency"]) == [3, 9, 6]
    for ax in (job.throughput(), job.overview()[1, 0]):
        shown = [each for axes in ax.figure.axes for each in axes.lines if each.get_label() == "limit at once"]
        assert [list(line.get_ydata()) for line in shown] == [[3, 3, 9, 9, 6, 6]]
        places = list(shown[0].get_xdata())
        assert places == sorted(places)


def test_the_chart_of_throughput_has_the_concurrency_as_it_adapted_itself(session: Session) -> None:
    async def easy(item: int) -> int:
        await asyncio.sleep(0.05)
        return item

    job = submit(session, easy, range(3000), name="by itself", concurrency=(2, 400))
    job.result()
    seen = runner_of(job).data.limits.frame()["concurrency"]
    assert len(seen) > 3
    assert seen.max() > 15
    assert seen.between(2, 400).all()


def test_jobs_that_share_a_limit_stay_within_it_together(session: Session) -> None:
    starts = Starts(takes=0.005)
    jobs = [
        submit(session, starts, range(40), limit=rnb.Limit("api", concurrency=3), name=f"sharing {each}")
        for each in range(3)
    ]
    for job in jobs:
        assert job.values() == list(range(40))
    assert starts.peak == 3


def test_a_shared_limit_is_changed_for_all_by_the_last_that_is_given(session: Session) -> None:
    starts = Starts(takes=0.02)
    slow = rnb.Limit("changing", per_second=5)
    job = submit(session, starts, range(200), limit=slow, name="changed")
    while len(starts.at) < 2:
        time.sleep(0.01)
    submit(session, starts, [1], limit=rnb.Limit("changing", concurrency=10), name="changes")
    assert job.values() == list(range(200))
    assert starts.peak == 10


def test_concurrency_can_become_adaptive_and_fixed_again_while_the_job_runs(session: Session) -> None:
    starts = Starts(takes=0.01)
    job = submit(session, starts, range(1500), concurrency=2, name="adapts")
    while len(starts.at) < 20:
        time.sleep(0.01)
    assert starts.peak == 2
    job.concurrency = (4, 30)
    while job.concurrency < 20:
        time.sleep(0.01)
    job.concurrency = 3
    time.sleep(0.1)
    starts.peak = 0
    time.sleep(0.1)
    assert starts.peak <= 3
    job.concurrency = "auto"
    job.result(30)
    assert job.concurrency > 10


async def durable(ctx: restate.Context, item: int) -> int:
    return item


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_per_second": 0}, r"max_per_second must be more than 0"),
        ({"max_per_second": "5"}, r"max_per_second=5, or \(count, seconds\)"),
        ({"max_per_second": float("nan")}, r"must be more than 0"),
        ({"max_per_second": (0, 5)}, r"max_per_second\[0\] must be at least 1"),
        ({"max_per_second": (5, 0)}, r"max_per_second\[1\] must be more than 0 seconds"),
        ({"max_per_second": True}, r"must be a number of starts"),
        ({"concurrency": (0, 5)}, r"concurrency\[0\] must be at least 1"),
        ({"concurrency": (9, 5)}, r"wrong way round"),
        ({"concurrency": (1, 2, 3)}, r'a range, such as concurrency=\(2, 100\), or "auto"'),
        ({"concurrency": "automatic"}, r'or "auto", not \'automatic\''),
        ({"limit": 5}, r"limit=rnb\.Limit\('openai', concurrency=20\), not 5"),
    ],
)
def test_limits_that_are_none_are_refused_with_advice(session: Session, options: Any, says: str) -> None:
    before = len(session.jobs)
    with pytest.raises(rnb.InvalidInput, match=says):
        submit(session, str, [1], **options)
    assert len(session.jobs) == before


@pytest.mark.parametrize("options", [{"max_per_second": 5}, {"limit": rnb.Limit("l", 1)}, {"concurrency": "auto"}])
def test_durable_functions_are_limited_by_a_number(session: Session, options: Any) -> None:
    with pytest.raises(rnb.InvalidInput, match=r"durable is a durable function: .*concurrency=10"):
        submit(session, durable, [1], **options)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("",), "A limit has a name"),
        (("api",), "limits nothing. Give it concurrency=20"),
        (("api", 0), "concurrency must be at least 1"),
        (("api", None, 0), "per_second must be more than 0"),
    ],
)
def test_a_limit_that_is_none_is_refused(arguments: Any, says: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        rnb.Limit(*arguments)


def test_concurrency_reads_as_it_was_asked_for_at_once(session: Session) -> None:
    for asked in (3, (2, 7), 60):
        job = rnb.map(lambda item: item, [1], concurrency=asked, name="asked", session=session, show=False)  # type: ignore[arg-type]
        assert job.concurrency == {3: 3, (2, 7): 7, 60: 60}[asked]  # type: ignore[index]
    job.concurrency = 5
    assert job.concurrency == 5
