"""The jobs of a process: who hears of outcomes, what is taken over, and what ends when a job does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from restate_nb.engine.function import Function
from restate_nb.engine.outbox import entries
from restate_nb.engine.record import CANCELLED, OK, Attempt, decode_group
from restate_nb.policy import RunPolicy
from restate_nb.service.active_jobs import JobRun, JobRuns
from restate_nb.values.codec import encode


class Hanging:
    """Items that go on until they are let go; which have begun, and which were broken off."""

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

    async def wait_for(self, begun: set[int]) -> None:
        async with asyncio.timeout(10):
            while set(self.begun) != begun:
                await asyncio.sleep(0.001)


@pytest.fixture
async def runs() -> AsyncIterator[JobRuns]:
    runs = JobRuns(asyncio.get_running_loop())
    yield runs
    runs.close()
    await asyncio.sleep(0)


def begin(run: JobRun, shard: int, *items: int, ended: tuple[int, ...] = ()) -> Any:
    payloads = {item: encode(item) for item in items if item not in ended}
    return run.queue((0, shard), len(payloads), lambda: entries(payloads, {}), ended)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0.001)


async def test_a_listener_first_hears_what_it_has_missed_and_each_thing_once(runs: JobRuns) -> None:
    run, heard = runs.get("job", 1), list[tuple[int, list[int]]]()
    first, second = Attempt(0, 1, OK, 1.0, 0.5), Attempt(1, 1, OK, 1.0, 0.5)
    run.publish(0, [first])
    run.publish(1, [second])
    run.listen(lambda round_, attempts: heard.append((round_, [each.position for each in attempts])))
    assert heard == [(0, [0]), (1, [1])]
    run.publish(2, [first])
    assert heard[2:] == [(2, [0])]
    run.listen(lambda round_, attempts: heard.append((round_, [])))
    assert len(heard) == 3, "what was told is not told again"


async def test_a_job_is_the_same_until_it_is_forgotten_and_another_generation_is_another(runs: JobRuns) -> None:
    run = runs.get("job", 1)
    assert runs.get("job", 1) is run
    assert runs.get("job", 2) is not run
    assert runs.get("other", 1) is not run
    work = Hanging()
    begin(run, 0, 1, 2)
    run.provide(Function(work).item_call(), RunPolicy())
    await work.wait_for({1, 2})
    runs.forget("job", 1)
    runs.forget("never was", 1)
    await settled()
    assert sorted(work.stopped) == [1, 2]
    assert runs.get("job", 1) is not run


async def test_closing_ends_the_items_of_all_jobs(runs: JobRuns) -> None:
    work = Hanging()
    for number in range(3):
        run = runs.get("job", number)
        begin(run, 0, number)
        run.provide(Function(work).item_call(), RunPolicy())
    await work.wait_for({0, 1, 2})
    before = runs.get("job", 0)
    runs.close()
    await settled()
    assert sorted(work.stopped) == [0, 1, 2]
    assert runs.get("job", 0) is not before


async def test_a_shard_that_was_ended_from_outside_ends_alone(runs: JobRuns) -> None:
    run, work = runs.get("job", 1), Hanging()
    for shard in range(3):
        begin(run, shard, 10 * shard, 10 * shard + 1)
    run.provide(Function(work).item_call(), RunPolicy())
    await work.wait_for({0, 1, 10, 11, 20, 21})
    run.drop((0, 1))
    run.drop((0, 7))
    await settled()
    assert sorted(work.stopped) == [10, 11]
    run.drop_others((0, 2))
    await settled()
    assert sorted(work.stopped) == [0, 1, 10, 11]
    assert run.busy
    work.let.set()


async def test_cancelling_a_shard_gives_its_items_an_outcome_and_leaves_the_others(runs: JobRuns) -> None:
    run, work = runs.get("job", 1), Hanging()
    lanes = [begin(run, shard, shard) for shard in range(2)]
    run.provide(Function(work).item_call(), RunPolicy())
    await work.wait_for({0, 1})
    run.cancel_shard((0, 5))
    run.cancel_shard((0, 1))
    group = decode_group(await asyncio.wait_for(lanes[1].next_group(), 10))
    assert [(each.position, each.status) for each in group] == [(1, CANCELLED)]
    await settled()
    assert work.stopped == [1]
    work.let.set()


async def test_a_later_attempt_of_a_shard_takes_the_lane_over_and_nothing_runs_twice(runs: JobRuns) -> None:
    run, work = runs.get("job", 1), Hanging()
    lane = begin(run, 0, 1, 2)
    run.provide(Function(work).item_call(), RunPolicy())
    await work.wait_for({1, 2})
    assert begin(run, 0, 1, 2) is lane
    work.let.set()
    run.recorded((0, 0), await asyncio.wait_for(lane.next_group(), 10))
    await settled()
    assert sorted(work.begun) == [1, 2]


async def test_a_lane_that_knows_less_than_the_journal_is_given_up(runs: JobRuns) -> None:
    """Another process recorded item 1 meanwhile: what this one does of the shard is of no use."""
    run, work = runs.get("job", 1), Hanging()
    lane = begin(run, 0, 1, 2)
    run.provide(Function(work).item_call(), RunPolicy())
    await work.wait_for({1, 2})
    other = begin(run, 0, 1, 2, ended=(1,))
    assert other is not lane
    await settled()
    assert sorted(work.stopped) == [1, 2]
    assert work.begun[2:] == [2]
    work.let.set()
    group = decode_group(await asyncio.wait_for(other.next_group(), 10))
    assert [(each.position, each.status) for each in group] == [(2, OK)]


async def test_a_cancelled_job_ends_shards_to_come_too_until_it_is_reopened(runs: JobRuns) -> None:
    run, work = runs.get("job", 1), Hanging()
    run.provide(Function(work).item_call(), RunPolicy())
    assert not run.is_stopping
    run.cancel()
    assert run.is_stopping
    group = decode_group(await asyncio.wait_for(begin(run, 0, 1).next_group(), 10))
    assert [each.status for each in group] == [CANCELLED]
    run.reopen()
    assert not run.is_stopping
    begin(run, 1, 5)
    await work.wait_for({5})
    work.let.set()


async def test_a_stopped_job_ends_too_and_says_why(runs: JobRuns) -> None:
    run = runs.get("job", 1)
    run.provide(Function(Hanging()).item_call(), RunPolicy())
    run.stop("too many")
    await settled()
    assert run.is_stopping
    (attempt,) = decode_group(await asyncio.wait_for(begin(run, 0, 1).next_group(), 10))
    assert attempt.failure is not None and attempt.failure.message == "too many"


async def test_a_job_is_busy_while_items_run_or_are_not_recorded(runs: JobRuns) -> None:
    run, work = runs.get("job", 1), Hanging()
    assert not run.busy
    lane, other = begin(run, 0, 1), begin(run, 1)
    run.provide(Function(work).item_call(), RunPolicy())
    await work.wait_for({1})
    assert run.busy
    work.let.set()
    async with asyncio.timeout(10):
        while run.pool.running:
            await asyncio.sleep(0.001)
    assert run.busy, "its outcome is not in the journal yet"
    run.recorded((0, 0), await lane.next_group())
    assert not run.busy
    run.finish((0, 0))
    assert begin(run, 0, 1) is not lane, "what is finished is let go"
    assert other is not lane
