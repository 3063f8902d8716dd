"""What a panel's buttons can do to a job, if the job offers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Controls(Protocol):
    """A job as the panel's buttons see it.

    All of these are safe to call from any thread; the panel waits for none of them. A job need not have every one: the
    panel offers those that exist. In place of `set_concurrency` there may be a property `concurrency` that can be set.
    """

    def cancel(self) -> object:
        """End the job: nothing new starts, what runs is stopped."""

    def pause(self) -> object:
        """Start no further items until `resume`."""

    def resume(self) -> object:
        """Go on after `pause`."""

    def retry_failed(self) -> object:
        """Run the items that failed again; called once the job has ended."""

    def set_concurrency(self, n: int) -> object:
        """Let `n` items run at once from now on."""


def offered(controls: object) -> dict[str, Callable[..., object]]:
    """The actions of `Controls` that this object has, by name."""
    names = ("cancel", "pause", "resume", "retry_failed", "set_concurrency")
    found: dict[str, Callable[..., Any]] = {
        name: getattr(controls, name) for name in names if callable(getattr(controls, name, None))
    }
    concurrency = getattr(type(controls), "concurrency", None)
    if "set_concurrency" not in found and isinstance(concurrency, property) and concurrency.fset is not None:
        found["set_concurrency"] = lambda n: setattr(controls, "concurrency", n)
    if not {"pause", "resume"} <= found.keys():
        # One without the other would be a trap.
        found = {name: action for name, action in found.items() if name not in {"pause", "resume"}}
    return found
