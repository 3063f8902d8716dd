"""Reads the `items` argument: any iterable, Series, DataFrame or dict becomes encoded items with an index.

Everything that a job keeps of it is its own: the caller may change all of it as soon as the job is submitted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from restate_nb.engine.function import Function, Passing
from restate_nb.errors import InvalidInput, NotEncodable, NotReadable
from restate_nb.formatting import short_repr
from restate_nb.handle.groups import Groups
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
from restate_nb.handle.reading import Reading
from restate_nb.handle.sources import Labels, Source, source_of
from restate_nb.handle.tables import Table, as_rows, is_table, native, table_of
from restate_nb.results.spool import Spool
from restate_nb.store.base import StoreUnavailable
from restate_nb.values.bulk import Rows, Run, encode_many
from restate_nb.values.classes import Classes, look_alike
from restate_nb.values.codec import decode, encode
from restate_nb.values.parts import LARGE_BYTES, is_joined
from restate_nb.values.plain import SCALARS, are_scalars
from restate_nb.values.reference import is_reference

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a job.

    Attributes:
        originals: the items as the user gave them, in order; see `Originals`. Those of an iterator, which can be read
            only once, are not kept, but decoded when they are asked for.
        encoded: the same as JSON.
        labels: the user's index, or None for 0, 1, 2, ...
        source: a copy of the DataFrame or Series of pandas that the items came from, see `own_source`; None for other
            input.
        columns: the columns of the frame of any library whose rows the items are; None for other input.
        folder: of the job in the store, if it is begun; None where it gets none.
        positions: of a keyed job the position of each row in the job, as a column of numpy; None for 0, 1, 2, ...
        states: and what each row was to the job when it was opened, see `growth.STATES`; None without keys.
    """

    originals: Sequence[Any]
    encoded: Spool
    labels: Any = field(default=None)
    source: Any = field(default=None)
    columns: Sequence[str] | None = field(default=None)
    folder: ItemFolder | None = None
    positions: Any = None
    states: Any = None

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

    def input_again(self) -> pd.DataFrame | pd.Series[Any] | None:
        """The frame or Series that the items came from, as one of pandas that nobody else has; None for other input."""
        from restate_nb.results.columns import frame_of_rows, object_column  # noqa: PLC0415 - loads pandas

        source = self.source
        if source is None:
            return None if self.columns is None else frame_of_rows(self.originals, self.columns, self.index())
        if is_pandas(source, "Series") and source.dtype == object:
            column: pd.Series[Any] = object_column(list(self.originals), len(self))
            column.index, column.name = self.index(), source.name
            return column
        own: pd.DataFrame | pd.Series[Any] = own_source(source)
        return own


def passing_of(items: object) -> Passing:
    """How `map` passes the items of this input to the function."""
    return "kwargs" if is_table(items) else "value"


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
    items = native(items)
    if target.passing == "args" and is_table(items):
        raise _no_tuples(items, target.name)
    table = table_of(items)
    if table is not None and table.own_rows is None:
        return _read_table(table, items, target, folder)
    source = _source_of_either(items, table, pairs=target.passing == "args")
    given = source.items
    keeps = isinstance(given, Sequence) and not isinstance(given, range)
    taker = _Taker(target, source.labels, folder, keeps=keeps)
    with Reading(given, ends=isinstance(given, Groups)) as reading:
        if isinstance(given, Sequence) and type(given) in (list, tuple, range):
            for part in taker.parts(given):
                taker.take(part)
        else:
            taker.take_as_they_come(reading)
    encoded = taker.finish()
    kept = given if isinstance(given, range) else taker.originals()
    return Items(kept, encoded, own_index(source.index()), own_source(items), _names_of(table), folder)


def _source_of_either(items: object, table: Table | None, *, pairs: bool = False) -> Source:
    if table is None:
        return source_of(items, pairs=pairs)
    return Source(table.rows() if table.own_rows is None else table.own_rows, table.labels)


def _names_of(table: Table | None) -> list[str] | None:
    return None if table is None else table.names


def _no_tuples(items: object, name: str) -> InvalidInput:
    kind, rows = "frame", ""
    if is_pandas(items, "DataFrame"):
        kind, rows = "DataFrame", "df.itertuples(index=False, name=None)"
    elif hasattr(items, "iter_rows"):
        kind, rows = "DataFrame", "df.iter_rows()"
    by_place = f", rnb.starmap({name}, {rows}) in their order" if rows else ""
    return InvalidInput(
        f"starmap spreads tuples and dicts over the function's parameters, and items is a {kind}. rnb.map({name}, df) "
        f"passes its columns by name{by_place}."
    )


