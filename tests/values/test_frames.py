"""Proves that what pandas makes of many values comes back equal in all: cells and their types, dtypes, labels, names,
zones, categories, order, `attrs`, flags; inline and with parts; or is refused in words.

The long form, 2,000 frames: `pytest -m soak tests/values`; `RNB_FRAMES_SEED` repeats a run."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.classes import Classes
from restate_nb.values.codec import as_shown, decode, encode
from restate_nb.values.keepable import why_unkeepable
from restate_nb.values.parts import is_joined
from restate_nb.values.structure import classes_of, parameter_annotations, rebuilder
from restate_nb.values.what import what_of
from tests.engine.any_value import CLASSES, same, same_frames
from tests.values.any_frame import AnyFrame

SEED = int(os.environ.get("RNB_FRAMES_SEED", "17"))


def in_both_ways() -> list[Classes]:
    """Classes of values that are all JSON, and of such with parts."""
    inline, parts = Classes(CLASSES), Classes(CLASSES)
    parts.keep_in(None, parts=True)
    return [inline, parts]


def assert_equal(one: Any, other: Any) -> None:
    """By pandas' own helper where it can compare such cells, and by each cell and its type."""
    if same_frames(one, other):
        return
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(other, one, check_exact=True, check_column_type="exact", check_flags=True)
    raise AssertionError(f"{one!r} with {getattr(one, 'dtypes', '')} came back as {other!r}")


def by_pandas(one: Any, other: Any) -> None:
    exactly: dict[str, Any] = {"check_exact": True, "check_index_type": "exact", "check_flags": True}
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(other, one, check_column_type="exact", **exactly)
    elif isinstance(one, pd.Series):
        pd.testing.assert_series_equal(other, one, **exactly)
    elif isinstance(one, pd.Index):
        pd.testing.assert_index_equal(other, one, exact=True, check_exact=True)


def come_back_or_are_refused(seed: int, count: int) -> None:
    print(f"RNB_FRAMES_SEED={seed}")
    maker, ways = AnyFrame(seed), in_both_ways()
    seen = Counter[str]()
    for number in range(count):
        value = maker.frame() if number % 4 else maker.series()
        as_shown(value)
        for classes in ways:
            try:
                raw = encode(value, classes)
            except NotEncodable as refused:
                assert len(str(refused)) > 40, "it says what to do"
                seen[f"refused: {str(refused)[:60]}"] += 1
                break
            back = decode(raw, classes)
            try:
                assert_equal(value, back)
            except BaseException as error:
                error.add_note(f"RNB_FRAMES_SEED={seed}, value {number}")
                raise
            try:
                by_pandas(value, back)
                seen["by pandas"] += 1
            except (TypeError, ValueError):  # its helper cannot compare such cells: sets, arrays, ...
                seen["by cells"] += 1
            assert what_of(raw).startswith(f"{type(value).__name__}, {len(value)}")
    print(dict(seen))
    kept = seen["by pandas"] + seen["by cells"]
    assert kept > 1.9 * count
    assert seen["by pandas"] > kept * 0.6


def test_random_frames_come_back_or_are_refused() -> None:
    come_back_or_are_refused(SEED, 150)


@pytest.mark.soak
def test_2_000_random_frames_come_back_or_are_refused() -> None:
    come_back_or_are_refused(SEED + 1, 2_000)
