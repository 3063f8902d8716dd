"""`df.restate.map(fn)` and `series.restate.map(fn)`: the accessor on objects of pandas and polars.

That of pandas is registered when this module is imported, that of polars by whoever knows that polars is there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar, Unpack

import pandas as pd

from restate_nb.api.map import map as map_items
from restate_nb.api.options import MapOptions
from restate_nb.handle.job import Job

F = TypeVar("F", bound=Callable[..., Any])


def _showing_options_of_map(method: F) -> F:
    """Have `fn?` and the tab key show the options, which the method hands on."""
    shown = inspect.signature(method)
    own = [each for each in shown.parameters.values() if each.kind is not each.VAR_KEYWORD]
    options = [each for each in inspect.signature(map_items).parameters.values() if each.kind is each.KEYWORD_ONLY]
    vars(method)["__signature__"] = shown.replace(parameters=[*own, *options])
    return method


@pd.api.extensions.register_dataframe_accessor("restate")
@pd.api.extensions.register_series_accessor("restate")
class RestateAccessor:
    """Durable jobs over a DataFrame's rows or a Series' values, those of pandas or polars.

    Example:
        import pandas as pd
        import restate_nb as rnb

        rnb.start()
        cities = pd.DataFrame({"city": ["Bonn"], "zip": ["53111"]})
        job = cities.restate.map(lambda city, zip: f"{zip} {city}")
        print(job.join())
    """

    def __init__(self, data: Any) -> None:
        self._data = data

    @_showing_options_of_map
    def map(self, fn: Callable[..., Any], **options: Unpack[MapOptions]) -> Job[Any]:
        """Like `restate_nb.map(fn, data, **options)`: rows are passed as keyword arguments, values as they are."""
        return map_items(fn, self._data, **options)


def register_for_polars() -> None:
    """Give frames and columns of polars the accessor, where polars is loaded: it is not loaded for that."""
    polars = sys.modules.get("polars")
    if polars is not None and not hasattr(polars.DataFrame, "restate"):
        polars.api.register_dataframe_namespace("restate")(RestateAccessor)
        polars.api.register_series_namespace("restate")(RestateAccessor)
