"""The types of the standard library that JSON has no word for, and how they are written and read."""

from __future__ import annotations

import array
import base64
import collections
import datetime as dt
import decimal
import fractions
import ipaddress
import pathlib
import re
import sys
import types
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from restate_nb.errors import NotEncodable
from restate_nb.values.classes import full_name
from restate_nb.values.parts import binary, encode_inline
from restate_nb.values.tags import Read, Write, tagged

# ---------------------------------------------------------------- text


def text(value: str) -> object:
    """Text; tagged where it is not Unicode: a file name that is not UTF-8, as os.listdir gives it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return tagged("str", value.encode("utf-8", "surrogatepass").hex())
    return value


def shown_text(value: str) -> str:
    """Text that can be written to any file: what is not Unicode is escaped."""
    return value.encode("utf-8", "backslashreplace").decode()


def repr_of(value: object) -> str:
    """The value's `repr`, whatever its class does."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"


# ---------------------------------------------------------------- times


def zone_of(zone: dt.tzinfo) -> object:
    """A time zone: the key of one of zoneinfo; an object for others.

    Raises:
        NotEncodable: it is of a kind that could not be read back.
    """
    kind = type(zone)
    if kind is zoneinfo.ZoneInfo and zone.key:  # type: ignore[attr-defined]
        return zone.key  # type: ignore[attr-defined]
    if kind is dt.timezone:
        seconds = zone.utcoffset(None)
        assert seconds is not None
        name = zone.tzname(None)
        named = {} if name == dt.timezone(seconds).tzname(None) else {"name": name}
        return {"offset": [seconds.days, seconds.seconds, seconds.microseconds], **named}
    library = kind.__module__.partition(".")[0]
    if library == "pytz":
        if getattr(zone, "zone", None):
            return {"pytz": zone.zone}  # type: ignore[attr-defined]
        if kind.__name__ == "_FixedOffset":
            return {"pytz": zone._minutes}  # type: ignore[attr-defined]
    if library == "dateutil" and kind.__name__ == "tzutc":
        return {"dateutil": None}
    if library == "dateutil" and kind.__name__ == "tzoffset":
        seconds = zone.utcoffset(None)
        return {"dateutil": [zone.tzname(None), seconds.total_seconds() if seconds is not None else 0]}
    raise NotEncodable(
        f"The time zone {repr_of(zone)} cannot be kept. Use one of zoneinfo: "
        "value.astimezone(zoneinfo.ZoneInfo('Europe/Berlin'))."
    )


def zone_from(written: Any) -> dt.tzinfo:
    """What `zone_of` wrote."""
    if isinstance(written, str):
        return zoneinfo.ZoneInfo(written)
    if "offset" in written:
        offset = dt.timedelta(*written["offset"])
        if "name" in written:
            return dt.timezone(offset, written["name"])
        return dt.timezone(offset) if offset else dt.UTC
    if "pytz" in written:
        import pytz  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - loaded by whoever uses it

        key = written["pytz"]
        zone = pytz.timezone(key) if isinstance(key, str) else pytz.FixedOffset(key)
    else:
        from dateutil import tz  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

        zone = tz.UTC if written["dateutil"] is None else tz.tzoffset(*written["dateutil"])
    assert isinstance(zone, dt.tzinfo)
    return zone


def same_time(one: Any, other: Any) -> bool:
    """Whether two times agree in all: the clock's reading, the zone and its kind, and the fold."""
    if type(one) is not type(other) or one.fold != other.fold or type(one.tzinfo) is not type(other.tzinfo):
        return False
    return bool(
        one.replace(tzinfo=None) == other.replace(tzinfo=None)
        and one.utcoffset() == other.utcoffset()
        and repr(one.tzinfo) == repr(other.tzinfo)
    )


