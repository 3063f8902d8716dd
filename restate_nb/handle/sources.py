"""What there is to read of `items` that are no table: any iterable, column, dict, or the groups of a groupby."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from restate_nb.errors import InvalidInput
from restate_nb.formatting import short_repr
from restate_nb.handle.cells import cells_of_arrow, cells_of_polars
from restate_nb.handle.groups import Groups, groups_of
from restate_nb.handle.originals import is_of, is_pandas
from restate_nb.handle.tables import native

Labels = Any
"""An index of pandas, a sequence of hashable labels, or None for 0, 1, 2, ..."""


@dataclass(frozen=True, slots=True)
class Source:
    """What there is to read.

    Attributes:
        items: to be read once. A sequence is nobody else's, or cannot be changed.
        labels: the index; those of groups grow while they are read.
    """

    items: Iterable[Any]
    labels: Labels = None

    def index(self) -> Labels:
        """The labels, when all was read."""
        return self.items.index() if isinstance(self.items, Groups) else self.labels


def source_of(items: Any, *, pairs: bool = False) -> Source:
    """What there is to read of `items`.

    Args:
        items: what the user gave; no table.
        pairs: whether groups come as pairs of their key and themselves.

    Raises:
        InvalidInput: it is no collection, or none that can be read again in the same order.
    """
    items = native(items)
    groups = groups_of(items, pairs=pairs)
    if groups is not None:
        return Source(groups, groups.keys)
    column = _column(items)
    if column is not None:
        return column
    _refuse_single(items)
    _refuse_frames(items)
    if isinstance(items, Mapping):
        given = list(items.items())  # at one time: another thread may be filling it
        return Source([value for _, value in given], [key for key, _ in given])
    if isinstance(items, (list, tuple, range)):
        return Source(list(items) if isinstance(items, list) else items)  # as above
    if isinstance(items, Iterable):  # before __aiter__: what has both, such as tqdm, is read here and now
        return Source(items)
    if hasattr(items, "__aiter__"):
        raise InvalidInput("items is an async iterator. Collect it first: items = [item async for item in ...].")
    if not isinstance(items, type) and hasattr(items, "__getitem__") and hasattr(items, "__len__"):
        return Source(_by_position(items))  # a data set, as torch has them
    raise InvalidInput(
        f"items must be a list, an iterable, a Series, a DataFrame or a dict, not {short_repr(items)}."
        + (" Take what is in the queue first, as a list." if hasattr(items, "get_nowait") else "")
    )


def _column(items: Any) -> Source | None:
    """One column of any library; None for what is none."""
    if is_pandas(items, "Series"):
        return Source(items.tolist(), items.index)
    if is_of(items, "polars", "Series"):
        return Source(cells_of_polars(items))
    if is_of(items, "pyarrow", "Array") or is_of(items, "pyarrow", "ChunkedArray"):
        return Source(cells_of_arrow(items))
    if hasattr(items, "ndim") and hasattr(items, "dtype") and not items.ndim:
        raise InvalidInput(
            f"items is one value, {short_repr(items)}: an array without dimensions. For a single item write [item]."
        )
    if hasattr(items, "tolist") and getattr(items, "ndim", 0) == 1:  # numpy arrays, pandas Index
        return Source(_elements(items))
    return None


def _elements(array: Any) -> list[Any]:
    """The elements of an array: Python's own, where they are the same; times that Python has no type for as numpy's."""
    try:
        listed: list[Any] = array.tolist()
    except OverflowError:  # numpy's, for times that Python's own cannot hold
        return list(array)
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if kind in "mM" and any(each is None or type(each) is int for each in listed):
        return list(array)
    return listed


def _by_position(items: Any) -> Iterator[Any]:
    return (items[position] for position in range(len(items)))


def _refuse_single(items: object) -> None:
    if isinstance(items, (str, bytes, bytearray)):
        raise InvalidInput(f"items is one {type(items).__name__}, not a collection. For a single item write [item].")
    if isinstance(items, (set, frozenset)):
        raise InvalidInput(
            "A set has no order, so the job could not be found again. Pass sorted(items) or list(items)."
        )
    if type(items).__name__ == "ScandirIterator":
        raise InvalidInput(
            "os.scandir gives entries of a directory, which have no JSON form. Pass their paths: "
            "[entry.path for entry in os.scandir(...)], or sorted(pathlib.Path(...).iterdir())."
        )


_OTHERS = {
    "LazyFrame": "It has no rows yet: collect() it, rnb.map(fn, items.collect()).",
    "TableGroupBy": "Group its rows by pandas or polars: rnb.map(fn, table.to_pandas().groupby(...)).",
    "ParquetFile": "Pass its batches, each of them an item, rnb.map(fn, items.iter_batches()), or all rows of its "
    "table, rnb.map(fn, items.read()).",
}


def _refuse_frames(items: object) -> None:
    """Frames that cannot be read by row: to iterate over them gives columns, or nothing that can be an item."""
    for kind in type(items).__mro__:
        library, name = kind.__module__.partition(".")[0], kind.__name__
        if library == "__main__":
            continue
        advice = _OTHERS.get(name)
        if advice is None and name == "DataFrame" and hasattr(items, "columns"):
            advice = "Pass its rows as dicts; or as a pandas.DataFrame, whose rows are keyword arguments."
        if advice is not None:
            raise InvalidInput(f"items is a {name} of {library}, which is not taken apart. {advice}")
