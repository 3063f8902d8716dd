"""Proves that a column of values is read as its values are one by one: the same values, and the same errors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restate_nb.engine.function import Function
from restate_nb.engine.function_table import FunctionTable
from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.classes import Classes
from restate_nb.values.codec import decode, decode_column, encode
from tests.engine.any_value import CLASSES, Colour, Maker, Point, Struct, same

ODD_BYTES = (
    *(b"", b" ", b"[1", b"2]", b"[3,", b"4]", b"1 2", b"1,2", b"nan", b"1\n", b"\n", b"1\n2", b'"\xff"', b"[" * 5_000),
    *(b'{"$rnb":"tuple"}', b'{"$rnb":"object","of":"x.Y","v":{}}', b'{"$rnb":5,"v":1}', b'{"\\u0024rnb":"a"}', b"tru"),
)


def as_pair(error: Exception, raw: bytes) -> Any:
    return type(error).__name__, str(error), raw


def one_by_one(read: Callable[[bytes], Any], raws: Sequence[bytes]) -> list[Any]:
    found = []
    for raw in raws:
        try:
            found.append(read(raw))
        except Exception as error:
            found.append(as_pair(error, raw))
    return found


def raws_of(seed: int, count: int, classes: Classes) -> list[bytes]:
    maker = Maker(seed)
    raws: list[bytes] = []
    while len(raws) < count:
        try:
            raws.append(encode(maker.value(), classes))
        except NotEncodable:
            pass
    return raws


@pytest.mark.parametrize("known", [CLASSES, CLASSES[::2], ()], ids=["all", "some", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_a_column_of_any_values_reads_as_each_of_them(seed: int, known: tuple[type, ...]) -> None:
    raws = raws_of(seed, 400, Classes(CLASSES))
    classes = Classes(known)
    column = decode_column(raws, classes, as_pair)
    assert all(map(same, column, one_by_one(lambda raw: decode(raw, classes), raws)))
    assert len(column) == len(raws)


@pytest.mark.parametrize("odd", ODD_BYTES, ids=range(len(ODD_BYTES)))
def test_bytes_that_are_no_value_cost_their_own_row(odd: bytes) -> None:
    raws = [b"1", b'"a"', odd, b"[2]", encode((1, 2)), b"{}"]
    assert decode_column(raws, None, as_pair) == one_by_one(decode, raws)


@given(st.lists(st.sampled_from(ODD_BYTES[:5] + ODD_BYTES[7:] + (b"1", b'"a"', b"[2]", encode(b"x")))))
def test_many_bytes_that_are_no_values_cost_their_own_rows(raws: list[bytes]) -> None:
    assert decode_column(raws, None, as_pair) == one_by_one(decode, raws)


@given(st.lists(st.lists(st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(allow_nan=False))))
def test_a_column_of_plain_values_comes_back(values: list[Any]) -> None:
    assert decode_column([encode(value) for value in values]) == values


def test_without_a_stand_in_the_first_that_is_not_readable_raises() -> None:
    with pytest.raises(NotReadable, match="Point"):
        decode_column([b"1", encode(Point(1)), b"2"], Classes())
    with pytest.raises(ValueError, match="truncated"):
        decode_column([b"1", b"[1", b"2"])


def test_the_reason_of_an_error_is_told_as_for_a_value_alone() -> None:
    raw = b'{"$rnb":"set","v":[[1]]}'
    with pytest.raises(ValueError, match="Not a value") as alone:
        decode(raw)
    with pytest.raises(ValueError, match="Not a value") as within:
        decode_column([b"1", raw])
    assert type(alone.value.__cause__) is type(within.value.__cause__) is TypeError


def test_columns_of_any_length_and_size_are_read_to_their_end() -> None:
    assert decode_column([]) == []
    assert decode_column([b"%d" % each for each in range(25_001)]) == list(range(25_001))
    large = [encode("x" * size) for size in (5_000_000, 1, 3_000_000, 3_000_000, 9_000_000)]
    assert list(map(len, decode_column(large))) == [5_000_000, 1, 3_000_000, 3_000_000, 9_000_000]


class Strict(pydantic.BaseModel):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def _small(cls, x: int) -> int:
        if x == 13:
            raise KeyError("a validator of the user's own")
        return x


def gives_point(item: Any) -> Point:
    raise NotImplementedError


def gives_model(item: Any) -> Strict:
    raise NotImplementedError


def gives_array(item: Any) -> np.ndarray[Any, Any]:
    raise NotImplementedError


def gives_colours(item: Any) -> list[Colour]:
    raise NotImplementedError


def gives_either(item: Any) -> Struct | None:
    raise NotImplementedError


def gives_anything(item: Any):  # type: ignore[no-untyped-def]
    raise NotImplementedError


@pytest.mark.parametrize(
    "fn",
    [gives_point, gives_model, gives_array, gives_colours, gives_either, gives_anything],
    ids=lambda fn: fn.__name__,
)
@pytest.mark.parametrize("bad", [[], [b"[1"]], ids=["readable", "with one that is not"])
def test_a_column_is_made_what_the_annotation_says_value_by_value(fn: Callable[..., Any], bad: list[bytes]) -> None:
    function = Function(fn)
    values: list[Any] = [{"x": 1}, {"x": 13}, {"x": 1, "y": 2}, [1.5, 2], ["r"], None, "r", 5, {"z": 1}, (1, 2), 2**80]
    objects = [Point(1, (2, 3)), Colour.RED, Struct(1), Strict(x=5), [Colour.ODD, "r"], np.arange(3)]
    raws = [encode(value) for value in (*values, *objects)] + bad
    random.Random(3).shuffle(raws)
    expected = one_by_one(function.value, raws)
    assert all(map(same, function.value_column(raws, range(len(raws)), as_pair), expected))


def test_a_column_of_different_operations_is_read_by_each() -> None:
    def point() -> Point:
        return Point(1)

    def plain() -> Any:
        return 1

    table = FunctionTable({"a": point, "b": plain})
    raws = [b'{"x":1,"y":2}'] * 2
    assert table.value_column(raws, [1, 0]) == [{"x": 1, "y": 2}, Point(1, 2)]
    assert table.value_column([b"[", b"1"], [0, 1], lambda *_: "odd") == ["odd", 1]
