"""Proves how values too large for a journal get into one: stored once and first, whoever asks, and not before there is
room for them; what a reference brings back is what was stored, or an error that says why not."""

from __future__ import annotations

import asyncio
import errno
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from restate_nb.engine import outbox
from restate_nb.engine.keeping import Keeper, loader, store_runs
from restate_nb.engine.outbox import MAX_STORED_BYTES, Entry, ShardQueue
from restate_nb.engine.record import OK, Attempt, decode_group
from restate_nb.store.base import NotStored, Place, StoreConfig, StoreUnavailable
from restate_nb.store.local import LocalStore
from restate_nb.values.codec import encode
from restate_nb.values.parts import join
from restate_nb.values.reference import is_reference, reference_of

SMALL = encode("small")


def large(number: int, size: int = 5_000) -> bytes:
    return join(b'{"$rnb":"bytes","v":{"$rnb":"part","v":0}}', [bytes([number]) * size])


class Counting(LocalStore):
    """A store in a directory that counts what it is given, and can be full."""

    def __init__(self, folder: Path) -> None:
        super().__init__(StoreConfig(str(folder), private=True))
        self.appended: list[int] = []
        self.full = False
        self.begun = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def append(self, folder: str, runs: Sequence[Any]) -> list[Place]:
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.begun.set)
        if self.full:
            raise StoreUnavailable(f"The store is full: {errno.ENOSPC}.")
        self.appended.append(len(runs))
        return super().append(folder, runs)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


def queue_of(count: int, store: Counting) -> ShardQueue:
    queue = ShardQueue(count, lambda: (Entry(at, b"0") for at in range(count)), Keeper(store, "folder"))
    queue.load()
    return queue


def end(queue: ShardQueue, position: int, value: bytes) -> None:
    queue.add_ok(position, 1, 1.0, 0.5, value)


async def test_large_values_of_a_group_are_stored_in_one_go(store: Counting) -> None:
    queue = queue_of(5, store)
    values = [large(0), SMALL, large(2), SMALL, large(4)]
    for at, value in enumerate(values):
        end(queue, at, value)
    group = decode_group(await queue.next_group())
    assert store.appended == [3]
    assert [is_reference(raw) for raw in group.raws()] == [True, False, True, False, True]
    load = loader(store)
    assert [load(reference_of(raw)) if is_reference(raw) else raw for raw in group.raws()] == values


async def test_a_group_that_is_asked_for_again_is_the_same_and_nothing_is_stored_twice(store: Counting) -> None:
    queue = queue_of(3, store)
    end(queue, 0, large(0))
    first = await queue.next_group()
    end(queue, 1, large(1))
    assert await queue.next_group() == first
    queue.recorded(first)
    end(queue, 2, SMALL)
    assert [each.position for each in decode_group(await queue.next_group())] == [1, 2]
    assert store.appended == [1, 1]


async def test_two_who_ask_at_once_and_one_who_leaves_have_it_stored_once(store: Counting) -> None:
    store.loop = asyncio.get_running_loop()
    queue = queue_of(1, store)
    end(queue, 0, large(0))
    gone = asyncio.create_task(queue.next_group())
    await store.begun.wait()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    one, other = await asyncio.gather(queue.next_group(), queue.next_group())
    assert one == other
    assert store.appended == [1]


async def test_a_store_without_room_loses_nothing_and_what_ends_meanwhile_goes_along(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restate_nb.engine.keeping._FIRST_PAUSE", 0.01)
    store.full, store.loop = True, asyncio.get_running_loop()
    queue = queue_of(3, store)
    end(queue, 0, large(0))
    asking = asyncio.create_task(queue.next_group())
    await store.begun.wait()
    keeper = queue._keeper
    assert keeper is not None
    while not keeper.trouble:
        await asyncio.sleep(0.001)
    assert "full" in keeper.trouble
    end(queue, 1, large(1))
    queue.cancel({})
    assert not asking.done()
    waits, size, _ = queue.unrecorded()
    assert (waits, size) == (3, len(large(0)) * 2), "what waits counts with all of its bytes"
    store.full = False
    first = await asking
    assert not keeper.trouble
    queue.recorded(first)
    positions = [each.position for each in decode_group(first)]
    while queue.unrecorded()[0]:
        group = await queue.next_group()
        queue.recorded(group)
        positions += [each.position for each in decode_group(group)]
    assert positions == [0, 1, 2]
    assert queue.unrecorded()[1] == 0


async def test_memory_is_let_go_once_it_is_stored_and_counts_until_it_is_recorded(store: Counting) -> None:
    queue = queue_of(2, store)
    end(queue, 0, large(0, 100_000))
    await queue.next_attempts()
    assert queue.in_group is not None
    assert len(queue.in_group.values) < 1_000
    assert queue.unrecorded()[1] == len(large(0, 100_000))
    queue.acknowledge(queue.in_group)
    assert queue.unrecorded()[1] == 0


async def test_a_group_is_bounded_by_what_it_stores_and_by_what_it_journals(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = large(0, 3 * 1024 * 1024)
    queue = queue_of(20, store)
    for at in range(20):
        end(queue, at, each)
    sizes = []
    while queue.unrecorded()[0]:
        group = await queue.next_group()
        sizes.append(len(decode_group(group)))
        queue.recorded(group)
    assert set(store.appended) == set(sizes) == {MAX_STORED_BYTES // len(each)}
    assert sum(sizes) == 20

    monkeypatch.setattr(outbox, "MAX_GROUP_BYTES", 4_000)
    queue = queue_of(20, store)
    for at in range(20):
        end(queue, at, large(at))
    while queue.unrecorded()[0]:
        group = await queue.next_group()
        assert len(group) < 5_000
        queue.recorded(group)


async def test_values_of_later_attempts_and_with_reports_are_stored_too(store: Counting) -> None:
    import msgspec

    queue = queue_of(1, store)
    queue.add(Attempt(0, 3, OK, 1.0, 0.5, msgspec.Raw(large(7))))
    (attempt,) = decode_group(await queue.next_group())
    assert attempt.number == 3
    assert loader(store)(reference_of(bytes(attempt.value))) == large(7)


async def test_a_job_that_was_given_up_is_not_stored_any_more(store: Counting) -> None:
    store.full = True
    keeper = Keeper(store, "folder")
    keeping = asyncio.create_task(keeper.keep([large(0)]))
    while not keeper.trouble:
        await asyncio.sleep(0.001)
    keeper.close()
    store.full = False
    with pytest.raises(StoreUnavailable, match="given up"):
        await keeping
    assert not store.appended


def test_what_was_changed_or_cut_off_is_told_and_never_taken_for_the_value(store: Counting, tmp_path: Path) -> None:
    (raw,) = store_runs(store, "folder", [large(1)])
    store.close()
    (segment,) = tmp_path.rglob("*.seg")
    content = bytearray(segment.read_bytes())
    content[-10] ^= 1
    segment.write_bytes(content)
    with pytest.raises(NotStored, match="checksum is another"):
        loader(store)(reference_of(raw))
    store.close()
    segment.write_bytes(content[:100])
    with pytest.raises(NotStored):
        loader(store)(reference_of(raw))
    store.close()
    segment.unlink()
    with pytest.raises(NotStored):
        loader(store)(reference_of(raw))


def test_a_loader_can_be_sent_to_another_process(store: Counting) -> None:
    (raw,) = store_runs(store, "folder", [large(1)])
    assert pickle.loads(pickle.dumps(loader(store)))(reference_of(raw)) == large(1)
