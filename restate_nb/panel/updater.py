"""Shows the latest of many values, a few times a second, in a thread of its own."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

INTERVAL = 0.125
"""Seconds between two showings: eight a second look alive, and cost the kernel and the page next to nothing."""

_IDLE = 2.0  # seconds without a value after which the thread ends; the next value starts another

_log = logging.getLogger(__name__)


class Pump(Generic[T]):
    """Hands values to `show`, at most one each `interval` seconds; a value overtaken by a later one is dropped.

    `put` only notes the value, so it may be called from anywhere, however often. The first value waits for nobody,
    and the last one always arrives.

    `show` runs in an empty context. In a cell's context Jupyter would send each update in the name of that cell, and
    nbclient drops what comes in the name of a cell that has ended: of a job that is started in one cell and awaited
    in the next it would store the first panel and not the last.

    Args:
        show: what is done with a value. When it raises, that is logged once and nothing more is shown: a job must not
            suffer from its panel.
        interval: seconds between two calls.
    """

    def __init__(self, show: Callable[[T], None], interval: float = INTERVAL) -> None:
        self._show = show
        self._interval = interval
        self._changed = threading.Condition()
        self._showing = threading.Lock()
        self._next: tuple[T] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._broken = False

    def put(self, value: T) -> None:
        """Show `value` soon, unless another one comes first. Does nothing once the pump is closed."""
        with self._changed:
            if self._closed:
                return
            self._next = (value,)
            if self._thread is None:
                empty = contextvars.Context()
                self._thread = threading.Thread(
                    target=empty.run, args=(self._run,), name="restate-nb-panel", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # the machine gives no more threads: the next value may find one
                    self._thread = None
            else:
                self._changed.notify_all()

    def close(self, value: T) -> bool:
        """Show `value` now, in the caller's thread, and nothing after it.

        Returns:
            Whether this was the call that closed the pump; a second one shows nothing.
        """
        with self._changed:
            if self._closed:
                return False
            self._closed = True
            self._next = None
            self._changed.notify_all()
        contextvars.Context().run(self._present, value)
        return True

    def reopen(self) -> bool:
        """Show values again after `close`.

        Returns:
            Whether it had been closed.
        """
        with self._changed:
            was_closed, self._closed = self._closed, False
            return was_closed

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closed, _IDLE)
                if self._next is None or self._closed:
                    self._thread = None
                    return
                (value,) = self._next
                self._next = None
            self._present(value, final=False)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, self._interval)

    def _present(self, value: T, final: bool = True) -> None:
        with self._showing:
            if self._broken or (self._closed and not final):
                return
            try:
                self._show(value)
            except Exception:
                self._broken = True
                _log.warning("The panel cannot be shown any longer; the job goes on.", exc_info=True)
