"""Proves that data count by content: what differs in result never shares an identity, and what is equal does, in every
process; and that what cannot be seen is named."""

# ruff: noqa: E501 - pairs and sources are read in one line

from __future__ import annotations

import abc
import asyncio
import collections
import contextvars
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import importlib
import ipaddress
import json
import logging
import operator
import os
import pathlib
import random
import re
import socket
import string
import struct
import sys
import threading
import types
import typing
import weakref
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from dateutil import tz

from restate_nb.service.digest import code_digest
from restate_nb.service.identity import changed, identity_of
from restate_nb.service.identity import content as content_module
from tests.support import defined, run_python

SEED = 20_260
PAIRS = 2_000


def closing_over(value: Any) -> Callable[[int], Any]:
    def f(item: int) -> Any:
        return value, item

    return f


def digest(value: Any) -> str:
    return code_digest(closing_over(value))


class Named(typing.NamedTuple):
    k: int


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    k: Any


class Whole(int):
    pass


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Model(pydantic.BaseModel):
    t: float = 3


class Struct(msgspec.Struct):
    t: float = 3


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k: Any) -> None:
        self.k = k

    def __call__(self, item: int) -> Any:
        return self.k, item


class Hostile:
    """Everything that one might ask of it raises, or has effects."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("nobody may ask")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("nobody may compare")

    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("nobody may pickle")


frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
stamps = pd.date_range("2026-01-01", periods=2, tz="Europe/Berlin")

DIFFERENT: list[tuple[Any, Any]] = [
    (1, True), (1, 1.0), ("a", b"a"), (0.0, -0.0), (1j, 2j), ([1], (1,)), ({1, 2}, {1, 3}), ({1}, frozenset({1})),
    ({"a": [1, {2}]}, {"a": [1, {3}]}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (range(3), range(4)), (slice(1), slice(2)),
    (bytearray(b"a"), bytearray(b"b")), (memoryview(b"a"), memoryview(b"b")), (Ellipsis, NotImplemented),
    (types.MappingProxyType({1: 1}), types.MappingProxyType({1: 2})), (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    (collections.Counter("a"), collections.Counter("b")), (collections.deque([1]), collections.deque([1], maxlen=3)),
    (collections.defaultdict(int, a=1), collections.defaultdict(list, a=1)),
    (collections.OrderedDict(a=1), collections.OrderedDict(a=2)), (collections.ChainMap({1: 1}), collections.ChainMap({1: 2})),
    (fractions.Fraction(1, 3), fractions.Fraction(1, 4)), (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
    (struct.Struct("<i"), struct.Struct("<q")), (compile("1", "x", "eval"), compile("2", "x", "eval")),
    (string.Template("a"), string.Template("b")), (re.compile("a"), re.compile("a", re.I)),
    (dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)), (dt.date(2026, 1, 1), dt.datetime(2026, 1, 1)),
    (dt.UTC, dt.timezone(dt.timedelta(hours=1))), (tz.gettz("Europe/Berlin"), tz.gettz("Europe/London")),
    (tz.tzoffset(None, 3), tz.tzoffset(None, 4)), (zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo("Europe/London")),
    (pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a")), (ipaddress.ip_address("1.1.1.1"), ipaddress.ip_address("1.1.1.2")),
    (Named(1), Named(2)), (Frozen(1), Frozen(2)), (Frozen([Frozen(1)]), Frozen([Frozen(2)])), (Whole(1), Whole(2)),
    (Colour.RED, Colour.BLUE), (Model(t=1), Model(t=2)), (Struct(1), Struct(2)), (Slotted(1), Slotted(2)), (Hostile(1), Hostile(2)),
    (random.Random(1), random.Random(2)), (ValueError(1), ValueError(2)), (len, sum), (int, float), (list[int], list[str]),
    (operator.itemgetter("a"), operator.itemgetter("b")), (operator.attrgetter("a"), operator.attrgetter("b")),
    (operator.methodcaller("a", 1), operator.methodcaller("a", 2)), (re.compile("a").findall, re.compile("b").findall),
    ({1: 1}.get, {1: 2}.get), ("a".__add__, "b".__add__), ((5).__add__, (6).__add__), (Whole(5).bit_length, Whole(6).bit_length),
    (functools.partial(pow, 1), functools.partial(pow, 2)), (functools.partial(pow, mod=1), functools.partial(pow, mod=2)),
    (functools.lru_cache(maxsize=1)(closing_over(1)), functools.lru_cache(maxsize=1)(closing_over(2))),
    ([lambda: 1], [lambda: 2]), (functools.partialmethod(pow, 1), functools.partialmethod(pow, 2)),
    (np.int64(3), np.int64(4)), (np.int64(3), np.int32(3)), (np.float32(1), np.float64(1)), (np.bool_(True), np.bool_(False)),
    (np.longdouble(1), np.longdouble(2)), (np.datetime64("2026"), np.datetime64("2027")), (np.array([1, 2]), np.array([2, 1])),
    (np.zeros((2, 3)), np.zeros((3, 2))), (np.array([1, None]), np.array([2, None])), (np.dtype("i4"), np.dtype("i8")),
    (np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.array([1.0, 2.0], mask=[0, 0])),
    (np.array([(1, 2.0)], dtype="i4,f8"), np.array([(1, 3.0)], dtype="i4,f8")),
    (np.add.reduce, np.multiply.reduce), (np.sin, np.cos), (np.poly1d([1, 0]), np.poly1d([2, 0])),
    (np.vectorize(lambda x: x + 1), np.vectorize(lambda x: x + 2)), (np.random.default_rng(1), np.random.default_rng(2)),
    (np.random.RandomState(1), np.random.RandomState(2)),
    (frame, frame.assign(a=[1, 3])), (frame, frame.assign(b=["x", "z"])), (frame, frame.rename(columns={"a": "c"})),
    (frame, frame.set_axis([5, 6], axis=0)), (frame, frame.astype({"a": "int32"})), (frame["a"], frame["a"].rename("c")),
    (frame["b"].astype("category"), frame["b"].astype("category").cat.rename_categories(["x", "q"])),
    (pd.Series([1, None], dtype="Int64"), pd.Series([1, 2], dtype="Int64")), (pd.Index([1]), pd.Index([2])),
    (pd.MultiIndex.from_tuples([(1, 2)]), pd.MultiIndex.from_tuples([(1, 3)])), (pd.Timestamp("2026"), pd.Timestamp("2027")),
    (pd.Timedelta(1), pd.Timedelta(2)), (pd.Period("2026"), pd.Period("2027")), (pd.Interval(0, 1), pd.Interval(0, 2)),
    (pd.NaT, pd.NA), (stamps, stamps.tz_convert("UTC")), (pd.period_range("2026", periods=2), pd.period_range("2027", periods=2)),
    (pd.interval_range(0, 2), pd.interval_range(0, 3)), (pd.offsets.Day(1), pd.offsets.Day(2)),
]  # fmt: skip


@pytest.mark.parametrize("one, other", DIFFERENT, ids=lambda value: type(value).__name__)
def test_what_differs_in_content_differs_and_a_copy_of_it_does_not(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)
    assert not identity_of({"f": closing_over(one)}).unseen
    if isinstance(one, Hostile):
        return
    try:
        twin = copy.deepcopy(one)
    except TypeError:
        return
    assert digest(twin) == digest(one)


def test_tables_of_other_libraries_count_by_content() -> None:
    pa = pytest.importorskip("pyarrow")
    assert digest(pa.table({"a": [1]})) == digest(pa.table({"a": [1]})) != digest(pa.table({"a": [2]}))
    assert digest(pa.array([1, 2])[1:]) == digest(pa.array([2])) != digest(pa.array([1]))
    pl = pytest.importorskip("polars")
    assert (
        digest(pl.DataFrame({"a": ["x"]})) == digest(pl.DataFrame({"a": ["x"]})) != digest(pl.DataFrame({"a": ["y"]}))
    )
    assert digest(pl.col("a") + 1) == digest(pl.col("a") + 1) != digest(pl.col("a") + 2)


def unseeable() -> Iterator[tuple[str, Any]]:
    yield "a lock", threading.Lock()
    with socket.socket() as opened:
        yield "a socket", opened
    with Path(__file__).open() as file:
        yield "an open file", file
    yield "a generator", (each for each in "ab")
    yield "a local of threads", threading.local()
    client = logging.StreamHandler()
    yield "an object of a library that holds a lock", types.SimpleNamespace(inner=asyncio.Event())
    del client


def test_what_cannot_be_seen_counts_by_its_type_and_is_named() -> None:
    for what, thing in unseeable():
        identity = identity_of({"f": closing_over(thing)})
        assert [each.name.partition(".")[0] for each in identity.unseen] == ["f"], what
        assert identity.unseen[0].why
    assert digest(threading.Lock()) == digest(threading.Lock()) != digest(threading.RLock())


def test_a_client_of_a_library_is_named_as_a_whole_and_the_users_own_object_in_part() -> None:
    class Config:
        def __init__(self, model: str) -> None:
            self.model, self.lock = model, threading.Lock()

    assert digest(Config("a")) != digest(Config("b"))
    assert [each.name for each in identity_of({"f": closing_over(Config("a"))}).unseen] == ["f.value.lock"]
    httpx = pytest.importorskip("httpx")
    with httpx.Client() as one, httpx.Client(headers={"a": "b"}) as other:
        assert digest(one) == digest(other)
        assert [(each.name, each.type) for each in identity_of({"f": closing_over(one)}).unseen] == [
            ("f.value", "Client")
        ]


def test_what_holds_itself_ends() -> None:
    def knot(last: int) -> list[Any]:
        ring: list[Any] = [1]
        ring.append({"again": ring, "last": last})
        return ring

    assert digest(knot(1)) == digest(knot(1)) != digest(knot(2))


def test_large_data_are_hashed_up_to_a_bound_and_past_it_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.zeros(1_000_000)
    other = whole.copy()
    other[123_457] = 1
    assert digest(whole) != digest(other)
    assert not identity_of({"f": closing_over(whole)}).unseen
    monkeypatch.setattr(content_module, "BYTES", 1_000_000)
    found = identity_of({"f": closing_over(np.zeros(10_000_000))})
    assert "only a sample of its 80 MB: 1 MB are the most" in found.unseen[0].why
    assert digest(np.zeros(10_000_000)) != digest(np.zeros(10_000_001))
    texts = [f"text {number}" for number in range(200_000)]
    assert "only a sample of its 200,000 values" in identity_of({"f": closing_over(texts)}).unseen[0].why
    assert "only a sample" in identity_of({"f": closing_over("x" * 2_000_000)}).unseen[0].why
    assert "only a sample" in identity_of({"f": closing_over(pd.DataFrame({"a": texts}))}).unseen[0].why
    monkeypatch.setattr(content_module, "NODES", 100)
    assert "more than 100 values" in identity_of({"f": closing_over([[each] for each in range(1_000)])}).unseen[0].why


# ---------------------------------------------------------------- names


def test_an_attribute_that_has_the_name_of_a_global_does_not_count() -> None:
    space = defined("def f(x):\n    return x.start()", start=1)
    before = code_digest(space["f"])
    space["start"] = 2
    assert code_digest(space["f"]) == before


def test_parts_have_the_names_that_their_owner_knows() -> None:
    space: dict[str, Any] = {"__name__": "__main__", "np": np}
    source = """
