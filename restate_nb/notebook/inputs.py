"""Reads the `items` argument: any iterable, Series, DataFrame or dict becomes encoded items with an index."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from restate_nb.engine.target import Passing, Target
from restate_nb.errors import InvalidInput, NotEncodable
from restate_nb.notebook.spool import Spool
from restate_nb.notebook.unreadable import unreadable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a job.

    Attributes:
        originals: the items as the user gave them, in order; those of an iterator, which can be read only once, are
            not kept, but decoded when they are asked for.
        encoded: the same as JSON.
        labels: the user's index, or None for 0, 1, 2, ...
        source: the DataFrame or Series that the items came from; None for other input.
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


class Decoded(Sequence[Any]):
    """Encoded items, as the function gets them."""

    def __init__(self, target: Target, encoded: Spool) -> None:
        self._target = target
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._item(raw) for raw in self._encoded[at]]
        return self._item(self._encoded[at])

    def __iter__(self) -> Iterator[Any]:
        return map(self._item, self._encoded)

    def _item(self, raw: bytes) -> Any:
        try:
            return self._target.item(raw)
        except Exception as error:  # a class of the user's own may do anything when it is made again
            return unreadable(error, raw)


def passing_of(items: object) -> Passing:
    """How `map` passes the items of this input to the function."""
    return "kwargs" if _is_pandas(items, "DataFrame") else "value"


def read_items(items: object, target: Target) -> Items:
    """Encode the items, and see that each fits the function.

    Raises:
        InvalidInput: what is no collection of items, an item that has no JSON form, or one that does not fit.
    """
    originals, labels = _originals(items)
    encoded = Spool()
    for position, item in enumerate(originals):
        if target.passing == "args" and not isinstance(item, (tuple, list)):
            raise InvalidInput(
                f"starmap spreads each item over the function's parameters, so it must be a tuple or a list; "
                f"item {position} is {_short(item)}. For single arguments use rnb.map."
            )
        try:
            raw = target.encode_item(item)
        except NotEncodable as error:
            where = f"item {position}" if labels is None else f"item {position} (index {labels[position]!r})"
            raise InvalidInput(f"{where.capitalize()}, {_short(item)}, cannot be sent: {error}") from None
        target.check_item(position, item, raw)
        encoded.append(raw)
    source = items if _is_pandas(items, "DataFrame") or _is_pandas(items, "Series") else None
    if not isinstance(originals, Sequence):
        originals = Decoded(target, encoded)
    return Items(originals, encoded, labels, source)


def read_inputs(items: object, encode_one: Callable[[Any], bytes]) -> Items:
    """Encode the inputs of a deployed handler. Rows of a DataFrame are objects with a field a column.

    Raises:
        InvalidInput: what is no collection of inputs, or one that `encode_one` refuses.
    """
    originals, labels = _originals(items, named=False)
    kept = originals if isinstance(originals, Sequence) else list(originals)
    encoded = Spool()
    for position, item in enumerate(kept):
        try:
            encoded.append(encode_one(item))
        except InvalidInput as error:
            where = f"Input {position}" if labels is None else f"Input {position} (index {labels[position]!r})"
            raise InvalidInput(f"{where}, {_short(item)}, cannot be sent: {error}") from None
    source = items if _is_pandas(items, "DataFrame") or _is_pandas(items, "Series") else None
    return Items(kept, encoded, labels, source)


def _originals(items: Any, *, named: bool = True) -> tuple[Iterable[Any], Sequence[Hashable] | None]:
    if _is_pandas(items, "DataFrame"):
        return _rows(items, named=named), items.index
    if _is_pandas(items, "Series"):
        return items.tolist(), items.index
    if isinstance(items, (str, bytes, bytearray)):
        raise InvalidInput(f"items is one {type(items).__name__}, not a collection. For a single item write [item].")
    if isinstance(items, (set, frozenset)):
        raise InvalidInput(
            "A set has no order, so the job could not be found again. Pass sorted(items) or list(items)."
        )
    if isinstance(items, Mapping):
        return list(items.values()), list(items)
    if hasattr(items, "__aiter__"):
        raise InvalidInput("items is an async iterator. Collect it first: items = [item async for item in ...].")
    if hasattr(items, "tolist") and getattr(items, "ndim", 0) == 1:  # numpy arrays, pandas Index
        return _elements(items), None
    if isinstance(items, (list, tuple, range)):
        return items, None
    if isinstance(items, Iterable):
        return items, None
    raise InvalidInput(f"items must be a list, an iterable, a Series, a DataFrame or a dict, not {_short(items)}.")


def _elements(array: Any) -> list[Any]:
    """The elements of an array: Python's own, where they are the same; times that Python has no type for as numpy's."""
    listed: list[Any] = array.tolist()
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if kind in "mM" and any(each is None or type(each) is int for each in listed):
        return list(array)
    return listed


def _rows(frame: pd.DataFrame, *, named: bool) -> list[dict[str, Any]]:
    """`named`: whether each column is to be the name of a parameter."""
    names = list(frame.columns)
    wrong = [name for name in names if not (isinstance(name, str) and (name.isidentifier() or not named))]
    if wrong:
        raise InvalidInput(
            f"Each row is passed as keyword arguments, and the column {wrong[0]!r} cannot be one. "
            "Rename it: df.rename(columns={...}), or pass a single column: rnb.map(fn, df['column'])."
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"The column {twice!r} is there twice. Rename one of the two.")
    return frame.to_dict("records")  # type: ignore[return-value]


def _is_pandas(value: object, name: str) -> bool:
    return any(each.__name__ == name and each.__module__.partition(".")[0] == "pandas" for each in type(value).__mro__)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
