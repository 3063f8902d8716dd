"""Tables of Arrow as bytes: its IPC stream, and nothing else of Arrow's formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from restate_nb.values.leaves import bytes_from
from restate_nb.values.parts import binary


def write_table(columns: Sequence[Any]) -> object:
    """Columns of one length, as what is written."""
    import pyarrow as pa  # noqa: PLC0415 - heavy, and needed by few

    return write_whole(pa.table(list(columns), names=[str(each) for each in range(len(columns))]))


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
