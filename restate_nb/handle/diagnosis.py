"""Why a job stands still, for the person who waits for it."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from restate_nb.engine.stacks import RunningItem
from restate_nb.formatting import counted, duration

_SHOWN: Final = 5  # items of which the lines of code are told

QUIET_SECONDS: Final = 3.0  # without an outcome, after which the server is looked at
_LOOK_INTERVAL: Final = 2.0  # seconds from one look to the next


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a job is doing, and what keeps it from going on.

    Attributes:
        job: its name.
        state: where it stands, in words.
        reasons: what holds it up, the most likely first, each with what to do; empty when nothing does.
        running: the items that run longest, and where in the code they are.
        ended: whether every item has an outcome.
    """

    job: str
    state: str
    reasons: Sequence[str]
    running: Sequence[str] = field(default=())
    ended: bool = False

    def __str__(self) -> str:
        lines = [f"{self.job}: {self.state}", *(f"- {reason}" for reason in self.reasons)]
        if not self.reasons:
            lines.append("- It has ended." if self.ended else "- Nothing holds it up.")
        return "\n".join([*lines, *self.running])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def running_lines(running_items: Iterable[RunningItem], labels: Any) -> list[str]:
    """The items that run longest, and where they are.

    Args:
        running_items: what runs, the longest first.
        labels: the index of the input.
    """
    running_items = list(running_items)
    lines = []
    for each in running_items[:_SHOWN]:
        since = "timed out, its thread runs on" if each.seconds is None else f"for {duration(each.seconds)}"
        attempt = "" if each.number == 1 else f", attempt {each.number}"
        lines.append(f"item {labels[each.position]!r} {since}{attempt}")
        lines += [f"    {line}" for line in each.where[-4:]]
    if len(running_items) > _SHOWN:
        lines.append(f"and {counted(len(running_items) - _SHOWN, 'more item')} that run")
    return lines


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
            and now - self._looked_at > _LOOK_INTERVAL
            and self._looking.acquire(blocking=False)
        ):
            try:
                self._found = self._trouble()
            finally:
                self._looked_at = time.monotonic()
                self._looking.release()
        return self._found
