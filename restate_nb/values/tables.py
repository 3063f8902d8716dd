"""Tables and columns of pyarrow and polars, as Arrow's IPC stream with their schema and its metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.frames import FORMAT, check_format
from restate_nb.values.ipc import in_one_chunk, read_table, write_whole
from restate_nb.values.tags import Read, Write, tagged

_COLUMN: Final = "0"


def _table_written(kind: str, table: Any, **beside: object) -> object:
    """A table, whose schema is sure to come back."""
    import pyarrow as pa  # noqa: PLC0415 - the user has it loaded

    try:
        same = pa.ipc.read_schema(table.schema.serialize()).equals(table.schema, check_metadata=True)
        content = write_whole(table) if same else None
    except pa.ArrowException as error:
        raise NotEncodable(f"A {kind} cannot be kept, since Arrow cannot write it: {error}") from error
    if content is None:
        raise NotEncodable(f"A {kind} cannot be kept: one of its types has no form in Arrow's IPC. Cast that column.")
    own = [str(each) for each in table.schema.types]
    extensions = {"types": own} if any("extension<" in each for each in own) else {}
    return tagged(kind, content, format=FORMAT, **beside, **extensions)


def _table_read(written: dict[str, Any]) -> Any:
    check_format(written)
    table = read_table(written["v"])
    if "types" in written and [str(each) for each in table.schema.types] != written["types"]:
        raise NotReadable(
            f"It is a {written['$rnb']} with types that are registered by another package: import what defines "
            f"{', '.join(each for each in written['types'] if 'extension<' in each)}."
        )
    return table


# ---------------------------------------------------------------- pyarrow


def pyarrow_writer_of(kind: type) -> Callable[[Any, Write], object] | None:
    """How what pyarrow made is written, by its class; None for all else."""
    import pyarrow as pa  # noqa: PLC0415

    if kind is pa.Table:
        return lambda value, _: _table_written("pyarrow.Table", value, shape=list(value.shape))
    if kind is pa.RecordBatch:
        return lambda value, _: _table_written(
            "pyarrow.RecordBatch", pa.Table.from_batches([value]), shape=[value.num_rows, value.num_columns]
        )
    if kind is pa.ChunkedArray:
        return lambda value, _: _column_written("pyarrow.ChunkedArray", value)
    if issubclass(kind, pa.Array):
        return lambda value, _: _column_written("pyarrow.Array", value)
    return None


def _column_written(kind: str, column: Any) -> object:
    import pyarrow as pa  # noqa: PLC0415

    return _table_written(kind, pa.table([column], names=[_COLUMN]), shape=[len(column)])


def _read_batch(written: dict[str, Any], _read: Read) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    table = _table_read(written)
    batches = table.combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError("it has several batches")
    if batches:
        return batches[0]
    return pa.RecordBatch.from_arrays([pa.array([], each) for each in table.schema.types], schema=table.schema)


def _read_column(written: dict[str, Any], _read: Read) -> Any:
    return _table_read(written).column(_COLUMN)


def _read_array(written: dict[str, Any], read: Read) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    column = _read_column(written, read)
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


# ---------------------------------------------------------------- polars


def polars_writer_of(kind: type) -> Callable[[Any, Write], object] | None:
    """How what polars made is written, by its class; None for all else."""
    import polars as pl  # noqa: PLC0415

    if kind is pl.DataFrame:
        return lambda value, _: _polars_written("polars.DataFrame", value, list(value.shape))
    if kind is pl.Series:
        return lambda value, _: _polars_written("polars.Series", value.to_frame(), [len(value)])
    return None


def _polars_written(kind: str, frame: Any, shape: list[int]) -> object:
    import polars as pl  # noqa: PLC0415

    if pl.Object in frame.dtypes or any("Object" in str(each) for each in frame.dtypes if each.is_nested()):
        raise NotEncodable(f"A {kind} with cells that are Python's objects cannot be kept. Use a list of dicts.")
    try:
        table = in_one_chunk(frame.to_arrow())
        table = table.rename_columns([str(each) for each in range(table.num_columns)])  # polars takes no empty name
        back = _polars_frame(table, frame.columns)
    except ValueError as error:
        raise NotEncodable(f"A {kind} cannot be kept: {error}") from error
    if back.schema != frame.schema or back.shape != frame.shape:
        raise NotEncodable(f"A {kind} of {frame.schema} would come back as one of {back.schema}. Cast its columns.")
    return _table_written(kind, table, shape=shape, names=frame.columns)


def _polars_frame(table: Any, names: list[str]) -> Any:
    """The table as polars has it, with these names.

    Raises:
        ValueError: it cannot have it.
    """
    import polars as pl  # noqa: PLC0415

    try:
        frame: Any = pl.from_arrow(table, rechunk=False)
        frame.columns = names
        return frame
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what polars raises where its native code gives up is no Exception
        raise ValueError(f"it is no table of polars: {error}") from error


def _read_polars(written: dict[str, Any], _read: Read) -> Any:
    frame = _polars_frame(_table_read(written), written["names"])
    return frame.to_series() if written["$rnb"] == "polars.Series" else frame


READERS: Final[dict[str, Callable[[dict[str, Any], Read], Any]]] = {
    "polars.DataFrame": _read_polars,
    "polars.Series": _read_polars,
    "pyarrow.Array": _read_array,
    "pyarrow.ChunkedArray": _read_column,
    "pyarrow.RecordBatch": _read_batch,
    "pyarrow.Table": lambda written, _: _table_read(written),
}
