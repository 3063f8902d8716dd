"""Values to JSON and back, so that what a function gets and returns is the same before and after a crash.

JSON knows six types; a notebook knows more. What JSON has no word for is written as an object with the key `$rnb`
(`{"$rnb": "datetime", "v": "2026-01-31T12:00:00"}`), so that it comes back as what it was, whether or not the
function is annotated. Nothing is pickled: decoding runs no code of the sender.

Objects with fields (dataclasses, msgspec Structs, pydantic models) are written as JSON objects, and are rebuilt where
the function's annotation says so, see `rebuild.py`. numpy scalars become Python numbers; a named tuple keeps the names
of its fields.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import keyword
import math
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import msgspec

from restate_nb.errors import NotEncodable

TAG = "$rnb"
_TAG_BYTES = b'"$rnb"'

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The largest item or value, in bytes of JSON. restate-server retries a message over 32 MiB for ever, and a group or an
output may hold one value of this size beside as much again of others."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
_AS_THEY_ARE = frozenset({str, bool, type(None)})


def encode(value: object) -> bytes:
    """Write a value as JSON.

    Raises:
        NotEncodable: the value holds something that has no JSON form, or is larger than `MAX_VALUE_BYTES`.
    """
    try:
        raw = _encoder.encode(_plain(value))
    except RecursionError:
        raise NotEncodable("The value is nested too deeply, or contains itself. Return plain, flat data.") from None
    except UnicodeEncodeError:
        raw = _encoder.encode(_plain(value, lone_surrogates=True))
    if len(raw) > MAX_VALUE_BYTES:
        raise NotEncodable(
            f"The value takes {len(raw) / 1e6:,.1f} MB as JSON, and {MAX_VALUE_BYTES / 1e6:,.1f} MB can be kept. "
            "Write it to a file or an object store, and return the path."
        )
    return raw


def decode(raw: bytes | msgspec.Raw) -> Any:
    """Read back what `encode` wrote.

    Raises:
        ValueError: it is not what `encode` writes.
    """
    try:
        value = _decoder.decode(raw)
        return _revive(value) if _TAG_BYTES in bytes(raw) else value
    except RecursionError:
        raise ValueError("Not a value that restate_nb wrote: it is nested too deeply.") from None


# ---------------------------------------------------------------- writing


def _tagged(kind: str, value: object, **more: object) -> dict[str, object]:
    return {TAG: kind, "v": value, **more}


def _plain(value: Any, lone_surrogates: bool = False) -> Any:
    """The value as JSON's own types, other leaves tagged."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        if lone_surrogates and kind is str:
            return _plain_str(value)
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else _tagged("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else _tagged("float", str(value))
    if kind is list:
        return [_plain(each, lone_surrogates) for each in value]
    if kind is dict:
        if TAG not in value and all(type(key) is str for key in value):
            if lone_surrogates:
                return {_safe_key(key): _plain(each, True) for key, each in value.items()}
            return {key: _plain(each) for key, each in value.items()}
        return _tagged("dict", [[_plain(k, lone_surrogates), _plain(v, lone_surrogates)] for k, v in value.items()])
    if kind is tuple:
        return _tagged("tuple", [_plain(each, lone_surrogates) for each in value])
    if kind in (set, frozenset):  # in one order in every process, so that a job finds its items again
        return _tagged(kind.__name__, sorted((_plain(each, lone_surrogates) for each in value), key=_encoder.encode))
    writer = _WRITERS.get(kind)
    if writer is not None:
        return writer(value)
    return _plain_object(value, kind, lone_surrogates)


def _plain_str(value: str) -> object:
    try:
        value.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8, as os.listdir gives it
        return _tagged("str", value.encode("utf-8", "surrogatepass").hex())
    return value


def _safe_key(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise NotEncodable(f"The key {key!a} is not valid Unicode text. Rename it.") from None
    return key


def _datetime(value: dt.datetime) -> object:
    zone = value.tzinfo
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        return _tagged("datetime", value.isoformat(), tz=zone.key)
    return _tagged("datetime", value.isoformat())


_WRITERS: dict[type, Callable[[Any], object]] = {
    bytes: lambda value: _tagged("bytes", base64.b64encode(value).decode()),
    bytearray: lambda value: _tagged("bytes", base64.b64encode(value).decode()),
    complex: lambda value: _tagged("complex", [_plain(value.real), _plain(value.imag)]),
    dt.datetime: _datetime,
    dt.date: lambda value: _tagged("date", value.isoformat()),
    dt.time: lambda value: _tagged("time", value.isoformat()),
    dt.timedelta: lambda value: _tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    uuid.UUID: lambda value: _tagged("uuid", str(value)),
    decimal.Decimal: lambda value: _tagged("decimal", str(value)),
}


def _plain_object(value: Any, kind: type, lone_surrogates: bool) -> object:
    """Everything that is not of one of the exact types above."""
    if issubclass(kind, tuple) and isinstance(names := getattr(kind, "_fields", None), tuple):
        values = [_plain(each, lone_surrogates) for each in value]
        return _tagged("tuple", values, name=kind.__name__, fields=list(names))
    if isinstance(value, enum.Enum):
        return _plain(value.value, lone_surrogates)
    if isinstance(value, pathlib.PurePath):
        return _tagged("path", str(value))
    if dataclasses.is_dataclass(kind):
        return {f.name: _plain(getattr(value, f.name), lone_surrogates) for f in dataclasses.fields(kind)}
    if issubclass(kind, msgspec.Struct):
        return {f.encode_name: _plain(getattr(value, f.name), lone_surrogates) for f in msgspec.structs.fields(kind)}
    if hasattr(kind, "__pydantic_validator__") and hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="python", by_alias=True), lone_surrogates)
    library = kind.__module__.partition(".")[0]
    if library == "numpy":
        return _plain_numpy(value, lone_surrogates)
    if library == "pandas":
        return _plain_pandas(value, kind)
    for base in (str, int, float, list, dict, tuple, set, frozenset, dt.datetime, dt.date):
        if isinstance(value, base):  # a subclass of a type that we know: OrderedDict, IntEnum, a typed list
            return _plain(_as_base(value, base), lone_surrogates)
    if isinstance(value, Mapping):
        return _plain(dict(value), lone_surrogates)
    raise _unknown(kind)


