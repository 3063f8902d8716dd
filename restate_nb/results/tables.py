"""Values that are tables, put one below the other: what tells of which item each row is, becomes part of the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_object_dtype

from restate_nb.errors import InvalidInput
from restate_nb.results.exports import label_text, level_names, plain_index

PANDAS: Final = frozenset({"pandas DataFrame", "pandas Series"})
TABLES: Final = PANDAS | {"polars DataFrame", "pyarrow Table"}
"""What has rows of its own."""


def table_kind(value: Any) -> str | None:
    """The library and the class of a value that is a table or a Series; None for all else."""
    for each in type(value).__mro__:
        kind = f"{each.__module__.partition('.')[0]} {each.__name__}"
        if kind in TABLES:
            return kind
    return None


def concatenated(tables: Sequence[Any], labels: pd.Index[Any]) -> Any:
    """DataFrames or Series of pandas, one below the other.

    Args:
        tables: all of one class.
        labels: of the items, which become the outer levels of the index, whatever they are: twice the same, or missing.
    """
    both = pd.concat(tables)
    outer = labels.take(np.repeat(np.arange(len(tables)), [len(each) for each in tables]))
    levels = [*_levels(outer), *_levels(both.index)]
    both.index = pd.MultiIndex.from_arrays(levels, names=[*labels.names, *both.index.names])
    return both


def _levels(index: pd.Index[Any]) -> list[Any]:
    return [index.get_level_values(place) for place in range(index.nlevels)]


class Sheet:
    """How rows of pandas are written: their index as columns, and what pandas needs to read them as they were.

    Attributes:
        index: the names of the index's columns; or a RangeIndex, which needs none.
        labels: the names in pandas of columns that have others here.
        column_indexes: as pyarrow tells of the index of columns.
    """

    def __init__(self, outer: int | None = None) -> None:
        """`outer`: how many levels of the index tell of which item a row is, where others tell which row it is."""
        self._outer = outer
        self.index: Any = []
        self.labels: dict[str, Any] = {}
        self.column_indexes: list[Any] = []

    def columns(self, frame: pd.DataFrame) -> dict[str, pd.Series[Any]]:
        """The columns of a frame by their names in a file.

        Raises:
            InvalidInput: two have the same one.
        """
        names = column_names(frame.columns)
        columns: dict[str, pd.Series[Any]] = {}
        if not isinstance(self.index, pd.RangeIndex):
            index = plain_index(frame.index)
            self.index = self._level_names(index, names)
            for name, own, level in zip(self.index, index.names, _levels(index), strict=True):
                self.labels[name] = None if own is None else label_text(own)
                columns[name] = level.to_series(index=pd.RangeIndex(len(frame)))
        for place, name in enumerate(names):
            columns[name] = frame.iloc[:, place].reset_index(drop=True)
        if not self.column_indexes:
            bare = pa.Schema.from_pandas(pd.DataFrame(columns=frame.columns, index=pd.RangeIndex(0)))
            self.column_indexes = bare.pandas_metadata["column_indexes"]
        return columns

    def _level_names(self, index: pd.Index[Any], taken: list[str]) -> list[str]:
        if self._outer is None:
            return level_names(index, taken)
        levels: Any = [*range(index.nlevels)]
        of_item = level_names(index.droplevel(levels[self._outer :]), taken)
        return of_item + level_names(index.droplevel(levels[: self._outer]), [*taken, *of_item], "row")


def column_names(labels: Any) -> list[str]:
    """What columns are called in a file.

    Raises:
        InvalidInput: two would have the same name.
    """
    names = [str(tuple(map(str, label))) if isinstance(label, tuple) else label_text(label) for label in labels]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(
            f"There are two columns {twice!r}, and files and Arrow tell columns by their names. Rename one, in what "
            "the function returns."
        )
    return names


def rows_of_pandas(tables: Sequence[Any], labels: pd.Index[Any]) -> pd.DataFrame:
    """DataFrames or Series, one below the other, as a DataFrame: cells without anything in them are None."""
    both = concatenated(tables, labels)
    frame: pd.DataFrame = both.to_frame("value" if both.name is None else both.name) if both.ndim == 1 else both
    for place, dtype in enumerate(frame.dtypes):
        if is_object_dtype(dtype):
            column: Any = frame.iloc[:, place]
            frame.isetitem(place, column.where(column.notna(), None))
    return frame


def columns_of_arrow(table: Any, labels: pd.Index[Any]) -> tuple[list[str], dict[str, Any]]:
    """The columns of a table of polars or pyarrow, of one item.

    Args:
        table: it.
        labels: an index that has the item's label only.

    Returns:
        The names of the columns for the label, and all columns.
    """
    table = table if isinstance(table, pa.Table) else table.to_arrow()
    names = level_names(labels, table.column_names)
    index = plain_index(labels)
    columns: dict[str, Any] = {
        name: level.take(np.zeros(len(table), dtype=np.intp)).to_series(index=pd.RangeIndex(len(table)))
        for name, level in zip(names, _levels(index), strict=True)
    }
    columns |= zip(column_names(table.column_names), table.columns, strict=True)
    return names, columns


def tables_in(values: Sequence[Any]) -> Mapping[str | None, int]:
    """Which kinds of tables are among values, and where the first of each is; None for what is no table."""
    found: dict[str | None, int] = {}
    by_class: dict[type, str | None] = {}
    for place, value in enumerate(values):
        if value is not None:
            kind = type(value)
            if kind not in by_class:
                by_class[kind] = table_kind(value)
            found.setdefault(by_class[kind], place)
    return found
