"""Proves that a column of values that come in parts is the column of all of them: to the dtype, the value and what is
missing."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pandas as pd
import pytest

from restate_nb.results.columns import NumbersOrObjects, typed_column

KINDS: dict[str, list[Any]] = {
    "whole numbers": [0, -1, 2**63 - 1, -(2**63), 7],
    "large numbers": [0, 2**63, 2**64 - 1],
    "numbers of any size": [1, 2**64, -(2**70)],
    "fractions": [0.5, float("nan"), float("inf"), -0.0, 1e300],
    "truth values": [True, False],
    "numbers of two kinds": [1, 2.5],
    "large ones beside fractions": [2**53 + 1, 2.5],
    "truth and numbers": [True, 1],
    "texts": ["a", ""],
    "nothing": [None],
    "objects": [{"a": 1}, [1]],
    "some numbers": [1, None],
}


@pytest.mark.parametrize("missing", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_a_column_that_comes_in_parts_is_that_of_all_values(kind: str, missing: bool, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    total = rng.choice([1, 2, 9, 30])
    positions = sorted(rng.sample(range(total), rng.randrange(total + 1) if missing else total))
    values = [rng.choice(KINDS[kind]) for _ in positions]
    parts = NumbersOrObjects(len(values))
    at = 0
    while at < len(values):
        size = rng.choice([1, 3, 100])
        parts.add(values[at : at + size])
        at += size
    whole: list[Any] = [None] * total
    for position, value in zip(positions, values, strict=True):
        whole[position] = value
    found = pd.Series(parts.typed(np.array(positions, dtype=np.int64), total))
    wanted = pd.Series(typed_column(whole))
    pd.testing.assert_series_equal(found, wanted)
    assert list(map(type, found)) == list(map(type, wanted))


def test_an_empty_column_is_one_of_objects() -> None:
    assert NumbersOrObjects(0).typed(np.array([], dtype=np.int64), 0).dtype == object
