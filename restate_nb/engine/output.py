"""What the items of a job print and log: shown in the output of the cell that submitted it, and kept by item.

Items run in the context of their job's cell, and Jupyter sends what is written in a context to the cell that it belongs
to. So all that is done here is to look at what passes through `sys.stdout` and `sys.stderr`: to keep it, and to stop
showing it before a million lines end the page.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from restate_nb.patches import watch_writes

KEPT_LINES: Final = 50_000
"""Of a job, the latest."""
KEPT_CHARACTERS: Final = 20_000_000  # the latest, too: at 50,000 lines, 400 each
KEPT_BEGUN: Final = 1_000  # lines without an end; of more of them the oldest ones are taken to have ended

_SOON = 0.1  # seconds until a line without an end is shown
_LONGEST = 10_000  # characters of a line that is kept
_SHOWN_LINES: Final = 1_000
_SHOWN_CHARACTERS: Final = 200_000
"""After which a cell shows no more: a page with megabytes of text scrolls no longer."""

T = TypeVar("T")

_job: contextvars.ContextVar[OutputCapture | None] = contextvars.ContextVar("restate_nb_prints", default=None)
_position: contextvars.ContextVar[int] = contextvars.ContextVar("restate_nb_position", default=-1)


class Line(NamedTuple):
    """A line that an item printed.

    Attributes:
        position: the item's; -1 when it is not known.
        stream: `stdout` or `stderr`.
        at: when it was begun, in seconds since 1970.
        text: without its line break.
    """

    position: int
    stream: str
    at: float
    text: str


class OutputCapture:
    """Captures what the items of one job print.

    Attributes:
        job: stands for the job, where it is asked whose item some code belongs to.
    """

    def __init__(self) -> None:
        self.job = object()
        self.ended_lines: deque[Line] = deque()
        self._characters = 0  # in these lines
        self.begun_lines: dict[tuple[int, str], tuple[float, str]] = {}  # when, and what: lines without an end so far
        self._held: dict[tuple[int, str], str] = {}  # of these lines, what was not shown yet
        self._soon: set[str] = set()  # streams of which it will be
        self._lock = threading.Lock()
        self._bounded = False
        self._lines_left, self._characters_left = _SHOWN_LINES, _SHOWN_CHARACTERS

    def context(self, *, bounded: bool) -> contextvars.Context:
        """A copy of the caller's context, in which what is printed counts as this job's.

        Args:
            bounded: whether to stop showing it after 1,000 lines, as in a notebook.
        """
        watch_writes(_job.get)
        self._bounded = bounded
        self._lines_left, self._characters_left = _SHOWN_LINES, _SHOWN_CHARACTERS
        context = contextvars.copy_context()
        context.run(_job.set, self)
        return context

    def lines(self) -> list[Line]:
        """The latest lines, those without an end included, in the order of their ends."""
        with self._lock:
            begun = [Line(*key, *begun) for key, begun in self.begun_lines.items()]
            return [*self.ended_lines, *begun][-KEPT_LINES:]

    def write(self, stream: str, text: str, show: Callable[[str], Any]) -> None:
        """Keep what an item has written, and show it: whole lines at once, others soon, so that lines of threads are
        not mixed up."""
        key = _position.get(), stream
        with self._lock:
            self._keep(*key, text)
            if self._bounded and (self._lines_left <= 0 or self._characters_left <= 0):
                return
            lines, end, rest = (self._held.pop(key, "") + text).rpartition("\n")
            if rest:
                self._held[key] = rest
                if stream not in self._soon:
                    self._soon.add(stream)
                    show_rest = contextvars.copy_context().run
                    timer = threading.Timer(_SOON, show_rest, (self._show_rest, stream, show))
                    try:
                        timer.start()
                    except RuntimeError:  # the machine gives no more threads: it is shown with the next line
                        self._soon.discard(stream)
            shown = self._fitting(lines + end)
        if shown:
            show(shown)

    def _show_rest(self, stream: str, show: Callable[[str], Any]) -> None:
        with self._lock:
            self._soon.discard(stream)
            held = [key for key in self._held if key[1] == stream]
            shown = self._fitting("".join(self._held.pop(key) for key in held))
        if shown:
            show(shown)

    def _fitting(self, text: str) -> str:
        """What of it is still to be shown."""
        if not self._bounded or not text:
            return text
        if self._lines_left <= 0 or self._characters_left <= 0:
            return ""
        shown = text[: self._characters_left]
        self._lines_left -= text.count("\n")
        self._characters_left -= len(text)
        if self._lines_left <= 0 or self._characters_left <= 0:
            shown += (
                f"\n[no more is shown here of what the items print: job.logs() has the last {KEPT_LINES:,} lines]\n"
            )
        return shown

    def _keep(self, position: int, stream: str, text: str) -> None:
        key = position, stream
        at, head = self.begun_lines.pop(key) if key in self.begun_lines else (time.time(), "")
        *ended, rest = (head + text).split("\n")
        for part in ended:
            self._add(Line(position, stream, at, part[:_LONGEST]))
            at = time.time()
        if rest:
            self.begun_lines[key] = at, rest[:_LONGEST]
            if len(self.begun_lines) > KEPT_BEGUN:
                oldest = next(iter(self.begun_lines))
                self._add(Line(*oldest, *self.begun_lines.pop(oldest)))

    def _add(self, line: Line) -> None:
        self.ended_lines.append(line)
        self._characters += len(line.text)
        while len(self.ended_lines) > KEPT_LINES or self._characters > KEPT_CHARACTERS:
            self._characters -= len(self.ended_lines.popleft().text)


def belong_to(position: int) -> None:
    """From here on, in this context, what is printed is of the item at that position."""
    _position.set(position)


def at_item(position: int, call: Callable[[Any], T], payload: Any) -> T:
    """Call with the payload of the item at that position: what it prints is known to be this item's."""
    _position.set(position)
    return call(payload)


def position() -> int:
    """The position of the item that this code belongs to; -1 when it belongs to none."""
    return _position.get()


def capture_from_here(context: contextvars.Context, position: int) -> None:
    """Print from here on as in that context, for the item at that position."""
    for variable, value in context.items():
        if not variable.name.startswith("restate_context"):  # the SDK's own, of the handler that runs here
            variable.set(value)
    _position.set(position)


def forward(stream: str, text: str) -> None:
    """Print what a worker process has printed."""
    getattr(sys, stream).write(text)
