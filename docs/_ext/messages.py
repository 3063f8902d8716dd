"""The directive `messages`: every message of an error class, read from the source, so that none is forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE = Path(__file__).parents[2] / "restate_nb"


def messages(error: str) -> list[tuple[str, str]]:
    """The messages with which an error class is made, and the module that does; `…` stands for what varies.

    Args:
        error: the class' name.
    """
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(tree):
            made = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if made.removeprefix("Terminal") == error and node.args:
                message = _text(node.args[0], constants)
                if any(character.isalpha() for character in message):
                    found.setdefault(message, module)
    return list(found.items())


def _text(node: ast.expr, constants: dict[str, ast.expr]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value, constants) for value in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left, constants) + _text(node.right, constants)
    if isinstance(node, ast.Name) and node.id in constants:
        return _text(constants[node.id], {})
    return "…"


class Messages(SphinxDirective):
    """`.. messages:: ServerError` is a list of its messages."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the list."""
        self.env.note_reread()  # the source may have changed
        by_module: dict[str, list[str]] = {}
        for message, module in messages(self.arguments[0]):
            by_module.setdefault(module, []).append(message)
        shown: list[nodes.Node] = []
        for module, said in by_module.items():
            shown += [nodes.paragraph("", f"In {module}:", classes=["raised-by"]), nodes.bullet_list("", *_items(said))]
        return shown


def _items(messages: list[str]) -> Iterator[nodes.list_item]:
    for message in messages:
        words = nodes.paragraph()
        for number, line in enumerate(message.splitlines()):
            if number:
                words += nodes.raw("", "<br>", format="html")
            words += nodes.Text(line.replace(" ", "\xa0") if line.startswith("  ") else line)
        yield nodes.list_item("", words)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("messages", Messages)
    return {"parallel_read_safe": True}
