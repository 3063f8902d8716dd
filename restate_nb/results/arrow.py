"""Columns of pandas as columns of Arrow that keep one type from the first batch to the last.

What comes in batches may turn out to be of a wider type later: whole numbers, and then fractions; a field that the
first values lack. Then what was written is of no use, and is written again with the type that holds all.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_object_dtype

from restate_nb.errors import InvalidInput
from restate_nb.results.exports import as_text, described_in, holds
from restate_nb.results.fields import fields_of
from restate_nb.results.unreadable import Unreadable

MOST_FIELDS: Final = 200
"""A type with more fields is none: such values are dicts by some key, and become JSON text."""

_NULLABLE_DTYPES: Final[dict[type, Any]] = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}
_NULLABLE: Final = {"int64": "Int64", "bool": "boolean"}
_REFUSALS: Final = (pa.ArrowException, ValueError, TypeError, OverflowError, ArithmeticError, NotImplementedError)
"""What pyarrow raises when it has no type for some values."""

_LEAVES: Final = frozenset({str, int, float, bool, bytes, type(None), dt.datetime, dt.date, dt.time, dt.timedelta})


class Kind(NamedTuple):
    """What a column is: its type, None for JSON text; and pandas' dtype when it is read back."""

    type: Any
    dtype: str


class Widened(Exception):
    """A column has a wider type than in the batches that were given out before: these have to be made anew."""


class Column(NamedTuple):
    """A column of one batch: as pandas has it, and in Arrow, with values that pyarrow takes if it is nested."""

    source: Any
    array: Any
    kind: Kind
    nested: list[Any] | None = None


class Schema:
    """The columns of a table whose batches come one after the other.

    Attributes:
        kinds: of the columns that are known by now, in their order.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self._given = False
        self._widened = False

    def begin(self) -> None:
        """Nothing that was given out before counts."""
        self._given, self._widened = False, False

    def end(self) -> None:
        """All batches were there.

        Raises:
            Widened: the first of them have to be made anew.
        """
        if self._widened:
            raise Widened

    def table(self, columns: Mapping[str, Any]) -> Any:
        """The next batch, as a table; None once earlier ones have to be made anew, and only types are looked for.

        Args:
            columns: Series of pandas, or arrays of Arrow; all of one length.

        Raises:
            InvalidInput: a column has what is no cell of a table.
        """
        rows = len(next(iter(columns.values()))) if columns else 0
        found = {name: _natural(column) for name, column in columns.items()}
        known = self.kinds
        self.kinds = {
            name: _wider(known.get(name), found[name].kind if name in found else _NOTHING, first=not self._given)
            for name in _in_order(list(known), list(found))
        }
        arrays = {}
        for name, kind in self.kinds.items():
            if name not in found:
                arrays[name] = pa.nulls(rows, _type_of(kind))
                continue
            arrays[name] = _as_kind(name, found[name], kind)
            if arrays[name] is None:
                self.kinds[name] = _JSON
                arrays[name] = _as_kind(name, found[name], _JSON)
        self._widened = self._widened or (self._given and self.kinds != known)
        self._given = True
        return None if self._widened else pa.table(arrays)

    def pandas_metadata(self, index: Any, labels: Mapping[str, Any], column_indexes: Sequence[Any]) -> bytes:
        """What pandas needs to read the table as it was.

        Args:
            index: the names of the index's columns; or a RangeIndex, which has none.
            labels: the names in pandas of columns that have others there.
            column_indexes: as pyarrow tells of the index of columns.
        """
        columns = [
            {
                "name": labels.get(name, name),
                "field_name": name,
                "pandas_type": _word(_type_of(kind)),
                "numpy_type": kind.dtype,
                "metadata": None,
            }
            for name, kind in self.kinds.items()
        ]
        if isinstance(index, pd.RangeIndex):
            bounds = {"start": index.start, "stop": index.stop, "step": index.step}
            index = [{"kind": "range", "name": index.name, **bounds}]
        told = {
            "index_columns": index,
            "column_indexes": column_indexes,
            "columns": columns,
            "attributes": {},
            "creator": {"library": "pyarrow", "version": pa.__version__},
            "pandas_version": pd.__version__,
        }
        return json.dumps(told).encode()


_NOTHING: Final = Kind(pa.null(), "object")
_JSON: Final = Kind(None, "string")


def _type_of(kind: Kind) -> Any:
    return pa.large_string() if kind.type is None else kind.type


def _word(type_: Any) -> str:
    """What pandas' metadata calls a type."""
    if pa.types.is_dictionary(type_):
        return "categorical"
    if pa.types.is_large_string(type_) or pa.types.is_string(type_):
        return "unicode"
    if pa.types.is_timestamp(type_):
        return "datetime" if type_.tz is None else "datetimetz"
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        return str(type_)
    return {"double": "float64", "float": "float32"}.get(str(type_), "object")


