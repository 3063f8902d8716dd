"""A job's frame as files can hold it: plain columns and a plain index, whatever items, values and labels are."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd

from restate_nb.errors import NotEncodable
from restate_nb.results.columns import object_column
from restate_nb.results.fields import fields_of
from restate_nb.results.unreadable import Unreadable
from restate_nb.store.stored import Stored
from restate_nb.values.codec import as_shown, encode
from restate_nb.values.formats import shown
from restate_nb.values.leaves import repr_of, shown_text

_LEAVES: Final = frozenset({str, int, float, bool, bytes, type(None)})
_PLAIN: Final = frozenset({str, int, float, bool})


def as_key(value: Any) -> str:
    """What tells a value from others, as text."""
    try:
        return encode(value.load() if isinstance(value, Stored) else value).decode()
    except NotEncodable:
        return repr_of(value)


def plain_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as Parquet and CSV can hold it: mixed or nested items and values as JSON text, and labels as text that
    are none of numbers, text and times."""
    plain = frame.copy(deep=False)
    for name in plain.columns:
        if plain[name].dtype == object or plain[name].dtype.kind == "c":
            plain[name] = _as_text(plain[name])
        elif name in ("item", "value") and isinstance(plain[name].dtype, pd.CategoricalDtype):
            plain[name] = _plain_categories(plain[name])
    plain.index = plain_index(frame.index)
    return plain


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    known = [each for each in column if each is not None]
    kinds = {type(each) for each in known}
    if kinds and len(kinds) == 1 and kinds <= _PLAIN and holds(kinds.pop(), known):
        return column.convert_dtypes()
    texts = [None if each is None or each is pd.NA else as_text(each) for each in column]
    return pd.Series(texts, index=column.index, dtype="string")


def as_text(value: Any) -> str:
    """A value as JSON text for people and other programs."""
    return repr(value) if isinstance(value, Unreadable) else as_shown(value).decode()


def only_described(value: Any) -> str | None:
    """The class of what is in a value of which JSON text has a description only, such as a table; None for nothing."""
    kind = type(value)
    if kind in _LEAVES:
        return None
    if shown(value, kind) is not None:
        return f"{kind.__module__.partition('.')[0]} {kind.__name__}"
    fields = None if isinstance(value, Unreadable) else fields_of(value)
    inner = value if isinstance(value, (list, tuple, set, frozenset)) else () if fields is None else fields.values()
    return next((found for found in map(only_described, inner) if found is not None), None)


def described_in(column: pd.Series[Any]) -> str | None:
    """The same of the values of a column."""
    if column.dtype != object:
        return None
    return next((found for found in map(only_described, column) if found is not None), None)


def _plain_categories(column: pd.Series[Any]) -> pd.Series[Any]:
    return column if column.cat.categories.dtype != object else pd.Series(_as_text(column.astype(object)))


def records(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its index as columns, as JSON can hold it: nested items and values stay nested."""
    plain = frame.copy(deep=False)
    for name in plain.columns:
        column = plain[name]
        if column.dtype == object or column.dtype.kind == "c" or _is_foreign(column.dtype):
            plain[name] = object_column([_nested(each) for each in column], len(plain)).set_axis(frame.index)
    index = plain_index(frame.index, for_json=True)
    plain.index = index
    return plain.reset_index(names=level_names(index, plain.columns))


def level_names(index: pd.Index[Any], taken: Iterable[Any], unnamed: str = "index") -> list[str]:
    """What the levels of an index are called as columns, beside those that there are.

    Args:
        index: it.
        taken: the names of the other columns.
        unnamed: what a level without a name is called, with its number where there are several.
    """
    levels = [unnamed] if index.nlevels == 1 else [f"{unnamed}_{n}" for n in range(index.nlevels)]
    names = [level if name is None else str(name) for level, name in zip(levels, index.names, strict=True)]
    known = set(map(str, taken))
    labels: list[str] = []
    for name in names:
        label = f"{name}_index" if name in known else name
        while label in known:
            label += "_"
        known.add(label)
        labels.append(label)
    return labels


def _nested(value: Any) -> Any:
    if value is pd.NA or value is pd.NaT:
        return None
    return repr(value) if isinstance(value, Unreadable) else _within(msgspec.json.decode(as_shown(value)))


def _within(value: Any) -> Any:
    """With no whole number that pandas' writer of JSON cannot write."""
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else {"$rnb": "int", "v": hex(value)}
    if type(value) is list:
        return [_within(each) for each in value]
    if type(value) is dict:
        return {key: _within(each) for key, each in value.items()}
    return value


def _is_foreign(dtype: Any) -> bool:
    """Whether it is a dtype whose values pandas' writer of JSON takes for none of its own."""
    return isinstance(dtype, (pd.PeriodDtype, pd.IntervalDtype)) or (
        isinstance(dtype, pd.CategoricalDtype) and dtype.categories.dtype == object
    )


# ---------------------------------------------------------------- labels


def plain_index(index: pd.Index[Any], *, for_json: bool = False) -> pd.Index[Any]:
    """The index with labels as text that no file has a type for."""
    if isinstance(index, pd.MultiIndex):
        levels = [_plain_labels(index.get_level_values(n), for_json) for n in range(index.nlevels)]
        if all(level is index.get_level_values(n) for n, level in enumerate(levels)):
            return index
        return pd.MultiIndex.from_arrays(levels, names=_plain_names(index))
    plain = _plain_labels(index, for_json)
    return plain if list(plain.names) == _plain_names(plain) else plain.set_names(_plain_names(plain))


def _plain_names(index: pd.Index[Any]) -> list[Any]:
    return [name if name is None else shown_text(str(name)) for name in index.names]


def _plain_labels(index: pd.Index[Any], for_json: bool) -> pd.Index[Any]:
    dtype = index.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        categories = dtype.categories
        plain = _plain_labels(categories, for_json)
        return index if plain is categories else index.astype(object).map(label_text)
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        labels = [each for each in index if not _is_missing(each)]
        kinds = {type(each) for each in labels}
        if not kinds or (len(kinds) == 1 and holds(kinds.pop(), labels, for_json)):
            return index
    elif dtype.kind != "c" and not (for_json and isinstance(dtype, (pd.PeriodDtype, pd.IntervalDtype))):
        return index
    return pd.Index(
        [None if _is_missing(each) else label_text(each) for each in index], dtype="string", name=index.name
    )


def holds(kind: type, labels: list[Any], for_json: bool = True) -> bool:
    """Whether a file has a type for labels that are all of one class."""
    if kind is str:
        return all(shown_text(each) == each for each in labels)
    if kind is int:
        return all(-(2**63) <= each < 2**63 for each in labels)
    return kind in (float, bool, dt.date) or (kind in (bytes, dt.time, decimal.Decimal) and not for_json)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))


def label_text(label: Any) -> str:
    """A label of an index as text."""
    try:
        return shown_text(str(label))
    except Exception:  # a __str__ of the user's own
        return shown_text(repr_of(label))
