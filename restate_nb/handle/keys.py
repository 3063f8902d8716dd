"""The keys of a job's items: what `key=` says, as a digest a row, and rows that have the same one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from restate_nb.engine.function import name_of
from restate_nb.errors import InvalidInput
from restate_nb.formatting import short_repr
from restate_nb.handle.item_folder import ItemFolder
from restate_nb.handle.items import Items
from restate_nb.handle.originals import is_pandas
from restate_nb.results.key_table import Digests, digests_of, listed
from restate_nb.values.bulk import encode_many
from restate_nb.values.codec import encode
from restate_nb.values.reference import content_of

ItemKey = str | Callable[[Any], Any]
"""What says which item is which, when a job grows: a column or a field, a function of the item, or "item"."""

WHOLE: Final = "item"
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class KeyedRows:
    """The rows of a keyed job's input.

    Attributes:
        by: what makes their keys, in words.
        keys: the digest of each row's key.
        items: the digest of each row's item.
        first: of each row the first one that has its key.
    """

    by: str
    keys: Digests
    items: Digests
    first: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def singles(self) -> npt.NDArray[np.int64]:
        """The rows whose keys no earlier row has."""
        return np.flatnonzero(self.first == np.arange(len(self)))


def check_key(key: ItemKey | None, *, unique: bool, name: str | None) -> None:
    """See that a job can be keyed so.

    Args:
        key: as the user gave it.
        unique: whether keys may be there several times.
        name: of the job.

    Raises:
        InvalidInput: it cannot.
    """
    if key is None:
        if unique:
            raise InvalidInput('unique=True is of keys: say which, such as key="id", or key="item" for whole items.')
        return
    if not (isinstance(key, str) or callable(key)):
        raise InvalidInput(
            f'key is a column or a field, such as key="id", a function of the item, or "item", not {short_repr(key)}.'
        )
    if name is None:
        raise InvalidInput(
            "A job with key= grows with its items, so that they cannot say which job it is: give it a name=, too."
        )


def check_keeps_keys(folder: ItemFolder | None, *, on_workers: bool) -> None:
    """See that there is a place for the table of a job's keys; `folder`: of the job, if it has one.

    Raises:
        InvalidInput: there is none.
    """
    if folder is None and on_workers:
        raise InvalidInput(
            "A job with key= on workers keeps its keys in a store that they reach, too: rnb.start(store=...), and "
            "restate-nb worker --store with the same."
        )
    if folder is None:
        raise InvalidInput(
            "A job with key= keeps its keys in a store, and this session has none: rnb.connect(..., store=...)."
        )


def rows_of(key: ItemKey, items: Items, *, unique: bool) -> KeyedRows:
    """The keys of these items.

    Args:
        key: as the user gave it.
        items: of the job.
        unique: whether rows of one key are run once.

    Raises:
        InvalidInput: a row has no key, or one that cannot be kept; or two have the same.
    """
    try:
        return _rows(key, items, unique=unique)
    except BaseException:
        if items.folder is not None:
            items.folder.drop()
        raise


def _rows(key: ItemKey, items: Items, *, unique: bool) -> KeyedRows:
    contents = digests_of(_contents(items))
    keys = contents if key == WHOLE and _whole(items) else digests_of(_encoded(_keys(key, items), items))
    by = key if isinstance(key, str) else f"{name_of(key)}()"
    if len(np.unique(keys[:, 0])) == len(keys):  # half of a digest tells nearly all apart
        return KeyedRows(by, keys, contents, np.arange(len(keys)))
    found = dict[bytes, int]()
    first = [found.setdefault(each, row) for row, each in enumerate(listed(keys))]
    if len(found) == len(keys):
        return KeyedRows(by, keys, contents, np.arange(len(keys)))
    rows = KeyedRows(by, keys, contents, np.array(first, dtype=np.int64))
    _check_twice(rows, key, items, unique=unique)
    return rows


def _contents(items: Items) -> list[bytes]:
    """What counts of each item when it is compared."""
    raws = [raw for part in items.encoded.in_parts(np.arange(len(items))) for raw in part]
    return raws if items.folder is None or not items.folder.count else [content_of(raw) for raw in raws]


def _whole(items: Items) -> bool:
    if items.columns is not None and WHOLE in items.columns:
        raise InvalidInput(
            'The frame has a column "item", and key="item" is for whole rows. For the column: '
            'key=lambda row: row["item"].'
        )
    return True


def _check_twice(rows: KeyedRows, key: ItemKey, items: Items, *, unique: bool) -> None:
    again = np.flatnonzero(rows.first != np.arange(len(rows)))
    if unique:
        other = (rows.items[again] != rows.items[rows.first[again]]).any(axis=1)
        if not other.any():
            return
        again = again[other]
    index, row = items.index(), int(again[0])
    labels = index[np.flatnonzero(rows.first == rows.first[row])[: _SHOWN + 1]].tolist()  # as Python's own objects
    where = ", ".join(repr(each) for each in labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
    shown = "the same item" if key == WHOLE else f"the key {short_repr(_one_key(key, items, row))} (key={rows.by!r})"
    more = f", and {len(again) - 1:,} more such rows" if len(again) > 1 else ""
    advice = (
        "unique=True runs rows once that are equal, and these are not: drop all but one."
        if unique
        else "Drop all but one; or with unique=True equal rows are run once, and each has the value."
    )
    raise InvalidInput(f"Rows {where} have {shown}{more}. {advice} Nothing was started.")


def _one_key(key: ItemKey, items: Items, row: int) -> Any:
    column = _column(key, items)
    return column[row] if column is not None else _key_of(key, items.originals[row])


# ------------------------------------------------------------ the keys of rows


def _keys(key: ItemKey, items: Items) -> Sequence[Any]:
    column = _column(key, items)
    if column is not None:
        return column
    keys = []
    for row, item in enumerate(items.originals):
        try:
            keys.append(_key_of(key, item))
        except Exception as error:
            raise InvalidInput(f"{_no_key(items, row)}: {_why(key, items, error)} Nothing was started.") from error
    return keys


def _column(key: ItemKey, items: Items) -> list[Any] | None:
    """The column of this name, or the index; None where keys are to be found item by item."""
    if not isinstance(key, str):
        return None
    if items.columns is not None and key in items.columns:
        if is_pandas(items.source, "DataFrame"):
            listed_: list[Any] = items.source.iloc[:, list(items.columns).index(key)].tolist()
            return listed_
        return None
    if getattr(items.labels, "name", None) == key and not isinstance(items.labels, (list, tuple)):
        labels: list[Any] = items.index().tolist()
        return labels
    if items.columns is not None:
        raise InvalidInput(
            f"There is no column {key!r}: the frame has {', '.join(map(repr, items.columns))}. Nothing was started."
        )
    return None


def _key_of(key: ItemKey, item: Any) -> Any:
    if not isinstance(key, str):
        return key(item)
    return item[key] if isinstance(item, Mapping) else getattr(item, key)


def _why(key: ItemKey, items: Items, error: Exception) -> str:
    if isinstance(key, str) and isinstance(error, (KeyError, AttributeError)):
        return f'it has no {key!r}. key= is a column or a field, a function of the item, or "item".'
    return f"{name_of(key) if callable(key) else key!r} raised {type(error).__name__}: {error}."


def _no_key(items: Items, row: int) -> str:
    label = "" if items.labels is None else f" (index {items.index()[row]!r})"
    return f"Item {row}{label} has no key"


def _encoded(keys: Sequence[Any], items: Items) -> list[bytes]:
    """Keys as bytes: equal ones have the same."""
    kinds = set(map(type, keys))
    if not kinds <= {int, str}:
        keys = [_plain(each, row, items) for row, each in enumerate(keys)]
    run = encode_many(list(keys), None)
    if run is not None:
        return run.raws()
    encoded = []
    for row, each in enumerate(keys):
        try:
            encoded.append(encode(each))
        except Exception as error:
            raise InvalidInput(
                f"{_no_key(items, row)} that can be kept: {short_repr(each)}. {error} Nothing was started."
            ) from None
    return encoded


def _plain(key: Any, row: int, items: Items) -> Any:
    """A key as the one of those that are equal to it: a whole number, where one is equal.

    Raises:
        InvalidInput: it is missing.
    """
    if hasattr(key, "dtype") and getattr(key, "ndim", None) == 0 and hasattr(key, "item"):
        key = key.item()
    missing = key is None or type(key).__name__ in ("NAType", "NaTType") or (isinstance(key, float) and math.isnan(key))
    if missing:
        raise InvalidInput(f"{_no_key(items, row)}: it is {key!r}. Nothing was started.")
    return int(key) if isinstance(key, float) and key.is_integer() else key
