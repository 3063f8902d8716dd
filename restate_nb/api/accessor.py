"""`df.restate.map(fn)` and `series.restate.map(fn)`: the accessor on pandas objects. Registered when it is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from restate_nb.api.map import map as map_items
from restate_nb.handle.job import Job


@pd.api.extensions.register_dataframe_accessor("restate")
@pd.api.extensions.register_series_accessor("restate")
class RestateAccessor:
    """Durable jobs over a DataFrame's rows or a Series' values.

    Example:
        import pandas as pd
        import restate_nb as rnb

        rnb.start()
        cities = pd.DataFrame({"city": ["Bonn"], "zip": ["53111"]})
        job = cities.restate.map(lambda city, zip: f"{zip} {city}")
        print(job.join())
    """

    def __init__(self, data: pd.DataFrame | pd.Series[Any]) -> None:
        self._data = data

    def map(self, fn: Callable[..., Any], **options: Any) -> Job[Any]:
        """Like `restate_nb.map(fn, data, **options)`: rows are passed as keyword arguments, values as they are."""
        return map_items(fn, self._data, **options)
