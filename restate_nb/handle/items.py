"""Reads the `items` argument: any iterable, Series, DataFrame or dict becomes encoded items with an index.

Everything that a job keeps of it is its own: the caller may change all of it as soon as the job is submitted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from restate_nb.engine.function import Function, Passing
from restate_nb.engine.objects import look_alike
from restate_nb.errors import InvalidInput, NotEncodable
from restate_nb.formatting import short_repr
from restate_nb.handle.given import Given, Keeper, cannot_change, unshared
from restate_nb.handle.reading import Reading
from restate_nb.results.spool import Spool
from restate_nb.results.unreadable import unreadable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a job.

    Attributes:
        originals: the items as the user gave them, in order; see `given.py`. Those of an iterator, which can be read
            only once, are not kept, but decoded when they are asked for.
        encoded: the same as JSON.
        labels: the user's index, or None for 0, 1, 2, ...
        source: a copy of the DataFrame or Series that the items came from; None for other input.
    """

    originals: Sequence[Any]
    encoded: Spool
    labels: Any = field(default=None)
    source: Any = field(default=None)

    def __len__(self) -> int:
        return len(self.encoded)

    def index(self) -> pd.Index[Any]:
        """The index of the job's frame."""
        import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

        if self.labels is None:
            return pd.RangeIndex(len(self))
        if isinstance(self.labels, pd.Index):
            return self.labels
        try:
            index: pd.Index[Any] = pd.Index(self.labels)
        except (UnicodeEncodeError, OverflowError):  # file names that are not UTF-8; whole numbers of any size
            index = pd.Index(list(self.labels), dtype=object)
        return index


class Decoded(Given):
    """Encoded items, as the function gets them."""

    def __init__(self, target: Function, encoded: Spool) -> None:
        def item(raw: bytes) -> Any:
            try:
                return target.item(raw)
            except Exception as error:  # a class of the user's own may do anything when it is made again
                return unreadable(error, raw)

        super().__init__(encoded, None, item)


def passing_of(items: object) -> Passing:
    """How `map` passes the items of this input to the function."""
    return "kwargs" if _is_pandas(items, "DataFrame") else "value"


def read_items(items: object, target: Function) -> Items:
    """Encode the items, and see that each fits the function.

    Raises:
        InvalidInput: what is no collection of items, an item that has no JSON form, or one that does not fit.
    """
    if target.passing == "args" and _is_pandas(items, "DataFrame"):
        raise InvalidInput(
            f"starmap spreads tuples over the function's parameters, and items is a DataFrame. rnb.map({target.name}, "
            f"df) passes its columns by name, rnb.starmap({target.name}, df.itertuples(index=False, name=None)) in "
            "their order."
        )
    originals, labels = _originals(items)
    encoded = Spool()
    keeper = Keeper(target) if isinstance(originals, Sequence) and not isinstance(originals, range) else None
    rows, as_they_are = _Rows(target), target.passing != "args"
    with Reading(originals) as reading:
        for position, given in enumerate(reading):
            item = given if as_they_are and type(given) in _AS_THEY_ARE else rows.item(position, given)
            try:
                raw = target.encode_item(item)
            except Exception as error:
                raise InvalidInput(_cannot_be_sent("Item", position, given, labels, error)) from None
            target.check_item(position, item, raw)
            encoded.append(raw)
            if keeper is not None:
                keeper.add(item)
    if keeper is not None:
        kept: Sequence[Any] = keeper.given(encoded)
    else:
        kept = originals if isinstance(originals, range) else Decoded(target, encoded)
    return Items(kept, encoded, _own_index(labels), own_source(items))


def read_inputs(items: object, encode_one: Callable[[Any], bytes]) -> Items:
    """Encode the inputs of a deployed handler. Rows of a DataFrame are objects with a field a column.

    Raises:
        InvalidInput: what is no collection of inputs, or one that `encode_one` refuses.
    """
    originals, labels = _originals(items)
    kept: list[Any] = []
    encoded = Spool()
    with Reading(originals) as reading:
        for position, item in enumerate(reading):
            try:
                encoded.append(encode_one(item))
            except InvalidInput as error:
                raise InvalidInput(_cannot_be_sent("Input", position, item, labels, error)) from None
            kept.append(unshared(item))
    return Items(kept, encoded, _own_index(labels), own_source(items))


