"""Proves that items which are read many at once are encoded, refused and kept as if each were read by itself."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restate_nb.engine.function import Function, Passing
from restate_nb.errors import InvalidInput, NotEncodable
from restate_nb.handle.cells import cells_by_column
from restate_nb.handle.items import read_items
from restate_nb.service.digest import items_digest
from restate_nb.values.bulk import Rows, encode_many
from restate_nb.values.classes import Classes
from restate_nb.values.codec import MAX_VALUE_BYTES, encode
from tests.engine.any_value import Maker, Point, Struct, same


def takes_one(item: Any) -> Any:
    raise NotImplementedError


def takes_two(a: Any, b: Any = 0) -> Any:
    raise NotImplementedError


def takes_names(**names: Any) -> Any:
    raise NotImplementedError


def takes_point(item: Point) -> Any:
    raise NotImplementedError


def takes_struct(a: Struct, b: Any = 0) -> Any:
    raise NotImplementedError


class Whole(int):
    pass


def one_by_one(given: Sequence[Any], target: Function) -> list[bytes]:
    """What items are as JSON: the first that cannot be sent, or does not fit, is refused."""
    raws = []
    for position, item in enumerate(given):
        try:
            raw = target.encode_item(item)
        except Exception as error:
            raise InvalidInput(f"Item {position}") from error
        target.check_item(position, item, raw)
        raws.append(raw)
    return raws


def check(given: Sequence[Any], fn: Callable[..., Any], passing: Passing, items: Any = None) -> None:
    """`items` are what is passed, if they are not the list itself."""
    read = Function(fn, passing)
    try:
        expected = one_by_one(given, Function(fn, passing))
    except Exception as error:
        with pytest.raises(type(error)) as raised:
            read_items(given if items is None else items, read)
        assert str(raised.value).startswith(str(error)) or "0x" in str(error)
        return
    found = read_items(given if items is None else items, read)
    assert list(found.encoded) == expected
    assert len(found.originals) == len(expected)
    digest = items_digest(found.encoded.sizes(), found.encoded.chunks())
    sizes = ",".join(str(len(raw)) for raw in expected).encode()
    assert digest == hashlib.blake2b(sizes + b"".join(expected), digest_size=8).hexdigest(), "as it always was"


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize("seed", range(6))
def test_lists_of_any_values_are_encoded_as_each_of_them(seed: int) -> None:
    maker, rng = Maker(seed), random.Random(seed)
    for _ in range(60):
        leaf = rng.choice([None, *maker.leaves])
        given = [maker.value(2, leaf) for _ in range(rng.choice([1, 5, 40, 300]))]
        check(given, takes_one, "value")
        check(tuple(given), takes_one, "value")


@pytest.mark.parametrize("count", [1, 31, 32, 33, 500])
@pytest.mark.parametrize(
    "item",
    [
        *(1, 2**63, 2**64, 1.5, float("nan"), "a", "a\udcff", None, True, b"x", Decimal(1), (1, "x"), (1, (2, b"x"))),
        *([1, [2.5]], {"a": 1}, {"a": {"b": float("inf")}}, {"$rnb": 1}, {1: 2}, Point(1), Point([(1,)]), Struct(1)),
        *(Whole(1), [Whole(1)], object, "x" * 100_000),
    ],
    ids=lambda item: repr(item)[:20],
)
def test_an_item_among_plain_ones_is_encoded_or_refused_by_its_position(item: Any, count: int) -> None:
    for others in ([7] * count, ["x"] * count, [{"a": 1, "b": 2.5}] * count, [(1, 2)] * count, [[0.5]] * count):
        check([*others, item, *others], takes_one, "value")
    check([item] * count, takes_one, "value")


@pytest.mark.parametrize("odd", [(), (1, 2, 3), [1], (1, object), (2**80, b"x"), 5, "ab", {"a": 1}, Point(1)], ids=repr)
def test_an_item_that_cannot_be_spread_is_refused_by_its_position(odd: Any) -> None:
    given = [(each, "x") for each in range(100)]
    given[70] = odd
    read = Function(takes_two, "args")
    if isinstance(odd, (tuple, list)):
        check(given, takes_two, "args")
    else:
        with pytest.raises(InvalidInput, match="item 70 is"):
            read_items(given, read)


class Pair(NamedTuple):
    a: int
    b: int


class Row(Sequence[Any]):
    """As a database gives them."""

    _fields = ("a", "b")

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, at: Any) -> Any:
        return self._values[at]


def test_rows_of_databases_are_named_tuples_also_among_others() -> None:
    given: list[Any] = [Pair(each, 2) for each in range(50)] + [Row(each, 3) for each in range(50)] + [(1, 2)] * 50
    found = read_items(given, Function(takes_one))
    assert [tuple(item) for item in found.originals] == [tuple(item) for item in given]
    assert len({raw[:40] for raw in found.encoded}) > 2
    spread = read_items(given, Function(takes_two, "args"))
    assert [tuple(item) for item in spread.originals] == [tuple(item) for item in given]


@pytest.mark.parametrize("fn", [takes_point, takes_struct], ids=lambda fn: fn.__name__)
def test_items_that_do_not_fit_an_annotation_are_refused_by_their_position(fn: Callable[..., Any]) -> None:
    fitting = [{"x": each, "y": 1} for each in range(100)]
    check(fitting, fn, "value")
    check([Point(1), *fitting] if fn is takes_point else [Struct(1), *fitting], fn, "value")
    for odd in (5, {"z": 1}, [1], None, Point(1), Struct(1), (1, 2)):
        check([*fitting, odd, 5], fn, "value")
    check([(each, 1) for each in fitting], takes_struct, "args")
    check([*((each, 1) for each in fitting), (5,), ()], takes_struct, "args")


def test_a_class_whose_validation_raises_anything_is_refused_as_before() -> None:
    @dataclasses.dataclass
    class Picky:
        x: int

        def __post_init__(self) -> None:
            if self.x == 77:
                raise KeyError("picky")

    def takes_picky(item: Picky) -> None: ...

    takes_picky.__annotations__["item"] = Picky
    check([{"x": each} for each in range(70)], takes_picky, "value")
    check([{"x": each} for each in range(100)], takes_picky, "value")


def test_items_that_are_larger_than_can_be_kept_are_refused_by_their_position() -> None:
    too_large = "x" * MAX_VALUE_BYTES
    with pytest.raises(InvalidInput, match=r"^Item 40.* can be kept"):
        read_items(["a"] * 40 + [too_large], Function(takes_one))
    with pytest.raises(InvalidInput, match=r"^Item 1 .*\(index 1\).* can be kept"):
        read_items(pd.DataFrame({"a": ["x", too_large]}), Function(takes_names, "kwargs"))
    fits = "x" * (MAX_VALUE_BYTES - 2)
    assert len(read_items(["a"] * 40 + [fits] * 2, Function(takes_one)).encoded) == 42


@pytest.mark.parametrize(
    ("others", "odd", "fn", "passing"),
    [
        (1, object(), takes_one, "value"),
        ("a", "x" * (MAX_VALUE_BYTES - 1), takes_one, "value"),
        (1.5, {"a": object()}, takes_one, "value"),
        ({"a": 1}, Whole(1), takes_one, "value"),
        ((1, "x"), (1, object), takes_two, "args"),
        ((1, "x"), (1, 2, 3), takes_two, "args"),
        ((1, "x"), 5, takes_two, "args"),
        (Point(1), 5, takes_point, "value"),
        ({"x": 1}, 5, takes_point, "value"),
    ],
)
@pytest.mark.parametrize("count", [0, 3])
def test_an_iterator_is_read_no_further_than_to_what_is_refused(
    others: Any, odd: Any, fn: Callable[..., Any], passing: Passing, count: int
) -> None:
    read = []

    def endless() -> Any:
        for each in itertools.count():
            read.append(each)
            yield odd if each == count else others

    with pytest.raises(InvalidInput, match=rf"[Ii]tem {count}\b|argument"):
        read_items(endless(), Function(fn, passing))
    assert read == list(range(count + 1))


@pytest.mark.parametrize("seed", range(4))
def test_iterators_of_any_values_are_encoded_as_each_of_them(seed: int) -> None:
    maker, rng = Maker(seed), random.Random(seed)
    for _ in range(40):
        leaf = rng.choice([None, maker.a_whole, maker.a_fraction, maker.a_text, maker.a_none])
        given = [maker.value(1, leaf) for _ in range(rng.choice([0, 1, 40]))]
        check(given, takes_one, "value", iter(given))
        pairs = [(each, leaf and leaf()) for each in given]
        check(pairs, takes_two, "args", iter(pairs))
    check(list(range(25_000)), takes_one, "value", iter(range(25_000)))
    check([(each, "x") for each in range(25_000)], takes_two, "args", zip(range(25_000), itertools.repeat("x")))


def test_an_iterator_that_fails_says_after_how_many_items() -> None:
    def failing() -> Any:
        yield from range(70)
        raise KeyError("gone")

    with pytest.raises(InvalidInput, match="ended after 70 of them, at position 70: KeyError"):
        read_items(failing(), Function(takes_one))


def test_a_generator_may_give_one_object_again_and_again() -> None:
    def again() -> Any:
        row = {"a": 0}
        for each in range(100):
            row["a"] = each
            yield row

    assert list(read_items(again(), Function(takes_one)).originals) == [{"a": each} for each in range(100)]


def test_what_is_kept_of_the_items_is_as_they_were_given() -> None:
    given = [1, "x", (1, 2), [1], {"a": (1,)}, Point(1, [2]), 2.5, None, b"x", Pair(1, 2)] * 40
    found = read_items(given, Function(takes_one)).originals
    assert all(map(same, found, given))
    assert all(one is other for one, other in zip(found, given, strict=True) if type(other) in (tuple, str, bytes))


# ---------------------------------------------------------------- many values


@given(st.lists(st.none() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary()))
def test_many_values_are_written_as_each_is(values: list[Any]) -> None:
    run = encode_many(values, None)
    if run is not None:
        expected = [encode(value) for value in values]
        joined, ends = run.joined()
        assert (run.raws(), joined) == (expected, b"".join(expected))
        assert ends.tolist() == list(itertools.accumulate(map(len, expected)))
        assert run.largest() == max(map(len, expected), default=0)
    else:
        assert any(type(value) is str and not _is_unicode(value) for value in values)


def _is_unicode(text: str) -> bool:
    return text.encode("utf-8", "replace").decode() == text


def test_many_values_of_which_one_cannot_be_kept_are_left_to_a_closer_look() -> None:
    assert encode_many([1, object()], None) is None
    assert encode_many([1, Point(1)], Classes()) is None
    nested: list[Any] = []
    for _ in range(198):
        nested = [nested]
    assert encode_many([nested, [nested]], None) is not None
    assert encode_many([[[nested]]], None) is None
    assert Rows(["a"], None).encode([[nested]]) is not None
    assert Rows(["a"], None).encode([[[nested]]]) is None
    with pytest.raises(NotEncodable):
        encode({"a": [nested]})


# ---------------------------------------------------------------- DataFrames


def columns_of_all_kinds(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    whole = rng.integers(0, 100, count)
    gaps = [None if each % 3 == 0 else each for each in whole.tolist()]
    at = pd.Timestamp("2026-01-31 12:00")
    return {
        "whole": whole,
        "large": np.full(count, 2**64 - 1, dtype=np.uint64),
        "small": whole.astype("i1"),
        "float": rng.random(count),
        "float32": rng.random(count).astype("f4"),
        "float16": rng.random(count).astype("f2"),
        "holes": np.where(whole % 3 == 0, np.nan, whole),
        "endless": np.where(whole % 3 == 0, np.inf, 1.0),
        "longdouble": rng.random(count).astype(np.longdouble),
        "complex": rng.random(count) * 1j,
        "truth": whole > 50,
        "text": [f"ä{each}" for each in whole],
        "text with holes": pd.Series([None if each % 3 else "x" for each in whole], dtype="string"),
        "odd text": pd.Series(["a\udcff" if each % 7 == 0 else "a" for each in whole], dtype=object),
        "objects": pd.Series(gaps, dtype=object),
        "mixed": pd.Series([[1, "x", None, 2.5, (1,), b"x", at][each % 7] for each in whole], dtype=object),
        "numpy's": pd.Series(
            [[np.int64(1), np.float32(2), np.bool_(True), 1][each % 4] for each in whole], dtype=object
        ),
        "one of numpy": pd.Series([np.float64(each) for each in whole], dtype=object),
        "missing": pd.Series([[pd.NA, None, 1, pd.NaT][each % 4] for each in whole], dtype=object),
        "Int64": pd.Series(gaps, dtype="Int64"),
        "full Int64": pd.Series(whole, dtype="Int64"),
        "boolean": pd.Series(whole > 3, dtype="boolean"),
        "Float64": pd.Series(gaps, dtype="Float64"),
        "full Float32": pd.Series(whole, dtype="Float32"),
        "category": pd.Categorical([f"c{each % 3}" for each in whole]),
        "number category": pd.Categorical(whole % 3),
        "category with holes": pd.Categorical([None if each is None else "x" for each in gaps]),
        "time": at + pd.to_timedelta(whole, unit="h"),
        "zoned": (at + pd.to_timedelta(whole, unit="h")).tz_localize("Europe/Berlin"),
        "span": pd.to_timedelta(whole, unit="s"),
        "period": pd.period_range("2026-01", periods=count, freq="D"),
        "interval": pd.interval_range(0, count, periods=count),
        "sparse": pd.arrays.SparseArray(whole % 2),
        "class": 1,
        "with 'quotes\"": whole,
        "zeile\n": whole,
        "ä😀": whole,
        "": whole,
        "\x7f": whole,
    }


@pytest.mark.parametrize("name", columns_of_all_kinds(1))
@pytest.mark.parametrize("count", [1, 100])
def test_cells_are_those_of_the_rows_whatever_a_column_holds(name: str, count: int) -> None:
    frame = pd.DataFrame({name: columns_of_all_kinds(count)[name], "b": range(count)}, index=range(count))
    rows = frame.to_dict("records")
    cells = cells_by_column(frame)
    assert all(map(same, cells[0], [row[name] for row in rows]))
    assert len(cells[0]) == count
    check(rows, takes_names, "kwargs", frame)
    check(frame[[name]].to_dict("records"), takes_names, "kwargs", frame[[name]])


@pytest.mark.parametrize("count", [0, 1, 33, 2_000])
def test_rows_with_columns_of_every_kind_are_encoded_as_dicts_are(count: int) -> None:
    columns = columns_of_all_kinds(count)
    del columns["longdouble"]
    if not count:
        del columns["period"], columns["interval"]
    frame = pd.DataFrame(columns, index=range(count))
    check(frame.to_dict("records"), takes_names, "kwargs", frame)
    read = read_items(frame, Function(takes_names, "kwargs"))
    assert all(map(same, read.originals, frame.to_dict("records")))


def test_rows_are_encoded_alike_in_frames_that_pandas_keeps_in_other_ways() -> None:
    frame = pd.DataFrame({"a": range(200), "b": [each / 3 for each in range(200)], "c": ["x"] * 200})
    kept = {
        "every other row": frame[::2],
        "turned": frame[::-1],
        "transposed twice": frame.T.T,
        "one block": frame[["a", "b"]].astype(float),
        "columns turned": frame[["c", "a", "b"]],
        "labels twice": frame.set_index(pd.Index([1] * 200)),
        "of objects": frame.astype(object),
        "Fortran": pd.DataFrame(np.asfortranarray(np.arange(200.0).reshape(100, 2)), columns=["a", "b"]),
        "big endian": pd.DataFrame({"a": np.arange(100, dtype=">i4"), "b": np.arange(100, dtype=">f8")}),
        "no rows": frame[:0],
        "no columns": frame[[]],
        "column index": frame.rename_axis(columns="names"),
    }
    for how, each in kept.items():
        print(how)
        check(each.to_dict("records"), takes_names, "kwargs", each)
        check(each.to_dict("records"), takes_one, "value", each)


def test_rows_that_do_not_fit_are_refused_by_the_first() -> None:
    frame = pd.DataFrame({"a": range(200), "z": 1})
    with pytest.raises(InvalidInput, match=r"cannot be called with the columns \(a, z\)"):
        read_items(frame, Function(takes_two, "kwargs"))
    points = pd.DataFrame({"a": [{"x": 1}] * 150 + [5], "b": 1})
    with pytest.raises(InvalidInput, match="Item 150 does not fit parameter 'a'"):
        read_items(points, Function(takes_struct, "kwargs"))
    check(points[:150].to_dict("records"), takes_struct, "kwargs", points[:150])
    odd = pd.DataFrame({"a": [1] * 120 + [object()]}, index=[f"row {each}" for each in range(121)])
    with pytest.raises(InvalidInput, match=r"^Item 120 \(index 'row 120'\), .* cannot be sent"):
        read_items(odd, Function(takes_names, "kwargs"))


def test_a_class_of_the_users_own_in_a_column_is_known_from_then_on() -> None:
    frame = pd.DataFrame({"a": [Point(each) for each in range(100)], "b": 1})
    target = Function(takes_names, "kwargs")
    found = read_items(frame, target)
    assert list(found.originals) == frame.to_dict("records")
    assert target.classes.given
    assert target.classes.find(f"{Point.__module__}.Point") is Point


def test_a_frame_that_is_more_than_a_dataframe_gives_its_own_rows() -> None:
    class Frame(pd.DataFrame):
        def to_dict(self, *_: Any, **__: Any) -> Any:
            return [{"a": "its own"}]

    assert list(read_items(Frame({"a": [1]}), Function(takes_names, "kwargs")).originals) == [{"a": "its own"}]


def test_digests_of_many_items_are_those_of_all_sizes_and_bytes() -> None:
    for sizes in ([], [5], list(range(100_001)), [10**9] * 3):
        expected = hashlib.blake2b(",".join(map(str, sizes)).encode() + b"abc", digest_size=8).hexdigest()
        assert items_digest(sizes, [b"a", b"bc"]) == expected
