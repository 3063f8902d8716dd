"""The items of a job as they were given, whatever becomes of the caller's own objects afterwards.

A list may be cleared, sorted or filled anew while its job runs, and so may what is in it. What cannot change is kept as
it is; everything else is made again from its encoded form whenever it is asked for, so that a million of them take no
more memory than their bytes.
"""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from restate_nb.engine.function import Function
from restate_nb.results.spool import Spool
from restate_nb.results.unreadable import unreadable
from restate_nb.values.codec import decode_column
from restate_nb.values.reference import is_reference

if TYPE_CHECKING:
    import pandas as pd

Make = Callable[[Sequence[bytes]], list[Any]]
"""Makes items from their encoded form."""

_UNCHANGEABLE: Final = frozenset(
    {
        *(type(None), bool, int, float, complex, str, bytes),
        *(dt.datetime, dt.date, dt.time, dt.timedelta),
        *(decimal.Decimal, uuid.UUID, pathlib.PurePath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
        type(pathlib.Path()),
    }
)
_UNCHANGEABLE_OF_PANDAS: Final = frozenset({"Timestamp", "Timedelta", "NaTType", "NAType", "Interval", "Period"})


def cannot_change(value: Any) -> bool:
    """Whether a value is the same for ever, so that it may be shared with whoever gave it."""
    kind = type(value)
    if kind in _UNCHANGEABLE:
        return True
    if kind is tuple or (issubclass(kind, tuple) and hasattr(kind, "_fields") and not hasattr(value, "__dict__")):
        return all(type(each) in _UNCHANGEABLE for each in value)
    if issubclass(kind, enum.Enum):
        return True
    library = kind.__module__.partition(".")[0]
    if library == "pandas":
        return kind.__name__ in _UNCHANGEABLE_OF_PANDAS
    return library == "numpy" and not hasattr(value, "__setitem__") and hasattr(value, "dtype")  # a scalar


AGAIN: Final = object()
"""Stands where an item can change, and is made again from its encoded form."""


class Originals(Sequence[Any]):
    """The items of a job as they were given, made again from their encoded form where they could have changed."""

    def __init__(self, encoded: Spool, kept: Sequence[Any] | None, make: Make) -> None:
        """
        Args:
            encoded: all of them.
            kept: those that cannot change, and `AGAIN` in the place of each other one; None if all are made.
            make: makes those of which nothing is kept.
        """
        self._encoded = encoded
        self._kept = kept
        self._make = make

    def over(self, encoded: Spool) -> Originals:
        """The same items, some of which lie elsewhere in the store: `encoded` says where."""
        return Originals(encoded, self._kept, self._make)

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[position] for position in range(*at.indices(len(self)))]
        position = at.__index__()
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        kept = AGAIN if self._kept is None else self._kept[position]
        return self._make([self._encoded[position]])[0] if kept is AGAIN else kept

    def __iter__(self) -> Iterator[Any]:
        kept = self._kept
        if kept is None:
            return self._made(range(len(self)))
        if isinstance(kept, range):
            return iter(kept)
        return self._mixed(kept)

    def _made(self, positions: Iterable[int]) -> Iterator[Any]:
        for raws in self._encoded.in_parts(np.fromiter(positions, dtype=np.int64)):
            if any(map(is_reference, raws)):  # each may be of any size
                for raw in raws:
                    yield from self._make([raw])
            else:
                yield from self._make(raws)

    def _mixed(self, kept: Sequence[Any]) -> Iterator[Any]:
        made = self._made(position for position, each in enumerate(kept) if each is AGAIN)
        for each in kept:
            yield next(made) if each is AGAIN else each


class DecodedItems(Originals):
    """Encoded items, as the function gets them."""

    def __init__(self, target: Function, encoded: Spool) -> None:
        super().__init__(encoded, None, lambda raws: target.item_column(raws, unreadable))


class OriginalsKeeper:
    """Takes the items of a job one by one as they are encoded, and keeps of each what is needed to show it again."""

    def __init__(self, target: Function) -> None:
        self._target = target
        self._kept: list[Any] = []

    def add(self, item: Any) -> None:
        """Keep an item, or that it has to be made again."""
        self._kept.append(item if type(item) in _UNCHANGEABLE or cannot_change(item) else AGAIN)

    def add_many(self, items: Sequence[Any] | None, count: int) -> None:
        """Keep items; None for `count` of them that have to be made again."""
        if items is None:
            self._kept.extend([AGAIN] * count)
        elif _UNCHANGEABLE.issuperset(map(type, items)):
            self._kept.extend(items)
        else:
            for item in items:
                self.add(item)

    def originals(self, encoded: Spool) -> Originals:
        """All of them; `encoded` are the same in the same order."""
        classes = self._target.classes
        return Originals(encoded, self._kept, lambda raws: decode_column(raws, classes, unreadable))


def unshared(value: Any) -> Any:
    """A value that the caller cannot change: itself, or a copy; itself, too, if it cannot be copied."""
    if cannot_change(value):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # whatever its __deepcopy__ raises
        return value


def own_source(items: Any) -> Any:
    """A copy of a DataFrame or Series, in which nothing is shared that can be changed; None for all else.

    Of a Series of objects only what it is called and of which dtype it is, without its elements: `Originals` has them.
    """
    if is_pandas(items, "Series"):
        return _own_column(items.iloc[:0] if items.dtype == object else items)
    if not is_pandas(items, "DataFrame"):
        return None
    own = items.copy(deep=True)
    own.columns, own.index = own_index(items.columns), own_index(items.index)
    for place, kind in enumerate(items.dtypes):
        if str(kind) == "object":
            own.isetitem(place, _own_column(items.iloc[:, place]))  # a Series: pandas gives an array a dtype
    return own


def _own_column(column: pd.Series[Any]) -> pd.Series[Any]:
    own = column.copy(deep=True)
    if column.dtype == object and not _cannot_change(column.to_numpy().tolist()):
        own = own.astype(object)
        cells = own.to_numpy(copy=True)
        for place, each in enumerate(column):
            cells[place] = unshared(each)
        own = type(own)(cells, index=own.index, name=own.name, dtype=object)
    own.index = own_index(column.index)
    return own


def _cannot_change(cells: list[Any]) -> bool:
    return _UNCHANGEABLE.issuperset(map(type, cells)) or all(map(cannot_change, cells))


def own_index(labels: Any) -> Any:
    """An index that the caller cannot change."""
    return labels.copy(deep=True) if is_pandas(labels, "Index") else labels


def is_pandas(value: object, name: str) -> bool:
    """Whether a value is of this class of pandas, which need not be loaded for that."""
    return is_of(value, "pandas", name)


def is_of(value: object, library: str, name: str) -> bool:
    """Whether a value is of this class of a library, which need not be loaded for that."""
    return any(each.__name__ == name and each.__module__.partition(".")[0] == library for each in type(value).__mro__)
