"""How the documentation is built: `python -m sphinx -W docs docs/_build`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import restate_nb

project = "restate_nb"
author = "the restate_nb authors"
copyright = author
release = restate_nb.__version__
version = release

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "messages", "modules"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings write `name` for code, as Markdown does

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes_action = "D"  # dashes only: messages are searched for with the quotes that they have

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
maximum_signature_line_length = 88

pygments_dark_style = "github-dark"
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


_properties: dict[str, list[str]] = {}


def _before_napoleon(app: Sphinx, what: str, name: str, *event: list[str]) -> None:
    """Mark what follows `Example:` as code; keep napoleon from reading types into properties."""
    lines = event[-1]
    shown: list[str] = []
    for line in lines:
        if line.strip() == "Example:":
            indent = line[: len(line) - len(line.lstrip())]
            shown += [f"{indent}.. rubric:: Example", "", f"{indent}.. code-block:: python", ""]
        else:
            shown.append(line)
    lines[:] = [*shown, ""]
    if what == "property":
        _properties[name] = lines[:]
        lines.clear()


def _after_napoleon(app: Sphinx, what: str, name: str, *event: list[str]) -> None:
    if what == "property":
        event[-1][:] = _properties.pop(name)


def _without_overloads(analyze: Callable[[ModuleAnalyzer], None]) -> Callable[[ModuleAnalyzer], None]:
    """Overloads are for type checkers; a reader wants one signature."""

    def analyzed(self: ModuleAnalyzer) -> None:
        analyze(self)
        self.overloads = {}

    return analyzed


def setup(app: Sphinx) -> None:
    """Called by Sphinx. Napoleon's own priority is 500."""
    ModuleAnalyzer.analyze = _without_overloads(ModuleAnalyzer.analyze)  # type: ignore[method-assign]
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
