"""Tables of Arrow as bytes: its IPC stream, and nothing else of Arrow's formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from restate_nb.values.leaves import bytes_from
from restate_nb.values.parts import binary


def write_table(columns: Sequence[Any]) -> object:
    """Columns of one length, as what is written; in however many chunks they are, equal ones are written alike."""
    import pyarrow as pa  # noqa: PLC0415 - heavy, and needed by few

    return write_whole(in_one_chunk(pa.table(list(columns), names=[str(each) for each in range(len(columns))])))


def in_one_chunk(table: Any) -> Any:
    """A table whose columns have one chunk each, where they are not too long for that, and no bits but their own."""
    import pyarrow as pa  # noqa: PLC0415

    if all(map(_is_one, table.columns)):
        return table
    try:
        return pa.Table.from_arrays([_in_one(column) for column in table.columns], schema=table.schema)
    except pa.ArrowException:  # text of more than 2 GB, with 32 bits for where each begins
        return table


def _is_one(column: Any) -> bool:
    """Whether it is one chunk, and has no missing cells: these are bits, and there are others beside them."""
    return column.num_chunks == 1 and not column.null_count and not column.type.num_fields


def _in_one(column: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    if _is_one(column):
        return column
    return pa.concat_arrays([*column.chunks, pa.array([], column.type)])


def write_whole(table: Any) -> object:
    """A table with its schema and metadata, as what is written."""
    import pyarrow as pa  # noqa: PLC0415

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return binary(memoryview(sink.getvalue()))


def read_table(content: str | memoryview) -> Any:
    """The table; its memory is that of the content.

    Raises:
        ValueError: it is none.
    """
    import pyarrow as pa  # noqa: PLC0415

    try:
        table = pa.ipc.open_stream(pa.py_buffer(bytes_from(content))).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"it is no table of Arrow: {error}") from error
    return table