def _time(kind: str, value: Any) -> object:
    """A datetime or a time."""
    more: dict[str, object] = {}
    if value.tzinfo is not None:
        zone = value.tzinfo
        if type(zone) is zoneinfo.ZoneInfo and zone.key:
            more["tz"] = zone.key
        elif type(zone) is not dt.timezone or "name" in zone_of(zone):  # type: ignore[operator]
            more["zone"] = zone_of(zone)
    if value.fold:
        more["fold"] = 1
    written = tagged(kind, value.isoformat(), **more)
    if "zone" in more and not same_time(value, READERS[kind](written, lambda each: each)):
        raise NotEncodable(
            f"The time {value!r} would not come back as it is, since its zone is of {type(value.tzinfo).__module__}. "
            "Use a zone of zoneinfo."
        )
    return written


def _read_datetime(written: dict[str, Any], _read: Read) -> dt.datetime:
    value = dt.datetime.fromisoformat(written["v"])
    if "zone" in written:
        zone = zone_from(written["zone"])
        if "pytz" in written["zone"]:
            return value.astimezone(zone)
        return value.replace(tzinfo=zone, fold=written.get("fold", 0))
    if "tz" not in written:
        return value.replace(fold=1) if "fold" in written else value
    zone = zoneinfo.ZoneInfo(written["tz"])
    for fold in (1,) if "fold" in written else (0, 1):
        local = value.replace(tzinfo=zone, fold=fold)  # a time that clocks skipped stays: astimezone would move it
        if local.utcoffset() == value.utcoffset():
            return local
    return value.astimezone(zone)


def _read_time(written: dict[str, Any], _read: Read) -> dt.time:
    value = dt.time.fromisoformat(written["v"])
    if "tz" in written:
        value = value.replace(tzinfo=zoneinfo.ZoneInfo(written["tz"]))
    elif "zone" in written:
        value = value.replace(tzinfo=zone_from(written["zone"]))
    return value.replace(fold=1) if "fold" in written else value


# ---------------------------------------------------------------- paths and other leaves

_IPS: Final = {
    each.__name__: each
    for each in (
        ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
        ipaddress.IPv4Interface, ipaddress.IPv6Interface,
    )
}  # fmt: skip
_PURE: Final = {each.__name__: each for each in (pathlib.PurePosixPath, pathlib.PureWindowsPath)}
_FACTORIES: Final = {each.__name__: each for each in (list, dict, set, tuple, int, float, str, bool, bytes)}
_CODES: Final = frozenset("bBhHiIlLqQfd")


def _floating(value: float) -> object:
    return value if value - value == 0 else tagged("float", str(value))


def _array(value: array.array[Any]) -> object:
    if value.typecode not in _CODES:
        raise NotEncodable("An array.array of characters cannot be kept. Use a str: value.tounicode().")
    data = value if sys.byteorder == "little" else array.array(value.typecode, value)
    if data is not value:
        data.byteswap()
    return tagged("array", binary(data), code=value.typecode, size=value.itemsize)


def bytes_from(content: str | memoryview) -> bytes | memoryview:
    """The bytes that a binary leaf has as its content: base64, or a part."""
    if type(content) is memoryview:
        return content
    try:
        return msgspec.convert(content, bytes)  # at a fraction of what base64 takes
    except msgspec.ValidationError:
        return base64.b64decode(content)


def _read_bytes(written: dict[str, Any], _read: Read) -> bytes:
    content = written["v"]
    if type(content) is str:
        try:
            return msgspec.convert(content, bytes)
        except msgspec.ValidationError:
            pass
    return bytes(bytes_from(content))


def _read_array(written: dict[str, Any], _read: Read) -> array.array[Any]:
    if written["code"] not in _CODES:
        raise ValueError(written["code"])
    value = array.array(written["code"])
    if value.itemsize != written["size"]:
        raise ValueError(f"an array of {written['size']} bytes each was written on another machine")
    value.frombytes(bytes_from(written["v"]))
    if sys.byteorder != "little":
        value.byteswap()
    return value


