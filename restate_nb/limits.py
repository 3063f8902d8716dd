"""Limits: durations, rates and concurrency as people write them, and what they are parsed to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, NamedTuple

Seconds = float | timedelta
"""A duration: seconds as int or float, or a timedelta."""


class Rate(NamedTuple):
    """At most `starts` in any `seconds`."""

    starts: int
    seconds: float


PerSecond = float | tuple[int, Seconds]
"""Starts a second, or `(count, seconds)`, such as `(10, 60)` for ten a minute."""


class Range(NamedTuple):
    """Adaptive concurrency: at least `low` items at once, at most `high`."""

    low: int
    high: int


AUTO = Range(1, 200)
"""What `concurrency="auto"` means."""

Concurrency = int | tuple[int, int] | Literal["auto"]
"""How many items run at once: a number, or, to find out while running, a range `(low, high)` or "auto"."""

_SHARE_AFTER: Final = 20
"""A share of failures means nothing before this many items have ended."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a job gives up on its remaining items: after so many failures, or at a share of those that have ended."""

    failures: int | None = None
    share: float | None = None

    def broken(self, failed: int, ended: int) -> str | None:
        """Why to stop, as a sentence, or None.

        Args:
            failed: items that ended with an error or a timeout, after their last attempt.
            ended: those and the items that ended well.
        """
        if self.failures is not None and failed >= self.failures:
            rule = "True" if self.failures == 1 else f"{self.failures:,}"
        elif self.share is not None and ended >= _SHARE_AFTER and failed >= self.share * ended:
            rule = f"{self.share:g}"
        else:
            return None
        return f"The job stopped, with fail_fast={rule}, after {failed:,} of {ended:,} items had failed."