class Model:
    k = 1
    def predict(self, x):
        return helper(x) * self.k
model = Model()
cfg = {"model": "a", "n": [1]}
def helper(x):
    return np.sin(x)
def f(x):
    return model.predict(x), cfg
"""
    exec(source, space)
    model = space["model"]
    model.w = 2
    identity = identity_of({"f": space["f"]})
    kinds = {name: part.kind for name, part in identity.parts.items()}
    assert kinds == {
        "f": "code", "helper": "code", "Model": "code", "Model.k": "data", "model": "data", "model.w": "data",
        "cfg": "data", "cfg['model']": "data", "cfg['n']": "data",
    }  # fmt: skip
    model.w = 3
    space["cfg"]["n"].append(2)
    assert changed(identity.marks, identity_of({"f": space["f"]}).marks) == ["cfg['n']", "model.w"]


def test_what_appears_inside_of_what_varies_does_not_count() -> None:
    before = {"f": "c1", "cache": "d1", "cache['a']": "d2", "cfg": "d3"}
    now = {"f": "c1", "cache": "d9", "cache['a']": "d2", "cache['b']": "d4", "cfg": "d3"}
    assert changed(before, now) == ["cache", "cache['b']"]
    assert changed(before, now, ["cache"]) == []
    assert changed(before, now | {"cfg": "d4", "cached": "d1"}, ["cache"]) == ["cfg", "cached"]


# ---------------------------------------------------------------- modules


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Writes a module, and imports or reloads it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(text: str, *, load: bool = True) -> ModuleType:
        (tmp_path / "identity_mod.py").write_text(text)
        importlib.invalidate_caches()
        loaded = sys.modules.get("identity_mod")
        if loaded is None:
            return importlib.import_module("identity_mod")
        return importlib.reload(loaded) if load else loaded

    yield written
    sys.modules.pop("identity_mod", None)


def test_the_code_that_is_loaded_counts_and_not_its_file(module: Callable[..., ModuleType]) -> None:
    mod = module("def price(x):\n    return x * 2\n")
    first = code_digest(mod.price)
    mod = module("def price(x):\n    return x * 100\n", load=False)
    assert code_digest(mod.price) == first, "edited and not reloaded"
    mod = module("def price(x):\n    return x * 100\n")
    second = code_digest(mod.price)
    assert second != first
    mod = module("# moved\n\ndef other():\n    pass\n\ndef price(x):\n    return x  *  100  # the same\n")
    assert code_digest(mod.price) == second
    mod = module("def price(x):\n    return x * 2\n")
    assert code_digest(mod.price) == first


def test_code_that_was_edited_before_it_was_first_seen_is_not_taken_for_what_is_on_disk(
    module: Callable[..., ModuleType],
) -> None:
    mod = module("def price(x):\n    return x * 3\n")
    old = mod.price
    module("def price(x):\n    return x * 40\n", load=False)
    seen = code_digest(old)
    assert code_digest(module("def price(x):\n    return x * 40\n").price) != seen


USES = {
    "a function of a module": "def f(x): return identity_mod.help_(x)",
    "a number of a module": "def f(x): return identity_mod.V",
    "a class of a module": "def f(x): return identity_mod.K().m()",
    "the module, by a name that is not written": "def f(x): return getattr(identity_mod, 'help' + '_')(x)",
    "a base class": "class B(identity_mod.K): pass\ndef f(x): return B().m()",
    "a decorator": "@identity_mod.deco\ndef f(x): return 0",
    "an import inside of the function": "def f(x):\n    from identity_mod import help_\n    return help_(x)",
    "an import of the module inside of the function": "def f(x):\n    import identity_mod as m\n    return m.V",
}
LIBRARY = """
V = 1
def help_(x): return deeper(x)
def deeper(x): return 1
class K:
    def m(self): return deeper(0)
