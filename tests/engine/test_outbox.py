"""Proves what a shard's queue keeps, gives and drops, and when too much waits to be recorded: to the item, the byte and
the second."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from restate_nb.engine import outbox as module
from restate_nb.engine.outbox import (
    FAIL_FAST,
    MAX_GROUP_BYTES,
    MAX_UNRECORDED,
    MAX_UNRECORDED_BYTES,
    MAX_UNRECORDED_SECONDS,
    Backlog,
    Entry,
    ShardQueue,
    entries,
)
from restate_nb.engine.record import CANCELLED, ERROR, OK, Attempt, Failure, Group, decode_group
from restate_nb.values.codec import encode

PAYLOADS = {3: "c", 5: "e", 8: "h"}


def shard_queue() -> ShardQueue:
    return ShardQueue(len(PAYLOADS), lambda: entries(PAYLOADS, {}))


def ok(position: int, value: str | None = None) -> Attempt:
    return Attempt(position, 1, OK, 1.0, 0.5, msgspec.Raw(encode(value)))


async def taken(queue: ShardQueue) -> list[Attempt]:
    return list(decode_group(await asyncio.wait_for(queue.next_group(), 5)))


async def rest(queue: ShardQueue) -> list[Attempt]:
    attempts: list[Attempt] = []
    while queue.unrecorded()[0]:
        group = await taken(queue)
        queue.acknowledge(group)
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
    loading = shard_queue()
    assert (loading.waiting, len(loading.pending)) == (3, 0)
    assert loading.load() is True
    assert loading.load() is False
    assert (loading.waiting, loading.open) == (3, {3, 5, 8})


async def test_a_group_is_bounded_in_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_COUNT", 2)
    full = shard_queue()
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
    full = shard_queue()
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
    watched = shard_queue()
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


async def test_plain_outcomes_and_others_are_taken_in_the_order_in_which_they_came() -> None:
    mixed = shard_queue()
    mixed.load()
    failed = Attempt(5, 1, ERROR, 2.0, 0.5, failure=Failure("E", "m", retry_in=1.0))
    again = Attempt(5, 2, CANCELLED, 4.0, 0.5, failure=Failure("E", "m"))
    mixed.add_ok(3, 1, 1.0, 0.5, b"33")
    mixed.add(failed)
    mixed.add(Attempt(8, 2, OK, 3.0, 0.5, msgspec.Raw(b"8")))
    mixed.add(again)
    mixed.add_ok(8, 3, 5.0, 0.5, b"88")
    assert mixed.unrecorded()[:2] == (4, 3)
    group = await mixed.next_attempts()
    assert list(group) == [
        Attempt(3, 1, OK, 1.0, 0.5, msgspec.Raw(b"33")), failed, Attempt(8, 2, OK, 3.0, 0.5, msgspec.Raw(b"8")), again
    ]  # fmt: skip
    assert group == Group.of(list(group))


async def test_a_group_that_was_recorded_is_known_by_its_bytes() -> None:
    queue = shard_queue()
    queue.load()
    queue.add_ok(3, 1, 1.0, 0.5, b"33")
    offered, raw = await queue.next_attempts(), await queue.next_group()
    queue.add_ok(5, 1, 1.0, 0.5, b"55")
    assert queue.recorded(bytes(bytearray(raw))) is offered
    assert queue.unrecorded()[:2] == (1, 2)
    assert queue.recorded(raw) == offered, "by the attempt that is over, once more"
    assert queue.unrecorded()[:2] == (1, 2)
    with pytest.raises(ValueError, match=r"."):
        queue.recorded(b"none")


async def test_of_a_group_of_which_only_some_are_recorded_the_others_are_offered_again() -> None:
    queue = shard_queue()
    queue.load()
    for position in PAYLOADS:
        queue.add_ok(position, 1, 1.0, 0.5, b"%d" % position)
    group = await taken(queue)
    queue.acknowledge([group[1], msgspec.structs.replace(group[0], number=2)])
    assert queue.unrecorded()[:2] == (2, 2)
    left = decode_group(await queue.next_group())
    assert list(left) == [group[0], group[2]]
    queue.acknowledge(left)
    assert queue.unrecorded()[:2] == (0, 0)


async def test_what_ends_in_the_same_moment_is_of_one_group() -> None:
    queue = shard_queue()
    queue.load()
    taking = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)
    queue.add(ok(3))
    await asyncio.sleep(0)
    queue.add(ok(5))
    assert [each.position for each in await taking] == [3, 5]


async def test_the_last_outcome_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 60.0)
    monkeypatch.setattr(module, "_BURST_SECONDS", 60.0)
    queue = shard_queue()
    queue.load()
    for position in (3, 5):
        queue.add(ok(position))
    taking = asyncio.create_task(taken(queue))
    await asyncio.sleep(0.01)
    assert not taking.done()
    queue.add(ok(8))
    assert [each.position for each in await taking] == [3, 5, 8]


async def test_threads_may_add_while_groups_are_taken() -> None:
    count = 20_000
    queue = ShardQueue(count, lambda: entries(dict.fromkeys(range(count)), {}))
    queue.load()
    lock, positions = threading.Lock(), iter(range(count))

    def work() -> None:
        while True:
            with lock:
                position = next(positions, None)
                if position is None:
                    return
                queue.add_ok(position, position + 1, position + 0.5, position + 0.25, b"%d" % position)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    found: list[Attempt] = []
    while len(found) < count:
        group = queue.recorded(await asyncio.wait_for(queue.next_group(), 10))
        found += group
    for thread in threads:
        thread.join()
    assert found == [
        Attempt(each, each + 1, OK, each + 0.5, each + 0.25, msgspec.Raw(b"%d" % each)) for each in range(count)
    ]


async def test_cancelling_a_queue_that_was_never_begun_ends_all_its_items() -> None:
    ended = shard_queue()
    ended.cancel({})
    assert (ended.waiting, ended.open) == (0, set())
    assert [(each.position, each.number, each.status, each.started, each.ran) for each in await rest(ended)] == [
        (position, 1, CANCELLED, 0.0, 0.0) for position in PAYLOADS
    ]


async def test_cancelling_tells_of_the_attempt_that_was_to_come_or_that_runs() -> None:
    ended = shard_queue()
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
    stopped = shard_queue()
    if begun:
        stopped.load()
        stopped.delayed[8] = stopped.pending.pop()
    stopped.stop("Two failed.", but={5})
    assert ([each.position for each in stopped.pending], stopped.delayed, stopped.open) == ([5], {}, {5})
    for attempt in await rest(stopped):
        assert attempt.failure is not None
        assert (attempt.status, attempt.failure.type, attempt.failure.message) == (CANCELLED, FAIL_FAST, "Two failed.")


async def test_an_item_has_one_final_outcome() -> None:
    ended = shard_queue()
    ended.load()
    ended.cancel({})
    ended.add(ok(3))
    assert [each.status for each in await rest(ended)] == [CANCELLED] * 3


async def test_the_next_attempt_of_the_handler_finds_what_the_last_one_took() -> None:
    """Both wait at once; whoever comes first offers, and neither hangs."""
    shared = shard_queue()
    shared.load()
    async with asyncio.timeout(5):
        over, following = asyncio.create_task(shared.next_group()), asyncio.create_task(shared.next_group())
        await asyncio.sleep(0)
        shared.add(ok(3))
        assert list(decode_group(await over)) == list(decode_group(await following)) == [ok(3)]


# ---------------------------------------------------------------- the backlog


@dataclass(eq=False)
class Waits:
    """What the backlog asks of a queue."""

    count: int = 0
    size: int = 0
    seconds: float = 0.0
    looks: int = 0

    def unrecorded(self) -> tuple[int, int, float]:
        self.looks += 1
        return self.count, self.size, self.seconds


def backlog(*queues: Any) -> Backlog:
    watched = Backlog()
    for queue in queues:
        watched.watch(queue)
    return watched


@pytest.mark.parametrize(
    ("below", "at"),
    [
        (Waits(count=MAX_UNRECORDED - 1), Waits(count=MAX_UNRECORDED)),
        (Waits(size=MAX_UNRECORDED_BYTES - 1), Waits(size=MAX_UNRECORDED_BYTES)),
        (Waits(seconds=MAX_UNRECORDED_SECONDS - 0.1), Waits(seconds=MAX_UNRECORDED_SECONDS)),
    ],
    ids=["count", "bytes", "seconds"],
)
def test_each_bound_of_the_backlog_holds_items_up_when_it_is_reached(below: Waits, at: Waits) -> None:
    fine, full = backlog(Waits(), below, Waits()), backlog(Waits(), at, Waits())
    assert fine.full is False
    assert (fine.has_room(), fine.full) == (True, False)
    assert (full.has_room(), full.full) == (False, True)


@pytest.mark.parametrize(("field", "most"), [("count", MAX_UNRECORDED), ("size", MAX_UNRECORDED_BYTES)])
def test_queues_count_together_and_items_go_on_below_half(field: str, most: int) -> None:
    one, other = Waits(**{field: most // 2}), Waits(**{field: most // 2})
    held = backlog(one, other)
    assert not held.has_room()
    setattr(one, field, 0)
    assert not held.has_room(), "half of it still waits"
    setattr(one, field, -1)
    assert held.has_room()
    assert not held.full


def test_the_backlog_looks_again_after_sixteen_items() -> None:
    queue = Waits()
    watched = backlog(queue)
    assert watched.has_room()
    queue.count = MAX_UNRECORDED
    for _ in range(16):
        assert watched.has_room()
        assert queue.looks == 1
        watched.item_ended()
    assert not watched.has_room()
    assert queue.looks == 2


def test_the_backlog_counts_as_full_while_it_looks() -> None:
    """What another thread records meanwhile would else wake nobody."""
    seen: list[bool] = []

    class Looked(Waits):
        def unrecorded(self) -> tuple[int, int, float]:
            seen.append(watched.full)
            return super().unrecorded()

    queue = Looked()
    watched = backlog(queue)
    assert watched.has_room()
    assert seen == [True]


def test_a_queue_that_nobody_holds_any_more_does_not_count() -> None:
    queue = Waits(count=MAX_UNRECORDED)
    watched = backlog(queue)
    assert not watched.has_room()
    del queue
    assert watched.has_room()
