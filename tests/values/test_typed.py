"""Proves that annotated values come back as what they were, and travel as JSON that anybody reads."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from restate_nb.errors import NotEncodable
from restate_nb.values.typed import Typed

T = TypeVar("T")


class Activity(BaseModel):
    what: str
    when: dt.datetime | None = None


class Aliased(BaseModel):
    unread: int = Field(alias="unreadCount")


class Generic1(BaseModel, Generic[T]):
    value: T


@dataclass
class Tree:
    name: str
    below: list[Tree] = field(default_factory=list)
    weight: float = field(default=0.0, init=False)


@dataclass
class Box(Generic[T]):
    content: T


@dataclass(frozen=True)
class Cat:
    name: str


@dataclass(frozen=True)
class Dog:
    name: str


class Row(TypedDict):
    activity: Activity
    day: NotRequired[dt.date]


class Pair(NamedTuple):
    number: int
    activity: Activity


class Struct(msgspec.Struct):
    number: int
    day: dt.date | None = None


class Color(enum.Enum):
    RED = "red"
    BOTH = (1, 2)


NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
ACTIVITY = Activity(what="ran", when=NOON)

PLAIN: list[tuple[Any, Any]] = [
    (list[Activity], [ACTIVITY]),
    (dict[str, list[Activity]], {"a": [ACTIVITY]}),
    (Activity | None, ACTIVITY),
    (Annotated[list[Activity], "anything"], [ACTIVITY]),
    (Sequence[Activity], [ACTIVITY]),
    (Aliased, Aliased(unreadCount=3)),
    (list[Generic1[Activity]], [Generic1[Activity](value=ACTIVITY)]),
    (Tree, Tree("a", [Tree("b", [Tree("c")])])),
    (Box[list[Activity]], Box([ACTIVITY])),
    (list[Row], [{"activity": ACTIVITY, "day": dt.date(2026, 1, 31)}, {"activity": ACTIVITY}]),
    (Pair, Pair(1, ACTIVITY)),
    (list[Struct], [Struct(1, dt.date(2026, 1, 31))]),
    (tuple[Activity, int], (ACTIVITY, 1)),
    (tuple[int, ...], (1, 2)),
    (set[int], {1, 2}),
    (dict[int, Activity], {1: ACTIVITY}),
    (dict[dt.date, int], {dt.date(2026, 1, 31): 1}),
    (int | list[Activity], [ACTIVITY]),
    (Activity | Struct, Struct(1)),
    (list[Color], [Color.RED, Color.BOTH]),
    (uuid.UUID, uuid.UUID(int=7)),
    (decimal.Decimal, decimal.Decimal("1.50")),
    (bytes, b"\xff\x00"),
    (dt.timedelta, dt.timedelta(days=1, seconds=3)),
    (float, 1),
]

TAGGED: list[tuple[Any, Any]] = [
    (Cat | Dog, Dog("rex")),
    (list[Cat | Dog], [Cat("tom"), Dog("rex")]),
    (dt.datetime | str, NOON),
    (dict[tuple[int, int], Activity], {(1, 2): ACTIVITY}),
    (Any, {"when": NOON, "ids": {1, 2}}),
    (int, 2**80),
    (str, "half a pair \ud800"),
]


@pytest.mark.parametrize(("annotation", "value"), PLAIN, ids=str)
def test_what_is_annotated_comes_back_from_plain_json(annotation: Any, value: Any) -> None:
    form = Typed(annotation)
    raw = form.write(value)
    assert b"$rnb" not in raw
    back = form.read(raw)
    assert back == value and type(back) is (float if annotation is float else type(value))


@pytest.mark.parametrize(("annotation", "value"), TAGGED, ids=ascii)
def test_what_plain_json_cannot_tell_comes_back_all_the_same(annotation: Any, value: Any) -> None:
    form = Typed(annotation)
    back = form.read(form.write(value))
    assert back == value and type(back) is type(value)


def test_a_text_that_looks_like_a_time_stays_a_text() -> None:
    form = Typed(dt.datetime | str)
    assert form.read(form.write("2026-01-31T12:00:00")) == "2026-01-31T12:00:00"


def test_models_in_any_are_their_fields_as_other_handlers_read_them() -> None:
    value = [ACTIVITY, Box([Cat("tom")]), Color.RED, (1, 2), {1: True}, Pair(1, ACTIVITY)]
    written = json.loads(Typed(Any).write(value))
    activity = {"what": "ran", "when": "2026-01-31T12:00:00Z"}
    assert written == [activity, {"content": [{"name": "tom"}]}, "red", [1, 2], {"1": True}, [1, activity]]


def test_what_a_peer_wrote_as_plain_json_is_read_as_annotated() -> None:
    assert Typed(list[Activity]).read(b'[{"what": "ran", "more": 1}]') == [Activity(what="ran")]
    assert Typed(Aliased).read(b'{"unread": 3}') == Aliased(unreadCount=3)
    assert Typed(Tree).read(b'{"name": "a", "unknown": 1}') == Tree("a")
    assert Typed(Cat | Struct).read(b'{"number": 1}') == Struct(1)
    assert Typed(float).read(b"NaN") != Typed(float).read(b"1")


@pytest.mark.parametrize(
    ("annotation", "raw"),
    [(list[Activity], b'[{"wrong": 1}]'), (Tree, b"{}"), (Row, b"{}"), (Struct, b'{"number": "x"}'),
     (list[int], b'{"a": 1}'), (Tree | Struct, b'{"other": 1}'), (tuple[int, int], b"[1]"), (uuid.UUID, b'"x"')],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_its_annotation_is_refused(annotation: Any, raw: bytes) -> None:
    with pytest.raises(ValueError):
        Typed(annotation).read(raw)


def test_what_json_and_the_codec_have_no_word_for_is_refused_by_name() -> None:
    with pytest.raises(NotEncodable, match=r"_thread\.lock"):
        Typed(Any).write([__import__("threading").Lock()])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(NotEncodable, match="contains itself"):
        Typed(Any).write(endless)


_leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.dates())
_anything = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text() | st.integers(), inner), st.sets(_leaves)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(value=_anything)
def test_what_only_this_program_reads_comes_back_whatever_it_is(value: Any) -> None:
    form = Typed(Any, own=True)
    assert repr(form.read(form.write(value))) == repr(value) or form.read(form.write(value)) == value