WRITERS: Final[dict[type, Callable[[Any], object]]] = {
    bytes: lambda value: tagged("bytes", binary(value)),  # which JSON's encoder writes as base64
    bytearray: lambda value: tagged("bytearray", binary(value)),
    complex: lambda value: tagged("complex", [_floating(value.real), _floating(value.imag)]),
    dt.datetime: lambda value: _time("datetime", value),
    dt.date: lambda value: tagged("date", value.isoformat()),
    dt.time: lambda value: _time("time", value),
    dt.timedelta: lambda value: tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    dt.timezone: lambda value: tagged("zone", zone_of(value)),
    zoneinfo.ZoneInfo: lambda value: tagged("zone", zone_of(value)),
    uuid.UUID: lambda value: tagged("uuid", str(value)),
    decimal.Decimal: lambda value: tagged("decimal", str(value)),
    type(pathlib.Path()): lambda value: tagged("path", text(str(value))),
    pathlib.PurePosixPath: lambda value: tagged("PurePosixPath", text(str(value))),
    pathlib.PureWindowsPath: lambda value: tagged("PureWindowsPath", text(str(value))),
    range: lambda value: tagged("range", [_integer(each) for each in (value.start, value.stop, value.step)]),
    fractions.Fraction: lambda value: tagged("fraction", str(value)),
    array.array: _array,
    **{kind: lambda value: tagged("ip", str(value), of=type(value).__name__) for kind in _IPS.values()},
}


SOMETIMES_REFUSED: Final = (dt.datetime, dt.time, dt.timezone, zoneinfo.ZoneInfo, array.array)
"""Leaves of which some cannot be kept."""


def _integer(value: int) -> object:
    return value if -(2**63) <= value < 2**64 else tagged("int", hex(value))


# ---------------------------------------------------------------- containers


def _set(value: Any, write: Write) -> object:
    # In one order in every process, so that a job finds its items again.
    return tagged(type(value).__name__, sorted(map(write, value), key=_sort_key))


def _sort_key(written: object) -> bytes:
    return encode_inline(written)


def _defaultdict(value: defaultdict[Any, Any], write: Write) -> object:
    factory = value.default_factory
    name = None if factory is None else getattr(factory, "__name__", "")
    if name is not None and _FACTORIES.get(name) is not factory:
        raise NotEncodable(
            f"A defaultdict of {repr_of(factory)} cannot be kept; of list, dict, set, int and the like it can. "
            "Return dict(value)."
        )
    return tagged("defaultdict", _pairs(value, write), of=name)


def _pairs(value: Mapping[Any, Any], write: Write) -> list[list[Any]]:
    return [[write(key), write(each)] for key, each in value.items()]


def _pattern(value: re.Pattern[Any], write: Write) -> object:
    return tagged("pattern", write(value.pattern), flags=int(value.flags))


CONTAINERS: Final[dict[type, Callable[[Any, Write], object]]] = {
    tuple: lambda value, write: tagged("tuple", [write(each) for each in value]),
    set: _set,
    frozenset: _set,
    deque: lambda value, write: tagged("deque", [write(each) for each in value], maxlen=value.maxlen),
    OrderedDict: lambda value, write: tagged("OrderedDict", _pairs(value, write)),
    Counter: lambda value, write: tagged("Counter", _pairs(value, write)),
    defaultdict: _defaultdict,
    types.MappingProxyType: lambda value, write: tagged("mappingproxy", _pairs(value, write)),
    types.SimpleNamespace: lambda value, write: tagged("namespace", _pairs(vars(value), write)),
    slice: lambda value, write: tagged("slice", [write(each) for each in (value.start, value.stop, value.step)]),
    re.Pattern: _pattern,
}


def _dict_of(written: dict[str, Any], read: Read) -> dict[Any, Any]:
    return {read(key): read(each) for key, each in written["v"]}


def _read_namespace(written: dict[str, Any], read: Read) -> types.SimpleNamespace:
    value = types.SimpleNamespace()
    vars(value).update(_dict_of(written, read))
    return value


