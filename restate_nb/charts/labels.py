"""What items are called on charts: by their index, or by a column; a few of them by name, and how many more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from restate_nb.errors import InvalidInput
from restate_nb.formatting import one_line
from restate_nb.results.exports import label_text


def names_of(frame: pd.DataFrame, label: str | Sequence[object] | None) -> list[str]:
    """What each item is called.

    Args:
        frame: one row an item.
        label: a column, or one value an item; the index by default.

    Raises:
        InvalidInput: there is no such column, or there are too few or too many values.
    """
    if label is None:
        values: Sequence[object] = list(frame.index)
    elif isinstance(label, str):
        if label not in frame.columns:
            raise InvalidInput(f"label={label!r} is no column; there are: {', '.join(map(str, frame.columns))}.")
        values = list(frame[label])
    else:
        values = list(label)
        if len(values) != len(frame):
            raise InvalidInput(f"label must have one value an item, {len(frame)}, not {len(values)}.")
    # Only those that are shown are made into text: a value may be large.
    return _Texts(values)


class _Texts(list[str]):
    """Values as short texts, made when they are read."""

    def __init__(self, values: Sequence[object]) -> None:
        self._values = values

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        value = self._values[i]
        text = " / ".join(map(label_text, value)) if isinstance(value, tuple) else label_text(value)
        return one_line(text, 32).replace("$", r"\$")  # a dollar sign would start a formula


def some_of(names: list[str], positions: npt.NDArray[np.int64], most: int = 3) -> str:
    """The first items by name, and how many more there are, such as "4, 17, 20 and 31 more".

    Args:
        names: of all items.
        positions: of those that are meant, in the order in which they are told; again does not count.
        most: how many are named.
    """
    distinct = list(dict.fromkeys(positions.tolist()))
    text = ", ".join(names[position] for position in distinct[:most])
    return text + (f" and {len(distinct) - most:,} more" if len(distinct) > most else "")
