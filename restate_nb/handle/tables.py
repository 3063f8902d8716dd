"""Frames as input, of any library: their rows become items, passed to the function by the names of the columns.

pandas' and polars' are read by their own means, all others through Arrow's PyCapsule interface, batch after batch: of a
query, a file or a data set no more than a batch is in memory.
"""

from __future__ import annotations

import datetime as dt
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

from restate_nb.errors import InvalidInput
from restate_nb.handle.cells import cells_by_column, cells_of_arrow, cells_of_polars
from restate_nb.handle.originals import is_of, is_pandas
from restate_nb.handle.reading import say_nothing_left

Cells = list[list[Any]]
"""Of each column its cells."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are in memory.

    Attributes:
        count: how many.
        cells: gives those of the rows from one to another.
    """

    count: int
    cells: Callable[[int, int], Cells]


@dataclass(frozen=True, slots=True)
class Table:
    """A frame, and how it is read.

    Attributes:
        names: of its columns.
        blocks: its rows, in order; they can be read once.
        labels: its index; None where it has none.
        own_rows: its rows as they are, if it is more than a frame, and says what they are; else None.
    """

    names: list[str]
    blocks: Iterable[Block]
    labels: Any = None
    own_rows: list[dict[str, Any]] | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Its rows as dicts, one by one."""
        if self.own_rows is not None:
            yield from self.own_rows
            return
        for block in self.blocks:
            for start in range(0, block.count, _AT_ONCE):
                stop = min(start + _AT_ONCE, block.count)
                yield from as_rows(self.names, block.cells(start, stop), stop - start)


_AT_ONCE: Final = 1_000


def as_rows(names: Sequence[str], cells: Cells, count: int) -> list[dict[str, Any]]:
    """Rows as dicts; `count` is how many there are."""
    rows = zip(*cells, strict=True) if cells else repeat((), count)
    return [dict(zip(names, row, strict=True)) for row in rows]


def native(items: Any) -> Any:
    """What is in a wrapper of narwhals; all else as it is."""
    if type(items).__module__.partition(".")[0] == "narwhals" and hasattr(items, "to_native"):
        return items.to_native()
    return items


def is_table(items: object) -> bool:
    """Whether `items` is a frame, whose rows are passed by name."""
    items = native(items)
    if is_pandas(items, "DataFrame") or is_of(items, "polars", "DataFrame"):
        return True
    return any(is_of(items, "pyarrow", name) for name in _OF_PYARROW) or _is_stream(items)


def table_of(items: Any) -> Table | None:
    """A frame as it is read; None for what is none.

    Raises:
        InvalidInput: its columns have names that no argument can have, or it has none.
    """
    items = native(items)
    if is_pandas(items, "DataFrame"):
        return _table_of_pandas(items)
    if is_of(items, "polars", "DataFrame"):
        return Table(column_names(items.columns), [_block_of_polars(items)])
    for name, opened in _OF_PYARROW.items():
        if is_of(items, "pyarrow", name):
            return _streamed(opened(items))
    return _streamed(items) if _is_stream(items) else None


def column_names(names: Iterable[Any]) -> list[str]:
    """What the columns are called when they are passed as arguments: numbers and dates as text.

    Raises:
        InvalidInput: one cannot be an argument's name, or two would have the same.
    """
    given = list(names)
    texts = list(map(_column_name, given))
    if len(set(texts)) < len(texts):
        first: dict[str, Any] = {}
        for name, text in zip(given, texts, strict=True):
            if text in first:
                raise InvalidInput(_there_twice(first[text], name, text))
            first[text] = name
    return texts


def _column_name(name: Any) -> str:
    if isinstance(name, str):
        return name if type(name) is str else str.__str__(name)
    if isinstance(name, (numbers.Real, dt.date)) and str(name) not in ("nan", "NaT"):
        return str(name)
    advice = "Rename it: df.rename(columns={...}), or pass a single column: rnb.map(fn, df['column'])."
    if isinstance(name, tuple):
        advice = "Give the columns names of one level: df.columns = ['_'.join(map(str, name)) for name in df.columns]."
    raise InvalidInput(f"Each row is passed as keyword arguments, and the column {name!r} cannot be one. {advice}")


def _there_twice(one: Any, other: Any, text: str) -> str:
    if type(one) is type(other):
        return f"The column {one!r} is there twice. Rename one of the two."
    return f"The columns {one!r} and {other!r} would both be passed as {text!r}. Rename one of the two."


# ---------------------------------------------------------------- each library


def _table_of_pandas(frame: Any) -> Table:
    names = column_names(frame.columns)
    if type(frame).__module__.partition(".")[0] == "pandas":
        block = Block(len(frame), lambda start, stop: cells_by_column(frame.iloc[start:stop]))
        return Table(names, [block], frame.index)
    called: dict[Any, str] = dict(zip(frame.columns, names, strict=True))
    rows: list[dict[str, Any]] = [
        {str(called.get(name, name)): cell for name, cell in row.items()} for row in frame.to_dict("records")
    ]
    return Table(names, (), frame.index, rows)


def _block_of_polars(frame: Any) -> Block:
    return Block(
        frame.height, lambda start, stop: list(map(cells_of_polars, frame.slice(start, stop - start).get_columns()))
    )


def _as_it_is(items: Any) -> Any:
    return items


_OF_PYARROW: Final[dict[str, Callable[[Any], Any]]] = {
    "Table": _as_it_is,
    "RecordBatch": _as_it_is,
    "RecordBatchReader": _as_it_is,
    "Dataset": lambda dataset: dataset.scanner().to_reader(),
    "Scanner": lambda scanner: scanner.to_reader(),
}
"""The frames of pyarrow, and how each is turned into a stream."""

_NO_TABLES: Final = frozenset({"Series", "Index", "Array", "ChunkedArray", "Column", "LazyFrame"})
"""Names of classes that have Arrow's interface, too, and are one column, or nothing yet."""


