"""What limited a job over time: how many items could run at once, and how many could start a second."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

_MOST: Final = 2_000  # changes that are kept; beyond it every other one goes


class LimitHistory:
    """A job's limits as this process saw them: each change, with its time."""

    def __init__(self) -> None:
        self._changes: list[tuple[float, int, float | None]] = []
        self._lock = threading.Lock()
        self.per_second: float | None = None

    def note(self, now: float, concurrency: int) -> None:
        """Take down what is in force, if it is another than before.

        Args:
            now: seconds since 1970.
            concurrency: how many items may run at once.
        """
        with self._lock:
            if self._changes and self._changes[-1][1:] == (concurrency, self.per_second):
                return
            self._changes.append((now, concurrency, self.per_second))
            if len(self._changes) > _MOST:
                del self._changes[1:-1:2]

    def frame(self) -> pd.DataFrame:
        """One row a change: `at` (UTC), `concurrency` and `per_second` (NaN for none)."""
        import pandas as pd  # noqa: PLC0415 - only where charts are drawn

        with self._lock:
            at, concurrency, per_second = zip(*self._changes, strict=True) if self._changes else ((), (), ())
        columns: dict[str, Any] = {
            "at": pd.to_datetime(list(at), unit="s", utc=True),
            "concurrency": pd.array(concurrency, dtype="int64"),
            "per_second": pd.Series(per_second, dtype="float64"),
        }
        return pd.DataFrame(columns)
