"""Proves that items and values come back as what they were, and that what cannot is refused with advice."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import uuid
import zoneinfo
from typing import Any, NamedTuple, TypedDict

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.classes import Classes
from restate_nb.values.codec import MAX_VALUE_BYTES, decode, encode
from restate_nb.values.structure import classes_of, rebuilder

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.integers() | st.text(st.characters(codec=None)) | st.none() | st.dates() | st.tuples(st.integers())
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
        | st.dictionaries(HASHABLE, inner)
        | st.dictionaries(st.just("$rnb"), inner)
        | st.sets(HASHABLE)
        | st.frozensets(HASHABLE)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_any_plain_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    back = decode(encode(value))
    assert type(back) is type(value)
    assert back == value


@given(st.binary())
def test_no_bytes_at_all_make_decoding_crash(raw: bytes) -> None:
    try:
        decode(raw)
    except ValueError:
        pass


@pytest.mark.parametrize("tag", ["bytes", "datetime", "ndarray", "dict", "complex", "Timestamp", "nonsense", "tuple"])
@pytest.mark.parametrize("content", [None, 1, "x", [], [1], {}, [[1]]])
def test_a_tag_with_wrong_content_is_a_value_error(tag: str, content: Any) -> None:
    raw = msgspec.json.encode({"$rnb": tag, "v": content})
    try:
        decode(raw)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "value",
    [
        pd.Timestamp("2026-01-31 12:00:00.123456789"),
        pd.Timestamp("2026-10-25 00:30", tz="UTC").tz_convert("Europe/Berlin"),
        pd.Timestamp("2026-01-31", tz="UTC"),
        pd.Timedelta("1 day 2 seconds 3 nanoseconds"),
        pd.Interval(0, 1.5, closed="both"),
        pd.Period("2026-01", freq="M"),
        np.datetime64("2026-01-31", "D"),
        np.timedelta64(3, "s"),
        pathlib.Path("a/b.txt"),
        dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        2**200,
        -math.inf,
    ],
    ids=repr,
)
def test_types_of_pandas_numpy_and_the_library_come_back(value: Any) -> None:
    back = decode(encode(value))
    assert type(back) is type(value)
    assert back == value


@pytest.mark.parametrize("missing", [pd.NaT, pd.NA, math.nan])
def test_missing_values_stay_missing(missing: Any) -> None:
    back = decode(encode(missing))
    assert type(back) is type(missing)
    assert pd.isna(back)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.array([], dtype=np.int8),
        np.array(3),
        np.array(["a", "bc"]),
        np.array([1, "a", None, [1, 2]], dtype=object),
        np.array(["2026-01-31"], dtype="M8[s]"),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
    ],
    ids=repr,
)
def test_arrays_come_back_with_dtype_and_shape_and_can_be_written_to(array: np.ndarray[Any, Any]) -> None:
    back = decode(encode(array))
    assert isinstance(back, np.ndarray)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()
    assert back.flags.writeable


@pytest.mark.parametrize("scalar", [np.int64(3), np.float32(1.5), np.bool_(True), np.str_("x")], ids=repr)
def test_numpy_scalars_come_back_as_numpy_scalars(scalar: Any) -> None:
    back = decode(encode(scalar))
    assert type(back) is type(scalar)
    assert back == scalar


class Colour(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Point:
    x: int
    when: dt.datetime
    data: np.ndarray[Any, Any]
    colour: Colour


class Struct(msgspec.Struct):
    price: decimal.Decimal
    key: uuid.UUID


class Model(pydantic.BaseModel):
    name: str
    when: dt.datetime


class Pair(NamedTuple):
    a: int
    b: Colour


class Record(TypedDict):
    pair: Pair


POINT = Point(1, dt.datetime(2026, 1, 31), np.arange(3), Colour.RED)
STRUCT = Struct(decimal.Decimal("1.10"), uuid.UUID(int=7))
MODEL = Model(name="n", when=dt.datetime(2026, 1, 31))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Struct, STRUCT),
        (list[Struct], [STRUCT]),
        (Struct | None, None),
        (dict[str, Struct], {"a": STRUCT}),
        (Model, MODEL),
        (list[Model], [MODEL]),
        (Pair, Pair(1, Colour.RED)),
        (Record, {"pair": Pair(1, Colour.RED)}),
        (Colour, Colour.RED),
        (np.float32, np.float32(1.5)),
        (tuple[int, Colour], (1, Colour.RED)),
    ],
    ids=repr,
)
def test_annotated_objects_come_back(annotation: Any, value: Any) -> None:
    classes = classes_of(lambda item: item, {"return": annotation})
    back = decode(encode(value, classes), classes)
    assert type(back) is type(value)
    assert back == value


@pytest.mark.parametrize(
    ("annotation", "plain", "value"),
    [
        (Struct, {"price": decimal.Decimal("1.10"), "key": uuid.UUID(int=7)}, STRUCT),
        (list[Model], [{"name": "n", "when": dt.datetime(2026, 1, 31)}], [MODEL]),
        (Pair, (1, "r"), Pair(1, Colour.RED)),
        (Colour, "r", Colour.RED),
        (np.float32, 1.5, np.float32(1.5)),
    ],
    ids=repr,
)
def test_plain_data_becomes_what_is_annotated(annotation: Any, plain: Any, value: Any) -> None:
    """So do items of plain data, and what version 1 of the wire format has recorded."""
    rebuild = rebuilder(annotation)
    assert rebuild is not None
    back = rebuild(decode(encode(plain)))
    assert type(back) is type(value)
    assert back == value


def test_a_dataclass_comes_back_with_all_its_leaves() -> None:
    classes = Classes([Point, Colour])
    back = decode(encode(POINT, classes), classes)
    assert (back.x, back.when, back.data.tolist(), back.colour) == (1, POINT.when, [0, 1, 2], Colour.RED)


def test_an_object_of_a_class_that_the_function_does_not_name_is_refused() -> None:
    with pytest.raises(NotEncodable, match=r"does not name the class Struct.*-> Struct"):
        encode(STRUCT, Classes())
    with pytest.raises(NotReadable, match="no class of that name is known here"):
        decode(encode(STRUCT))
    assert decode(encode(STRUCT), Classes(plain=True)) == {"price": decimal.Decimal("1.10"), "key": uuid.UUID(int=7)}


@pytest.mark.parametrize("annotation", [int, str, Any, list[int], dict[str, Any], dt.datetime, float | None, "Point"])
def test_plain_annotations_need_no_rebuilding(annotation: Any) -> None:
    assert rebuilder(annotation) is None


class Rows(pd.DataFrame):
    """More than a DataFrame, as geopandas' are."""


