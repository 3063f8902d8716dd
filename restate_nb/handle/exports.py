"""A job for other programs: as a table of Arrow, batch after batch, and as a file."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from restate_nb.engine.record import OK
from restate_nb.errors import InvalidInput
from restate_nb.formatting import counted, size
from restate_nb.handle.outcomes import frame_of, further_columns, item_column, stored_bytes, values_at
from restate_nb.handle.runner import JobRunner
from restate_nb.handle.wait import check_followed, check_live, check_not_paused, until_ended_from, wait_for_end
from restate_nb.results.arrow import Schema, Widened
from restate_nb.results.columns import as_frame, typed_column
from restate_nb.results.exports import described_in, label_text, plain_index
from restate_nb.results.frame import COLUMNS, expanded, outcomes_frame, with_columns
from restate_nb.results.parquet import write_parquet
from restate_nb.results.tables import PANDAS, TABLES, Sheet, columns_of_arrow, concatenated, rows_of_pandas, tables_in
from restate_nb.results.unreadable import unreadable
from restate_nb.results.values import BATCH_BYTES, BATCH_ROWS, READ_BYTES, Batch, batches
from restate_nb.tracebacks import caller_level

if TYPE_CHECKING:
    import polars

METADATA: Final = "restate_nb"
"""The key under which a table's metadata tell of which job it is, and how many of its items have ended."""


