"""DataFrames, Series, indexes and arrays of pandas: an Arrow table, and in JSON beside it what Arrow would lose - the
index, labels of any kind, dtypes, zones, categories, `attrs`, flags, cells that are objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from restate_nb.errors import NotReadable
from restate_nb.values.columns import Columns, Table, write_column, write_index
from restate_nb.values.ipc import read_table, write_table
from restate_nb.values.tags import Read, Write, tagged

FORMAT: Final = 1


def writer_of(kind: type) -> Callable[[Any, Write], object] | None:
    """How what pandas made of several values is written, by its class; None for all else."""
    import pandas as pd  # noqa: PLC0415 - the user has it loaded

    if kind is pd.DataFrame:
        return _write_frame
    if kind is pd.Series:
        return _write_series
    if issubclass(kind, pd.Index):
        return _write_index
    if issubclass(kind, pd.api.extensions.ExtensionArray):
        return _write_array
    return None


def _write_frame(frame: Any, write: Write) -> object:
    table = Table(len(frame), write)
    index = write_index(frame.index, table)
    columns = [write_column(series, table) for series in _columns(frame)]
    labels = write_index(frame.columns, Table(-1, write))
    return _written(
        "DataFrame",
        table,
        shape=list(frame.shape),
        index=index,
        labels=labels,
        columns=columns,
        **_beside(frame, write),
    )


def _columns(frame: Any) -> Iterator[Any]:
    """Its columns by their place: by their label pandas does not find all of them."""
    bare = frame.copy(deep=False)
    bare.columns = range(frame.shape[1])
    for _, column in bare.items():
        yield column


def _write_series(series: Any, write: Write) -> object:
    table = Table(len(series), write)
    index = write_index(series.index, table)
    column = write_column(series, table)
    name = {} if series.name is None else {"name": write(series.name)}
    return _written("Series", table, shape=[len(series)], index=index, column=column, **name, **_beside(series, write))


def _write_index(index: Any, write: Write) -> object:
    table = Table(len(index), write)
    return _written("Index", table, shape=[len(index)], index=write_index(index, table))


def _write_array(array: Any, write: Write) -> object:
    table = Table(len(array), write)
    return _written("pandas array", table, shape=[len(array)], column=write_column(array, table))


def _written(kind: str, table: Table, **beside: Any) -> object:
    return tagged(kind, write_table(table.columns) if table.columns else None, format=FORMAT, **beside)


def _beside(data: Any, write: Write) -> dict[str, object]:
    """What a frame or Series has besides its content."""
    found: dict[str, object] = {}
    if data.attrs:
        found["attrs"] = write(dict(data.attrs))
    if not data.flags.allows_duplicate_labels:
        found["unique"] = True
    return found


def check_format(written: dict[str, Any], newest: int = FORMAT) -> None:
    """See that this version can read what was written.

    Raises:
        NotReadable: a newer one wrote it.
    """
    if written["format"] != newest:
        raise NotReadable(
            f"It is a {written['$rnb']} that a newer restate_nb wrote (format {written['format']!r:.20}). Update this "
            "one."
        )


def _columns_of(written: dict[str, Any], read: Read) -> Columns:
    check_format(written)
    content = written["v"]
    return Columns([] if content is None else read_table(content).columns, read)


def _read_frame(written: dict[str, Any], read: Read) -> Any:
    import pandas as pd  # noqa: PLC0415 - heavy, and needed by few

    columns = _columns_of(written, read)
    index, labels = columns.index(written["index"]), columns.index(written["labels"])
    arrays = {at: _as_it_is(columns.column(each)) for at, each in enumerate(written["columns"])}
    frame = pd.DataFrame(arrays) if arrays else pd.DataFrame(index=index)
    if len(frame) != len(index):
        raise ValueError(f"a table of {len(frame)} rows has an index of {len(index)}")
    frame.index, frame.columns = index, labels
    return _with_beside(frame, written, read)


def _as_it_is(array: Any) -> Any:
    """An array, so that pandas takes objects for what they are, and not for text or times."""
    import pandas as pd  # noqa: PLC0415

    return pd.Series(array, dtype=object, copy=False) if array.dtype == object else array


def _read_series(written: dict[str, Any], read: Read) -> Any:
    import pandas as pd  # noqa: PLC0415

    columns = _columns_of(written, read)
    array = columns.column(written["column"])
    name = read(written["name"]) if "name" in written else None
    series = pd.Series(array, index=columns.index(written["index"]), dtype=array.dtype, name=name, copy=True)
    return _with_beside(series, written, read)


def _with_beside(data: Any, written: dict[str, Any], read: Read) -> Any:
    if "attrs" in written:
        data.attrs = read(written["attrs"])
    if written.get("unique"):
        data.flags.allows_duplicate_labels = False
    return data


def _read_index(written: dict[str, Any], read: Read) -> Any:
    return _columns_of(written, read).index(written["index"])


def _read_array(written: dict[str, Any], read: Read) -> Any:
    import pandas as pd  # noqa: PLC0415

    array = _columns_of(written, read).column(written["column"])
    if isinstance(array, pd.api.extensions.ExtensionArray):
        return array.copy()
    plain = pd.Series(array, dtype=array.dtype, copy=True)
    return pd.arrays.NumpyExtensionArray(plain.to_numpy()) if array.dtype.kind not in "mM" else plain.array


def shown(value: Any) -> str:
    """In a few words, for people."""
    kind = type(value).__name__
    if value.ndim == 1:
        name = getattr(value, "name", None)
        return f"{kind}, {len(value):,} values" + ("" if name is None else f": {name}")
    return in_words(kind, value.shape, value.columns)


def in_words(kind: str, shape: tuple[int, int], labels: Sequence[Any]) -> str:
    """A table in a few words: its size, and its first columns."""
    named = ", ".join(map(str, labels[:_SHOWN_LABELS])) + (", ..." if shape[1] > _SHOWN_LABELS else "")
    return f"{kind}, {shape[0]:,} x {shape[1]:,}" + (f": {named}" if named else "")


_SHOWN_LABELS: Final = 10

READERS: Final[dict[str, Callable[[dict[str, Any], Read], Any]]] = {
    "DataFrame": _read_frame,
    "Index": _read_index,
    "pandas array": _read_array,
    "Series": _read_series,
}
