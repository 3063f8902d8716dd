"""The package as its sources say: modules, what each imports, and from which line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    """With dots, as it is imported."""
    path: Path

    @cached_property
    def text(self) -> str:
        """The source."""
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        """The folder within the package; of what lies at its top, the module's own name."""
        return self.name.split(".")[1] if "." in self.name else ""


def modules(package: str = "restate_nb") -> dict[str, Module]:
    """All modules of a package, by name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, path)
    return found


def imports(module: Module, known: dict[str, Module]) -> Iterator[tuple[int, str]]:
    """Line and name of each module of the package that this one imports, at its top, in functions or for types only."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module.path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{each.name}" for each in node.names]
            names = [each if each in known else str(node.module) for each in names]
        else:
            continue
        for name in dict.fromkeys(names):
            if name in known and name != module.name:
                yield node.lineno, name


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions of a module, with their names as in tracebacks: `Class.method`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield within + node.name, node
        name = getattr(node, "name", None)
        yield from functions(node, f"{within}{name}." if isinstance(name, str) else within)
