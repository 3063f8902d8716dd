"""Proves that any value comes back equal in type and content, or is refused in words: random ones of every kind.

The long form, 20,000 values: `pytest -m soak tests/values`; `RNB_VALUES_SEED` repeats a run."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from restate_nb.errors import NotEncodable
from restate_nb.values.classes import Classes
from restate_nb.values.codec import as_shown, decode, encode
from tests.engine.any_value import CLASSES, Maker, same

SEED = int(os.environ.get("RNB_VALUES_SEED", "14"))


def come_back_or_are_refused(seed: int, count: int) -> None:
    print(f"RNB_VALUES_SEED={seed}")
    maker, classes = Maker(seed), Classes(CLASSES)
    seen = Counter[str]()
    for number in range(count):
        value = maker.value()
        as_shown(value)  # never raises
        try:
            raw = encode(value, classes)
        except NotEncodable as refused:
            assert len(str(refused)) > 40, "it says what to do"
            seen["refused"] += 1
            continue
        back = decode(raw, classes)
        assert same(value, back), f"value {number}: {value!r} came back as {back!r}"
        assert encode(back, classes) == raw or b'"set"' in raw, "what came back is written the same"
        seen["kept"] += 1
    print(dict(seen))
    assert seen["kept"] > count / 2
    assert seen["refused"] > count / 50


def test_random_values_come_back_or_are_refused() -> None:
    come_back_or_are_refused(SEED, 1_500)


@pytest.mark.soak
def test_20_000_random_values_come_back_or_are_refused() -> None:
    come_back_or_are_refused(SEED + 1, 20_000)