class Export:
    """One export of a job: its rows in input order, as they are when it is made.

    If what the function returned are tables, their rows are what is exported, and the items' labels are columns beside
    them.
    """

    def __init__(
        self, runner: JobRunner, *, columns: Sequence[str] | None = None, expand: bool = False, follow: bool = False
    ) -> None:
        """
        Args:
            runner: the job's.
            columns: those of its frame that are wanted; all by default.
            expand: put the fields of values in columns of their own.
            follow: wait for items that have not ended.
        """
        check_live(runner)
        self._runner = runner
        self._data = runner.data
        self._expand = expand
        self._follow = follow
        index = runner.data.items.index()
        self._index = plain_index(index)
        further = list(further_columns(runner.data))
        self._wanted = [*COLUMNS, *further] if columns is None else list(columns)
        if wrong := [name for name in self._wanted if name not in COLUMNS and name not in further]:
            raise InvalidInput(f"The frame has no column {wrong[0]!r}. It has {', '.join([*COLUMNS, *further])}.")
        self._chosen = columns is not None
        self._now: tuple[pd.DataFrame, Any] | None = None
        self._kind: str | None = None  # of tables
        self._had_others = ""  # a value that is no table, in words
        self._missing = 0  # values that are None, among tables
        self._items_left_out = False
        self._schema = Schema()
        self._sheet = self._new_sheet()

    def _new_sheet(self) -> Sheet:
        index = self._index
        sheet = Sheet(index.nlevels if self._kind in PANDAS else None)
        if self._kind is None and type(index) is pd.RangeIndex and (index.start, index.step) == (0, 1):
            sheet.index = index
        return sheet

    # ------------------------------------------------------------ all of it

    def tables(self) -> Iterator[Any]:
        """All rows, batch after batch, as tables of one schema.

        Raises:
            Widened: at the end: they have to be asked for anew, with the types that were found.
            InvalidInput: what the function returned are tables and other things.
            JobError: the job that is followed has paused itself, or could not be followed to its end.
        """
        self._schema.begin()
        self._missing = 0
        nothing = True
        for columns in self._all_pieces():
            nothing = False
            table = self._schema.table(columns)
            columns.clear()  # nothing here holds what the caller has let go of, while the next batch is made
            if table is not None:
                yield self._with_metadata(table)
            del table
        if nothing:
            none = self._rows(Batch(0, 0, [], []), [], self._outcomes()[0])
            yield self._with_metadata(self._schema.table(self._sheet.columns(none)))
        self._schema.end()

    def _all_pieces(self) -> Iterator[dict[str, Any]]:
        for batch, outcomes in self._batches():
            values = self._values(batch)
            batch.raws.clear()
            yield from self._pieces(batch, values, outcomes)
            del values

    def table(self) -> Any:
        """All rows as one table."""
        while True:
            try:
                tables = [*self.tables()]
            except Widened:
                continue
            table = pa.concat_tables(tables).unify_dictionaries()
            return table.replace_schema_metadata({**(table.schema.metadata or {}), **self.told()})

    def reader(self) -> Any:
        """All rows as a stream. Where they are more than is read at once, only few are in memory."""
        if stored_bytes(self._data) <= READ_BYTES:
            return self.table().to_reader()
        while True:
            try:
                schema = None
                for table in self.tables():  # a stream tells its types first
                    schema = table.schema
                break
            except Widened:
                continue
        return pa.RecordBatchReader.from_batches(
            schema, (batch for table in self.tables() for batch in table.to_batches())
        )

    def told(self) -> dict[str, str]:
        """What a file tells of the job."""
        counts, manifest = self._counts(), self._data.manifest
        return {METADATA: json.dumps({"job": manifest.name, "generation": manifest.generation, **counts})}

    def _counts(self) -> dict[str, int]:
        """How many items there are in it, and what became of them."""
        status = self._outcomes()[0]["status"].value_counts()
        counts = {"ok": status["ok"], "failed": status["error"] + status["timeout"], "cancelled": status["cancelled"]}
        counts["unfinished"] = status["pending"] + status["running"]
        return {"total": self._data.ledger.total} | {name: int(count) for name, count in counts.items()}

    def warn(self) -> None:
        """Say what is not in it."""
        counts = self._counts()
        left_out = []
        if unfinished := counts["unfinished"]:
            have = "has" if unfinished == 1 else "have"
            left_out.append(f"{unfinished:,} of {counted(counts['total'], 'item')} {have} not ended by now")
        without = counts["failed"] + counts["cancelled"]
        if without and self._kind is not None:
            left_out.append(f"{counted(without, 'item')} failed or cancelled, and left out")
        if self._missing:
            left_out.append(f"{counted(self._missing, 'value')} None, and left out")
        if self._items_left_out:
            left_out.append("the column item is left out, since items are no cells of a table")
        if left_out:
            waits = " job.wait() waits for them." if unfinished else ""
            warnings.warn(f"{self._data.name!r}: {'; '.join(left_out)}.{waits}", stacklevel=caller_level())

    # ------------------------------------------------------------ batches

    def _batches(self) -> Iterator[tuple[Batch, pd.DataFrame]]:
        ledger, begin = self._data.ledger, 0
        while begin < ledger.total:
            if self._follow:
                upto = until_ended_from(self._runner, begin, lambda upto: self._is_batch(begin, upto))  # noqa: B023
                self._now = None
            else:
                upto = ledger.total
            outcomes, went_well = self._outcomes()
            if "value" not in self._wanted:
                went_well = np.zeros(len(went_well), dtype=bool)
            for batch in batches(ledger, went_well[:upto], begin, self._item_sizes()):
                yield batch, outcomes
            begin = upto

    def _is_batch(self, begin: int, upto: int) -> bool:
        """Whether so many items are worth writing."""
        if upto - begin >= BATCH_ROWS:
            return True
        ledger = self._data.ledger
        went_well = begin + np.flatnonzero(np.frombuffer(bytes(ledger.status[begin:upto]), dtype=np.uint8) == OK)
        return int(ledger.value_sizes(went_well).sum()) >= BATCH_BYTES

    def _outcomes(self) -> tuple[pd.DataFrame, Any]:
        """All but items and values; of an export that waits for nothing, at one moment."""
        if self._now is None:
            data = self._data
            index = pd.RangeIndex(data.ledger.total)
            running, submitted = data.backend.running_positions(), data.manifest.created
            frame, went_well = outcomes_frame(data.ledger, index, running=running, submitted=submitted)
            self._now = with_columns(frame, further_columns(data)), went_well
        return self._now

    def _item_sizes(self) -> Any:
        """How many bytes each item has, if they are asked for."""
        encoded = self._data.items.encoded
        return encoded.sizes_when_read(np.arange(len(encoded))) if "item" in self._wanted else 0

    def _values(self, batch: Batch) -> list[Any]:
        return self._data.function.value_column(batch.raws, batch.positions, unreadable)

    # ------------------------------------------------------------ rows

    def _pieces(self, batch: Batch, values: list[Any], outcomes: pd.DataFrame) -> Iterator[dict[str, Any]]:
        self._look_for_tables(batch, values)
        if self._kind is None:
            yield self._sheet.columns(self._rows(batch, values, outcomes))
            return
        there = [place for place, value in enumerate(values) if value is not None]
        self._missing += len(values) - len(there)
        tables = [values[place] for place in there]
        labels = self._index.take([batch.positions[place] for place in there])
        if self._kind in PANDAS:
            if tables:
                yield self._sheet.columns(rows_of_pandas(tables, labels))
            return
        for place, table in enumerate(tables):
            sheet = self._sheet
            sheet.index, columns = columns_of_arrow(table, labels[place : place + 1])
            for name, own in zip(sheet.index, labels.names, strict=True):
                sheet.labels[name] = None if own is None else label_text(own)
            yield columns

    def _look_for_tables(self, batch: Batch, values: list[Any]) -> None:
        found = tables_in(values)
        kinds = [kind for kind in found if kind is not None]
        if None in found and not self._had_others:
            place = found[None]
            self._had_others = f"that of item {batch.positions[place]} is of the class {type(values[place]).__name__}"
        kinds += [self._kind] if self._kind is not None and self._kind not in kinds else []
        if len(kinds) > 1 or (kinds and self._had_others):
            other = self._had_others or f"others are each a {kinds[1]}"
            raise InvalidInput(
                f"Some of the values are each a {kinds[0]}, whose rows are exported, and {other}. Have the function "
                'return one kind, or leave them out: columns=["item", "status", ...].'
            )
        if kinds and self._kind is None:
            if self._chosen:
                raise InvalidInput(
                    f"The values are each a {kinds[0]}, whose rows are exported with all their columns. Leave columns= "
                    'out, or leave out "value" there.'
                )
            self._kind, self._schema = kinds[0], Schema()
            self._sheet = self._new_sheet()
            if batch.begin:
                raise Widened

    def _rows(self, batch: Batch, values: list[Any], outcomes: pd.DataFrame) -> pd.DataFrame:
        """One row an item."""
        some = outcomes.iloc[batch.begin : batch.end]
        count = batch.end - batch.begin
        columns: dict[str, Any] = {}
        if "item" in self._wanted:
            items = item_column(self._data.items, range(batch.begin, batch.end))
            if described_in(items) is not None:
                self._items_left_out = True
                self._wanted.remove("item")
                self._schema = Schema()
                raise Widened
            columns["item"] = items
        if "value" in self._wanted:
            column = values
            if len(values) < count:
                column = [None] * count
                for position, value in zip(batch.positions, values, strict=True):
                    column[position - batch.begin] = value
            columns["value"] = typed_column(column)
        for name in some.columns:
            columns[name] = some[name]
        frame = as_frame(columns, self._index[batch.begin : batch.end])
        if self._expand and "value" in columns:
            frame = expanded(frame)
        dropped = [name for name in (*COLUMNS, *further_names(some)) if name not in self._wanted]
        return frame.drop(columns=dropped, errors="ignore")

    def _with_metadata(self, table: Any) -> Any:
        sheet = self._sheet
        told = self._schema.pandas_metadata(sheet.index, sheet.labels, sheet.column_indexes)
        return table.replace_schema_metadata({b"pandas": told})


