"""Proves that what pandas makes of many values comes back equal in all: cells and their types, dtypes, labels, names,
zones, categories, order, `attrs`, flags; inline and with parts; or is refused in words.

The long form, 2,000 frames: `pytest -m soak tests/values`; `RNB_FRAMES_SEED` repeats a run."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import os
import pickle
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
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
            except AssertionError:  # that of pandas 2 finds labels with NaN in them different from their copies
                with pytest.raises(AssertionError):
                    by_pandas(value, pickle.loads(pickle.dumps(value)))
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


# ---------------------------------------------------------------- frames that are known to be hard

TEN = pd.DataFrame({"a": range(10), "b": list("abcdefghij"), "c": np.linspace(0, 1, 10)}, index=range(5, 15))
ODD: dict[str, Any] = {
    "nothing": pd.DataFrame(),
    "rows alone": pd.DataFrame(index=[3, 1]),
    "columns alone": pd.DataFrame(columns=["a", "b"]),
    "no rows": TEN.iloc[:0],
    "no columns": TEN[[]],
    "columns twice": pd.concat([TEN, TEN], axis=1),
    "labels twice": pd.concat([TEN, TEN]),
    "columns of numbers": TEN.set_axis([0, 2, 1], axis=1),
    "columns of any kind": TEN.set_axis([None, ("a", 1), 1.5], axis=1),
    "columns of two levels": TEN.set_axis(pd.MultiIndex.from_tuples([("x", 1), ("x", None), ("y", 1)]), axis=1),
    "columns of times": TEN.set_axis(pd.date_range("2026", periods=3, tz="Europe/Berlin"), axis=1),
    "columns of categories": TEN.set_axis(pd.CategoricalIndex(["u", "v", "u"]), axis=1),
    "names of axes": TEN.rename_axis(index="i", columns=2.5),
    "a level that is not used": TEN.set_index(["a", "b"]).iloc[:2],
    "a category that is not used": TEN.astype({"b": pd.CategoricalDtype(list("jihgfedcbaz"), ordered=True)}),
    "a time that clocks skip": pd.DataFrame(
        {"t": pd.date_range("2026-03-29", periods=5, freq="h", tz="Europe/Berlin")}
    ),
    "a time that comes twice": pd.DataFrame(
        {"t": pd.date_range("2026-10-25", periods=5, freq="h", tz="Europe/Berlin")}
    ),
    "missing of every kind": pd.DataFrame({"m": np.array([None, np.nan, pd.NA, pd.NaT, 1.0], dtype=object)}),
    "numbers as objects": pd.DataFrame({"n": np.array([1, 1.0, True, 2**70, np.int8(1)], dtype=object)}),
    "frames in cells": pd.DataFrame({"f": np.array([TEN, None], dtype=object)}),
    "no Unicode": pd.DataFrame(["a\ud800", "b"], columns=pd.Index(["\udcff"], dtype=object), dtype=object),
    "cells that are long": pd.DataFrame({"t": ["x" * 100_000, ""]}),
    "transposed": TEN.T,
    "the last of many": pd.DataFrame(np.arange(1e6).reshape(-1, 10)).iloc[-3:],
    "wide": pd.DataFrame(np.zeros((2, 500))),
    "rows in reverse": TEN[::-1],
    "a Series of one level": TEN.groupby(["a", "b"])["c"].sum(),
    "a grouped frame": TEN.groupby("b").describe(),
    "an index of intervals": pd.Series(range(3), index=pd.cut([1, 5, 9], [0, 3, 6, 9])),
}


@pytest.mark.parametrize("name", ODD)
def test_a_frame_that_is_hard_comes_back(name: str) -> None:
    value = ODD[name]
    for classes in in_both_ways():
        for held in (value, [value], {"train": value, "score": 0.3}, (value, value)):
            assert same(decode(encode(held, classes), classes), held)


@dataclasses.dataclass(eq=False)
class Fit:
    table: pd.DataFrame
    score: float


def test_a_frame_in_an_object_of_the_users_own_comes_back() -> None:
    fit = Fit(TEN, 0.5)
    classes = Classes([Fit])
    classes.keep_in(None, parts=True)
    back = decode(encode([fit], classes), classes)[0]
    assert type(back) is Fit and back.score == 0.5 and same_frames(back.table, TEN)


def test_what_the_comparison_of_these_tests_sees() -> None:
    others = [
        TEN.astype({"a": "i4"}),
        TEN.rename_axis(index="x"),
        TEN.set_axis(range(6, 16)),
        TEN.astype({"b": "string[python]"}),
        TEN.set_axis(["a", "b", "d"], axis=1),
        TEN.set_flags(allows_duplicate_labels=False),
        TEN.assign(c=TEN["c"].where(TEN["a"] != 3)),
    ]
    for other in others:
        assert not same_frames(TEN, other)
    assert same_frames(TEN, TEN.copy())


def test_what_comes_back_can_be_changed_and_changes_nothing_else() -> None:
    classes = in_both_ways()[1]
    raw = encode(TEN, classes)
    back = decode(raw, classes)
    back.iloc[0, 0] = 99
    back.loc[5, "b"] = "changed"
    series = decode(encode(TEN["c"], classes), classes)
    series.iloc[0] = 7
    assert same_frames(decode(raw, classes), TEN)


class Tagged(pd.DataFrame):
    """More than a DataFrame, as geopandas' are."""


