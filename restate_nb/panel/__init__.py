"""The live panel: a job's progress in a notebook, a terminal or a log, whichever it is."""

from __future__ import annotations

from restate_nb.environment import in_notebook, in_terminal
from restate_nb.panel.render import to_html, to_text
from restate_nb.panel.terminal import LinePanel, TerminalPanel
from restate_nb.panel.updater import Panel, Updater
from restate_nb.panel.widgets import Controls
from restate_nb.results.progress import Progress

__all__ = ["Controls", "Panel", "Updater", "make_panel", "to_html", "to_text"]


def make_panel(progress: Progress, controls: Controls) -> Panel:
    """Show a job's progress, and return what an `Updater` hands later progress to.

    Call it in the cell that starts the job: the panel stays under that cell. In a notebook it is HTML that follows
    the theme; in a terminal a tqdm bar on stderr; with stderr sent elsewhere one line at the end.

    Args:
        progress: the job at this moment.
        controls: what the panel's buttons drive: the job.
    """
    if in_notebook():
        from restate_nb.panel.display import NotebookPanel  # noqa: PLC0415 - only where a notebook is

        return NotebookPanel(progress, controls)
    return TerminalPanel(progress) if in_terminal() else LinePanel()
