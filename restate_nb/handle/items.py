"""Reads the `items` argument: any iterable, Series, DataFrame or dict becomes encoded items with an index.

Everything that a job keeps of it is its own: the caller may change all of it as soon as the job is submitted.
"""

from __future__ import annotations

import itertools
import operator
import os
import threading
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from restate_nb.engine.function import Function, Passing
from restate_nb.errors import InvalidInput, NotEncodable
from restate_nb.formatting import short_repr
from restate_nb.handle.cells import cells_by_column
from restate_nb.handle.item_folder import ItemFolder, ItemWriter
from restate_nb.handle.originals import (
    DecodedItems,
    Originals,
    OriginalsKeeper,
    is_pandas,
    own_index,
    own_source,
    unshared,
)
from restate_nb.results.spool import Spool
from restate_nb.values.bulk import Rows, Run, encode_many
from restate_nb.values.classes import look_alike
from restate_nb.values.parts import LARGE_BYTES, is_joined
from restate_nb.values.plain import SCALARS, are_scalars

if TYPE_CHECKING:
    import pandas as pd


MAX_ITEMS: Final = 100_000_000
"""So many items a job may have: what is kept of each of them would fill the memory of most machines."""

_FIRST_REPORT: Final = 3.0
_LONGEST_INTERVAL: Final = 60.0
"""Seconds until the first report of how many were read, and at most between two."""


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a job.

    Attributes:
        originals: the items as the user gave them, in order; see `Originals`. Those of an iterator, which can be read
            only once, are not kept, but decoded when they are asked for.
        encoded: the same as JSON.
        labels: the user's index, or None for 0, 1, 2, ...
        source: a copy of the DataFrame or Series that the items came from; None for other input.
        folder: of the job in the store, if it is begun; None where it gets none.
    """

    originals: Sequence[Any]
    encoded: Spool
    labels: Any = field(default=None)
    source: Any = field(default=None)
    folder: ItemFolder | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def over(self, encoded: Spool) -> Items:
        """The same items, some of which lie elsewhere in the store: `encoded` says where."""
        originals = self.originals.over(encoded) if isinstance(self.originals, Originals) else self.originals
        return replace(self, originals=originals, encoded=encoded)

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


def passing_of(items: object) -> Passing:
    """How `map` passes the items of this input to the function."""
    return "kwargs" if is_pandas(items, "DataFrame") else "value"


def read_items(items: object, target: Function, folder: ItemFolder | None = None) -> Items:
    """Encode the items, and see that each fits the function.

    Args:
        items: as the user gave them.
        target: what they are for.
        folder: where those go that are too large for a journal; None where all go into it.

    Raises:
        InvalidInput: what is no collection of items, an item that has no JSON form, one that does not fit, or one that
            cannot be written to the store.
    """
    try:
        return _read(items, target, folder)
    except BaseException:
        if folder is not None:
            folder.drop()
        raise


def _read(items: object, target: Function, folder: ItemFolder | None) -> Items:
    if target.passing == "args" and is_pandas(items, "DataFrame"):
        raise InvalidInput(
            f"starmap spreads tuples over the function's parameters, and items is a DataFrame. rnb.map({target.name}, "
            f"df) passes its columns by name, rnb.starmap({target.name}, df.itertuples(index=False, name=None)) in "
            "their order."
        )
    if is_pandas(items, "DataFrame") and type(items).__module__.partition(".")[0] == "pandas":
        return _read_frame(typing.cast("pd.DataFrame", items), target, folder)  # none that is more than a DataFrame
    originals, labels = _originals(items)
    keeps = isinstance(originals, Sequence) and not isinstance(originals, range)
    taker = _Taker(target, labels, folder, keeps=keeps)
    with Reading(originals) as reading:
        if type(originals) in (list, tuple, range):
            for part in taker.parts(originals):
                taker.take(part)
        else:
            taker.take_as_they_come(reading)
    encoded = taker.finish()
    kept = originals if isinstance(originals, range) else taker.originals()
    return Items(kept, encoded, own_index(labels), own_source(items), folder)


def _read_frame(frame: pd.DataFrame, target: Function, folder: ItemFolder | None) -> Items:
    """Its rows, encoded column by column."""
    names = _column_names(frame)
    rows, taker = Rows(names, target.classes), _Taker(target, frame.index, folder, keeps=True)
    with Reading(range(len(frame))):
        for part in taker.parts(range(len(frame))):
            some = frame.iloc[part.start : part.stop]
            run = rows.encode(cells_by_column(some))
            if run is not None and target.takes_rows(names, run.raws):
                taker.add(run, None, len(part))
            else:
                taker.take_each(some.to_dict("records"))
    encoded = taker.finish()
    return Items(taker.originals(), encoded, own_index(frame.index), own_source(frame), folder)


class _Taker:
    """Takes the items of a job in the order of their positions: encodes and keeps them."""

    def __init__(self, target: Function, labels: Any, folder: ItemFolder | None, *, keeps: bool) -> None:
        """`keeps`: whether the items as they are given are kept, where they cannot change."""
        self._written = ItemWriter(folder)
        self._target = target
        self._labels = labels
        self._rows = _Rows(target)
        self._kept = OriginalsKeeper(target) if keeps else None

    def parts(self, items: Any) -> Iterator[Any]:
        """The items in parts; few at first, then as many as have some bytes."""
        start, count = 0, _AT_FIRST
        while start < len(items):
            part = items[start : start + count]
            yield part
            start += len(part)
            size = self._written.latest_bytes
            count = min(max(_AT_FIRST, _AT_FIRST * _PART_BYTES // max(size, 1)), _AT_ONCE)

    def take(self, part: Sequence[Any]) -> None:
        """Take some at once; one by one where one of them cannot be, to say which."""
        items = self._rows.items(len(self._written), part)
        run = None if items is None else encode_many(items, self._target.classes)
        if items is not None and run is not None and self._target.takes(items, run.raws):
            self.add(run, items, len(items))
        else:
            self.take_each(part)

    def add(self, run: Run, items: list[Any] | None, count: int) -> None:
        """Add encoded items. `items`: the same as they were given; None for some that can change."""
        self._written.extend(run)
        if self._kept is not None:
            self._kept.add_many(None if run.largest() >= LARGE_BYTES else items, count)

    def take_as_they_come(self, some: Iterable[Any]) -> None:
        """Take what an iterator gives: at once what cannot change, and cannot be refused. Else it is taken before the
        next item is asked for: that may be the same object again, or the last that an endless iterator gives.

        Raises:
            InvalidInput: one has no JSON form, or does not fit the function.
        """
        if self._target.looks_at_each:
            self.take_each(some)
            return
        waiting: list[Any] = []
        known: set[Any] = set()
        for given in some:
            like = _like(given)
            if like is not None and like in known:
                waiting.append(given)
                if len(waiting) == _AT_ONCE:
                    self.take(waiting)
                    waiting = []
                continue
            if waiting:
                self.take(waiting)
                waiting = []
            self.take_one(given)
            known.add(like)
        if waiting:
            self.take(waiting)

    def take_each(self, some: Iterable[Any]) -> None:
        """Take items one by one.

        Raises:
            InvalidInput: one has no JSON form, or does not fit the function.
        """
        for given in some:
            self.take_one(given)

    def take_one(self, given: Any) -> None:
        """Take one item; see `take_each`."""
        position, rows = len(self._written), self._rows
        item = given if rows.as_they_are and type(given) in _AS_THEY_ARE else rows.item(position, given)
        try:
            raw = self._target.encode_item(item)
        except Exception as error:
            raise InvalidInput(_cannot_be_sent("Item", position, given, self._labels, error)) from None
        self._target.check_item(position, item, raw)
        self._written.append(raw)
        if self._kept is not None:
            self._kept.add_many(None if is_joined(raw) else [item], 1)

    def finish(self) -> Spool:
        """There are no more; return them encoded.

        Raises:
            InvalidInput: the last ones cannot be written to the store.
        """
        self._written.finish()
        return self._written.spool

    def originals(self) -> Sequence[Any]:
        """The items as they were given."""
        if self._kept is None:
            return DecodedItems(self._target, self._written.spool)
        return self._kept.originals(self._written.spool)


def _like(item: Any) -> Any:
    """What decides whether the function takes an item that can neither change nor be impossible to keep; None for all
    that may be or do otherwise."""
    kind = type(item)
    if kind in SCALARS:
        return "scalar" if are_scalars((item,)) and (kind is not str or len(item) <= _LONGEST) else None
    if kind is not tuple or len(item) > _WIDEST or not are_scalars(item):
        return None
    return len(item) if sum(len(each) for each in item if type(each) is str) <= _LONGEST else None


_LONGEST: Final = 100_000
_WIDEST: Final = 100
"""Text, and tuples, that are far from what is too large to be kept."""

_AT_FIRST: Final = 32
_AT_ONCE: Final = 10_000
_PART_BYTES: Final = 1024 * 1024
"""How many items are encoded at once: so many that they have about a MB, by the size of the last ones."""


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
    return Items(kept, encoded, own_index(labels), own_source(items))


# ---------------------------------------------------------------- reading to the end


class Reading:
    """A context in which an iterable is read once: `for item in reading`.

    Attributes:
        count: how many items were read by now.

    Raises:
        InvalidInput: the iterable never ends, has too many items, or raises.
    """

    def __init__(self, items: Iterable[Any], *, first_report: float = _FIRST_REPORT) -> None:
        self._items = items
        self._iterator: Iterator[Any] | None = None
        self._sized = isinstance(items, Sequence)
        self._interval = first_report
        self._timer: threading.Timer | None = None
        self._ended = False
        self.count = 0

    def __enter__(self) -> Self:
        refuse_endless(self._items)
        if not self._sized:
            self._report_later()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if error is None:
            return
        if self._iterator is not None and self._iterator is not self._items:
            close = getattr(self._iterator, "close", None)  # of a generator: a progress bar around the items ends
            if callable(close):
                close()
        if isinstance(error, KeyboardInterrupt):
            print(f"Stopped while the items were read, after {self.count:,} of them. Nothing was started.")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items) if self._sized else self._each()

    def _each(self) -> Iterator[Any]:
        try:
            iterator = self._iterator = iter(self._items)
        except Exception as error:
            raise InvalidInput(f"The items cannot be read: {type(error).__name__}: {error}.") from error
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except Exception as error:
                raise InvalidInput(
                    f"Reading the items ended after {self.count:,} of them, at position {self.count}: "
                    f"{type(error).__name__}: {error}. Nothing was started."
                ) from error
            self.count += 1
            if self.count > MAX_ITEMS:
                raise InvalidInput(
                    f"There are more than {MAX_ITEMS:,} items, and a job cannot have as many. If they never end, take "
                    "as many as you want: itertools.islice(items, 1_000)."
                )
            yield item
        if not self.count and iterator is self._items:
            print(f"{self._kind()} gave no items: if it was read before, there is nothing left in it.")

    def _kind(self) -> str:
        name = type(self._items).__name__
        return (
            f"The {name}" if "iter" in name or name in ("generator", "map", "filter", "zip") else f"The iterator {name}"
        )

    def _report_later(self) -> None:
        self._timer = threading.Timer(self._interval, self._report)
        self._timer.name = "rnb-reading"
        self._timer.daemon = True
        self._timer.start()

    def _report(self) -> None:
        if self._ended:
            return
        print(
            f"Reading the items: {self.count:,} by now. Nothing is started before the last one; Ctrl-C stops it. "
            "If they never end, take as many as you want: itertools.islice(items, 1_000).",
            flush=True,
        )
        self._interval = min(self._interval * 2, _LONGEST_INTERVAL)
        self._report_later()


def refuse_endless(items: object) -> None:
    """See that it is none of the iterators that are known to never end.

    Raises:
        InvalidInput: it is.
    """
    endless = isinstance(items, (itertools.count, itertools.cycle))
    if isinstance(items, itertools.repeat):
        endless = operator.length_hint(items, -1) < 0  # without a number of times
    if endless:
        raise InvalidInput(
            f"items never ends: it is itertools.{type(items).__name__}. Take as many as you want: "
            "itertools.islice(items, 1_000)."
        )


# ---------------------------------------------------------------- what there is to read


def _originals(items: Any) -> tuple[Iterable[Any], Sequence[Hashable] | None]:
    if is_pandas(items, "DataFrame"):
        return _rows(items), items.index
    if is_pandas(items, "Series"):
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
    _column_names(frame)
    return frame.to_dict("records")  # type: ignore[return-value]


def _column_names(frame: pd.DataFrame) -> list[str]:
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
    return names


# ---------------------------------------------------------------- one item


class _Rows:
    """Makes items of the rows that databases, arrays and DataFrames give.

    Attributes:
        as_they_are: whether they need not be spread.
    """

    def __init__(self, target: Function) -> None:
        self._spread = target.passing == "args"
        self._name = target.name
        self.as_they_are = not self._spread

    def items(self, start: int, given: Sequence[Any]) -> list[Any] | None:
        """What is sent of rows, the first of which stands at `start`; None where one of them cannot be sent."""
        kinds = set(map(type, given))
        if kinds <= (_SPREAD if self._spread else _ITEMS):
            return list(given)
        try:
            return [self.item(position, each) for position, each in enumerate(given, start)]
        except Exception:  # whatever it is: who looks at each by itself comes upon it again
            return None

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
        if (is_row and not is_pandas(given, "Series")) or isinstance(getattr(given, "_fields", None), tuple):
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


_AS_THEY_ARE: Final = frozenset({str, int, float, bool, type(None), dict, list, bytes})
_ITEMS: Final = _AS_THEY_ARE | {tuple}
_SPREAD: Final = frozenset({tuple, list})


def _cannot_be_sent(what: str, position: int, item: Any, labels: Sequence[Hashable] | None, error: Exception) -> str:
    where = f"{what} {position}" if labels is None else f"{what} {position} (index {labels[position]!r})"
    why = str(error) if isinstance(error, (NotEncodable, InvalidInput)) else f"{type(error).__name__}: {error}"
    advice = _advice(item)
    if advice:
        why = f"{why.split('. ')[0].rstrip('.')}. {advice}"
    return f"{where}, {short_repr(item)}, cannot be sent: {why}"


def _advice(item: Any) -> str:
    if isinstance(item, tuple) and any(is_pandas(each, "Series") for each in item):
        return "For the rows of a DataFrame pass the DataFrame itself, rnb.map(fn, df), or df.itertuples()."
    if isinstance(item, os.DirEntry):
        return "Pass its path: entry.path."
    if hasattr(item, "keys") and hasattr(item, "__getitem__") and not is_pandas(item, "Series"):
        return "Pass each row as a dict, map(dict, rows), or as a tuple, map(tuple, rows)."
    return ""