READERS: Final[dict[str, Callable[[dict[str, Any], Read], Any]]] = {
    "array": _read_array,
    "bytes": _read_bytes,
    "bytearray": lambda written, _: bytearray(bytes_from(written["v"])),
    "complex": lambda written, read: complex(*map(read, written["v"])),
    "Counter": lambda written, read: Counter(_dict_of(written, read)),
    "date": lambda written, _: dt.date.fromisoformat(written["v"]),
    "datetime": _read_datetime,
    "decimal": lambda written, _: decimal.Decimal(written["v"]),
    "defaultdict": lambda written, read: defaultdict(
        None if written["of"] is None else _FACTORIES[written["of"]], _dict_of(written, read)
    ),
    "deque": lambda written, read: deque(map(read, written["v"]), written["maxlen"]),
    "dict": _dict_of,
    "float": lambda written, _: float(written["v"]),
    "fraction": lambda written, _: fractions.Fraction(written["v"]),
    "frozenset": lambda written, read: frozenset(map(read, written["v"])),
    "int": lambda written, _: int(written["v"], 16),
    "ip": lambda written, _: _IPS[written["of"]](written["v"]),
    "mappingproxy": lambda written, read: types.MappingProxyType(_dict_of(written, read)),
    "namespace": _read_namespace,
    "OrderedDict": lambda written, read: collections.OrderedDict(_dict_of(written, read)),
    "path": lambda written, read: pathlib.Path(read(written["v"])),
    "pattern": lambda written, read: re.compile(read(written["v"]), written["flags"]),
    "PurePosixPath": lambda written, read: pathlib.PurePosixPath(read(written["v"])),
    "PureWindowsPath": lambda written, read: pathlib.PureWindowsPath(read(written["v"])),
    "range": lambda written, read: range(*map(read, written["v"])),
    "set": lambda written, read: set(map(read, written["v"])),
    "slice": lambda written, read: slice(*map(read, written["v"])),
    "str": lambda written, _: bytes.fromhex(written["v"]).decode("utf-8", "surrogatepass"),
    "time": _read_time,
    "timedelta": lambda written, _: dt.timedelta(*written["v"]),
    "tuple": lambda written, read: tuple(map(read, written["v"])),
    "uuid": lambda written, _: uuid.UUID(written["v"]),
    "zone": lambda written, _: zone_from(written["v"]),
}

# ---------------------------------------------------------------- what is seldom met


def rare(kind: type) -> Callable[[Any, Write], object] | None:
    """How leaves of pydantic are written, its URLs and secrets. None for all else."""
    if kind.__module__ in ("pydantic.networks", "pydantic.types") and kind.__name__ in _PYDANTIC:
        name, secret = kind.__name__, kind.__name__.startswith("Secret")
        return lambda value, write: tagged(
            "pydantic", write(value.get_secret_value() if secret else str(value)), of=name
        )
    return None


_PYDANTIC: Final = frozenset(
    {
        *("SecretStr", "SecretBytes", "AnyUrl", "AnyHttpUrl", "HttpUrl", "AnyWebsocketUrl", "WebsocketUrl", "FileUrl"),
        *("FtpUrl", "PostgresDsn", "CockroachDsn", "AmqpDsn", "RedisDsn", "MongoDsn", "KafkaDsn", "NatsDsn"),
        *("MySQLDsn", "MariaDBDsn", "ClickHouseDsn", "SnowflakeDsn"),
    }
)


def _read_pydantic(written: dict[str, Any], read: Read) -> Any:
    import pydantic  # noqa: PLC0415 - the user's

    if written["of"] not in _PYDANTIC:
        raise ValueError(written["of"])
    return getattr(pydantic, written["of"])(read(written["v"]))


READERS["pydantic"] = _read_pydantic

# ---------------------------------------------------------------- refusals