def deco(g):
    def w(*a): return deeper(a)
    return w
"""


@pytest.mark.parametrize("use", USES)
def test_the_users_own_modules_are_looked_into(use: str, module: Callable[..., ModuleType]) -> None:
    def of(text: str) -> str:
        return code_digest(defined(USES[use], identity_mod=module(text))["f"])

    one = of(LIBRARY)
    assert of("# a comment\n" + LIBRARY) == one
    assert of(LIBRARY.replace("return 1", "return 2").replace("V = 1", "V = 2")) != one


def test_a_module_counts_the_same_before_the_function_imports_it_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "identity_lazy.py").write_text("import json\nV = 1\n")
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(x):\n    import identity_lazy\n    return identity_lazy.V", space)
    before = code_digest(space["f"])
    assert "identity_lazy" not in sys.modules, "it is not for the digest to run it"
    assert space["f"](0) == 1
    try:
        assert code_digest(space["f"]) == before
    finally:
        del sys.modules["identity_lazy"]


CLASSES = {
    "a default of pydantic": "import pydantic\nclass S(pydantic.BaseModel):\n    t: float = VAL\ndef f(x): return S().t",
    "a default of msgspec": "import msgspec\nclass S(msgspec.Struct):\n    t: float = VAL\ndef f(x): return S().t",
    "a default of a named tuple": "import typing\nclass S(typing.NamedTuple):\n    t: float = VAL\ndef f(x): return S().t",
    "a default factory": "import dataclasses\n@dataclasses.dataclass\nclass S:\n    t: list = dataclasses.field(default_factory=lambda: [VAL])\ndef f(x): return S().t",
    "a nested class": "class A:\n    class C:\n        R = VAL\ndef f(x): return A.C.R",
    "a list of a class": "class A:\n    R = [VAL]\ndef f(x): return A.R",
    "a metaclass": "class M(type):\n    def r(cls): return VAL\nclass A(metaclass=M): pass\ndef f(x): return A.r()",
    "a property": "class A:\n    @property\n    def r(self): return VAL\ndef f(x): return A().r",
    "a descriptor": "class D:\n    def __init__(self, v): self.v = v\n    def __get__(self, *a): return self.v\nclass A:\n    r = D(VAL)\ndef f(x): return A().r",
    "a partial method": "import functools\nclass A:\n    def m(self, v): return v\n    r = functools.partialmethod(m, VAL)\ndef f(x): return A().r()",
    "singledispatch": "import functools\n@functools.singledispatch\ndef f(x): return 0\n@f.register\ndef _(x: int): return x * VAL",
    "an attribute of a function": "def f(x): return f.rate\nf.rate = VAL",
    "a dict of functions": "def a(x): return VAL\nTABLE = {'a': a}\ndef f(x): return TABLE['a'](x)",
    "a helper of a function in a list": "R = VAL\ndef a(x): return R\nTABLE = [a]\ndef f(x): return TABLE[0](x)",
    "a closure in a list": "def mk(v):\n    def g(x): return v\n    return g\nTABLE = [mk(1), mk(VAL)]\ndef f(x): return TABLE[1](x)",
    "a method of an object in a list": "class A:\n    def m(self): return VAL\nTABLE = [A()]\ndef f(x): return TABLE[0].m()",
}


@pytest.mark.parametrize("where", CLASSES)
def test_a_value_is_seen_wherever_code_or_classes_hold_it(where: str) -> None:
    def of(value: int) -> str:
        return code_digest(defined(CLASSES[where].replace("VAL", str(value)))["f"])

    assert of(3) == of(3)
    assert of(3) != of(4)


# ---------------------------------------------------------------- at random


def random_value(rng: random.Random, depth: int = 0) -> Any:
    """A value, made only of `rng`."""
    n = rng.randrange(1000)
    simple: list[Callable[[], Any]] = [
        lambda: n, lambda: n / 7, lambda: str(n), lambda: str(n).encode(), lambda: n % 2 == 0, lambda: None,
        lambda: decimal.Decimal(n), lambda: fractions.Fraction(n, 7), lambda: np.int64(n), lambda: np.float32(n),
        lambda: np.arange(n % 5) + n, lambda: pd.Timestamp(n, unit="s"), lambda: dt.date.fromordinal(n + 1),
        lambda: range(n), lambda: re.compile(f"a{n}"), lambda: Frozen(n), lambda: Named(n), lambda: Slotted(n),
        lambda: pd.Series([n, n + 1]), lambda: pd.DataFrame({"a": [str(n)]}), lambda: {str(n), str(n + 1), "x"},
        lambda: functools.partial(pow, n), lambda: operator.itemgetter(n), lambda: {n: "a"}.get,
        lambda: np.ma.array([n, 1], mask=[n % 2, 0]), lambda: Colour(n % 2 + 1), lambda: closing_over(n),
    ]  # fmt: skip
    if depth >= 3 or rng.random() < 0.6:
        return rng.choice(simple)()
    inner = [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    holders: list[Callable[[], Any]] = [
        lambda: inner, lambda: tuple(inner), lambda: {f"k{place}": each for place, each in enumerate(inner)},
        lambda: Frozen(inner), lambda: Slotted(tuple(inner)), lambda: collections.deque(inner),
        lambda: types.SimpleNamespace(inner=inner), lambda: functools.partial(print, *inner),
    ]  # fmt: skip
    return rng.choice(holders)()


def described(value: Any) -> str:
    """What a value is, in a way of its own: two values with one description give one result."""
    if isinstance(value, (list, tuple, collections.deque)) and not isinstance(value, Named):
        return f"{type(value).__name__}[{', '.join(map(described, value))}]"
    if isinstance(value, dict):
        return f"dict[{', '.join(f'{key}: {described(each)}' for key, each in value.items())}]"
    if isinstance(value, set):
        return f"set{sorted(value)}"
    if isinstance(value, (Frozen, Slotted)):
        return f"{type(value).__name__}({described(value.k)})"
    if isinstance(value, types.SimpleNamespace):
        return f"space({described(value.inner)})"
    if isinstance(value, functools.partial):
        return f"partial({value.func.__name__}, {described(value.args)})"
    if isinstance(value, types.FunctionType):
        return f"closure({described(value(0))})"
    if isinstance(value, types.BuiltinMethodType):
        return f"method({described(value.__self__)})"
    if isinstance(value, (np.ndarray, pd.Series, pd.DataFrame)):
        return f"{type(value).__name__}({value!r})"
    return f"{type(value).__name__}({value!r})"


def test_random_pairs_share_an_identity_when_they_are_equal_and_never_otherwise() -> None:
    print(f"seed {SEED}")
    for number in range(PAIRS):
        rng = random.Random(SEED + number)
        one, other = random_value(rng), random_value(rng)
        twin = random_value(random.Random(SEED + number))
        assert digest(one) == digest(twin), f"pair {number}: {described(one)}"
        if described(one) != described(other):
            assert digest(one) != digest(other), f"pair {number}: {described(one)} and {described(other)}"


def digests_of_random_values(count: int) -> list[str]:
    return [digest(random_value(random.Random(SEED + number))) for number in range(count)]


def test_every_process_finds_the_same_identities() -> None:
    program = (
        "import json, sys; from tests.service.test_identity import digests_of_random_values as d; "
        "json.dump(d(300), sys.stdout)"
    )
    root = Path(__file__).parents[2]
    for seed in ("1", "2"):
        ended = run_python(program, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=root)
        assert json.loads(ended.stdout) == digests_of_random_values(300)


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError("nobody may ask")


class OfMeta(metaclass=Meta):
    pass


class MadeUp:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("nobody may ask")


def odd_things() -> Iterator[Any]:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    yield from (
        deep,
        OfMeta,
        OfMeta(),
        MadeUp(),
        sys,
        sys.modules[__name__],
        np,
        object(),
        np.ma.masked,
        np.nditer(np.ones(2)),
    )
    yield from (
        list[int] | None,
        weakref.ref(OfMeta),
        contextvars.ContextVar("a"),
        iter([1]),
        zip([1], [2], strict=True),
    )
    yield from (pd.DataFrame({"a": [1]}).groupby("a"), pd.Series(pd.arrays.SparseArray([0, 1])), pd.IndexSlice)
    yield from (
        mock.MagicMock(),
        json.JSONEncoder(),
        pydantic.TypeAdapter(int),
        msgspec.json.Encoder(),
        decimal.getcontext(),
    )
    yield from (np.frompyfunc(len, 1, 1), np.zeros((4, 4))[::2, ::2], np.zeros((0, 3)), np.array(b"a"), np.void(b"abc"))
    yield from (
        pd.Timestamp("5000-01-01").as_unit("s"),
        pd.array(["a", None], dtype="string"),
        print,
        exec,
        type,
        abc.ABC,
    )


def test_nothing_that_a_function_names_makes_its_cell_fail() -> None:
    for thing in odd_things():
        assert digest(thing) == digest(thing)
        identity_of({"thing": thing} if callable(thing) else {"f": closing_over(thing)})
