"""Columns and indexes of pandas, by their dtype: numbers, times and text as columns of an Arrow table, and beside it in
JSON what Arrow has no word for. Cells that are objects are written one by one, each as a value of its own.

What is written of a column is an object of JSON: `t` is its kind, `at` which column of the table it is; what is not in
the table is `v`, or has columns and indexes of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from restate_nb.errors import NotEncodable
from restate_nb.values import leaves
from restate_nb.values.tags import Read, Write

Described = dict[str, Any]

_NULLABLE: Final = frozenset(
    {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)} | {"Float32", "Float64", "boolean"}
)
_NATIVE: Final = "<" if sys.byteorder == "little" else ">"
_INDEXES: Final = ("Index", "DatetimeIndex", "TimedeltaIndex", "PeriodIndex", "CategoricalIndex", "IntervalIndex")
_UNITS: Final = ("s", "ms", "us", "ns")


class Table:
    """The columns of an Arrow table, all of one length, as they are found.

    Attributes:
        rows: how long they are.
        columns: those there are so far.
    """

    def __init__(self, rows: int, write: Write) -> None:
        self.rows = rows
        self.columns: list[Any] = []
        self.write = write

    def put(self, column: Any) -> Described:
        """Where a column of Arrow lies: in the table, or by itself where its length is another."""
        if len(column) != self.rows:
            return {"v": self.write(column)}
        self.columns.append(column)
        return {"at": len(self.columns) - 1}


# ---------------------------------------------------------------- writing


def write_column(data: Any, table: Table) -> Described:
    """A Series, an index or an array of pandas.

    Raises:
        NotEncodable: its dtype could not be read back, or one of its cells.
    """
    import numpy as np  # noqa: PLC0415 - the user has it loaded

    dtype = data.dtype
    name = type(dtype).__name__ if _is_of_pandas(type(dtype)) else ""
    if isinstance(dtype, np.dtype) or name == "NumpyEADtype":
        return _write_numpy(data.to_numpy(), table)
    array = getattr(data, "array", data)
    write = _WRITERS.get(name, _write_nullable if name and str(dtype) in _NULLABLE else None)
    if write is None:
        raise NotEncodable(
            f"A column of dtype {dtype} cannot be kept. Make it one of pandas' own: astype(str), astype(object)."
        )
    return write(array, table)


def _is_of_pandas(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "pandas"


def _write_numpy(array: Any, table: Table) -> Described:
    import numpy as np  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    dtype = array.dtype
    if dtype.kind == "O":
        return _write_objects(array, table)
    native = dtype.byteorder in "=|" or dtype.byteorder == _NATIVE
    if len(array) != table.rows or dtype.kind not in "biufmM" or not native or dtype.char == "g":
        return {"t": "numpy", "v": table.write(np.asarray(array))}
    return {"t": "numpy", "dtype": dtype.str, **table.put(pa.array(array))}


def _write_objects(array: Any, table: Table) -> Described:
    import pyarrow as pa  # noqa: PLC0415

    cells = array.tolist()
    if len(cells) == table.rows and set(map(type, cells)) in _TEXTS:
        try:
            return {"t": "object", **table.put(pa.array(cells, pa.large_string()))}
        except UnicodeEncodeError:
            pass
    return {"t": "object", "v": _write_cells(cells, table)}


_TEXTS: Final = ({str}, {str, type(None)})


def _write_cells(cells: list[Any], table: Table) -> list[Any]:
    write = table.write
    return [write(each) for each in cells]


def _write_nullable(array: Any, table: Table) -> Described:
    import pyarrow as pa  # noqa: PLC0415

    kind, missing = array.dtype.numpy_dtype, array.isna()
    # What lies beneath a missing value is chance, and equal values are written alike.
    cells = array.to_numpy(dtype=kind, na_value=kind.type(0))
    column = pa.array(cells, mask=missing if missing.any() else None, from_pandas=False)
    return {"t": "nullable", "dtype": str(array.dtype), **table.put(column)}


def _write_text(array: Any, table: Table) -> Described:
    import pyarrow as pa  # noqa: PLC0415

    dtype = array.dtype
    kind = {"t": "string", "storage": dtype.storage, "na": "nan" if type(dtype.na_value) is float else "NA"}
    if len(array) == table.rows:
        try:
            return {**kind, **table.put(pa.array(array, pa.large_string()))}
        except UnicodeEncodeError:
            pass
    missing = array.isna()
    return {**kind, "v": [None if no else table.write(each) for each, no in zip(array, missing, strict=True)]}


def _write_arrow(array: Any, table: Table) -> Described:
    import pyarrow as pa  # noqa: PLC0415

    return {"t": "arrow", **table.put(pa.array(array))}


def _write_category(array: Any, table: Table) -> Described:
    return {
        "t": "category",
        "codes": _write_numpy(array.codes, table),
        "categories": write_index(array.categories, table),
        "ordered": bool(array.ordered),
    }


def _write_zoned(array: Any, table: Table) -> Described:
    dtype = array.dtype
    zone = leaves.zone_of(dtype.tz)
    if repr(leaves.zone_from(zone)) != repr(dtype.tz):
        raise NotEncodable(f"A column of dtype {dtype} would come back with another zone. Use one of zoneinfo.")
    times = array.tz_convert("UTC").tz_localize(None).to_numpy()
    return {"t": "zoned", "zone": zone, "of": _write_numpy(times, table)}


def _write_period(array: Any, table: Table) -> Described:
    import pandas as pd  # noqa: PLC0415

    freq = str(array.dtype).removeprefix("period[").removesuffix("]")
    if pd.PeriodDtype(freq) != array.dtype:
        raise NotEncodable(f"A column of dtype {array.dtype} cannot be kept. Use .to_timestamp().")
    return {"t": "period", "freq": freq, "of": _write_numpy(array.asi8, table)}


def _write_interval(array: Any, table: Table) -> Described:
    return {
        "t": "interval",
        "closed": array.closed,
        "left": write_column(array.left, table),
        "right": write_column(array.right, table),
    }


def _write_sparse(array: Any, table: Table) -> Described:
    import numpy as np  # noqa: PLC0415

    subtype = array.dtype.subtype
    return {
        "t": "sparse",
        "kind": array.kind,
        "fill": table.write(array.fill_value),
        "of": _write_numpy(np.asarray(array, dtype=subtype), table),
    }


_WRITERS: Final[dict[str, Callable[[Any, Table], Described]]] = {
    "ArrowDtype": _write_arrow,
    "CategoricalDtype": _write_category,
    "DatetimeTZDtype": _write_zoned,
    "IntervalDtype": _write_interval,
    "PeriodDtype": _write_period,
    "SparseDtype": _write_sparse,
    "StringDtype": _write_text,
}


def write_index(index: Any, table: Table) -> Described:
    """An index with its names.

    Raises:
        NotEncodable: it is of a class of its own, or one of its labels cannot be kept.
    """
    kind = type(index)
    name = kind.__name__ if _is_of_pandas(kind) else ""
    if name == "RangeIndex":
        return {"t": "range", "v": [index.start, index.stop, index.step], **_named(index.name, table)}
    if name == "MultiIndex":
        return {
            "t": "multi",
            "levels": [write_index(each.rename(None), table) for each in index.levels],
            "codes": [_write_numpy(each, table) for each in index.codes],
            "names": [table.write(each) for each in index.names],
        }
    if name not in _INDEXES:
        raise NotEncodable(f"An index of class {kind.__name__} cannot be kept. Use pd.Index(index).")
    freq = getattr(index, "freqstr", None) if name in ("DatetimeIndex", "TimedeltaIndex") else None
    return {
        "t": "index",
        "of": write_column(index, table),
        **_named(index.name, table),
        **({} if freq is None else {"freq": freq}),
    }


def _named(name: Any, table: Table) -> Described:
    return {} if name is None else {"name": table.write(name)}


# ---------------------------------------------------------------- reading


class Columns:
    """Reads what `write_column` and `write_index` gave.

    Args:
        columns: those of the Arrow table.
        read: for what lies in JSON.
    """

    def __init__(self, columns: Sequence[Any], read: Read) -> None:
        self._columns = columns
        self._read = read

    def column(self, described: Described) -> Any:
        """An array of numpy or pandas."""
        import pandas as pd  # noqa: PLC0415 - heavy, and needed by few

        match described["t"]:
            case "numpy":
                return self._numpy(described)
            case "object":
                return self._objects(described)
            case "nullable":
                if described["dtype"] not in _NULLABLE:
                    raise ValueError(described["dtype"])
                return self._nullable(pd.api.types.pandas_dtype(described["dtype"]), self._arrow(described))
            case "string":
                return self._text(described)
            case "arrow":
                return pd.arrays.ArrowExtensionArray(self._arrow(described))
            case "category":
                categories, codes = self.index(described["categories"]), self.column(described["codes"])
                dtype = pd.CategoricalDtype(categories, described["ordered"] is True)
                return pd.Categorical.from_codes(codes, dtype=dtype)
            case "zoned":
                zone = leaves.zone_from(described["zone"])
                return pd.DatetimeIndex(self._numpy(described["of"])).tz_localize("UTC").tz_convert(zone).array
            case "period":
                return pd.arrays.PeriodArray(self._numpy(described["of"]), dtype=pd.PeriodDtype(described["freq"]))
            case "interval":
                left, right = self.column(described["left"]), self.column(described["right"])
                return pd.arrays.IntervalArray.from_arrays(left, right, closed=described["closed"])
            case "sparse":
                dense, fill = self.column(described["of"]), self._read(described["fill"])
                dtype = pd.SparseDtype(dense.dtype, fill)
                return pd.arrays.SparseArray(dense, fill_value=fill, kind=described["kind"], dtype=dtype)
        raise ValueError(described["t"])

    def index(self, described: Described) -> Any:
        """An index."""
        import pandas as pd  # noqa: PLC0415

        name = self._read(described["name"]) if "name" in described else None
        match described["t"]:
            case "range":
                start, stop, step = described["v"]
                return pd.RangeIndex(start, stop, step, name=name)
            case "multi":
                return pd.MultiIndex(
                    levels=list(map(self.index, described["levels"])),
                    codes=list(map(self.column, described["codes"])),
                    names=list(map(self._read, described["names"])),
                )
            case "index":
                array = self.column(described["of"])
                if "freq" not in described:
                    return pd.Index(array, dtype=array.dtype, name=name)
                kind = pd.DatetimeIndex if array.dtype.kind == "M" else pd.TimedeltaIndex
                return kind(array, name=name, freq=described["freq"])
        raise ValueError(described["t"])

    def _arrow(self, described: Described) -> Any:
        """A column of Arrow, in chunks."""
        import pyarrow as pa  # noqa: PLC0415

        if "v" in described:
            found = self._read(described["v"])
        else:
            at = described["at"]
            if type(at) is not int or not 0 <= at < len(self._columns):
                raise ValueError(f"there is no column {at!r:.50}")
            found = self._columns[at]
        return pa.chunked_array([found]) if isinstance(found, pa.Array) else found

    def _numpy(self, described: Described) -> Any:
        import numpy as np  # noqa: PLC0415

        if "v" in described:
            array = self._read(described["v"])
            if type(array) is not np.ndarray or array.ndim != 1:
                raise ValueError("it is no column")
            return array
        array = self._arrow(described).to_numpy()
        if array.dtype.str != described["dtype"]:
            raise ValueError(f"it is a column of {array.dtype}")
        return array

    def _objects(self, described: Described) -> Any:
        import numpy as np  # noqa: PLC0415

        if "v" not in described:
            return self._arrow(described).to_numpy()
        array = np.empty(len(described["v"]), dtype=object)
        for place, each in enumerate(described["v"]):  # a slice would spread cells that are lists
            array[place] = self._read(each)
        return array

    def _text(self, described: Described) -> Any:
        import pandas as pd  # noqa: PLC0415

        storage, missing = described["storage"], described["na"]
        if storage not in ("python", "pyarrow") or missing not in ("NA", "nan"):
            raise ValueError(f"text as {storage!r:.50}")
        dtype = string_dtype(storage, missing)
        if "v" in described:
            return pd.array([self._read(each) for each in described["v"]], dtype=dtype)
        return dtype.__from_arrow__(self._arrow(described))

    def _nullable(self, dtype: Any, column: Any) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        missing = column.is_null().to_numpy().copy()
        cells = column.fill_null(pa.scalar(0).cast(column.type)).to_numpy().copy()
        if cells.dtype != dtype.numpy_dtype:
            raise ValueError(f"it is a column of {cells.dtype}")
        return dtype.construct_array_type()(cells, missing)  # pandas' own way takes NaN for missing


def string_dtype(storage: str, missing: str) -> Any:
    """The dtype of text whose missing values are `NaN` or `pd.NA`, in any version of pandas."""
    import pandas as pd  # noqa: PLC0415

    make: Any = pd.StringDtype
    if missing == "NA":
        return make(storage)
    try:
        return make(storage, na_value=float("nan"))
    except TypeError:  # pandas 2.2 knows it by another name
        return make("pyarrow_numpy")