def _in_order(known: list[str], found: list[str]) -> list[str]:
    """All names: those that are known in their order, new ones behind what they stand behind."""
    names = list(known)
    for place, name in enumerate(found):
        if name not in known:
            before = found[place - 1] if place else None
            names.insert(0 if before is None else names.index(before) + 1, name)
    return names


# ---------------------------------------------------------------- what a column is


def _natural(column: Any) -> Column:
    """A column with the type that fits its own values."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        array = _coded(_whole(column))
        return Column(column, array, Kind(array.type, "object"))
    dtype = column.dtype
    if dtype.kind == "c":
        return Column(column, None, _JSON)
    if not is_object_dtype(dtype):
        try:
            array = pa.array(column, from_pandas=True)
        except _REFUSALS:  # categories of several kinds
            return Column(column, None, _JSON)
        array = _coded(_whole(array))
        return Column(column, array, Kind(array.type, "int32" if pa.types.is_dictionary(array.type) else str(dtype)))
    known = [each for each in column if not is_missing(each)]
    if not known:
        return Column(column, pa.nulls(len(column)), _NOTHING)
    kinds = set(map(type, known))
    if len(kinds) == 1 and kinds <= _NULLABLE_DTYPES.keys() and holds(next(iter(kinds)), known):
        dtype = _NULLABLE_DTYPES[next(iter(kinds))]
        array = _whole(pa.array(pd.array(column, dtype=dtype), from_pandas=True))
        return Column(column, array, Kind(array.type, dtype))
    if {str, bytes} <= kinds:  # which pyarrow would take for bytes
        return Column(column, None, _JSON)
    try:
        nested = [None if is_missing(each) else _plainly(each) for each in column]
        array = pa.array(nested)
    except (*_REFUSALS, _NoTypeError, RuntimeError):  # RuntimeError: of recursion, and of torch
        return Column(column, None, _JSON)
    if not _can_be_written(array.type):
        return Column(column, None, _JSON)
    return Column(column, array, Kind(array.type, "object"), nested)


def _whole(array: Any) -> Any:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _coded(array: Any) -> Any:
    """The array with 32 bits a code, if it is one of codes: how many it has, depends on its values."""
    if not pa.types.is_dictionary(array.type):
        return array
    return array.cast(pa.dictionary(pa.int32(), array.type.value_type, array.type.ordered))


def is_missing(value: Any) -> bool:
    """Whether nothing is there."""
    return value is None or value is pd.NA or value is pd.NaT


class _NoTypeError(Exception):
    """There is no type for it that has all of it."""


def _plainly(value: Any) -> Any:
    """A value as pyarrow takes it.

    Raises:
        _NoTypeError: there is no type that would hold it as it is.
    """
    kind = type(value)
    if kind in _LEAVES or is_missing(value) or isinstance(value, decimal.Decimal):
        return None if value is pd.NA or value is pd.NaT else value
    if kind is list or kind is tuple:
        return [_plainly(each) for each in value]
    if isinstance(value, np.ndarray):
        return _array_plainly(value)
    if isinstance(value, np.generic):
        if value.dtype.kind in "biufU" and value.dtype.itemsize <= 8:
            return value.item()
        raise _NoTypeError
    if isinstance(value, pd.Timestamp) and not value.nanosecond:
        return value.to_pydatetime()
    if kind.__module__ == "torch" and hasattr(value, "numpy"):
        return _array_plainly(_numpy_of(value))
    fields = None if isinstance(value, Unreadable) else fields_of(value)
    if fields is None or not all(type(each) is str for each in fields):
        raise _NoTypeError
    return {name: _plainly(each) for name, each in fields.items()}


def _numpy_of(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy()


def _array_plainly(value: Any) -> Any:
    if type(value) is not np.ndarray or value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise _NoTypeError
    if value.ndim == 0:
        return value.item()
    if value.ndim > 1:
        return [_array_plainly(each) for each in value]
    if value.dtype == np.float16:  # which many readers of Parquet do not know
        return value.astype(np.float32)
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def _can_be_written(type_: Any) -> bool:
    """Whether files can have it: not where a struct has no field, or where there are too many."""
    counted = _fields_in(type_)
    return counted is not None and counted <= MOST_FIELDS


def _fields_in(type_: Any) -> int | None:
    if pa.types.is_struct(type_):
        counts = [_fields_in(type_.field(place).type) for place in range(type_.num_fields)]
        return None if not counts or None in counts else len(counts) + sum(each for each in counts if each)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _fields_in(type_.value_type)
    return 0


# ---------------------------------------------------------------- what holds several


def _wider(known: Kind | None, found: Kind, *, first: bool) -> Kind:
    """What holds the values of both.

    Args:
        known: what there is by now; None for a column that is new.
        found: in this batch.
        first: whether there was no batch before this one.
    """
    if known is None:
        known = found if first else _NOTHING
    if known == found:
        return known
    if known.type is None or found.type is None:
        return _JSON
    type_ = _widest(known.type, found.type)
    if type_ is None:
        return _JSON
    dtypes = {known.dtype, found.dtype}
    for plain, nullable in _NULLABLE.items():
        nothing = known.type == pa.null() or found.type == pa.null()
        if dtypes == {plain, nullable} or (nothing and dtypes == {plain, "object"}):
            return Kind(type_, nullable)
    for one, other in ((known, found), (found, known)):
        if one.type == pa.null() or (one.type != type_ and other.type == type_):
            return Kind(type_, other.dtype)
    return Kind(type_, known.dtype if len(dtypes) == 1 else "object")


def _widest(one: Any, other: Any) -> Any:
    """The type that holds the values of both as they are, if the numbers are not too large for it; None for none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    is_ = pa.types
    both = (one, other)
    for plain, coded in (both, both[::-1]):
        if is_.is_dictionary(coded) and not is_.is_dictionary(plain):
            return _widest(plain, coded.value_type)
    for is_kind, widest in _WIDEST:
        if all(map(is_kind, both)):
            return widest(one, other)
    return None


