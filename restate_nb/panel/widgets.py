"""The panel's live part: a slider and buttons, there only while somebody can use them.

Widgets are saved as dead text, and a cell that blocks delivers no clicks. So nothing but these few controls is a
widget, each does what a method of the job does too, and in the end all are replaced by nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from html import escape
from typing import Any, Protocol

from restate_nb.formatting import one_line
from restate_nb.results.progress import Progress

RETRY_STAYS = 300.0
"""Seconds that the retry button stays after the end: long enough to read the errors, and gone from what is saved."""

_CLICK_SECONDS = 1.0  # that a click waits for what it asks for
_CONFIRM = 4.0  # seconds in which a second click on cancel counts
_NOTHING = {"text/html": "", "text/plain": ""}


class Controls(Protocol):
    """A job as the panel's buttons see it. All of this is safe from any thread."""

    def cancel(self) -> object:
        """End the job: nothing new starts, what runs is stopped."""

    def pause(self) -> object:
        """Start no further items until `resume`."""

    def resume(self) -> object:
        """Go on after `pause`."""

    def retry_failed(self) -> object:
        """Run the items that failed again; called once the job has ended."""

    @property
    def concurrency(self) -> int:
        """How many items may run at once."""
        ...

    @concurrency.setter
    def concurrency(self, value: int) -> None: ...


class ControlRow:
    """A row of controls under the panel.

    Args:
        job: what they drive.
        progress: the job at this moment.
    """

    def __init__(self, job: Controls, progress: Progress) -> None:
        import ipywidgets as widgets  # noqa: PLC0415 - only where somebody can click
        from IPython.display import display  # noqa: PLC0415

        self._job = job
        self._concurrency = progress.concurrency
        self._paused = False
        self._asked_at = float("-inf")
        self._leaving: threading.Timer | None = None
        self._slider = widgets.IntSlider(
            value=max(progress.concurrency, 1), min=1, max=max(4 * progress.concurrency, 100), description="at once",
            continuous_update=False, tooltip="how many items run at once; the same as job.concurrency = ...",
            style={"description_width": "initial"}, layout={"width": "320px"},
        )  # fmt: skip
        self._pause = self._button(widgets, "Pause", "pause", "start no further items; the same as job.pause()")
        self._cancel = self._button(widgets, "Cancel", "stop", "end the job; the same as job.cancel()")
        self._retry = self._button(
            widgets, "Retry failed", "repeat", "run what failed again; the same as job.retry_failed()"
        )
        self._said = widgets.HTML()
        self._slider.observe(self._slid, "value")
        self._pause.on_click(lambda _: self._run(job.resume if self._paused else job.pause))
        self._cancel.on_click(lambda _: self._cancel_clicked())
        self._retry.on_click(lambda _: self._retry_clicked())
        self._while_running = [self._slider, self._pause, self._cancel]
        self._row = widgets.HBox([*self._while_running, self._said], layout={"flex_flow": "row wrap"})
        show: Any = display  # IPython has no types for it
        self._handle = show(self._bundle(), raw=True, display_id=True)

    def update(self, progress: Progress) -> None:
        """Follow the job: its concurrency may have been set elsewhere, its pause begun by a call."""
        # Compared with what the job said before, not with the slider: a wish takes a moment to come true, and until
        # then the slider must not jump back.
        if progress.concurrency != self._concurrency:
            self._concurrency = progress.concurrency
            self._follow_job(max(progress.concurrency, 1))
        if (progress.status == "paused") != self._paused:
            self._paused = not self._paused
            self._pause.description, self._pause.icon = ("Resume", "play") if self._paused else ("Pause", "pause")
        if self._cancel.description != "Cancel" and time.monotonic() - self._asked_at > _CONFIRM:
            self._cancel.description = "Cancel"

    def finish(self, progress: Progress) -> None:
        """Take the controls away; if items failed, the retry button stays for some minutes."""
        if progress.failed + progress.cancelled:
            self._retry.disabled = False
            self._row.children = [self._retry, self._said]
            self._leaving = threading.Timer(RETRY_STAYS, self._leave)
            self._leaving.daemon = True
            self._leaving.start()
        else:
            self._leave()

    def reopen(self) -> None:
        """Offer everything again: the job goes on."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._said.value = ""
        self._cancel.disabled = False
        self._row.children = [*self._while_running, self._said]
        self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, Any]:
        # A viewer that knows no widgets shows the HTML instead: nothing, and not "HBox(children=(...".
        view = {"version_major": 2, "version_minor": 0, "model_id": self._row.model_id}
        return {"application/vnd.jupyter.widget-view+json": view, **_NOTHING}

    def _leave(self) -> None:
        self._row.children = []  # Voilà goes on showing the row
        self._handle.update(_NOTHING, raw=True)

    @staticmethod
    def _button(widgets: Any, text: str, icon: str, tooltip: str) -> Any:
        return widgets.Button(description=text, icon=icon, tooltip=tooltip, layout={"width": "auto"})

    def _follow_job(self, concurrency: int) -> None:
        self._slider.unobserve(self._slid, "value")
        try:
            self._slider.max = max(self._slider.max, concurrency)
            self._slider.value = concurrency
        finally:
            self._slider.observe(self._slid, "value")

    def _slid(self, change: dict[str, Any]) -> None:
        self._run(lambda: setattr(self._job, "concurrency", change["new"]))

    def _cancel_clicked(self) -> None:
        if time.monotonic() - self._asked_at <= _CONFIRM:
            self._cancel.disabled = True
            self._run(self._job.cancel)
        else:
            self._asked_at = time.monotonic()
            self._cancel.description = "Click again to cancel"

    def _retry_clicked(self) -> None:
        self._retry.disabled = True  # a second click would ask for the same again
        self._retry.disabled = self._run(self._job.retry_failed)

    def _run(self, action: Callable[[], object]) -> bool:
        """Do what was clicked, and say under the button why it went wrong; whether it did not, as far as is known soon.

        Restate may be away, and clicks come in the kernel's own thread, which must not wait for it.
        """
        failed: list[bool] = []

        def run() -> None:
            try:
                action()
            except Exception as error:  # whatever it is, it belongs under the button and not into a log nobody reads
                failed.append(True)
                self._retry.disabled = False
                self._said.value = escape(one_line(f"{type(error).__name__}: {error}", 200))
            else:
                self._said.value = ""

        running = threading.Thread(target=run, name="rnb-click", daemon=True)
        running.start()
        running.join(_CLICK_SECONDS)
        if running.is_alive():
            self._said.value = "asked for; it takes its time"
        return not failed