def _is_stream(items: object) -> bool:
    if not hasattr(type(items), "__arrow_c_stream__") or is_of(items, "restate_nb", "Job"):  # whose values are items
        return False
    return not any(kind.__name__ in _NO_TABLES for kind in type(items).__mro__)


def _streamed(items: Any) -> Table:
    import pyarrow as pa  # noqa: PLC0415 - heavy, loaded on first use

    try:
        reader = pa.RecordBatchReader.from_stream(_Stream(items))
    except Exception as error:  # whatever a query raises
        if "non-struct" not in str(error):
            raise InvalidInput(f"The items cannot be read: {type(error).__name__}: {error}.") from error
        raise InvalidInput(
            f"items, of class {type(items).__name__}, has no columns. Pass its values: "
            "rnb.map(fn, pyarrow.chunked_array(items))."
        ) from None
    return Table(column_names(reader.schema.names), _Batches(reader, once=is_of(items, "pyarrow", "RecordBatchReader")))


class _Stream:
    """Asks for a stream as it is: not all who have one let themselves be asked for another schema, as pyarrow does."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> Any:
        return self._items.__arrow_c_stream__()


class _Batches:
    """The record batches of a stream, as blocks."""

    def __init__(self, reader: Any, *, once: bool) -> None:
        """`once`: whether the stream cannot be had again."""
        self._reader = reader
        self._once = once

    def __iter__(self) -> Iterator[Block]:
        count = 0
        with self._reader:
            for batch in self._reader:
                count += batch.num_rows
                yield _block_of_arrow(batch)
        if self._once and not count:
            say_nothing_left("RecordBatchReader")


def _block_of_arrow(batch: Any) -> Block:
    names = batch.schema.names

    def cells(start: int, stop: int) -> Cells:
        return [
            cells_of_arrow(column, name)
            for column, name in zip(batch.slice(start, stop - start).columns, names, strict=True)
        ]

    return Block(batch.num_rows, cells)
