"""The digests of what libraries of numbers and tables hold. None of them is imported here: a value brings its own."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

from restate_nb.service.identity.code import hashed
from restate_nb.service.identity.content import Contents
from restate_nb.service.identity.owners import is_a, qualified


def _loaded(name: str) -> Any:
    return sys.modules.get(name)


# ---------------------------------------------------------------- numpy


def read_numpy(contents: Contents, value: Any) -> bytes | None:
    """numpy's arrays, scalars, dtypes and functions."""
    np = _loaded("numpy")
    if np is None:
        return None
    if is_a(value, np.ndarray):
        more = () if type(value) in (np.ndarray, np.memmap) else (contents.of(type(value)),)
        if value is np.ma.masked:
            return hashed(b"the masked value")
        if is_a(value, np.ma.MaskedArray):
            plain, mask = np.ma.getdata(value), np.ma.getmaskarray(value)
            fill = _array(contents, np.asarray(value.fill_value))
            return hashed(b"masked", *more, _array(contents, plain), _array(contents, mask), fill)
        return hashed(b"array", *more, _array(contents, value.view(np.ndarray)))
    if is_a(value, np.generic):
        return hashed(b"scalar", _array(contents, np.asarray(value)))
    if is_a(value, np.dtype):
        return hashed(b"dtype", repr(value).encode())
    if is_a(value, np.ufunc):
        if getattr(np, value.__name__, None) is not value and qualified(type(value)) == "numpy.ufunc":
            contents.codes.unseen(value, "a ufunc that was made of a function does not show it")
        return hashed(b"ufunc", value.__name__.encode())
    if is_a(value, np.vectorize):
        state = [(name, vars(value).get(name)) for name in ("pyfunc", "otypes", "signature", "excluded", "cache")]
        return hashed(b"vectorize", contents.items(state))
    if is_a(value, np.random.RandomState):
        return hashed(b"random", contents.of(value.get_state(legacy=False)))
    if is_a(value, np.random.Generator):
        return hashed(b"random", contents.of(value.bit_generator.state))
    if is_a(value, np.random.BitGenerator):
        return hashed(b"random", contents.of(value.state))
    return None


