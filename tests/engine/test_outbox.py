"""Proves what a lane keeps, offers and gives up: without a pool, to the item, the byte and the second."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from restate_nb.engine import outbox as module
from restate_nb.engine.codec import encode
from restate_nb.engine.outbox import FAIL_FAST, MAX_GROUP_BYTES, Entry, ShardQueue, entries
from restate_nb.engine.record import CANCELLED, ERROR, OK, Attempt, Failure, decode_group

PAYLOADS = {3: "c", 5: "e", 8: "h"}


def lane() -> ShardQueue:
    return ShardQueue(len(PAYLOADS), lambda: entries(PAYLOADS, {}))


def ok(position: int, value: str | None = None) -> Attempt:
    return Attempt(position, 1, OK, 1.0, 0.5, msgspec.Raw(encode(value)))


async def taken(lane: ShardQueue) -> list[Attempt]:
    return list(decode_group(await asyncio.wait_for(lane.next_group(), 5)))


async def rest(lane: ShardQueue) -> list[Attempt]:
    attempts: list[Attempt] = []
    while lane.unrecorded()[0]:
        group = await taken(lane)
        lane.acknowledge(group)
        attempts += group
    return attempts


@pytest.mark.parametrize(("retry_in", "not_before"), [(2.0, 107.0), (None, 105.0)])
def test_an_item_goes_on_after_its_last_attempt_when_its_pause_is_over(
    retry_in: float | None, not_before: float
) -> None:
    last = Attempt(5, 2, ERROR, 100.0, 5.0, failure=Failure("OSError", "", retry_in=retry_in))
    assert list(entries(PAYLOADS, {5: last})) == [Entry(3, "c"), Entry(5, "e", 3, not_before), Entry(8, "h")]
    assert Entry(3, "c") == Entry(3, "c", 1, 0.0)


def test_entries_are_loaded_once() -> None:
    loading = lane()
    assert (loading.waiting, len(loading.pending)) == (3, 0)
    assert loading.load() is True
    assert loading.load() is False
    assert (loading.waiting, loading.open) == (3, {3, 5, 8})


async def test_a_group_is_bounded_in_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_COUNT", 2)
    full = lane()
    full.load()
    for position in PAYLOADS:
        full.add(ok(position))
    group = await taken(full)
    assert [each.position for each in group] == [3, 5]
    assert await taken(full) == group, "offered again until it is acknowledged"
    full.acknowledge(group)
    assert [each.position for each in await taken(full)] == [8]


@pytest.mark.parametrize("text", ["message", "traceback"])
async def test_the_text_of_errors_counts_towards_the_bytes_of_a_group(text: str) -> None:
    full = lane()
    full.load()
    for position in PAYLOADS:
        failure = Failure("OSError", **{"message": "", text: "x" * (MAX_GROUP_BYTES * 2 // 5)})
        full.add(Attempt(position, 1, ERROR, 1.0, 0.5, failure=failure))
    assert [each.position for each in await taken(full)] == [3, 5]


async def test_the_backlog_counts_outcomes_bytes_and_the_time_since_one_was_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    watched = lane()
    watched.load()
    now = 200.0
    assert watched.unrecorded() == (0, 0, 0.0)
    watched.add(ok(3, "x" * 8))
    now = 203.0
    assert watched.unrecorded() == (1, 10, 3.0)
    watched.add(ok(5, "x" * 18))
    assert watched.unrecorded() == (2, 30, 3.0)
    group = await taken(watched)
    watched.add(ok(8, "x" * 3))
    now = 204.0
    watched.acknowledge(group[:1])
    now = 206.0
    assert watched.unrecorded()[::2] == (2, 2.0)
    watched.acknowledge(group)
    watched.acknowledge(group)  # by the attempt that is over, once more
    assert watched.unrecorded() == (1, 5, 0.0)
    await rest(watched)
    assert watched.unrecorded() == (0, 0, 0.0)


async def test_cancelling_a_lane_that_was_never_begun_ends_all_its_items() -> None:
    ended = lane()
    ended.cancel({})
    assert (ended.waiting, ended.open) == (0, set())
    assert [(each.position, each.number, each.status, each.started, each.ran) for each in await rest(ended)] == [
        (position, 1, CANCELLED, 0.0, 0.0) for position in PAYLOADS
    ]


async def test_cancelling_tells_of_the_attempt_that_was_to_come_or_that_runs() -> None:
    ended = lane()
    ended.load()
    ended.pending.clear()
    ended.delayed[5] = Entry(5, "e", 4)
    ended.cancel({8: Attempt(8, 2, CANCELLED, 7.0, 1.0, failure=Failure("CancelledError", ""))})
    assert not ended.delayed
    assert [(each.position, each.number, each.started) for each in await rest(ended)] == [
        (3, 1, 0.0), (5, 4, 0.0), (8, 2, 7.0)
    ]  # fmt: skip


@pytest.mark.parametrize("begun", [False, True])
async def test_stopping_leaves_what_was_begun_elsewhere_its_turn(begun: bool) -> None:
    stopped = lane()
    if begun:
        stopped.load()
        stopped.delayed[8] = stopped.pending.pop()
    stopped.stop("Two failed.", but={5})
    assert ([each.position for each in stopped.pending], stopped.delayed, stopped.open) == ([5], {}, {5})
    for attempt in await rest(stopped):
        assert attempt.failure is not None
        assert (attempt.status, attempt.failure.type, attempt.failure.message) == (CANCELLED, FAIL_FAST, "Two failed.")


async def test_an_item_has_one_final_outcome() -> None:
    ended = lane()
    ended.load()
    ended.cancel({})
    ended.add(ok(3))
    assert [each.status for each in await rest(ended)] == [CANCELLED] * 3


async def test_the_next_attempt_of_the_handler_finds_what_the_last_one_took() -> None:
    """Both wait at once; whoever comes first offers, and neither hangs."""
    shared = lane()
    shared.load()
    async with asyncio.timeout(5):
        over, following = asyncio.create_task(shared.next_group()), asyncio.create_task(shared.next_group())
        await asyncio.sleep(0)
        shared.add(ok(3))
        assert decode_group(await over) == decode_group(await following) == [ok(3)]
