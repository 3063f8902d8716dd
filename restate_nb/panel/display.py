"""The panel in a notebook: one output of HTML and text that is replaced as the job goes on."""

from __future__ import annotations

from typing import Any

from restate_nb.environment import in_voila, somebody_can_click
from restate_nb.panel.render import to_html, to_text
from restate_nb.panel.trend import Trend
from restate_nb.panel.widgets import ControlRow, Controls
from restate_nb.results.progress import Progress


class NotebookPanel:
    """Shows a job under the cell that made the panel.

    The output has a display id: nbclient, JupyterLab and whatever else follows the protocol store the last update in
    the notebook. So a saved notebook ends with the final numbers, as HTML and as text, and never with a widget. Voilà
    sends each cell to the page when it has ended, and stores nothing: there the output is a widget.
    """

    def __init__(self, progress: Progress, controls: Controls) -> None:
        self._trend = Trend()
        self._trend.add(progress)
        self._output = (_WidgetOutput if in_voila() else _StoredOutput)(self._bundle(progress))
        self.controls = ControlRow(controls, progress) if somebody_can_click() else None

    def update(self, progress: Progress) -> None:
        """Show the job as it is now."""
        self._trend.add(progress)
        self._output.update(self._bundle(progress))
        if self.controls is not None:
            self.controls.update(progress)

    def finish(self, progress: Progress) -> None:
        """Show how the job ended, and take the controls away."""
        self.update(progress)
        if self.controls is not None:
            self.controls.finish(progress)

    def reopen(self) -> None:
        """Go on under the same cell after `finish`: the job runs again."""
        if self.controls is not None:
            self.controls.reopen()

    def _bundle(self, progress: Progress) -> dict[str, str]:
        spread = self._trend.spread(progress.total - progress.done)
        return {
            "text/html": to_html(progress, trend=self._trend.rates(), spread=spread),
            "text/plain": to_text(progress, spread),
        }


class _StoredOutput:
    """A display with an id: nbclient, JupyterLab and whatever else follows the protocol store its last update."""

    def __init__(self, bundle: dict[str, str]) -> None:
        from IPython.display import display  # noqa: PLC0415 - only where a notebook is

        show: Any = display  # IPython has no types for it
        self._handle = show(bundle, raw=True, display_id=True)

    def update(self, bundle: dict[str, str]) -> None:
        """Show this in place of what is there."""
        self._handle.update(bundle, raw=True)


class _WidgetOutput:
    """A widget, for pages that are sent cell by cell, such as Voilà's."""

    def __init__(self, bundle: dict[str, str]) -> None:
        import ipywidgets as widgets  # noqa: PLC0415 - only where such a page is
        from IPython.display import display  # noqa: PLC0415

        self._widget = widgets.HTML(bundle["text/html"], layout={"max_width": "760px"})
        view = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
        show: Any = display
        show({"application/vnd.jupyter.widget-view+json": view, **bundle}, raw=True)

    def update(self, bundle: dict[str, str]) -> None:
        """Show this in place of what is there."""
        self._widget.value = bundle["text/html"]