def _as_base(value: Any, base: Any) -> Any:
    if base is dt.datetime:
        return dt.datetime.fromisoformat(value.isoformat())
    if base is dt.date:
        return dt.date.fromisoformat(value.isoformat())
    return str.__str__(value) if base is str else base(value)


def _unknown(kind: type) -> NotEncodable:
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.").removeprefix("__main__.")
    hint = "Use plain data: numbers, text, lists, dicts, dataclasses, datetimes, numpy arrays."
    if kind.__name__ in ("DataFrame", "Series"):
        hint = "Use .to_dict() (or .to_dict('records')), or write it to a file and use the path."
    elif kind.__name__ in ("coroutine", "generator", "async_generator"):
        hint = "It has to be awaited or turned into a list first."
    elif "Response" in kind.__name__:
        hint = "Use what you need of it: .text, .json(), the status."
    return NotEncodable(f"An object of class {name} cannot be kept as JSON. {hint} A file's path will do for the rest.")


def _plain_numpy(value: Any, lone_surrogates: bool) -> object:
    import numpy as np  # noqa: PLC0415 - only when the user has it loaded

    if isinstance(value, np.generic) and value.dtype.kind in "biufcUS":
        return _plain(value.item(), lone_surrogates)
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        shape = list(array.shape)
        if array.dtype.kind in "biufcmMUS":
            data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
            return _tagged("ndarray", data, dtype=array.dtype.str, shape=shape, scalar=isinstance(value, np.generic))
        if array.dtype.kind == "O":
            leaves = [_plain(each, lone_surrogates) for each in array.ravel().tolist()]
            return _tagged("ndarray", leaves, dtype="O", shape=shape, scalar=False)
    raise _unknown(type(value))


def _plain_pandas(value: Any, kind: type) -> object:
    name = kind.__name__
    if name == "Timestamp":
        zone = None if value.tz is None else str(value.tz)
        return _tagged("Timestamp", value.isoformat(), unit=value.unit, tz=zone)
    if name == "Timedelta":
        return _tagged("Timedelta", value.isoformat(), unit=value.unit)
    if name in ("NaTType", "NAType"):
        return _tagged("missing", name)
    if name == "Interval":
        return _tagged("Interval", [_plain(value.left), _plain(value.right)], closed=value.closed)
    if name == "Period":
        return _tagged("Period", str(value), freq=value.freqstr)
    raise _unknown(kind)


# ---------------------------------------------------------------- reading


