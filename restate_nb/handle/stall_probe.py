"""Looks for the reason when a job stands still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

QUIET_SECONDS: Final = 3.0  # without an outcome, after which the server is looked at
_BETWEEN: Final = 2.0  # seconds from one look to the next


class StallProbe:
    """Asks what is wrong with the server when no outcome has been recorded for some seconds.

    Args:
        trouble: says what is wrong, in words; nothing when all is well. It may take seconds.
    """

    def __init__(self, trouble: Callable[[], str]) -> None:
        self._trouble = trouble
        self._looking = threading.Lock()
        self._count = -1
        self._news_at = time.monotonic()
        self._looked_at = 0.0
        self._found = ""

    @property
    def quiet(self) -> float:
        """For how many seconds no outcome has been recorded."""
        return time.monotonic() - self._news_at

    def report(self, count: int) -> str:
        """What is wrong, given how many outcomes are recorded by now; empty while outcomes come in."""
        now = time.monotonic()
        if count != self._count:
            self._count, self._news_at, self._found = count, now, ""
        elif (
            now - self._news_at > QUIET_SECONDS
            and now - self._looked_at > _BETWEEN
            and self._looking.acquire(blocking=False)
        ):
            try:
                self._found = self._trouble()
            finally:
                self._looked_at = time.monotonic()
                self._looking.release()
        return self._found
