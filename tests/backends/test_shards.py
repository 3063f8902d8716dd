"""Proves that items are cut into shards as every version did: else a cell that is run again would not find its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from restate_nb.backends.shards import Shards
from restate_nb.results.spool import Spool
from restate_nb.service.wire import Manifest, Round


def shards_of(items: Spool) -> Shards:
    round_ = Round(positions=None, code="c", started=1.0)
    manifest = Manifest(
        name="job", function="f", items="i", options="value", total=len(items), created=1.0, rounds=[round_]
    )
    ingress: Any = None
    return Shards(ingress, "s", manifest, items)


def cut_one_by_one(lengths: dict[int, int], positions: Sequence[int], count: int, size: int) -> list[Sequence[int]]:
    shards: list[Sequence[int]] = []
    begin = taken = 0
    for at, position in enumerate(positions):
        if at > begin and (at - begin >= count or taken + lengths[position] > size):
            shards.append(positions[begin:at])
            begin, taken = at, 0
        taken += lengths[position]
    return [*shards, positions[begin:]] if len(positions) else []


@pytest.mark.parametrize("seed", range(40))
def test_a_shard_takes_items_up_to_its_bounds_and_at_least_one(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    raws = [rng.randbytes(rng.choice([0, 1, 5, 50, 200])) for _ in range(rng.choice([1, 30, 300]))]
    shards = shards_of(Spool(raws))
    lengths = dict(enumerate(map(len, raws)))
    everything = range(len(raws))
    for positions in (everything, everything[3:], sorted(rng.sample(everything, len(raws) // 2)), []):
        count, size = rng.choice([1, 7, 10_000]), rng.choice([1, 60, 300, 10**9])
        assert shards.cut(positions, count, size) == cut_one_by_one(lengths, positions, count, size)
        assert shards.size(positions) == sum(lengths[position] for position in positions)
