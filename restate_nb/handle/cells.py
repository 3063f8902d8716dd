"""The cells of a DataFrame, column by column: the same as its rows have them, which are slow to come by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from restate_nb.values.plain import SCALARS

if TYPE_CHECKING:
    import pandas as pd


def cells_by_column(frame: pd.DataFrame) -> list[list[Any]]:
    """Of each column its cells, as `frame.to_dict("records")` has them."""
    return [_cells(frame, place) for place in range(frame.shape[1])]


def _cells(frame: pd.DataFrame, place: int) -> list[Any]:
    column = frame.iloc[:, place]
    dtype = column.dtype
    if not isinstance(dtype, np.dtype) or dtype.kind == "O":
        cells: list[Any] = column.tolist()
        kinds = set(map(type, cells))
        # of one kind, none is missing; and Python's own objects are nothing else in the rows
        if kinds <= SCALARS and (len(kinds) == 1 or isinstance(dtype, np.dtype)):
            return cells
    elif dtype.kind in "biuf" and dtype.itemsize <= 8:
        return column.to_numpy().tolist()
    return [cell for row in frame.iloc[:, [place]].to_dict("records") for cell in row.values()]
