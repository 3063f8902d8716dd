"""Keeps a panel up to date: one thread for each panel that is live."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Protocol

from restate_nb.results.progress import Progress

INTERVAL = 0.2
"""Seconds between two updates: five a second look alive, and cost the kernel and the page next to nothing."""

_log = logging.getLogger(__name__)


class Panel(Protocol):
    """What shows a job's progress. It is made in the cell that shows the job; then one thread calls its methods."""

    def update(self, progress: Progress) -> None:
        """Show the job as it is now."""

    def finish(self, progress: Progress) -> None:
        """Show how the job ended."""

    def reopen(self) -> None:
        """Go on in the same place after `finish`: the job runs again, as after `retry_failed`."""


class Updater:
    """Shows the newest progress of a job on its panel, a few times a second, until the job has ended.

    The thread runs in an empty context. In a cell's context Jupyter would send each update in the name of that cell,
    and nbclient drops what comes in the name of a cell that has ended: of a job that is started in one cell and awaited
    in the next it would store the first panel and not the last.

    Args:
        progress: the job at the moment of the call, which is made in the thread.
        panel: what shows it. When it raises, that is logged once and nothing more is shown: a job must not suffer from
            its panel.
        interval: seconds between two updates.
    """

    def __init__(self, progress: Callable[[], Progress], panel: Panel, interval: float = INTERVAL) -> None:
        self._progress = progress
        self._panel = panel
        self._interval = interval
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None  # the last that was started
        self._live = False  # whether that thread has yet to see the job's end
        self._broken = False

    def start(self) -> None:
        """Show the job until it has ended; called once more, when a job that had ended runs again."""
        with self._starting:
            if self._live or self._broken:
                return
            thread = threading.Thread(
                target=contextvars.Context().run, args=(self._run, self._thread), name="rnb-panel", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the machine gives no more threads: the panel stays as it is
                return
            self._thread, self._live = thread, True

    def wake(self) -> None:
        """Show the newest progress now, and not only at the next turn: the job has ended. From any thread."""
        self._wake.set()

    def join(self, timeout: float) -> None:
        """Wait until the panel shows the end of a job that has ended; `timeout` seconds at most."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, before: threading.Thread | None) -> None:
        try:
            if before is not None:
                before.join()  # it may still show the end that came before
                if self._broken:
                    return
                self._panel.reopen()
            while not (progress := self._next()).final:
                self._panel.update(progress)
            self._panel.finish(progress)
        except Exception:
            self._live, self._broken = False, True
            _log.warning("The panel cannot be shown any longer; the job goes on.", exc_info=True)

    def _next(self) -> Progress:
        self._wake.wait(self._interval)
        self._wake.clear()
        # Under the lock: `start` either comes before, and then this is not the end, or finds that it has been seen.
        with self._starting:
            progress = self._progress()
            self._live = not progress.final
            return progress