_BASES: Final = (
    bool, int, float, complex, str, bytes, bytearray, list, dict, tuple, set, frozenset, dt.datetime, dt.date, dt.time,
    dt.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID, pathlib.PurePath, deque, array.array,
)  # fmt: skip
_MADE_BY: Final[dict[type, str]] = {
    dt.datetime: "datetime.fromisoformat(value.isoformat())",
    dt.date: "date(value.year, ...)",
}


_LIKE_THEIRS: Final = {
    **{f"{module}.DataFrame": "pandas.DataFrame(value)" for module in ("pandas", "pandas.core.frame")},
    **{f"{module}.Series": "pandas.Series(value)" for module in ("pandas", "pandas.core.series")},
    "polars.dataframe.frame.DataFrame": "polars.DataFrame(value)",
    "polars.series.series.Series": "polars.Series(value)",
    "PIL.Image.Image": "value.copy()",
    "torch.Tensor": "value.detach()",
}
"""Classes of which objects are kept, and those of their subclasses are not; and how to get the plain object."""


def refusal(value: object, kind: type) -> NotEncodable:
    """Why an object cannot be kept, and what to do."""
    name = full_name(kind).removeprefix("builtins.").removeprefix("__main__.")
    base = next((each for each in _BASES if isinstance(value, each)), None)
    if base is not None and kind.__module__.partition(".")[0] not in _HINTS:
        plain = _MADE_BY.get(base, f"{base.__name__}(value)")
        return NotEncodable(
            f"An object of class {name} would come back as a plain {base.__name__}. Return {plain} if that will do."
        )
    return NotEncodable(f"An object of class {name} cannot be kept. {_hint(value, kind)}")


def _hint(value: object, kind: type) -> str:
    """What to do instead."""
    library, name = kind.__module__.partition(".")[0], kind.__name__
    above = next((each for each in kind.__mro__[1:] if full_name(each) in _LIKE_THEIRS), None)
    if above is not None:
        return f"It would come back as a plain {above.__name__}. Return one: {_LIKE_THEIRS[full_name(above)]}."
    if library in _HINTS:
        return _HINTS[library](value, kind)
    if name in ("DataFrame", "Series"):
        return "Use one of pandas, polars or pyarrow (value.to_pandas(), value.compute()), or the path of a file."
    if name in ("coroutine", "generator", "async_generator"):
        return "It has to be awaited or turned into a list first."
    if kind is memoryview:
        return "Use bytes(value)."
    if isinstance(value, Mapping):
        return "Use dict(value)."
    if isinstance(value, BaseException):
        return "Use repr(value), or raise it: then it is the item's error."
    if "Response" in name:
        return "Use what you need of it: .text, .json(), the status."
    return _ANY_HINT


_ANY_HINT: Final = (
    "Use plain data: numbers, text, lists, dicts, dataclasses, datetimes, arrays, tables; or the path of a file. "
    "pickle=True keeps what can be pickled."
)


def _hint_of_numpy(value: Any, kind: type) -> str:
    if kind.__module__.startswith("numpy.ma"):
        return "Use .tolist(), which has None for what is masked."
    if kind.__name__ == "ndarray":
        return f"Its dtype, {repr_of(value.dtype)}, has no form there. Use .tolist()."
    return "Use a plain array: np.asarray(value), or .tolist()."


def _hint_of_pandas(_: Any, kind: type) -> str:
    if kind.__name__.endswith("GroupBy"):
        return "Use its groups: list(value), or [group for _, group in value]."
    return "Use .tolist(), or the values that you need of it."


def _hint_of_polars(_: Any, kind: type) -> str:
    return "Collect it first: value.collect()." if kind.__name__ == "LazyFrame" else _ANY_HINT


_HINTS: Final[dict[str, Callable[[Any, type], str]]] = {
    "numpy": _hint_of_numpy,
    "pandas": _hint_of_pandas,
    "polars": _hint_of_polars,
    "scipy": lambda value, kind: "Use value.tocsr(), or value.toarray()." if hasattr(value, "tocsr") else _ANY_HINT,
}
