"""numpy's arrays and scalars, and pandas' scalars: written with their dtype, unit and zone, or refused.

DataFrames, Series and pandas' arrays are no values; see `leaves.refusal`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from restate_nb.values import leaves
from restate_nb.values.parts import PART_BYTES, binary
from restate_nb.values.tags import Read, Write, tagged

_PLAIN: Final = "biufcmMUS"


def writer_of(kind: type) -> Callable[[Any, Write], object | None] | None:
    """How what numpy or pandas made is written, by its class: None for all else. It gives None for what would not come
    back as it is."""
    library = kind.__module__.partition(".")[0]
    if library == "numpy":
        return _number_writer(kind) or (lambda value, write: _numpy(value, kind, write))
    if library == "pandas":
        return lambda value, write: _pandas(value, kind, write)
    return None


# ---------------------------------------------------------------- numpy


def _number_writer(kind: Any) -> Callable[[Any, Write], object] | None:
    """How numpy's numbers and truth values are written; None for all else."""
    import numpy as np  # noqa: PLC0415 - the user has it loaded

    if not issubclass(kind, np.generic):
        return None
    dtype = np.dtype(kind)
    if dtype.type is not kind or dtype.kind not in "biufc" or dtype.char in "gG":
        return None
    name = dtype.str if np.dtype(dtype.str).type is kind else dtype.char  # np.longlong
    if dtype.kind in "biu":
        return lambda value, _: tagged("scalar", value.item(), dtype=name)
    if dtype.kind == "f":
        return lambda value, _: tagged("scalar", _number(value.item()), dtype=name)

    def write(value: Any, _: Write) -> object:
        plain = value.item()
        return tagged("scalar", [_number(plain.real), _number(plain.imag)], dtype=name)

    return write


def _numpy(value: Any, kind: type, write: Write) -> object | None:
    import numpy as np  # noqa: PLC0415 - the user has it loaded

    if kind is np.ma.core.MaskedConstant:
        return tagged("masked", None)
    if kind is np.ma.MaskedArray:
        return _masked(value, write)
    if kind is np.ndarray:
        return _array(value, write)
    if not isinstance(value, np.generic) or kind is not value.dtype.type:
        return None  # a matrix, a memmap, ...
    letter = value.dtype.kind
    if letter == "U":
        return tagged("scalar", leaves.text(str(value)), dtype="U")
    if letter == "S":
        return tagged("scalar", value.item(), dtype="S")
    return _array(np.asarray(value), write, scalar=True)


def _number(value: Any) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return tagged("float", str(value))
    return value


def _array(value: Any, write: Write, *, scalar: bool = False) -> object | None:
    import numpy as np  # noqa: PLC0415

    dtype, shape = value.dtype, list(value.shape)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    more: dict[str, object] = {"shape": shape, "scalar": scalar, **({"order": order} if order == "F" else {})}
    if dtype.kind == "O" and not dtype.names:
        leaves_ = np.empty(value.size, dtype=object)
        leaves_[:] = value.ravel(order)
        return tagged("ndarray", [write(each) for each in leaves_.tolist()], dtype="O", **more)
    if dtype.char in "gG":  # their bytes differ from machine to machine, and some have no meaning
        flat = value.ravel(order)
        parts = [flat] if dtype.char == "g" else [flat.real, flat.imag]
        texts = [[np.format_float_scientific(each, unique=True, trim="-") for each in part] for part in parts]
        return tagged("ndarray", texts, dtype="longdouble" if dtype.char == "g" else "clongdouble", **more)
    if dtype.kind in _PLAIN and np.dtype(dtype.str) == dtype:
        named: object = dtype.str
    elif dtype.type is np.void and not dtype.hasobject and _is_described(dtype):
        named = write(np.lib.format.dtype_to_descr(dtype))
    else:
        return None
    return tagged("ndarray", _data_of(value, order), dtype=named, **more)


def _data_of(value: Any, order: str) -> object:
    """An array's elements; a large one that is in one piece is not copied."""
    import numpy as np  # noqa: PLC0415

    if value.nbytes < PART_BYTES:
        return value.tobytes(order)
    return binary(value.ravel(order).view(np.uint8))


def _is_described(dtype: Any) -> bool:
    """Whether a structured dtype can be had back from its description, and has no field whose bytes are private."""
    import numpy as np  # noqa: PLC0415

    if any(field[0].base.char in "gG" or field[0].base.kind == "T" for field in (dtype.fields or {}).values()):
        return False
    try:
        return repr(np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype))) == repr(dtype)
    except (ValueError, TypeError):
        return False


def _masked(value: Any, write: Write) -> object | None:
    import numpy as np  # noqa: PLC0415

    if value._baseclass is not np.ndarray or value.dtype.kind not in "biufcmMUS":
        return None
    data = _array(np.ma.getdata(value), write)
    mask = None if value.mask is np.ma.nomask else _array(np.array(value.mask), write)
    usual = np.ma.MaskedArray(np.zeros((), value.dtype)).fill_value  # which is set when it is first asked for
    own = value._fill_value is not None and repr(value._fill_value[()]) != repr(usual)
    fill = _array(np.array(value._fill_value), write) if own else None
    return None if data is None else tagged("masked", data, mask=mask, fill=fill, hard=bool(value.hardmask))