def _array(contents: Contents, value: Any) -> bytes:
    np = _loaded("numpy")
    kind = value.dtype
    head = (repr(kind.descr if kind.names else kind.str).encode(), repr(value.shape).encode())
    if kind.names:
        return hashed(b"fields", *head, *(_array(contents, value[name]) for name in kind.names))
    if kind.hasobject or kind.kind == "T":
        return hashed(b"objects", repr(value.shape).encode(), contents.each(value.reshape(-1).tolist()))
    if kind.kind in "fc" and kind.itemsize > (8 if kind.kind == "f" else 16):  # padded with whatever was there
        return hashed(b"long", *head, contents.each(map(repr, value.reshape(-1).tolist())))
    if value.nbytes > contents.bytes and not value.flags.c_contiguous:
        value = value[:: max(1, len(value) // 1024)]  # a copy of the whole would take too much
    flat = np.ascontiguousarray(value).reshape(-1)
    return hashed(
        b"numbers", *head, contents.raw(value, memoryview(flat.view(np.uint8)) if flat.size else memoryview(b""))
    )


# ---------------------------------------------------------------- pandas


def read_pandas(contents: Contents, value: Any) -> bytes | None:
    """pandas' tables, columns, indexes, arrays, scalars and dtypes."""
    pd = _loaded("pandas")
    if pd is None or not hasattr(pd, "DataFrame"):  # it is being imported
        return None
    if is_a(value, pd.DataFrame):
        columns = (_column(contents, value.iloc[:, place].array) for place in range(value.shape[1]))
        more = hashed(contents.of(type(value)), contents.of(dict(value.attrs)))
        return hashed(b"frame", more, contents.of(value.index), contents.of(value.columns), *columns)
    if is_a(value, pd.Series):
        more = hashed(contents.of(type(value)), contents.of(dict(value.attrs)), contents.of(value.name))
        return hashed(b"series", more, contents.of(value.index), _column(contents, value.array))
    if is_a(value, pd.Index):
        return hashed(b"index", *_index(contents, value, pd))
    if is_a(value, pd.api.extensions.ExtensionArray):
        return hashed(b"column", _column(contents, value))
    if is_a(value, pd.api.extensions.ExtensionDtype):
        parts = (value.categories, value.ordered) if is_a(value, pd.CategoricalDtype) else ()
        return hashed(b"dtype", str(value).encode(), contents.each(parts))
    if value is pd.NaT or value is pd.NA:
        return hashed(b"missing", type(value).__name__.encode())
    if is_a(value, pd.Timestamp):
        when = contents.of(value.to_numpy())  # which has its unit
        return hashed(b"timestamp", when, str(value.fold).encode(), contents.of(value.tz))
    if is_a(value, pd.Timedelta):
        return hashed(b"timedelta", contents.of(value.to_numpy()))
    if is_a(value, pd.Period):
        return hashed(b"period", f"{value.ordinal} {value.freqstr}".encode())
    if is_a(value, pd.Interval):
        return hashed(b"interval", contents.each((value.left, value.right, value.closed)))
    if is_a(value, pd.offsets.BaseOffset):
        return hashed(b"offset", type(value).__name__.encode(), contents.of(value.n), contents.of(dict(value.kwds)))
    return None


def _index(contents: Contents, value: Any, pd: Any) -> Iterator[bytes]:
    yield contents.each(value.names)
    if is_a(value, pd.MultiIndex):
        for level, codes in zip(value.levels, value.codes, strict=True):
            yield contents.of(level)
            yield _array(contents, codes)
    elif is_a(value, pd.RangeIndex):
        yield repr((value.start, value.stop, value.step)).encode()
    else:
        yield _column(contents, value.array)


def _column(contents: Contents, values: Any) -> bytes:
    """The array of a column."""
    pd, np = _loaded("pandas"), _loaded("numpy")
    head = str(values.dtype).encode()
    arrays = pd.arrays
    if isinstance(values, arrays.NumpyExtensionArray if hasattr(arrays, "NumpyExtensionArray") else arrays.PandasArray):
        return hashed(b"plain", _array(contents, values.to_numpy()))
    if isinstance(values, pd.Categorical):
        codes = _array(contents, np.asarray(values.codes))
        return hashed(b"categories", contents.of(values.dtype), codes)
    if isinstance(values, (arrays.DatetimeArray, arrays.TimedeltaArray, arrays.PeriodArray)):
        return hashed(b"times", head, _array(contents, values.asi8))
    if isinstance(values, arrays.IntervalArray):
        return hashed(b"intervals", head, contents.of(values.left), contents.of(values.right))
    data: Any = getattr(values, "_data", None)
    mask: Any = getattr(values, "_mask", None)
    if isinstance(data, np.ndarray) and isinstance(mask, np.ndarray):
        shown = np.where(mask, np.zeros(1, dtype=data.dtype), data)  # what is under the mask is anything
        return hashed(b"nullable", head, _array(contents, shown), _array(contents, mask))
    arrow = getattr(values, "__arrow_array__", None)
    if arrow is not None and _loaded("pyarrow") is not None and hasattr(values, "_pa_array"):
        return hashed(b"arrow", head, contents.of(arrow()))
    return hashed(b"values", head, contents.each(list(values)))


# ---------------------------------------------------------------- arrow, polars, torch


def read_tables(contents: Contents, value: Any) -> bytes | None:
    """pyarrow's and polars' tables and columns, and torch's tensors."""
    root = type(value).__module__.partition(".")[0]
    if root == "pyarrow":
        return _arrow(contents, value)
    if root == "polars":
        return _polars(contents, value)
    if root == "torch" and hasattr(value, "detach") and hasattr(value, "numpy"):
        plain = value.detach().cpu()
        return hashed(b"tensor", str(value.dtype).encode(), _array(contents, plain.numpy()))
    return None


def _arrow(contents: Contents, value: Any) -> bytes | None:
    pa = _loaded("pyarrow")
    if is_a(value, (pa.Array, pa.ChunkedArray)):
        whole = value.combine_chunks() if is_a(value, pa.ChunkedArray) else value
        table = pa.table({"": whole})
    elif is_a(value, pa.RecordBatch):
        table = pa.Table.from_batches([value])
    elif is_a(value, pa.Table):
        table = value
    elif is_a(value, (pa.Schema, pa.DataType, pa.Field)):
        return hashed(b"arrow type", str(value).encode())
    elif is_a(value, pa.Scalar):
        return hashed(b"arrow value", str(value.type).encode(), contents.of(value.as_py()))
    else:
        return None
    if (step := contents.step_for(value, table.nbytes)) > 1:
        table = table.take(pa.array(range(0, table.num_rows, step)))
    sink = pa.BufferOutputStream()
    table = table.combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashed(b"arrow", qualified(type(value)).encode(), contents.raw(value, memoryview(sink.getvalue())))


def _polars(contents: Contents, value: Any) -> bytes | None:
    pl = _loaded("polars")
    if is_a(value, (pl.DataFrame, pl.Series)):
        frame = value if is_a(value, pl.DataFrame) else value.to_frame()
        if (step := contents.step_for(value, frame.estimated_size())) > 1:
            frame = frame.gather_every(step)
        file = io.BytesIO()
        frame.rechunk().write_ipc_stream(file)
        head = (qualified(type(value)).encode(), repr(frame.schema).encode())
        return hashed(b"polars", *head, contents.raw(value, file.getbuffer()))
    if is_a(value, pl.Expr):
        return hashed(b"expression", contents.of(value.meta.serialize()))
    if is_a(value, pl.LazyFrame):
        return hashed(b"lazy", contents.of(value.serialize()))
    return None
