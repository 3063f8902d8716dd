"""Which errors of the package come out of a function, read from its source."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any

from restate_nb.errors import RestateNbError


def subclasses(kind: type) -> Iterator[type]:
    """All classes below a class, and itself."""
    yield kind
    for each in kind.__subclasses__():
        yield from subclasses(each)


def raised_within(thing: Any, depth: int = 3) -> set[str]:
    """The errors that a function raises, or that come out of functions which it calls by a name of its module.

    What it catches is not among them; methods of other objects are not followed.

    Args:
        thing: a function or method of the package; anything else raises nothing.
        depth: how many calls deep.
    """
    function = inspect.unwrap(thing)
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType) or not function.__module__.startswith("restate_nb"):
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = dict(function.__globals__)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("restate_nb"):
            names |= {each.asname or each.name: _imported(node.module or "", each.name) for each in node.names}
    return _out_of(tree, names, depth)


def _out_of(node: ast.AST, names: dict[str, Any], depth: int) -> set[str]:
    def out_of_all(nodes: list[Any]) -> set[str]:
        return {error for each in nodes for error in _out_of(each, names, depth)}

    ours = {kind.__name__: kind for kind in subclasses(RestateNbError)}
    if isinstance(node, ast.Try):
        types_ = [each for handler in node.handlers if handler.type for each in ast.walk(handler.type)]
        caught = {each.id for each in types_ if isinstance(each, ast.Name)}
        body = out_of_all(node.body)
        through = {each for each in body if not caught & {kind.__name__ for kind in ours[each].__mro__}}
        return through | out_of_all([*node.handlers, *node.orelse, *node.finalbody])
    found = out_of_all(list(ast.iter_child_nodes(node)))
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
        found |= {node.exc.func.id} & ours.keys()
    if isinstance(node, ast.Call) and depth:
        called = _called(node.func, names)
        found |= raised_within(called, depth - 1) if isinstance(called, types.FunctionType) else set()
    return found


def _called(node: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        place = names.get(node.value.id)
        return getattr(place, node.attr, None) if isinstance(place, types.ModuleType) else None
    return None


def _imported(module: str, name: str) -> Any:
    found = getattr(importlib.import_module(module), name, None)
    return importlib.import_module(f"{module}.{name}") if found is None else found
