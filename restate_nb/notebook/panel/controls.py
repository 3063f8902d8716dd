"""What a panel's buttons can do to a job, if the job offers it."""

from __future__ import annotations

from typing import Protocol


class Controls(Protocol):
    """A job as the panel's buttons see it.

    All of these return at once, and are safe to call from any thread. A job need not have every one: the panel
    offers those that exist.
    """

    def cancel(self) -> object:
        """End the job: nothing new starts, what runs is stopped."""

    def pause(self) -> object:
        """Start no further items until `resume`."""

    def resume(self) -> object:
        """Go on after `pause`."""

    def retry_failed(self) -> object:
        """Run the items that failed again."""

    def set_concurrency(self, n: int) -> object:
        """Let `n` items run at once from now on."""
