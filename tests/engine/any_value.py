"""Random values of every kind that a notebook may hold, and a strict comparison: type, content, zone, dtype, mask."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import math
import pathlib
import random
import re
import types
import uuid
import warnings
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import msgspec
import numpy as np
import pandas as pd
import pydantic
from dateutil import tz as dateutil_tz

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "r"
    ODD = ("a", 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    made: Any = dataclasses.field(init=False, default=7)


@dataclasses.dataclass
class Counted:
    x: Any
    scale: dataclasses.InitVar[int] = 3
    runs: int = 0

    def __post_init__(self, scale: int) -> None:
        self.runs += scale


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T


class Struct(msgspec.Struct, frozen=True):
    x: Any
    y: Any = None


@attrs.define
class Slotted:
    x: Any
    _y: Any = 1


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", arbitrary_types_allowed=True)
    x: Any
    word: str = pydantic.Field("w", alias="theWord")
    _private: Any = pydantic.PrivateAttr(default=None)

    @pydantic.field_validator("word")
    @classmethod
    def _longer(cls, word: str) -> str:
        return word + "!"


class Secretive(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    key: pydantic.SecretStr
    at: pydantic.HttpUrl


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Listed(list[Any]):
    pass


class Key(uuid.UUID):
    pass


class Stamp(dt.datetime):
    pass


class Money(decimal.Decimal):
    pass


class Plain:
    def __init__(self) -> None:
        self.a = 1


CLASSES = (
    *(Colour, Level, Word, Rights, Pair, Point, Frozen, Counted, Box, Struct, Slotted, Model, Secretive),
)  # fmt: skip
ZONES = ("Europe/Berlin", "America/New_York", "UTC", "Asia/Kathmandu", "Pacific/Apia")
DTYPES = (
    *("?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d", "F", "D", "g", "G", ">i4", ">f8", "<U3", "S4", "U0"),
    *("M8[Y]", "M8[M]", "M8[D]", "M8[s]", "M8[us]", "M8[ns]", "M8[25s]", "m8[D]", "m8[ns]", "m8", "O", "V3"),
)
WORDS = np.array(
    ["a"], dtype=np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else object
)  # from numpy 2 on
FREQUENCIES = ("D", "M", "Y", "h", "W-TUE", "Q")


class Maker:
    """Makes random values. The same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.leaves: list[Callable[[], Any]] = [getattr(self, name) for name in sorted(dir(self)) if name[:2] == "a_"]
        self.holders: list[Callable[[int], Any]] = [
            getattr(self, name) for name in sorted(dir(self)) if name[:3] == "of_"
        ]

    def value(self, depth: int = 3, leaf: Callable[[], Any] | None = None) -> Any:
        """A value of any kind, or of that of `leaf`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, about matrices; of casts
            return self._value(depth) if leaf is None else leaf()

    def _value(self, depth: int) -> Any:
        if depth and self.rng.random() < 0.35:
            return self.rng.choice(self.holders)(depth - 1)
        return self.rng.choice(self.leaves)()

    def many(self, depth: int) -> list[Any]:
        return [self._value(depth) for _ in range(self.rng.randrange(4))]

    def keys(self) -> Iterator[Any]:
        while True:
            key = self.rng.choice(self.leaves)()
            try:
                hash(key)
            except (TypeError, ValueError, OverflowError):  # the latter two: some of numpy's times
                continue
            yield key

    # ------------------------------------------------------------ of JSON

    def a_none(self) -> Any:
        return self.rng.choice([None, True, False])

    def a_whole(self) -> Any:
        return self.rng.choice([0, -1, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, self.rng.getrandbits(90)])

    def a_fraction(self) -> Any:
        return self.rng.choice([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, self.rng.random(), 1e308])

    def a_text(self) -> Any:
        return self.rng.choice(["", "a", "ä\u2028\0\r\n\"'", "a\udcff", "\ud800x", "$rnb", "=1+1", "😀" * 3])

    # ------------------------------------------------------------ of the library

    def a_time(self) -> Any:
        rng = self.rng
        naive = dt.datetime(rng.randrange(2, 9998), rng.randrange(1, 13), rng.randrange(1, 29), rng.randrange(24), 30)
        zone = rng.choice(
            [
                None, dt.UTC, dt.timezone(dt.timedelta(minutes=rng.randrange(-700, 700))),
                dt.timezone(dt.timedelta(hours=1), "CET"), zoneinfo.ZoneInfo(rng.choice(ZONES)), dateutil_tz.UTC,
                dateutil_tz.tzoffset("X", 3600), dateutil_tz.tzoffset(None, -60), dateutil_tz.gettz("Europe/Berlin"),
                dt.timezone(dt.timedelta(seconds=3, microseconds=7)),
            ]
        )  # fmt: skip
        near = rng.choice([naive, dt.datetime(2026, 10, 25, 2, 30), dt.datetime(2026, 3, 29, 2, 30, 0, 1)])
        value = near.replace(tzinfo=zone, fold=rng.randrange(2), microsecond=rng.choice([0, 1, 999_999]))
        return rng.choice([value, value.timetz(), value.date(), value - value, zone])

    def a_span(self) -> Any:
        return self.rng.choice([dt.timedelta.max, dt.timedelta.min, dt.timedelta(-1, 5, 7), dt.timedelta(0)])

    def a_number(self) -> Any:
        rng = self.rng
        return rng.choice(
            [
                decimal.Decimal("1.10"), decimal.Decimal("NaN"), decimal.Decimal("-0"), fractions.Fraction(-1, 3),
                complex(-0.0, math.inf), complex(math.nan, 1), range(2**40), range(5, 1, -2), slice(1, None),
            ]
        )  # fmt: skip

    def a_path(self) -> Any:
        text = self.rng.choice(["a/b", "", "/x", "c:\\d", "a\udcff"])
        return self.rng.choice([pathlib.Path, pathlib.PurePosixPath, pathlib.PureWindowsPath])(text)

    def a_rest(self) -> Any:
        rng = self.rng
        return rng.choice(
            [
                b"", b"\xff\0", bytearray(b"a"), memoryview(b"a"), array.array("d", [1.5]), array.array("i"),
                uuid.UUID(int=rng.getrandbits(128)), ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"),
                re.compile("a\udcff"), re.compile(b"a", re.IGNORECASE), Colour.RED, Colour.ODD, Level.HIGH, Word.YES,
                Rights(0), Rights.READ | Rights.RUN, Secretive(key="k\udcff", at="http://a/"),  # type: ignore[arg-type]
            ]
        )  # fmt: skip

    def a_refused(self) -> Any:
        """Nearly all of them."""
        rng = self.rng
        return rng.choice(
            [
                Text("a"), Whole(1), Listed([1]), Key(int=1), Stamp(2026, 1, 1), Money(1), Plain(), object(), int, len,
                ValueError("x"), (each for each in [1]), pd.DataFrame({"a": [1]}), pd.Series([1]), pd.Index([1]),
                pd.Categorical(["a"]), pd.array([1, None]), np.dtype("i4"), ..., NotImplemented, math,
                collections.defaultdict(Plain), collections.ChainMap({}), collections.UserDict(),
                np.random.default_rng(),
            ]
        )  # fmt: skip

    # ------------------------------------------------------------ of numpy and pandas

    def a_scalar(self) -> Any:
        array = self.an_array()
        return array.ravel()[0] if array.size else np.float32(1.5)

    def an_array(self) -> Any:
        rng = self.rng
        shape = tuple(rng.choice([0, 1, 2, 3]) for _ in range(rng.randrange(4)))
        count = math.prod(shape)
        dtype = np.dtype(rng.choice(DTYPES))
        if dtype.kind == "O":
            flat = np.empty(count, dtype=object)
            for position in range(count):
                flat[position] = self._value(1)
        elif dtype.kind == "U":
            flat = np.array([rng.choice(["", "abc", "ä", "\udcff"]) for _ in range(count)], dtype=dtype)
        elif dtype.char in "gG":
            flat = np.array([rng.random() for _ in range(count)], dtype=dtype) / 3
        elif dtype.char == "?":
            flat = np.array([rng.random() < 0.5 for _ in range(count)], dtype=bool)
        else:
            flat = np.frombuffer(rng.randbytes(count * dtype.itemsize), dtype=dtype) if count else np.empty(0, dtype)
        return flat.reshape(shape).copy(rng.choice("CF"))

    def a_array(self) -> Any:
        rng, value = self.rng, self.an_array()
        kind = rng.randrange(10)
        if kind == 0 and value.ndim:
            return value[::2]
        if kind == 1:
            return value.T
        if kind == 2 and value.dtype.kind in "biufcmM":
            return np.ma.array(
                value, mask=np.array([rng.random() < 0.5 for _ in range(value.size)]).reshape(value.shape)
            )
        if kind == 3:
            return rng.choice(
                [
                    np.matrix([[1, 2]]), np.char.array(["a"]),
                    np.rec.array([(1, 2.5)], dtype=[("a", int), ("b", "f4")]), np.ma.masked,
                    WORDS, np.poly1d([1, 2]),
                    np.ma.array([(1, 2.0)], mask=[(1, 0)], dtype=[("a", int), ("b", float)]),
                ]
            )  # fmt: skip
        if kind == 4:
            dtype = rng.choice(
                [
                    [("a", int), ("b", "f4")], [("a", "M8[ns]"), ("b", [("c", "U2"), ("d", "i1", (2,))])],
                    np.dtype([("a", "i1"), ("b", "f8")], align=True), [("o", object)], [("g", "g")],
                ]
            )  # fmt: skip
            return rng.choice([np.zeros(2, dtype), np.zeros((), dtype), np.zeros(1, dtype)[0]])
        return value

    def a_pandas(self) -> Any:
        rng = self.rng
        at = pd.Timestamp(rng.randrange(10**18)).as_unit(rng.choice(["s", "ms", "us", "ns"]))
        zoned = at.tz_localize("UTC").tz_convert(
            rng.choice([*ZONES, dt.timezone(dt.timedelta(hours=-3)), dateutil_tz.tzoffset("Y", 60), dateutil_tz.UTC])
        )
        span = pd.Timedelta(rng.randrange(-(10**15), 10**15)).as_unit(rng.choice(["s", "ns"]))
        closed: Any = rng.choice(["left", "right", "both", "neither"])
        return rng.choice(
            [
                at, zoned, span, pd.NaT, pd.NA, pd.Interval(at, at + span if span > pd.Timedelta(0) else at, closed),
                pd.Interval(0, 1.5, closed), pd.Period(at, freq=rng.choice(FREQUENCIES)), pd.offsets.Day(2),
            ]
        )  # fmt: skip

    # ------------------------------------------------------------ what holds others

    def of_list(self, depth: int) -> Any:
        return self.rng.choice([list, tuple, collections.deque])(self.many(depth))

    def of_alike(self, depth: int) -> Any:
        make = self.rng.choice(self.leaves)
        return [make() for _ in range(self.rng.randrange(5))]

    def of_set(self, depth: int) -> Any:
        keys = self.keys()
        return self.rng.choice([set, frozenset])(next(keys) for _ in range(self.rng.randrange(3)))

    def of_dict(self, depth: int) -> Any:
        keys = self.keys()
        content = {next(keys): self._value(depth) for _ in range(self.rng.randrange(4))}
        kinds = [
            dict,
            collections.OrderedDict,
            types.MappingProxyType,
            lambda each: collections.defaultdict(list, each),
        ]
        return self.rng.choice(kinds)(content)

    def of_fields(self, depth: int) -> Any:
        names = self.rng.sample(["a", "b", "$rnb", "v", "ä", "item"], self.rng.randrange(4))
        return {name: self._value(depth) for name in names}

    def of_class(self, depth: int) -> Any:
        x, y, rng = self._value(depth), self._value(depth), self.rng
        kind = rng.randrange(10)
        if kind == 0:
            model = Model(x=x, theWord="long", more=y)
            model._private = y
            return model
        if kind == 1:
            return Counted(x, scale=5)
        if kind == 2:
            point = Point(x)
            point.extra = y  # type: ignore[attr-defined]
            return point
        if kind == 3:
            return Model.model_construct(x=x)
        if kind == 4:
            return types.SimpleNamespace(x=x, y=y)
        if kind == 5:
            return Box[int](x)
        return rng.choice([Pair, Point, Struct, Slotted])(x, y) if kind < 9 else Frozen(x)


# ---------------------------------------------------------------- comparison


def _text(value: Any) -> str | bytes:
    try:
        return repr(value)
    except OverflowError:  # a time that no unit of numpy's own writing can hold
        return value.tobytes()


def same(one: Any, other: Any) -> bool:
    """Whether two values agree in type and in all of their content."""
    kind = type(one)
    if kind is not type(other):
        return False
    if one is np.ma.masked:
        return other is one
    if isinstance(one, np.ndarray):
        return _same_arrays(one, other)
    if isinstance(one, np.generic):
        return bool(one.dtype == other.dtype and _text(one) == _text(other))
    if isinstance(one, (pd.DataFrame, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        return same_frames(one, other)
    if isinstance(one, (dt.datetime, dt.time)):
        return (
            repr(one) == repr(other) and one.fold == other.fold and getattr(one, "unit", 0) == getattr(other, "unit", 0)
        )
    if isinstance(one, collections.deque):
        return one.maxlen == other.maxlen and same(list(one), list(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if isinstance(one, (dict, types.MappingProxyType)):
        return getattr(one, "default_factory", 0) is getattr(other, "default_factory", 0) and (
            same(list(one.items()), list(other.items()))
        )
    if isinstance(one, enum.Enum):
        return one is other
    if kind in CLASSES or kind is types.SimpleNamespace:
        return _same_fields(one, other)
    return repr(one) == repr(other)


def same_frames(one: Any, other: Any) -> bool:
    """Whether two of pandas' tables, indexes or arrays agree in all: dtypes, labels, names, each cell and its type."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is pd.DataFrame:
        return (
            same_frames(one.index, other.index)
            and same_frames(one.columns, other.columns)
            and all(same_frames(one.iloc[:, place], other.iloc[:, place]) for place in range(one.shape[1]))
            and same(one.attrs, other.attrs)
            and one.flags == other.flags
        )
    if kind is pd.Series:
        names = same(one.name, other.name) and same(one.attrs, other.attrs) and one.flags == other.flags
        return names and same_frames(one.index, other.index) and _same_cells(one, other)
    if isinstance(one, pd.Index):
        freq = getattr(one, "freq", None) == getattr(other, "freq", None)
        if not freq or not same(list(one.names), list(other.names)):
            return False
        if isinstance(one, pd.MultiIndex):
            levels = all(map(_same_cells, one.levels, other.levels))
            return levels and all(map(np.array_equal, one.codes, other.codes))
    return _same_cells(one, other)


