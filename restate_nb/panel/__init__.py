"""The live panel: a job's progress in a notebook, a terminal or a log, whichever it is."""

from __future__ import annotations

from typing import Literal, Protocol

from restate_nb.environment import in_notebook, in_terminal
from restate_nb.panel.controls import Controls
from restate_nb.panel.render import to_html, to_text
from restate_nb.panel.terminal import LinePanel, NoPanel, TerminalPanel
from restate_nb.results.progress import Progress

__all__ = ["Controls", "Panel", "Show", "make_panel", "to_html", "to_text"]

Show = Literal["auto", "notebook", "bar", "line", "none"]
"""Where progress is shown: HTML in a notebook, a tqdm bar, one closing line, nothing; "auto" looks where we are."""


class Panel(Protocol):
    """What shows a job's progress while it runs."""

    def update(self, progress: Progress) -> None:
        """Show the job's latest progress soon; cheap, from any thread, as often as you like."""

    def finish(self, progress: Progress) -> None:
        """Show the job's last progress now; later updates change nothing."""

    def reopen(self) -> None:
        """Go on in the same place after `finish`: the job runs again, as after `retry_failed`."""


def make_panel(progress: Progress, controls: Controls | object | None = None, *, show: Show = "auto") -> Panel:
    """Show a job's progress, and return what to hand later progress to.

    Call it in the cell that starts the job: the panel stays under that cell. In a notebook it is HTML that follows
    the theme; in a terminal a tqdm bar on stderr; with stderr sent elsewhere one line at the end.

    Args:
        progress: the job at this moment.
        controls: what the panel's buttons drive, such as the job; see `Controls`. Without it there are none.
        show: "auto", or the kind asked for.

    Example:
        >>> panel = make_panel(Progress("pages", "fetch", "running", total=3), show="none")
        >>> panel.update(Progress("pages", "fetch", "running", total=3, ok=2))
        >>> panel.finish(Progress("pages", "fetch", "finished", total=3, ok=3))
    """
    kind = show
    if kind == "auto":
        kind = "notebook" if in_notebook() else "bar" if in_terminal() else "line"
    if kind == "notebook":
        from restate_nb.panel.display import NotebookPanel  # noqa: PLC0415 - only where a notebook is

        return NotebookPanel(progress, controls)
    if kind == "bar":
        return TerminalPanel(progress)
    return NoPanel() if kind == "none" else LinePanel()
