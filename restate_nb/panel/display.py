"""The panel in a notebook: one output of HTML and text that is replaced as the job goes on."""

from __future__ import annotations

from restate_nb.environment import in_voila, somebody_can_click
from restate_nb.panel.controls import offered
from restate_nb.panel.output import Output, Stored, Streamed
from restate_nb.panel.render import to_html, to_text
from restate_nb.panel.trend import Trend
from restate_nb.panel.updater import INTERVAL, Pump
from restate_nb.panel.widgets import Live
from restate_nb.results.progress import Progress


class NotebookPanel:
    """Shows a job under the cell that made the panel.

    The output has a display id: nbclient, JupyterLab and whatever else follows the protocol store the last update in
    the notebook. So a saved notebook ends with the final numbers, as HTML and as text, and never with a widget. Voilà
    sends each cell to the page when it has ended, and stores nothing: there the output is a widget.
    """

    def __init__(self, progress: Progress, controls: object = None, interval: float = INTERVAL) -> None:
        self._trend = Trend()
        self._trend.add(progress)
        self._output: Output = (Streamed if in_voila() else Stored)(self._bundle(progress))
        actions = offered(controls) if controls is not None and somebody_can_click() else {}
        self._live = Live(actions, progress) if actions else None
        self._pump = Pump(self._show, interval)

    def update(self, progress: Progress) -> None:
        """Show the job's latest progress soon; cheap, from any thread, as often as you like."""
        self._pump.put(progress)

    def finish(self, progress: Progress) -> None:
        """Show the job's last progress now; later updates change nothing."""
        if self._pump.close(progress) and self._live is not None:
            self._live.finish(progress)

    def reopen(self) -> None:
        """Go on under the same cell after `finish`: the job runs again."""
        if self._pump.reopen() and self._live is not None:
            self._live.reopen()

    def _show(self, progress: Progress) -> None:
        self._trend.add(progress)
        self._output.update(self._bundle(progress))
        if self._live is not None:
            self._live.update(progress)

    def _bundle(self, progress: Progress) -> dict[str, str]:
        spread = self._trend.spread(progress.total - progress.done)
        return {
            "text/html": to_html(progress, trend=self._trend.rates(), spread=spread),
            "text/plain": to_text(progress, spread),
        }
