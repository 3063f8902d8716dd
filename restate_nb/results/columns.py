"""Columns of a job's frame: the dtype that fits its values, and no value changed for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

_NULLABLE: Final[dict[type, Any]] = {int: "Int64", bool: "boolean", float: "Float64"}
_PLAIN: Final[dict[type, Any]] = {int: np.int64, bool: np.bool_, float: np.float64}
_MISSING: Final = frozenset({type(None), type(pd.NA)})
_TIMES: Final = (
    frozenset({pd.Timestamp, dt.datetime, type(pd.NaT)}),
    frozenset({pd.Timedelta, dt.timedelta, type(pd.NaT)}),
    frozenset({pd.Period, type(pd.NaT)}),
    frozenset({pd.Interval}),
)
_EXACT: Final = 2**53
"""Up to here a float has every integer."""


def typed_column(values: Sequence[Any]) -> Any:
    """A column with the dtype that fits; numbers and truth values of which some are missing get a nullable one.

    What no dtype holds as it is stays what it is, in a column of objects: whole numbers past 64 bits, or past 2**53
    beside fractions; times of several zones; text that is not Unicode; objects of several kinds.
    """
    if isinstance(values, range) and values and max(abs(values.start), abs(values.stop)) < 2**63:
        return pd.Series(np.arange(values.start, values.stop, values.step, dtype=np.int64)).array
    try:
        column = _typed(values)
    except (ValueError, TypeError, OverflowError, ArithmeticError, NotImplementedError):
        column = None
    return object_column(values, len(values)) if column is None else column


class NumbersOrObjects:
    """Values that come in parts, for a column; numbers do not stay objects until the last one is there."""

    def __init__(self, count: int) -> None:
        """`count`: how many will come."""
        self._count = count
        self._taken = 0
        self._numbers: Any = None
        self._objects: list[Any] | None = None

    def add(self, values: list[Any]) -> None:
        """Take the next values."""
        objects = self._objects
        if objects is None:
            numbers = _as_numbers(values)
            if numbers is not None and self._numbers is None:
                self._numbers = np.empty(self._count, dtype=numbers.dtype)
            if numbers is not None and numbers.dtype == self._numbers.dtype:
                self._numbers[self._taken : self._taken + len(values)] = numbers
                self._taken += len(values)
                return
            objects = self._objects = [] if self._numbers is None else self._numbers[: self._taken].tolist()
            self._numbers = None
        objects.extend(values)

    def typed(self, positions: Any, total: int) -> Any:
        """The column that `typed_column` makes of them at these positions, of numpy, and of None at all others."""
        if self._numbers is not None:
            return _filled(self._numbers, positions, total)
        values = self._objects or []
        if len(values) < total:
            column: list[Any] = [None] * total
            for position, value in zip(positions.tolist(), values, strict=True):
                column[position] = value
            values = column
        return typed_column(values)


def _as_numbers(values: list[Any]) -> Any:
    """They as numpy has them; None where they are not all numbers of one kind that it has."""
    kinds = set(map(type, values))
    dtype = _PLAIN.get(kinds.pop()) if len(kinds) == 1 else None
    try:
        return None if dtype is None else np.array(values, dtype=dtype)
    except OverflowError:
        return None


def _filled(numbers: Any, positions: Any, total: int) -> Any:
    if len(numbers) == total:
        return pd.Series(numbers).array
    if numbers.dtype == float:
        column = np.full(total, np.nan)
        column[positions] = numbers
        return pd.Series(column).array
    there: Any = np.zeros(total, dtype=numbers.dtype)
    missing = np.ones(total, dtype=bool)
    there[positions], missing[positions] = numbers, False
    kind = pd.arrays.BooleanArray if numbers.dtype == bool else pd.arrays.IntegerArray
    return kind(there, missing)


def object_column(values: Sequence[Any], count: int) -> Any:
    """A column of Python objects: a Series, which pandas takes as it is, where it would give an array a dtype."""
    column = np.empty(count, dtype=object)
    for position, value in enumerate(values):
        column[position] = value
    return pd.Series(column, dtype=object)


def as_frame(columns: Mapping[Any, Any], index: pd.Index[Any]) -> pd.DataFrame:
    """Columns, of any index or none, beside one another, each with the dtype that it has."""
    plain = {
        name: column.reset_index(drop=True) if isinstance(column, pd.Series) else column
        for name, column in columns.items()
    }
    frame = pd.DataFrame(plain, index=pd.RangeIndex(len(index)), copy=False)
    frame.index = index
    return frame


def frame_of_rows(rows: Iterable[Any], names: Sequence[str], index: pd.Index[Any]) -> pd.DataFrame:
    """Rows, which are dicts, as a frame with these columns; of one that could not be read nothing is there."""
    columns: list[list[Any]] = [[] for _ in names]
    for row in rows:
        fields = row if isinstance(row, dict) else {}
        for name, column in zip(names, columns, strict=True):
            column.append(fields.get(name))
    return as_frame(dict(zip(names, map(typed_column, columns), strict=True)), index)


def _typed(values: Sequence[Any]) -> Any:
    kinds = set(map(type, values))
    lacking = kinds & _MISSING
    kinds -= lacking
    if not kinds:
        return None
    if len(kinds) == 1:
        (kind,) = kinds
        if kind in (int, bool, float):
            return _numbers(values, kind, lacking)
        if kind is str:
            return _text(values)
        if issubclass(kind, np.generic):
            return _numpy(values, kind, lacking)
        if kind is complex:
            return None if lacking else np.array(values, dtype=complex)
    if kinds <= {float, np.float64}:
        return _numbers(values, float, lacking)
    if kinds == {int, float} and type(pd.NA) not in lacking:
        whole = [value for value in values if type(value) is int]
        return pd.Series(values).array if max(map(abs, whole)) <= _EXACT else None
    if any(kinds <= times for times in _TIMES) and type(pd.NA) not in lacking:
        return _times(values)
    return None


def _numbers(values: Sequence[Any], kind: type, lacking: set[type]) -> Any:
    if kind is int:
        whole = [value for value in values if type(value) is int] if lacking else values
        low, high = min(whole), max(whole)
        if low < -(2**63) or high >= 2**64 or (high >= 2**63 and (lacking or low < 0)):
            return None
    if lacking and (kind is not float or type(pd.NA) in lacking):
        return pd.array(values, dtype=_NULLABLE[kind])
    return pd.Series(values).array


def _text(values: Sequence[Any]) -> Any:
    column = pd.Series(values)
    return column.astype("string").array if column.dtype == object else column.array  # pandas 2 takes it for objects


def _numpy(values: Sequence[Any], kind: type[np.generic], lacking: set[type]) -> Any:
    dtype = np.dtype(kind)
    if dtype.kind in "mM":
        units: set[Any] = {value.dtype for value in values if isinstance(value, np.generic)}
        return None if len(units) > 1 or lacking or np.datetime_data(units.pop())[0] not in _UNITS else _times(values)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        return None
    if not lacking:
        return pd.Series(np.array(values, dtype=dtype)).array
    if dtype.itemsize < 4 and dtype.kind == "f":
        return None
    if dtype.kind == "f" and type(pd.NA) not in lacking:
        return pd.Series(np.array([np.nan if value is None else value for value in values], dtype=dtype)).array
    return pd.array(values, dtype=_nullable(dtype))


def _nullable(dtype: Any) -> Any:
    """The name of pandas' dtype for it, with missing values: Int32, UInt8, Float64, boolean."""
    words = {"b": "boolean", "i": f"Int{8 * dtype.itemsize}", "u": f"UInt{8 * dtype.itemsize}"}
    return words.get(dtype.kind, f"Float{8 * dtype.itemsize}")


_UNITS: Final = frozenset({"s", "ms", "us", "ns"})


def _times(values: Sequence[Any]) -> Any:
    """Times, spans of time, periods or intervals; None where they have no dtype in common, such as one time zone."""
    column = pd.Series(values)
    return None if column.dtype == object else column.array