def _same_cells(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or repr(one.dtype) != repr(other.dtype) or len(one) != len(other):
        return False
    if isinstance(one.dtype, pd.CategoricalDtype):
        one, other = (getattr(each, "array", each) for each in (one, other))
        return same_frames(one.categories, other.categories) and np.array_equal(one.codes, other.codes)
    return same(list(one), list(other))


def _same_arrays(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape or not other.flags.writeable:
        return False
    if isinstance(one, np.ma.MaskedArray):
        mask = np.array_equal(np.ma.getmaskarray(one), np.ma.getmaskarray(other))
        return mask and repr(one.fill_value) == repr(other.fill_value) and same(one.data, other.data)
    if one.dtype.kind == "O":
        return same(one.ravel().tolist(), other.ravel().tolist())
    if one.dtype.kind in "mM":  # numpy cannot list every time that it has
        return bool(np.array_equal(one.view("i8"), other.view("i8")))
    return repr(one.tolist()) == repr(other.tolist())


def _same_fields(one: Any, other: Any) -> bool:
    names = [
        *getattr(one, "__slots__", ()),
        *getattr(type(one), "__struct_fields__", ()),
        *getattr(one, "__dict__", {}),
    ]
    names = [name for name in names if name not in ("__weakref__", "__orig_class__", "__dict__")]
    if isinstance(one, pydantic.BaseModel):
        hidden = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
        names = [*vars(one), *hidden]
    return all(same(getattr(one, name), getattr(other, name)) for name in names)