def _read_scalar(written: dict[str, Any], read: Read) -> Any:
    import numpy as np  # noqa: PLC0415 - heavy, and needed by few

    plain = written["v"]
    if written["dtype"] == "U":
        return np.str_(read(plain))
    if written["dtype"] == "S":
        return np.bytes_(bytes(leaves.bytes_from(plain)))
    dtype = np.dtype(written["dtype"])
    if dtype.kind not in "biufc":
        raise ValueError(written["dtype"])
    return dtype.type(complex(*map(read, plain)) if dtype.kind == "c" else read(plain))


def _read_array(written: dict[str, Any], read: Read) -> Any:
    import numpy as np  # noqa: PLC0415

    dtype, shape, order = written["dtype"], tuple(written["shape"]), written.get("order", "C")
    if dtype == "O":
        flat = np.empty(len(written["v"]), dtype=object)
        for position, each in enumerate(written["v"]):  # a slice would spread items that are lists
            flat[position] = read(each)
    elif dtype in ("longdouble", "clongdouble"):
        parts = [np.array([np.longdouble(each) for each in part], dtype=np.longdouble) for part in written["v"]]
        flat = parts[0]
        if dtype == "clongdouble":
            flat = np.empty(len(parts[0]), dtype=np.clongdouble)
            flat.real, flat.imag = parts
    else:
        kind = np.dtype(dtype) if isinstance(dtype, str) else np.lib.format.descr_to_dtype(read(dtype))
        raw = leaves.bytes_from(written["v"])
        if kind.hasobject:
            raise ValueError(str(kind))
        # A copy: a buffer's array cannot be written to, and the one that was sent could.
        flat = np.frombuffer(raw, dtype=kind).copy() if raw else _of_nothing(shape, kind)
    array = flat.reshape(shape, order=order)
    return array[()] if written["scalar"] else array


def _of_nothing(shape: tuple[int, ...], kind: Any) -> Any:
    """The elements of an array that has no bytes."""
    import numpy as np  # noqa: PLC0415

    count = math.prod(shape)
    if count and kind.itemsize:
        raise ValueError(f"an array of shape {shape} has no elements")
    return np.zeros(count, dtype=kind)


def _read_masked(written: dict[str, Any], read: Read) -> Any:
    import numpy as np  # noqa: PLC0415

    if written["v"] is None:
        return np.ma.masked
    data, mask, fill = (
        None if each is None else read(each) for each in (written["v"], written["mask"], written["fill"])
    )
    value = np.ma.MaskedArray(data, mask=np.ma.nomask if mask is None else mask, hard_mask=written["hard"])
    if fill is not None:
        value.fill_value = fill[()]
    return value


# ---------------------------------------------------------------- pandas


def _pandas(value: Any, kind: type, write: Write) -> object | None:
    name = kind.__name__
    if name == "Timestamp":
        zone = None if value.tz is None else leaves.zone_of(value.tz)
        count = int(value.to_datetime64().astype("int64"))
        stamp = tagged("Timestamp", value.isoformat(), unit=value.unit, n=count, zone=zone)
        if zone is None and not value.fold:
            return stamp
        back = _read_timestamp(stamp, lambda each: each)
        return stamp if (repr(back.tz), back.fold) == (repr(value.tz), value.fold) else None
    if name == "Timedelta":
        count = int(value.to_timedelta64().astype("int64"))
        return tagged("Timedelta", str(value), unit=value.unit, n=count)
    if name in ("NaTType", "NAType"):
        return tagged("missing", name)
    if name == "Interval":
        return tagged("Interval", [write(value.left), write(value.right)], closed=value.closed)
    if name == "Period":
        return tagged("Period", str(value), freq=value.freqstr, n=value.ordinal)
    return None


def _read_timestamp(written: dict[str, Any], _read: Read) -> Any:
    import pandas as pd  # noqa: PLC0415 - heavy, and needed by few

    if "n" not in written:  # of the first version
        value = pd.Timestamp(written["v"]).as_unit(written["unit"])
        return value.tz_convert(written["tz"]) if written["tz"] is not None else value
    value = pd.Timestamp(_np_time("datetime64", written))
    return value if written["zone"] is None else value.tz_localize("UTC").tz_convert(leaves.zone_from(written["zone"]))


def _np_time(kind: str, written: dict[str, Any]) -> Any:
    import numpy as np  # noqa: PLC0415

    if written["unit"] not in ("s", "ms", "us", "ns"):
        raise ValueError(written["unit"])
    return getattr(np, kind)(written["n"], written["unit"])


def _read_pandas(written: dict[str, Any], read: Read) -> Any:
    import pandas as pd  # noqa: PLC0415

    match written["$rnb"]:
        case "Timedelta" if "n" in written:
            return pd.Timedelta(_np_time("timedelta64", written))
        case "Timedelta":
            return pd.Timedelta(written["v"]).as_unit(written["unit"])
        case "missing":
            return pd.NaT if written["v"] == "NaTType" else pd.NA
        case "Interval":
            left, right = map(read, written["v"])
            return pd.Interval(left, right, closed=written["closed"])
    if "n" in written:
        return pd.Period(ordinal=written["n"], freq=written["freq"])
    return pd.Period(written["v"], freq=written["freq"])


READERS: Final[dict[str, Callable[[dict[str, Any], Read], Any]]] = {
    "Interval": _read_pandas,
    "masked": _read_masked,
    "missing": _read_pandas,
    "ndarray": _read_array,
    "Period": _read_pandas,
    "scalar": _read_scalar,
    "Timedelta": _read_pandas,
    "Timestamp": _read_timestamp,
}