class Column(pd.Series):  # type: ignore[type-arg]
    """More than a Series."""


class Labels(pd.Index):  # type: ignore[misc, type-arg]
    """More than an index."""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Tagged(TEN), r"plain DataFrame.*pandas\.DataFrame\(value\)"),
        (Column([1]), r"plain Series.*pandas\.Series\(value\)"),
        (pd.DataFrame({"a": [object()]}), "object cannot be kept"),
        (pd.Series([1], index=pd.Index([object()])), "object cannot be kept"),
        (TEN.assign(x=[lambda: 1] * 10), "cannot be kept"),
        (TEN.groupby("b"), r"list\(value\)"),
    ],
    ids=["subclass", "Series", "cell", "label", "functions", "groups"],
)
def test_what_would_not_come_back_equal_is_refused_in_words(value: Any, says: str) -> None:
    for classes in in_both_ways():
        with pytest.raises(NotEncodable, match=says):
            encode(value, classes)
        with pytest.raises(NotEncodable, match=says):
            encode({"a": [value]}, classes)


def test_attrs_that_cannot_be_kept_are_not_dropped_but_refused() -> None:
    frame = TEN.copy()
    frame.attrs = {"source": object()}
    with pytest.raises(NotEncodable, match="object cannot be kept"):
        encode(frame)


def test_with_pickles_a_cell_that_has_no_other_form_is_pickled() -> None:
    classes = Classes()
    classes.keep_in(None, parts=True, pickles=True)
    back = decode(encode(pd.DataFrame({"a": [1], "b": [Other(3)]}), classes), classes)
    assert back["b"][0].x == 3 and back["a"].dtype == "int64"
    subclass = decode(encode(Tagged(TEN), classes), classes)
    assert type(subclass) is Tagged and subclass.equals(Tagged(TEN))


class Other:
    def __init__(self, x: int) -> None:
        self.x = x


# ---------------------------------------------------------------- formats, annotations, words


def test_a_frame_of_a_newer_format_says_so() -> None:
    for value in (TEN, TEN["a"], TEN.index, TEN["a"].array):
        raw = encode(value).replace(b'"format":1', b'"format":2')
        with pytest.raises(NotReadable, match=r"newer restate_nb wrote \(format 2\)"):
            decode(raw)


def takes(
    frame: pd.DataFrame, more: dict[str, pd.DataFrame | None], when: pd.Timestamp
) -> pd.DataFrame | pd.Series: ...  # type: ignore[empty-body, type-arg]


def test_what_is_annotated_as_a_frame_gets_one_and_can_be_returned() -> None:
    hints = parameter_annotations(takes)
    for name, value in {"frame": TEN, "more": {"a": TEN, "b": None}, "return": TEN}.items():
        rebuild = rebuilder(hints[name])
        assert same(value if rebuild is None else rebuild(value), value)
        assert why_unkeepable(hints[name]) is None
    assert not list(classes_of(takes, hints))