def _read_table(table: Table, items: object, target: Function, folder: ItemFolder | None) -> Items:
    """Its rows, encoded column by column."""
    names = table.names
    rows, taker = Rows(names, target.classes), _Taker(target, table.labels, folder, keeps=True)
    with Reading(table.blocks, size_of=lambda block: block.count, ends=True) as reading:
        for block in reading:
            for part in taker.parts(range(block.count)):
                cells = block.cells(part.start, part.stop)
                run = rows.encode(cells)
                if run is not None and target.takes_rows(names, run.raws):
                    taker.add(run, None, len(part))
                else:
                    taker.take_each(as_rows(names, cells, len(part)))
    encoded = taker.finish()
    return Items(taker.originals(), encoded, own_index(table.labels), own_source(items), names, folder)


def in_journal(items: Items, function: Function) -> Items | None:
    """The same items as they are without a store; None where one is too large for that, or cannot be read."""
    stored = function.classes
    try:
        classes = Classes(stored)
        encoded = Spool(encode(decode(raw, stored), classes) if is_reference(raw) else raw for raw in items.encoded)
    except (NotEncodable, NotReadable, StoreUnavailable):
        return None
    return replace(items.over(encoded), folder=None)


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
            if is_joined(raw):
                self._kept.add_many(None, 1)
            else:
                self._kept.add(item)

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
    """Encode the inputs of a deployed handler. Rows of a frame are objects with a field a column.

    Raises:
        InvalidInput: what is no collection of inputs, or one that `encode_one` refuses.
    """
    items = native(items)
    table = table_of(items)
    source = _source_of_either(items, table)
    kept: list[Any] = []
    encoded = Spool()
    with Reading(source.items) as reading:
        for position, item in enumerate(reading):
            try:
                encoded.append(encode_one(item))
            except InvalidInput as error:
                raise InvalidInput(_cannot_be_sent("Input", position, item, source.labels, error)) from None
            kept.append(unshared(item))
    return Items(kept, encoded, own_index(source.index()), own_source(items), _names_of(table))


# ---------------------------------------------------------------- one item


class _Rows:
    """Makes items of the rows that databases, arrays and DataFrames give.

    Attributes:
        as_they_are: whether they need not be spread.
    """

    def __init__(self, target: Function) -> None:
        self._target = target
        self._spread = target.passing == "args"
        self._by_name = False
        self.as_they_are = not self._spread

    def items(self, start: int, given: Sequence[Any]) -> list[Any] | None:
        """What is sent of rows, the first of which stands at `start`; None where one of them cannot be sent."""
        kinds = set(map(type, given))
        if kinds <= (_SPREAD if self._spread else _ITEMS) and not self._by_name:
            return list(given)
        try:
            return [self.item(position, each) for position, each in enumerate(given, start)]
        except Exception:  # whatever it is: who looks at each by itself comes upon it again
            return None

    def item(self, position: int, given: Any) -> Any:
        """What is sent of a row: itself, in most cases."""
        if self._spread:
            if isinstance(given, Mapping) or self._by_name:
                return self._arguments(position, given)
            return given if isinstance(given, (tuple, list)) else self._tuple(position, given)
        if isinstance(given, tuple) or not hasattr(given, "_fields"):
            return given
        return self._named(given)

    def _arguments(self, position: int, given: Any) -> dict[str, Any]:
        """What is passed by name: the first item says whether all are."""
        if position == 0:
            self._by_name = True
            self._target.spread_by_name()
        if not (self._by_name and isinstance(given, Mapping)):
            before = "dicts" if self._by_name else "tuples"
            raise InvalidInput(
                f"starmap spreads dicts by name and tuples by place, and not both in one job: item {position} is "
                f"{short_repr(given)}, and those before it are {before}."
            )
        arguments = dict(given)
        wrong = next((name for name in arguments if not isinstance(name, str)), None)
        if wrong is not None or None in arguments:
            raise InvalidInput(
                f"starmap passes the fields of item {position} by name, and {wrong!r} can be no argument's name."
            )
        return arguments

    def _tuple(self, position: int, given: Any) -> tuple[Any, ...]:
        if hasattr(given, "shape") and hasattr(given, "dtype") and given.shape:
            return tuple(given)  # a row of an array
        is_row = hasattr(given, "keys") and hasattr(given, "__getitem__")
        of_pandas = is_pandas(given, "Series") or is_pandas(given, "DataFrame")
        if (is_row and not of_pandas) or isinstance(getattr(given, "_fields", None), tuple):
            return tuple(given)  # of a database
        raise InvalidInput(
            "starmap spreads each item over the function's parameters, so it must be a tuple, a list or a dict; "
            f"item {position} is {short_repr(given)}. For single arguments use rnb.map."
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


def _cannot_be_sent(what: str, position: int, item: Any, labels: Labels, error: Exception) -> str:
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
    if hasattr(item, "keys") and hasattr(item, "__getitem__") and not is_pandas(item, "NDFrame"):
        return "Pass each row as a dict, map(dict, rows), or as a tuple, map(tuple, rows)."
    return ""
