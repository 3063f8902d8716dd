"""How values of the standard library's types are read, and what classes hold that are derived from them."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import fractions
import io
import ipaddress
import pathlib
import random
import re
import struct
import types
import uuid
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any, Final

from restate_nb.service.identity.code import bytecode, hashed
from restate_nb.service.identity.content import Contents, NotSeen, Read
from restate_nb.service.identity.owners import is_a

_BY_TEXT: Final[tuple[type, ...]] = (
    dt.date, dt.time, dt.timedelta, dt.timezone, decimal.Decimal, uuid.UUID, pathlib.PurePath, fractions.Fraction,
    range, ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
    ipaddress.IPv4Interface, ipaddress.IPv6Interface,
)  # fmt: skip
"""Types whose own text says all of an instance."""


def _ordered(name: bytes) -> Read:
    return lambda contents, value: hashed(name, contents.each(value))


def _dict(contents: Contents, value: Any) -> bytes:
    return hashed(b"dict", contents.items(dict.items(value)))


def _pattern(contents: Contents, value: Any) -> bytes:
    return hashed(b"pattern", contents.of(value.pattern), str(value.flags).encode())


def _memory(contents: Contents, value: Any) -> bytes:
    view = memoryview(value)
    head = repr((type(value).__name__, view.format, view.shape)).encode()
    return hashed(b"memory", head, contents.raw(value, view if view.c_contiguous else memoryview(view.tobytes())))


def _slice(contents: Contents, value: Any) -> bytes:
    return hashed(b"slice", contents.each((value.start, value.stop, value.step)))


def _zone(contents: Contents, value: Any) -> bytes:
    if value.key is None:
        raise NotSeen("it has no key")
    return hashed(b"zone", contents.of(value.key))


def _text_io(contents: Contents, value: Any) -> bytes:
    return hashed(b"text in memory", contents.of(value.getvalue()), contents.of(value.tell()))


TYPES: Final[Mapping[type, Read]] = {
    list: _ordered(b"list"),
    tuple: _ordered(b"tuple"),
    dict: _dict,
    set: lambda contents, value: hashed(b"set", *sorted(map(contents.of, value))),
    frozenset: lambda contents, value: hashed(b"frozenset", *sorted(map(contents.of, value))),
    bytearray: _memory,
    memoryview: _memory,
    array.array: _memory,
    re.Pattern: _pattern,
    slice: _slice,
    zoneinfo.ZoneInfo: _zone,
    types.MappingProxyType: lambda contents, value: hashed(b"proxy", contents.items(value.items())),
    io.StringIO: _text_io,
    io.BytesIO: _text_io,
    types.CellType: lambda contents, value: hashed(b"cell", contents.of(value.cell_contents)),
    types.CodeType: lambda contents, value: hashed(b"code", bytecode(value)),
    struct.Struct: lambda contents, value: hashed(b"struct", value.format.encode()),
}
"""How values of exactly these types are read."""


def _by_text(contents: Contents, value: Any) -> bytes:
    for base in _BY_TEXT:
        if is_a(value, base):
            if issubclass(base, dt.date) and is_a(value, dt.datetime):
                text = dt.datetime.isoformat(value)
                return hashed(b"datetime", text.encode(), str(value.fold).encode(), contents.of(value.tzinfo))
            if issubclass(base, dt.time):
                text = dt.time.isoformat(value)
                return hashed(b"time", text.encode(), str(value.fold).encode(), contents.of(value.tzinfo))
            return hashed(b"text", base.__name__.encode(), _repr_of(base, value).encode())
    raise NotSeen("it has no text of its own")


def _repr_of(base: type, value: Any) -> str:
    """What the base class says of a value, whatever a class of the user's makes of it."""
    if issubclass(base, pathlib.PurePath):
        flavour = "windows" if is_a(value, pathlib.PureWindowsPath) else "posix"
        return f"{flavour} {pathlib.PurePath.__str__(value)!r}"
    of_base: Any = base
    if base.__module__ == "ipaddress":
        return str(of_base.__str__(value))
    return str(of_base.__repr__(value)).partition("(")[2]


def _deque(contents: Contents, value: Any) -> bytes:
    return hashed(b"deque", contents.each(collections.deque.__iter__(value)), contents.of(value.maxlen))


def _default(contents: Contents, value: Any) -> bytes:
    return hashed(b"default", _dict(contents, value), contents.of(value.default_factory))


def _random(contents: Contents, value: Any) -> bytes:
    if is_a(value, random.SystemRandom):
        raise NotSeen("it draws from the system")
    return hashed(b"random", contents.of(random.Random.getstate(value)))


BASES: Final[Sequence[tuple[type, Read]]] = (
    *((base, _by_text) for base in _BY_TEXT),
    (collections.defaultdict, _default),
    (collections.deque, _deque),
    (dict, _dict),
    (list, lambda contents, value: hashed(b"list", contents.each(list.__iter__(value)))),
    (tuple, lambda contents, value: hashed(b"tuple", contents.each(tuple.__iter__(value)))),
    (set, lambda contents, value: hashed(b"set", *sorted(map(contents.of, set.__iter__(value))))),
    (frozenset, lambda contents, value: hashed(b"frozenset", *sorted(map(contents.of, frozenset.__iter__(value))))),
    (bool, lambda contents, value: contents.of(bool(value))),
    (int, lambda contents, value: contents.of(int.__int__(value))),
    (float, lambda contents, value: contents.of(float.__float__(value))),
    (complex, lambda contents, value: contents.of(complex.__pos__(value))),
    (str, lambda contents, value: contents.of(str.__str__(value)[:])),
    (bytes, lambda contents, value: contents.of(bytes(memoryview(value)))),
    (bytearray, _memory),
    (array.array, _memory),
    (random.Random, _random),
    (BaseException, lambda contents, value: contents.each(BaseException.args.__get__(value))),  # type: ignore[attr-defined]
)
"""What instances hold besides their attributes, by the class that holds it, whatever class is derived from it."""
