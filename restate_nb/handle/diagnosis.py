"""Why a job stands still, for the person who waits for it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from restate_nb.engine.stacks import RunningItem
from restate_nb.formatting import counted, duration

_SHOWN: Final = 5  # items of which the lines of code are told


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