def test_frames_are_shown_in_a_few_words() -> None:
    shown = {
        "DataFrame, 10 x 3: a, b, c": TEN,
        "DataFrame, 0 x 0": pd.DataFrame(),
        "Series, 10 values: c": TEN["c"],
        "RangeIndex, 10 values": TEN.index,
        "DataFrame, 2 x 500: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...": ODD["wide"],
    }
    for words, value in shown.items():
        assert msgspec.json.decode(as_shown(value)) == words
        assert msgspec.json.decode(as_shown({"a": [value]})) == {"a": [words]}


def test_a_large_frame_has_parts_and_a_small_one_is_inline() -> None:
    classes = in_both_ways()[1]
    large = pd.DataFrame({"a": np.arange(100_000), "b": np.random.default_rng(1).random(100_000)})
    raw = encode(large, classes)
    assert is_joined(raw) and len(raw) < 1_610_000, "16 bytes a row, and little besides"
    assert not is_joined(encode(TEN, classes))
    assert what_of(raw) == what_of(encode(large)) == "DataFrame, 100000 x 2"


def test_dates_of_python_and_times_of_every_unit_stay_what_they_are() -> None:
    frame = pd.DataFrame(
        {unit: np.array(["2026-01-01", "NaT"], dtype=f"M8[{unit}]") for unit in ("s", "ms", "us", "ns")}
    )
    frame["date"] = np.array([dt.date(2026, 1, 1), None], dtype=object)
    for classes in in_both_ways():
        assert same_frames(decode(encode(frame, classes), classes), frame)


def test_classes_of_objects_in_cells_are_known_where_a_frame_is_an_item() -> None:
    fit = Fit(TEN, 1.5)
    cells = np.empty((1, 2), dtype=object)
    cells[:] = [[fit, None]]
    held = [
        pd.DataFrame({"a": [1], "fit": [fit]}),
        pd.Series([fit, 1]),
        pd.Series([1], index=pd.Index([fit], dtype=object)),
        pd.DataFrame({"a": [1]}, index=pd.Index([(1, fit)], tupleize_cols=False)),
        cells,
        {"deep": [pd.Series([[fit]])]},
    ]
    for value in held:
        classes = Classes()
        with pytest.raises(NotEncodable, match="does not name the class Fit"):
            encode(value, classes)
        classes.add_of(value)
        raw = encode(value, classes)
        assert type(decode(raw, classes)) is type(value) and list(classes) == [Fit]


def test_equal_frames_are_written_alike_whatever_lies_beneath() -> None:
    """A job is found again by its items."""
    mask = np.array([False, True, False])
    beneath = [
        pd.DataFrame({"a": pd.arrays.IntegerArray(np.array([1, each, 3]), mask.copy())}) for each in (0, 77, -(2**63))
    ]
    beneath += [pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64")})]
    assert len({encode(each) for each in beneath}) == 1
    truth = [pd.Series(pd.arrays.BooleanArray(np.array([True, each, False]), mask.copy())) for each in (True, False)]
    assert len({encode(each) for each in truth}) == 1
    whole = pd.DataFrame({"t": list("abc"), "l": pd.array([[1], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int8())))})
    for dtype in ("str", "string", "string[python]", object):
        one = whole.astype({"t": dtype})
        pieces, end = pd.concat([one.iloc[:1], one.iloc[1:]]), pd.concat([one, one]).iloc[3:]
        assert len({encode(each.reset_index(drop=True)) for each in (one, pieces, end)}) == 1


def test_floats_that_are_no_number_and_missing_ones_stay_apart() -> None:
    values = pd.arrays.FloatingArray(np.array([np.nan, 1.0, 2.0]), np.array([False, True, False]))
    for classes in in_both_ways():
        back = decode(encode(pd.Series(values), classes), classes)
        assert back.isna().tolist() == pd.Series(values).isna().tolist()
        assert math.isnan(back.to_numpy("float64", na_value=-1)[0]) and back[1] is pd.NA
