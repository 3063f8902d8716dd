"""Proves that values are written by the byte as they always were, on whatever way: a job is found again by its items.

`tests/data/written_values.txt` was written by version 0.1, which looked at each value and each value in it in turn."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import math
import pathlib
import random
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restate_nb.errors import NotEncodable
from restate_nb.values import plain
from restate_nb.values.classes import Classes
from restate_nb.values.codec import MAX_DEPTH, decode, encode
from tests.engine import any_value
from tests.engine.any_value import CLASSES, Maker, Point, Struct, same

SAMPLES = pathlib.Path(__file__).parent.parent / "data" / "written_values.txt"
NAMES = {
    **vars(any_value),
    "array": array,
    "collections": collections,
    "decimal": decimal,
    "dt": dt,
    "math": math,
    "np": np,
    "pathlib": pathlib,
    "pd": pd,
    "types": types,
    "uuid": uuid,
    "zoneinfo": zoneinfo,
}


@pytest.mark.parametrize("sample", SAMPLES.read_text(encoding="utf-8").strip("\n").split("\n"))
def test_a_value_is_written_as_version_0_1_wrote_it(sample: str) -> None:
    made, _, written = sample.partition(" => ")
    value = eval(made, NAMES)  # of this repository
    assert encode(value, Classes(CLASSES)).decode() == written
    assert encode([value] * 20, Classes(CLASSES)).decode() == f"[{','.join([written] * 20)}]"
    assert same(decode(written.encode(), Classes(CLASSES)), value)


# ---------------------------------------------------------------- against a writer that takes no short way


def step_by_step(value: Any, classes: Classes) -> Any:
    """What a value is as JSON: containers and plain dataclasses one by one, and each leaf as `encode` has it alone."""
    kind = type(value)

    def each(inner: Any) -> Any:
        return step_by_step(inner, classes)

    if kind in (list, tuple):
        content = [each(inner) for inner in value]
        return content if kind is list else {"$rnb": "tuple", "v": content}
    if kind is dict:
        if all(type(key) is str and key.isascii() and key != "$rnb" for key in value):
            return {key: each(inner) for key, inner in value.items()}
        return msgspec.Raw(encode(value, classes))
    if kind is Point and [*vars(value)] == ["x", "y"]:
        return {"$rnb": "object", "v": {"x": each(value.x), "y": each(value.y)}, "of": f"{kind.__module__}.Point"}
    return msgspec.Raw(encode(value, classes))


def held(value: Any, rng: random.Random) -> Any:
    """A value within others, few and many."""
    ways: list[Callable[[], Any]] = [
        lambda: [value] * rng.choice([1, 3, 20, 40]),
        lambda: {f"k{each}": value for each in range(rng.choice([1, 5, 20]))},
        lambda: [[value, 1, "x"] for _ in range(20)],
        lambda: [{"a": value, "b": 2.5, "c": 7} for _ in range(20)],
        lambda: tuple([value] * rng.choice([1, 20])),
        lambda: Point(1.5, value),
        lambda: [(each, value) for each in range(20)],
        lambda: [1, 2**63, value, 1.5, None] * rng.choice([1, 5]),
        lambda: {"a": {"b": [value, {"c": [1, value]}], "d": value}},
        lambda: [{"a": [value]}, [value], value, 1.5, "x"] * rng.choice([1, 5]),
    ]
    return rng.choice(ways)()


@pytest.mark.parametrize("seed", range(8))
def test_a_value_is_written_alike_wherever_it_lies(seed: int) -> None:
    maker, rng, classes, kept = Maker(seed), random.Random(seed), Classes(CLASSES), 0
    for _ in range(400):
        value = held(maker.value(2), rng)
        try:
            expected = msgspec.json.encode(step_by_step(value, classes))
        except NotEncodable as error:
            with pytest.raises(NotEncodable) as raised:
                encode(value, classes)
            if " at 0x" not in str(error):
                assert str(raised.value) == str(error)
            continue
        assert encode(value, classes) == expected
        kept += 1
    assert kept > 200


NUMBERS = (
    st.integers() | st.floats() | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, math.nan, 1e308])
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec=None), max_size=3)


@given(st.lists(SCALARS, min_size=10, max_size=30) | st.lists(NUMBERS, max_size=30))
def test_many_scalars_are_plain_exactly_when_each_of_them_is(values: list[Any]) -> None:
    def is_kept(value: Any) -> bool:
        if type(value) is int:
            return -(2**63) <= value < 2**64
        return type(value) is not float or math.isfinite(value)

    surrogates = any(type(each) is str and not each.isprintable() and _is_odd(each) for each in values)
    if not surrogates:
        assert plain.are_scalars(values) == all(map(is_kept, values))
        assert plain.is_plain_list(values, 1) == all(map(is_kept, values))
    assert encode(values) == b"[%b]" % b",".join(map(encode, values))


def _is_odd(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Fraction(float):
    pass


class Listed(list[Any]):
    pass


class Mapped(dict[str, Any]):
    pass


@pytest.mark.parametrize("odd", [Text("a"), Whole(1), Fraction(1.5), Listed(), Mapped(), any_value.Word.YES], ids=repr)
@pytest.mark.parametrize("count", [1, 20])
def test_what_looks_like_a_plain_value_and_is_none_is_refused_or_tagged(odd: Any, count: int) -> None:
    """msgspec writes some of them as what they look like."""
    for value in ([odd] * count, {f"k{each}": odd for each in range(count)}, [[1, odd]] * count, [{"a": odd}] * count):
        try:
            raw = encode(value, Classes(CLASSES))
        except NotEncodable:
            continue
        assert same(decode(raw, Classes(CLASSES)), value)
    if isinstance(odd, str):
        for keyed in ({odd: 1}, [{odd: 1}] * count, {odd: 1, **{f"k{each}": 1 for each in range(20)}}):
            try:
                raw = encode(keyed, Classes(CLASSES))
            except NotEncodable:
                continue
            assert same(decode(raw, Classes(CLASSES)), keyed)


@pytest.mark.parametrize("count", [1, 20])
def test_a_list_of_as_many_levels_as_can_be_kept_is_written_and_one_more_is_refused(count: int) -> None:
    value: Any = [1] * count
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    encode(value)
    encode([value[0]] * count)
    for deeper in ([value], [value] * count, {"a": value}, (value,), {f"k{each}": value for each in range(count)}):
        with pytest.raises(NotEncodable, match="nested too deeply"):
            encode(deeper)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_what_contains_itself_many_times_is_refused_at_once(count: int) -> None:
    value: list[Any] = []
    value.extend([value] * count)
    keyed: dict[str, Any] = {}
    keyed.update({f"k{each}": keyed for each in range(count)})
    for endless in (value, keyed, {"a": value}, (value,)):
        with pytest.raises(NotEncodable, match="contains itself"):
            encode(endless)


# ---------------------------------------------------------------- objects with fields


@dataclasses.dataclass
class Odd:
    """Its field is a property, so that what it has is not what is in its `__dict__`."""

    x: int
    _x: int = dataclasses.field(default=0, init=False, repr=False)

    @property  # type: ignore[no-redef]
    def x(self) -> int:
        return self._x * 2

    @x.setter
    def x(self, value: int) -> None:
        self._x = value
        self.__dict__["x"] = "not this"


@dataclasses.dataclass(slots=True)
class Lacking:
    x: int
    y: int


class Renamed(msgspec.Struct, rename="camel", omit_defaults=True, tag=True):
    first_name: str = ""
    last_name: Any = msgspec.UNSET


class AsArray(msgspec.Struct, array_like=True):
    x: int = 0
    y: Any = None


def test_objects_are_written_by_what_their_attributes_are() -> None:
    classes = Classes((Odd, Lacking, Point, Renamed, AsArray))
    fields = {
        encode(Odd(2), classes): {"x": 4, "_x": 2},
        encode(Renamed(), classes): {"first_name": ""},
        encode(Renamed("a", 1), classes): {"first_name": "a", "last_name": 1},
        encode(AsArray(1), classes): {"x": 1, "y": None},
        encode(Lacking(1, 2), classes): {"x": 1, "y": 2},
    }
    for raw, content in fields.items():
        assert msgspec.json.decode(raw)["v"] == content
    lacking = Lacking(1, 2)
    del lacking.y
    assert msgspec.json.decode(encode(lacking, classes))["v"] == {"x": 1}
    more = Point(1)
    more.z = 3  # type: ignore[attr-defined]
    assert msgspec.json.decode(encode(more, classes))["v"] == {"x": 1, "y": 0, "z": 3}
    turned = Point(1)
    turned.__dict__ = {"y": 0, "x": 1}
    assert encode(turned, classes) == encode(Point(1), classes), "in the order of the fields"


def test_a_struct_that_changes_itself_when_it_is_made_comes_back_as_it_was() -> None:
    class Counting(msgspec.Struct):
        x: int

        def __post_init__(self) -> None:
            self.x += 1

    classes = Classes((Counting, Struct))
    value = Counting(1)
    assert decode(encode(value, classes), classes).x == value.x == 2


def test_a_class_made_anew_under_its_name_is_written_and_read_as_it_is_now() -> None:
    def made(fields: list[str]) -> type:
        return dataclasses.make_dataclass("Cell", fields, namespace={"__module__": __name__})

    old, new = made(["a"]), made(["b", "a"])
    classes = Classes([old])
    raw = encode(old(1), classes)
    assert decode(raw, classes) == old(1)
    classes.add_of(new(1, 2))
    assert decode(encode(new(1, 2), classes), classes) == new(1, 2)
    assert type(decode(encode(new(1, 2), classes), classes)) is new
