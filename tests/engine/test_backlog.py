"""Proves when items are held up because too much waits to be recorded, and when they go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from restate_nb.engine.outbox import MAX_UNRECORDED, MAX_UNRECORDED_BYTES, MAX_UNRECORDED_SECONDS, Backlog


@dataclass(eq=False)
class Waits:
    """What the backlog asks of a lane."""

    count: int = 0
    size: int = 0
    seconds: float = 0.0
    looks: int = 0

    def unrecorded(self) -> tuple[int, int, float]:
        self.looks += 1
        return self.count, self.size, self.seconds


def backlog(*lanes: Any) -> Backlog:
    watched = Backlog()
    for lane in lanes:
        watched.watch(lane)
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
def test_each_bound_holds_items_up_when_it_is_reached(below: Waits, at: Waits) -> None:
    fine, full = backlog(Waits(), below, Waits()), backlog(Waits(), at, Waits())
    assert fine.full is False
    assert (fine.has_room(), fine.full) == (True, False)
    assert (full.has_room(), full.full) == (False, True)


@pytest.mark.parametrize(("field", "most"), [("count", MAX_UNRECORDED), ("size", MAX_UNRECORDED_BYTES)])
def test_lanes_count_together_and_items_go_on_below_half(field: str, most: int) -> None:
    one, other = Waits(**{field: most // 2}), Waits(**{field: most // 2})
    held = backlog(one, other)
    assert not held.has_room()
    setattr(one, field, 0)
    assert not held.has_room(), "half of it still waits"
    setattr(one, field, -1)
    assert held.has_room()
    assert not held.full


def test_it_looks_again_after_sixteen_items() -> None:
    lane = Waits()
    watched = backlog(lane)
    assert watched.has_room()
    lane.count = MAX_UNRECORDED
    for _ in range(16):
        assert watched.has_room()
        assert lane.looks == 1
        watched.item_ended()
    assert not watched.has_room()
    assert lane.looks == 2


def test_it_counts_as_full_while_it_looks() -> None:
    """What another thread records meanwhile would else wake nobody."""
    seen: list[bool] = []

    class Looked(Waits):
        def unrecorded(self) -> tuple[int, int, float]:
            seen.append(watched.full)
            return super().unrecorded()

    lane = Looked()
    watched = backlog(lane)
    assert watched.has_room()
    assert seen == [True]


def test_a_lane_that_nobody_holds_any_more_does_not_count() -> None:
    lane = Waits(count=MAX_UNRECORDED)
    watched = backlog(lane)
    assert not watched.has_room()
    del lane
    assert watched.has_room()