def _nested() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (object(), "plain data"),
        ({"a": [object()]}, "plain data"),
        (Rows({"a": [1]}), "plain DataFrame"),
        ({"a": pd.DataFrame({"a": [object()]})}, "plain data"),
        (pd.DataFrame({"a": [1]}).groupby("a"), "list.value"),
        ((each for each in [1]), "turned into a list"),
        (_nested(), "contains itself"),
        ("x" * (MAX_VALUE_BYTES + 1), "return the path"),
    ],
    ids=["object", "inside", "subclass", "cell", "groups", "generator", "cycle", "large"],
)
def test_what_cannot_be_kept_is_refused_with_advice(value: Any, advice: str) -> None:
    with pytest.raises(NotEncodable, match=advice):
        encode(value)


class Stamp(dt.datetime):
    """As pendulum's and others' are."""


class Day(dt.date):
    """A date of somebody's own."""


class Response:
    """As an HTTP client gives it."""


@pytest.mark.parametrize("value", [Stamp(2024, 5, 6), Day(2024, 5, 6), type("Text", (str,), {})("a")], ids=repr)
def test_a_subclass_of_a_plain_type_is_refused_and_not_made_plain(value: Any) -> None:
    with pytest.raises(NotEncodable, match="would come back as a plain"):
        encode(value)


def test_text_that_is_no_unicode_is_kept_as_a_key_and_as_a_value() -> None:
    """A file name that is not UTF-8 has such characters."""
    for value in ({"name": "a\udcff"}, {"a\udcff": "b\udcff"}, pathlib.Path("a\udcff"), [np.str_("a\udcff")]):
        assert decode(encode(value)) == value


def test_a_response_is_refused_with_what_to_take_of_it() -> None:
    with pytest.raises(NotEncodable, match=r"\.text, \.json\(\)"):
        encode(Response())