def _dictionary(one: Any, other: Any) -> Any:
    values = _widest(one.value_type, other.value_type)
    return None if values is None else pa.dictionary(pa.int32(), values)


def _list(one: Any, other: Any) -> Any:
    values = _widest(one.value_type, other.value_type)
    return None if values is None else pa.list_(values)


def _timestamp(one: Any, other: Any) -> Any:
    if (one.tz is None) != (other.tz is None):
        return None
    unit = min(one.unit, other.unit, key=("ns", "us", "ms", "s").index)
    return pa.timestamp(unit, one.tz if one.tz == other.tz else "UTC")


def _decimal(one: Any, other: Any) -> Any:
    scale = max(one.scale, other.scale)
    digits = max(one.precision - one.scale, other.precision - other.scale) + scale
    return pa.decimal128(digits, scale) if digits <= 38 else None


def _struct(one: Any, other: Any) -> Any:
    names = _in_order([field.name for field in one], [field.name for field in other])
    types = {name: _widest(_field_type(one, name), _field_type(other, name)) for name in names}
    struct = None if None in types.values() else pa.struct(types.items())
    return struct if struct is not None and _can_be_written(struct) else None


def _field_type(struct: Any, name: str) -> Any:
    return struct.field(name).type if struct.get_field_index(name) >= 0 else pa.null()


def _is_text(type_: Any) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _is_bytes(type_: Any) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _is_list(type_: Any) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def _is_number(type_: Any) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


_WIDEST: Final[list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]]] = [
    (pa.types.is_integer, lambda one, other: pa.int64()),
    (_is_number, lambda one, other: pa.float64()),
    (_is_text, lambda one, other: pa.large_string()),
    (_is_bytes, lambda one, other: pa.large_binary()),
    (pa.types.is_dictionary, _dictionary),
    (_is_list, _list),
    (pa.types.is_struct, _struct),
    (pa.types.is_timestamp, _timestamp),
    (pa.types.is_decimal, _decimal),
]


def _as_kind(name: str, column: Column, kind: Kind) -> Any:
    """The column as it is in the table; None where its values are too large for that."""
    if kind.type is None:
        described = described_in(column.source) if isinstance(column.source, pd.Series) else None
        if described is not None:
            raise InvalidInput(
                f"The column {name!r} has a {described}, which is no cell of a table. Have the function return its "
                "content as bytes, text, an array or fields; or leave the column out: "
                'columns=["item", "status", ...].'
            )
        return pa.array(_json(column.source), pa.large_string())
    if column.kind.type == kind.type:
        return column.array
    try:
        if column.nested is not None:
            return pa.array(column.nested, kind.type)
        return column.array.cast(kind.type)
    except _REFUSALS:
        return None


def _json(column: Any) -> list[str | None]:
    if not isinstance(column, pd.Series):
        return [None if each is None else as_text(each) for each in column.to_pylist()]
    known = column.notna() if column.dtype.kind == "f" else [not is_missing(each) for each in column]
    return [as_text(each) if is_known else None for each, is_known in zip(column, known, strict=True)]