def further_names(frame: pd.DataFrame) -> list[str]:
    """The columns that not every job has."""
    return [name for name in frame.columns if name not in COLUMNS]


# ---------------------------------------------------------------- what Job has


def to_parquet(export: Export, path: str | os.PathLike[str], options: dict[str, Any]) -> Path:
    """Write it; see `Job.to_parquet`."""
    file = Path(path)
    write_parquet(file, export.tables, export.told, options)
    export.warn()
    return file


def to_arrow(export: Export) -> pa.Table:
    """See `Job.to_arrow`."""
    table = export.table()
    export.warn()
    return table


def to_polars(export: Export) -> polars.DataFrame:
    """See `Job.to_polars`.

    Raises:
        InvalidInput: polars is not installed.
    """
    try:
        import polars as pl  # noqa: PLC0415 - an optional package
    except ImportError:
        raise InvalidInput("job.to_polars() needs polars: pip install polars.") from None
    frame = pl.from_arrow(to_arrow(export))
    assert isinstance(frame, pl.DataFrame)
    return frame


_ROWS: Final = (
    (PANDAS, "job.concat() puts its rows together with the others', job.to_parquet(path) writes them. "),
    (TABLES, "job.to_polars() puts its rows together with the others', job.to_parquet(path) writes them. "),
)


