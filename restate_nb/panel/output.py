"""The one output that holds the panel, and that is replaced as the job goes on."""

from __future__ import annotations

from typing import Any, Protocol

Bundle = dict[str, Any]


class Output(Protocol):
    """A place under a cell."""

    def update(self, bundle: Bundle) -> None:
        """Show this in place of what is there."""


class Stored:
    """A display with an id: nbclient, JupyterLab and whatever else follows the protocol store its last update."""

    def __init__(self, bundle: Bundle) -> None:
        from IPython.display import display  # noqa: PLC0415 - only where a notebook is

        show: Any = display  # IPython has no types for it
        self._handle = show(bundle, raw=True, display_id=True)

    def update(self, bundle: Bundle) -> None:
        """Show this in place of what is there."""
        self._handle.update(bundle, raw=True)


class Streamed:
    """A widget, for pages that are sent cell by cell, such as Voilà's."""

    def __init__(self, bundle: Bundle) -> None:
        import ipywidgets as widgets  # noqa: PLC0415 - only where such a page is
        from IPython.display import display  # noqa: PLC0415

        self._widget = widgets.HTML(bundle["text/html"], layout={"max_width": "760px"})
        view = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
        show: Any = display
        show({"application/vnd.jupyter.widget-view+json": view, **bundle}, raw=True)

    def update(self, bundle: Bundle) -> None:
        """Show this in place of what is there."""
        self._widget.value = bundle["text/html"]
