"""The cells of frames, column by column, as Python's own objects; their rows are slow to come by.

Those of pandas are what `frame.to_dict("records")` has, those of polars and Arrow what their own `to_list` and
`to_pylist` give: numbers, text, times and bytes of Python, None for what is missing, lists and dicts for what is
nested. Times in nanoseconds are pandas' own, since Python has none: nothing is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from restate_nb.errors import InvalidInput
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


# ---------------------------------------------------------------- polars, Arrow


def cells_of_polars(column: Any) -> list[Any]:
    """The elements of a Series of polars.

    Raises:
        InvalidInput: Python has nothing for one of them.
    """
    import polars as pl  # noqa: PLC0415 - need not be there

    kind = str(column.dtype)
    # polars would round to microseconds, and takes other offsets than Python for times before there were zones
    through_arrow = "Time" in kind or "'ns'" in kind or "time_zone='" in kind
    try:
        given = column.to_arrow() if through_arrow else column.to_list()
    except (Exception, pl.exceptions.PanicException) as error:  # years past 9999
        raise _no_cells(column.name, error) from None
    cells: list[Any] = cells_of_arrow(given, column.name) if through_arrow else given
    return cells


def cells_of_arrow(column: Any, name: str = "") -> list[Any]:
    """The elements of an array of pyarrow, or of a chunked one.

    Args:
        column: the array.
        name: of the column, for the message; "" where it has none.

    Raises:
        InvalidInput: Python has nothing for one of them.
    """
    import pyarrow as pa  # noqa: PLC0415 - heavy, loaded on first use

    kind, types = column.type, pa.types
    if not column.null_count and (types.is_integer(kind) or types.is_floating(kind)):
        numbers: list[Any] = column.to_numpy().tolist()
        return numbers
    try:
        exact = _exact(kind, pa)
        if exact != kind:
            column = column.cast(exact)
        cells: list[Any] = column.to_pylist()
    except Exception as error:  # years past 9999, fractions of microseconds
        raise _no_cells(name, error) from None
    return cells


def _exact(kind: Any, pa: Any) -> Any:
    """The type to which a column can be cast only if Python has all of its elements: times of day in microseconds.

    Halves are cast, too: earlier versions of pyarrow give them as numpy's.
    """
    types = pa.types
    if types.is_float16(kind):
        return pa.float32()
    if types.is_time64(kind):
        return pa.time64("us")
    if types.is_struct(kind):
        return pa.struct([each.with_type(_exact(each.type, pa)) for each in kind])
    if types.is_map(kind):
        return pa.map_(_exact(kind.key_type, pa), _exact(kind.item_type, pa), kind.keys_sorted)
    lists = {types.is_list: pa.list_, types.is_large_list: pa.large_list}
    for is_list, make in lists.items():
        if is_list(kind):
            return make(kind.value_field.with_type(_exact(kind.value_type, pa)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_exact(kind.value_type, pa)), kind.list_size)
    return kind


def _no_cells(name: str, error: BaseException) -> InvalidInput:
    what = f"The column {name!r}" if name else "The column"
    return InvalidInput(
        f"{what} holds what Python has nothing for, so it cannot be passed to a function: {error}. "
        "Cast it, to text for one."
    )
