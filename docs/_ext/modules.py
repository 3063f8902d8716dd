"""The directive `modules`: the modules of a folder and what each is for, from their docstrings."""

from __future__ import annotations

import ast

from docutils import nodes
from messages import PACKAGE
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Modules(SphinxDirective):
    """`.. modules:: engine` lists the modules of `restate_nb/engine`; `.` is the package itself."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the list."""
        self.env.note_reread()  # the source may have changed
        items = nodes.definition_list()
        for path in sorted((PACKAGE / self.arguments[0]).glob("*.py")):
            if path.name != "__init__.py":
                words = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
                term = nodes.term("", "", nodes.literal("", path.name))
                items += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", words)))
        return [items]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("modules", Modules)
    return {"parallel_read_safe": True}