# ---------------------------------------------------------------- what there is to read


def _originals(items: Any) -> tuple[Iterable[Any], Sequence[Hashable] | None]:
    if _is_pandas(items, "DataFrame"):
        return _rows(items), items.index
    if _is_pandas(items, "Series"):
        return items.tolist(), items.index
    _refuse_single(items)
    _refuse_frames(items)
    if isinstance(items, Mapping):
        pairs = list(items.items())  # at one time: another thread may be filling it
        return [value for _, value in pairs], [key for key, _ in pairs]
    if hasattr(items, "ndim") and hasattr(items, "dtype") and not items.ndim:
        raise InvalidInput(
            f"items is one value, {short_repr(items)}: an array without dimensions. For a single item write [item]."
        )
    if hasattr(items, "tolist") and getattr(items, "ndim", 0) == 1:  # numpy arrays, pandas Index
        return _elements(items), None
    if hasattr(items, "to_pylist"):  # pyarrow's arrays
        return items.to_pylist(), None
    if isinstance(items, (list, tuple, range)):
        return list(items) if isinstance(items, list) else items, None  # as it is now: another thread may be filling it
    if isinstance(items, Iterable):  # before __aiter__: what has both, such as tqdm, is read here and now
        return items, None
    if hasattr(items, "__aiter__"):
        raise InvalidInput("items is an async iterator. Collect it first: items = [item async for item in ...].")
    if not isinstance(items, type) and hasattr(items, "__getitem__") and hasattr(items, "__len__"):
        return (items[position] for position in range(len(items))), None  # a data set, as torch has them
    raise InvalidInput(
        f"items must be a list, an iterable, a Series, a DataFrame or a dict, not {short_repr(items)}."
        + (" Take what is in the queue first, as a list." if hasattr(items, "get_nowait") else "")
    )


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


_ARROW = (
    "Pass its rows as dicts, rnb.map(fn, items.to_pylist()), or as keyword arguments, rnb.map(fn, items.to_pandas())."
)
_OTHER_FRAMES = {
    ("polars", "DataFrame"): "Pass its rows as dicts, rnb.map(fn, items.to_dicts()), or as keyword arguments, "
    "rnb.map(fn, items.to_pandas()).",
    ("polars", "LazyFrame"): "Collect it first: rnb.map(fn, items.collect().to_dicts()) passes each row as a dict.",
    ("pyarrow", "Table"): _ARROW,
    ("pyarrow", "RecordBatch"): _ARROW,
    ("pandas", "DataFrameGroupBy"): "Pass the keys, and choose the rows in the function; or plain data: "
    "[(key, group.to_dict('records')) for key, group in items].",
    ("pandas", "SeriesGroupBy"): "Pass the keys, and choose the values in the function; or plain data: "
    "[(key, group.tolist()) for key, group in items].",
}


def _refuse_frames(items: object) -> None:
    """Frames of other libraries: to iterate over them gives columns, or nothing that can be an item."""
    for kind in type(items).__mro__:
        library, name = kind.__module__.partition(".")[0], kind.__name__
        advice = _OTHER_FRAMES.get((library, name))
        if advice is None and name == "DataFrame" and library != "__main__" and hasattr(items, "columns"):
            advice = "Pass its rows as dicts; or as a pandas.DataFrame, whose rows are keyword arguments."
        if advice is not None:
            raise InvalidInput(f"items is a {name} of {library}, which is not taken apart. {advice}")


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


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    names = list(frame.columns)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise InvalidInput(
            f"Each row is passed as keyword arguments, and the column {wrong[0]!r} cannot be one. "
            "Rename it: df.rename(columns={...}), or pass a single column: rnb.map(fn, df['column'])."
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"The column {twice!r} is there twice. Rename one of the two.")
    return frame.to_dict("records")  # type: ignore[return-value]


# ---------------------------------------------------------------- one item


