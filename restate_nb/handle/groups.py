"""The groups of a groupby as items, one after the other, and their keys as the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from restate_nb.errors import InvalidInput
from restate_nb.handle.originals import is_of, is_pandas

if TYPE_CHECKING:
    import pandas as pd


class Groups:
    """Groups, of which no more than one is made at a time.

    Attributes:
        keys: those of the groups that were read by now.
    """

    def __init__(self, groupby: Any, *, pairs: bool) -> None:
        """
        Args:
            groupby: gives pairs of a key and a group.
            pairs: whether these are the items, or the groups alone.
        """
        self.keys: list[Any] = []
        self._groupby = groupby
        self._pairs = pairs

    def __iter__(self) -> Iterator[Any]:
        for key, group in self._groupby:
            self.keys.append(key)
            yield (key, group) if self._pairs else group

    def index(self) -> pd.Index[Any]:
        """The keys as the index that the groupby's own results have; of several columns, a MultiIndex."""
        known = _index_of_polars(self._groupby) if is_of_polars(self._groupby) else _index_of_pandas(self._groupby)
        return known if _are_keys(known, self.keys) else _index(self.keys, list(known.names))


def groups_of(items: Any, *, pairs: bool) -> Groups | None:
    """The groups of a groupby or a resampling of pandas, or of a group_by of polars; None for what is none.

    Raises:
        InvalidInput: they come in another order each time.
    """
    if is_pandas(items, "BaseGroupBy"):
        return Groups(items, pairs=pairs)
    if not is_of_polars(items):
        return None
    if getattr(items, "maintain_order", True) is False:
        raise InvalidInput(
            "group_by of polars gives its groups in another order each time, so the job could not be found again. "
            "Write df.group_by(..., maintain_order=True)."
        )
    return Groups(items, pairs=pairs)


def is_of_polars(items: object) -> bool:
    """Whether it is what `group_by`, `group_by_dynamic` or `rolling` of polars give."""
    return any(is_of(items, "polars", name) for name in ("GroupBy", "DynamicGroupBy", "RollingGroupBy"))


def _index_of_pandas(groupby: Any) -> pd.Index[Any]:
    sizes = groupby.size()
    if hasattr(sizes, "columns"):  # as_index=False
        return sizes.set_index(list(sizes.columns[:-1])).index  # type: ignore[no-any-return]
    return sizes.index  # type: ignore[no-any-return]


def _index_of_polars(groupby: Any) -> pd.Index[Any]:
    keys = groupby.agg()
    return _index(keys.rows(), keys.columns)


def _index(keys: Sequence[Any], names: list[Any]) -> pd.Index[Any]:
    import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

    if len(names) > 1:
        columns = zip(*keys, strict=True) if keys else [()] * len(names)
        return pd.MultiIndex.from_arrays([list(column) for column in columns], names=names)
    single = [key[0] if isinstance(key, tuple) and len(key) == 1 else key for key in keys]
    index: pd.Index[Any] = pd.Index(single, name=names[0] if names else None, tupleize_cols=False)
    return index


def _are_keys(index: pd.Index[Any], keys: Sequence[Any]) -> bool:
    if len(index) != len(keys):
        return False
    for label, key in zip(index, keys, strict=True):
        labels = label if isinstance(label, tuple) else (label,)
        parts = key if isinstance(key, tuple) else (key,)
        if len(labels) != len(parts) or not all(map(_is_same, labels, parts)):
            return False
    return True


def _is_same(one: Any, other: Any) -> bool:
    import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

    return one is other or bool(one == other) or (pd.isna(one) is True and pd.isna(other) is True)