def read_at_once(runner: JobRunner) -> pd.DataFrame:
    """The frame of a job for a file that is written as a whole.

    Raises:
        InvalidInput: its values are too many for that, or they are tables.
    """
    export = Export(runner)
    stored = stored_bytes(runner.data)
    if stored > READ_BYTES:
        raise InvalidInput(
            f"Items and values take {size(stored)} in the store, and up to {size(READ_BYTES)} are read at once. "
            "job.to_parquet(path) writes them batch after batch."
        )
    frame = frame_of(runner.data, lazy=False)
    for name in ("value", "item"):
        if (kind := described_in(frame[name])) is not None:
            rows = next((words for kinds, words in _ROWS if kind in kinds), "") if name == "value" else ""
            raise InvalidInput(
                f"The column {name!r} has a {kind}, which is no cell of a file. {rows}"
                f"job.frame().drop(columns={name!r}) is the frame without it."
            )
    export.warn()
    return frame


def arrow_stream(export: Export, requested_schema: object) -> object:
    """See `Job.__arrow_c_stream__`."""
    reader = export.reader()
    export.warn()
    return reader.__arrow_c_stream__(requested_schema)


def concat(runner: JobRunner) -> Any:
    """See `Job.concat`.

    Raises:
        JobError: the job could not be followed to its end, or has paused itself.
        InvalidInput: the values are no DataFrames or Series of pandas, all of one kind.
    """
    if not wait_for_end(runner, None):
        check_not_paused(runner)
    check_followed(runner)
    data = runner.data
    positions = [*data.ledger.positions(OK)]
    values = list[Any]()
    for raws in data.ledger.raws_in_parts(positions):
        values += values_at(data, raws, positions[len(values) : len(values) + len(raws)])
    kept = [place for place, value in enumerate(values) if value is not None]
    kinds = tables_in(values)
    if kinds.keys() - PANDAS or len(kinds) != 1:
        raise InvalidInput(_not_to_concat(data.name, values, kinds))
    labels = data.items.index().take([positions[place] for place in kept])
    both = concatenated([values[place] for place in kept], labels)
    left_out = []
    if without := data.ledger.total - len(values):
        left_out.append(f"{counted(without, 'item')} of {data.ledger.total:,} failed or cancelled, and left out")
    if nothing := len(values) - len(kept):
        left_out.append(f"{counted(nothing, 'value')} None, and left out")
    if left_out:
        warnings.warn(f"{data.name!r}: {'; '.join(left_out)}.", stacklevel=caller_level())
    return both


def _not_to_concat(name: str, values: list[Any], kinds: Mapping[str | None, int]) -> str:
    if not kinds:
        return f"No item of {name!r} has a value to be put below others; job.errors() groups what went wrong."
    told = [f"a {kind or type(values[place]).__name__}" for kind, place in kinds.items()]
    if len(told) > 1:
        return f"The values of {name!r} are of several kinds, such as {' and '.join(told[:3])}: job.frame() has them."
    other = "job.to_polars() and job.to_arrow() put its rows together" if None not in kinds else "job.frame() has them"
    return f"concat() is for DataFrames and Series of pandas, and the values of {name!r} are each {told[0]}: {other}."