def _revive(value: Any) -> Any:
    if type(value) is list:
        return [_revive(each) for each in value]
    if type(value) is dict:
        kind = value.get(TAG)
        if kind is None:
            return {key: _revive(each) for key, each in value.items()}
        try:
            return _READERS[kind](value)
        except (LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:  # OSError: a zone's name
            raise ValueError(f"Not a value that restate_nb wrote: {str(value)[:200]}") from error
    return value


def _read_datetime(tagged: dict[str, Any]) -> dt.datetime:
    value = dt.datetime.fromisoformat(tagged["v"])
    if "tz" not in tagged:
        return value
    zone = zoneinfo.ZoneInfo(tagged["tz"])
    for fold in (0, 1):  # a time that clocks skipped stays as it was: astimezone would move it
        local = value.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == value.utcoffset():
            return local
    return value.astimezone(zone)


def _read_tuple(tagged: dict[str, Any]) -> tuple[Any, ...]:
    values = (_revive(each) for each in tagged["v"])
    return named_tuple(tagged["name"], tuple(tagged["fields"]), values) if "fields" in tagged else tuple(values)


def named_tuple(name: str, fields: tuple[str, ...], values: Iterable[Any]) -> tuple[Any, ...]:
    """A named tuple of a class like the one that was written, which is not looked up, but made anew.

    Example:
        >>> named_tuple("Point", ("x", "y"), [1, 2])
        Point(x=1, y=2)
    """
    return _named(name, fields)(*values)


@functools.lru_cache(maxsize=256)
def _named(name: str, fields: tuple[str, ...]) -> Callable[..., tuple[Any, ...]]:
    fits = name.isidentifier() and not keyword.iskeyword(name)
    made: Any = collections.namedtuple
    kind = made(name if fits else "Row", fields, rename=True)
    kind.__reduce__ = lambda self: (named_tuple, (name, fields, tuple(self)))  # pickle could not find the class
    return cast("Callable[..., tuple[Any, ...]]", kind)


def _read_ndarray(tagged: dict[str, Any]) -> Any:
    import numpy as np  # noqa: PLC0415 - heavy, and needed by few

    if tagged["dtype"] == "O":
        array = np.empty(len(tagged["v"]), dtype=object)
        for position, each in enumerate(tagged["v"]):  # a slice would spread items that are lists
            array[position] = _revive(each)
        return array.reshape(tagged["shape"])
    data = np.frombuffer(base64.b64decode(tagged["v"]), dtype=np.dtype(tagged["dtype"]))
    array = data.reshape(tagged["shape"]).copy()  # a buffer's array cannot be written to; the one that was sent could
    return array[()] if tagged["scalar"] else array


def _read_timestamp(tagged: dict[str, Any]) -> Any:
    import pandas as pd  # noqa: PLC0415 - heavy, and needed by few

    value = pd.Timestamp(tagged["v"]).as_unit(tagged["unit"])
    return value.tz_convert(tagged["tz"]) if tagged["tz"] is not None else value


def _read_pandas(tagged: dict[str, Any]) -> Any:
    import pandas as pd  # noqa: PLC0415 - heavy, and needed by few

    match tagged[TAG]:
        case "Timedelta":
            return pd.Timedelta(tagged["v"]).as_unit(tagged["unit"])
        case "missing":
            return pd.NaT if tagged["v"] == "NaTType" else pd.NA
        case "Interval":
            left, right = (_revive(each) for each in tagged["v"])
            return pd.Interval(left, right, closed=tagged["closed"])
    return pd.Period(tagged["v"], freq=tagged["freq"])


_READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "bytes": lambda tagged: base64.b64decode(tagged["v"]),
    "complex": lambda tagged: complex(*(_revive(each) for each in tagged["v"])),
    "date": lambda tagged: dt.date.fromisoformat(tagged["v"]),
    "datetime": _read_datetime,
    "decimal": lambda tagged: decimal.Decimal(tagged["v"]),
    "dict": lambda tagged: {_revive(key): _revive(each) for key, each in tagged["v"]},
    "float": lambda tagged: float(tagged["v"]),
    "frozenset": lambda tagged: frozenset(_revive(each) for each in tagged["v"]),
    "int": lambda tagged: int(tagged["v"], 16),
    "ndarray": _read_ndarray,
    "path": lambda tagged: pathlib.Path(tagged["v"]),
    "set": lambda tagged: {_revive(each) for each in tagged["v"]},
    "str": lambda tagged: bytes.fromhex(tagged["v"]).decode("utf-8", "surrogatepass"),
    "time": lambda tagged: dt.time.fromisoformat(tagged["v"]),
    "timedelta": lambda tagged: dt.timedelta(*tagged["v"]),
    "tuple": _read_tuple,
    "uuid": lambda tagged: uuid.UUID(tagged["v"]),
    "Timestamp": _read_timestamp,
    "Timedelta": _read_pandas,
    "missing": _read_pandas,
    "Interval": _read_pandas,
    "Period": _read_pandas,
}