class _Rows:
    """Makes items of the rows that databases, arrays and DataFrames give."""

    def __init__(self, target: Function) -> None:
        self._spread = target.passing == "args"
        self._name = target.name

    def item(self, position: int, given: Any) -> Any:
        """What is sent of a row: itself, in most cases."""
        if self._spread:
            return given if isinstance(given, (tuple, list)) else self._tuple(position, given)
        if isinstance(given, tuple) or not hasattr(given, "_fields"):
            return given
        return self._named(given)

    def _tuple(self, position: int, given: Any) -> tuple[Any, ...]:
        if hasattr(given, "shape") and hasattr(given, "dtype") and given.shape:
            return tuple(given)  # a row of an array
        is_row = hasattr(given, "keys") and hasattr(given, "__getitem__") and not isinstance(given, Mapping)
        if (is_row and not _is_pandas(given, "Series")) or isinstance(getattr(given, "_fields", None), tuple):
            return tuple(given)  # of a database
        advice = "For single arguments use rnb.map."
        if isinstance(given, Mapping):
            advice = f"To pass its fields by name use rnb.map({self._name}, pandas.DataFrame(items))."
        raise InvalidInput(
            "starmap spreads each item over the function's parameters, so it must be a tuple or a list; "
            f"item {position} is {short_repr(given)}. {advice}"
        )

    @staticmethod
    def _named(given: Any) -> Any:
        """A row with names that is no tuple, as those of SQLAlchemy."""
        fields = given._fields
        if not (isinstance(fields, (tuple, list)) and isinstance(given, Sequence) and len(fields) == len(given)):
            return given
        return tuple.__new__(look_alike("Row", tuple(map(str, fields))), given)


_AS_THEY_ARE = frozenset({str, int, float, bool, type(None), dict, list, bytes})


def _cannot_be_sent(what: str, position: int, item: Any, labels: Sequence[Hashable] | None, error: Exception) -> str:
    where = f"{what} {position}" if labels is None else f"{what} {position} (index {labels[position]!r})"
    why = str(error) if isinstance(error, (NotEncodable, InvalidInput)) else f"{type(error).__name__}: {error}"
    advice = _advice(item)
    if advice:
        why = f"{why.split('. ')[0].rstrip('.')}. {advice}"
    return f"{where}, {short_repr(item)}, cannot be sent: {why}"


def _advice(item: Any) -> str:
    if isinstance(item, tuple) and any(_is_pandas(each, "Series") for each in item):
        return "For the rows of a DataFrame pass the DataFrame itself, rnb.map(fn, df), or df.itertuples()."
    if isinstance(item, os.DirEntry):
        return "Pass its path: entry.path."
    if hasattr(item, "keys") and hasattr(item, "__getitem__") and not _is_pandas(item, "Series"):
        return "Pass each row as a dict, map(dict, rows), or as a tuple, map(tuple, rows)."
    return ""


# ---------------------------------------------------------------- the job's own


def own_source(items: Any) -> Any:
    """A copy of a DataFrame or Series, in which nothing is shared that can be changed; None for all else."""
    if _is_pandas(items, "Series"):
        return _own_column(items)
    if not _is_pandas(items, "DataFrame"):
        return None
    own = items.copy(deep=True)
    own.columns, own.index = _own_index(items.columns), _own_index(items.index)
    for place, kind in enumerate(items.dtypes):
        if str(kind) == "object":
            own.isetitem(place, _own_column(items.iloc[:, place]).array)
    return own


def _own_column(column: pd.Series[Any]) -> pd.Series[Any]:
    own = column.copy(deep=True)
    if column.dtype == object and not all(map(cannot_change, column)):
        own = own.astype(object)
        cells = own.to_numpy(copy=True)
        for place, each in enumerate(column):
            cells[place] = unshared(each)
        own = type(own)(cells, index=own.index, name=own.name, dtype=object)
    own.index = _own_index(column.index)
    return own


def _own_index(labels: Any) -> Any:
    return labels.copy(deep=True) if _is_pandas(labels, "Index") else labels


def _is_pandas(value: object, name: str) -> bool:
    return any(each.__name__ == name and each.__module__.partition(".")[0] == "pandas" for each in type(value).__mro__)
