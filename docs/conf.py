"""How the documentation is built: `python -m sphinx -W docs docs/_build`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import restate_nb

project = "restate_nb"
author = "the restate_nb authors"
copyright = author
release = restate_nb.__version__
version = release

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "messages"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings write `name` for code, as Markdown does

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"restate_nb {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f5fd0", "color-brand-content": "#2f5fd0"},
    "dark_css_variables": {"color-brand-primary": "#8fb0ff", "color-brand-content": "#8fb0ff"},
    "top_of_page_buttons": [],
}
copybutton_exclude = ".linenos, .gp, .go"


def _show_code(*event: object) -> None:
    """Mark what follows `Example:` as code."""
    lines = cast("list[str]", event[-1])
    shown: list[str] = []
    indent: int | None = None
    for line in lines:
        if indent is not None and line.strip() and len(line) - len(line.lstrip()) <= indent:
            indent = None
        if line.strip() == "Example:":
            indent = len(line) - len(line.lstrip())
            shown += [" " * indent + ".. rubric:: Example", "", " " * indent + ".. code-block:: python", ""]
            continue
        shown.append(line)
    lines[:] = [*shown, ""]


def setup(app: object) -> None:
    """Called by Sphinx. Before napoleon (500), which would make prose of an example."""
    app.connect("autodoc-process-docstring", _show_code, priority=400)  # type: ignore[attr-defined]
