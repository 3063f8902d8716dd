"""Proves that everything public is documented in full: arguments, errors that are raised, examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import restate_nb
import restate_nb.patterns
import restate_nb.testing
from restate_nb.errors import RestateNbError
from restate_nb.testing import MockContext
from tests.docs.pages import Page
from tests.docs.raised import raised_within, subclasses

PUBLIC = (restate_nb, restate_nb.patterns, restate_nb.testing)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """What users see of a class: what its `__dir__` says where it has one; else all that is its own or its bases'."""
    listed = kind.__dir__(object.__new__(kind)) if "__dir__" in vars(kind) else None
    for owner in kind.__mro__:
        if owner.__module__.startswith("restate_nb.") and owner not in INSIDE:
            for name, value in vars(owner).items():
                shown = not name.startswith("_") if listed is None else name in listed
                if shown and isinstance(value, (types.FunctionType, property, classmethod)):
                    yield name, getattr(owner, name)


INSIDE = (MockContext,)
"""Classes whose methods are not for users: what stands in for the SDK's context."""


def public() -> Iterator[tuple[str, Any]]:
    """Every public class and function, and every public method of theirs that is our own."""
    for module in PUBLIC:
        for name in module.__all__:
            thing = getattr(module, name)
            yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing):
                yield from ((f"{module.__name__}.{name}.{member}", value) for member, value in members(thing))


THINGS = dict(public())
FUNCTIONS = {name: thing for name, thing in THINGS.items() if inspect.isroutine(thing)}


def test_everything_public_has_a_docstring() -> None:
    assert [name for name, thing in THINGS.items() if not inspect.getdoc(thing)] == []


def sections(thing: object) -> dict[str, str]:
    """The sections of a docstring by name; the text before them under ''."""
    parts = re.split(r"^(Args|Returns|Raises|Attributes|Example):\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("name", THINGS)
def test_no_section_comes_twice(name: str) -> None:
    found = re.findall(r"^(Args|Returns|Raises|Attributes|Example):$", inspect.getdoc(THINGS[name]) or "", re.MULTILINE)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_documented_all_or_by_the_words(name: str) -> None:
    """`Args` names the parameters in their order, and no others; a function without it tells of each in its words."""
    thing = FUNCTIONS[name]
    parameters = [each for each in inspect.signature(thing).parameters if each not in {"self", "cls"}]
    found = sections(thing)
    if "Args" in found:
        assert re.findall(r"^    (\w+): ", found["Args"], re.MULTILINE) == parameters
    elif "Options are those of" not in found[""]:
        assert len(parameters) <= 3, f"{name} has {len(parameters)} parameters, and no Args."


def has_example(name: str, thing: Any) -> bool:
    """Whether an example is promised: of what `rnb.` offers but errors, and of what jobs and sessions can do."""
    if name.startswith(("restate_nb.Job.", "restate_nb.Session.")):
        return inspect.isroutine(thing)
    is_error = inspect.isclass(thing) and issubclass(thing, BaseException)
    return name.count(".") == 1 and not is_error


@pytest.mark.parametrize("name", [name for name, thing in THINGS.items() if has_example(name, thing)])
def test_what_is_used_in_a_notebook_has_an_example(name: str) -> None:
    """The tests below run it."""
    assert sections(THINGS[name]).get("Example", "").strip()


def known_as(error: str) -> str:
    """The public class of an error: of those that end an invocation, what they are a kind of."""
    return {"TerminalInvalidInput": "InvalidInput", "TerminalNotDurable": "NotDurable"}.get(error, error)


def raised(thing: Any) -> set[str]:
    """The errors of this package that a function raises on its own lines."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    ours = {kind.__name__ for kind in subclasses(RestateNbError)} | {"KeyError", "TimeoutError"}
    return names & ours


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_raises_is_documented(name: str) -> None:
    """Each error class that stands in a `raise` of the function is named under `Raises`."""
    if not inspect.isbuiltin(FUNCTIONS[name]):
        told = sections(inspect.unwrap(FUNCTIONS[name])).get("Raises", "")
        assert {each for each in map(known_as, raised(FUNCTIONS[name])) if each not in told} == set()


NEVER = {"to_parquet", "to_csv", "to_json", "compare"}
"""These encode what was decoded, so that `NotEncodable` cannot come."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_comes_out_of_the_functions_that_it_calls_is_documented_too(name: str) -> None:
    """Under `Raises`, by its class."""
    if not inspect.isbuiltin(FUNCTIONS[name]):
        told = sections(inspect.unwrap(FUNCTIONS[name])).get("Raises", "")
        never = {"NotEncodable"} if name.rpartition(".")[2] in NEVER else set()
        assert {each for each in map(known_as, raised_within(FUNCTIONS[name])) if each not in told} - never == set()


def test_errors_are_followed_through_calls_and_caught_ones_are_not() -> None:
    """The mechanism itself."""
    assert "InvalidInput" in raised_within(restate_nb.batch)
    assert "NotEncodable" not in raised_within(restate_nb.map), "inputs.py catches it, and raises InvalidInput"


# ---------------------------------------------------------------- examples


def modules() -> Iterator[str]:
    """All modules of the package, but those that do something when they are imported."""
    for found in pkgutil.walk_packages(restate_nb.__path__, "restate_nb."):
        if found.name.rpartition(".")[2] not in {"__main__", "supervisor", "leash"}:
            yield found.name


def documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The functions and classes of a module that have plain code as their example, and that code.

    Not magic commands, which only a notebook understands.
    """
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            text = inspect.cleandoc(ast.get_docstring(node) or "")
            example = re.search(r"^Example:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
            if example is not None and ">>>" not in example[1] and not example[1].lstrip().startswith("%"):
                yield f"{module.__name__}.{node.name}", textwrap.dedent(example[1])


EXAMPLES = {name: code for module in modules() for name, code in documented(importlib.import_module(module))}

_JOB = """
import asyncio
import pandas as pd
import restate
import restate_nb as rnb

rnb.start()


def shout(city: str) -> str:
    print(city)
    if city == "Atlantis":
        raise TimeoutError("429: no such city")
    return city.upper()


job = rnb.map(shout, pd.Series(["Bonn", "Atlantis"], index=["Bonn", "Atlantis"]), name="example", fresh=True)
job.result()
"""
"""What stands before an example that begins in the middle: a session, and a job `job` with a failed item."""


@pytest.mark.usefixtures("no_session_left")
def test_examples_of_plain_code_run(tmp_path: Path) -> None:
    """One session for all; each as a page of its own, so that a failure names the line."""
    assert len(EXAMPLES) > 5
    for name, code in EXAMPLES.items():
        path = tmp_path / f"{name}.md"
        path.write_text(f"<!-- setup{_JOB}-->\n\n```python\n{code.rstrip()}\n```\n")
        with Page(path, tmp_path) as page:
            assert page.run() == 2, name


ELSEWHERE = ("restate_nb.patterns", "restate_nb.testing")


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith(ELSEWHERE)])
def test_doctests_run(name: str) -> None:
    """Those of patterns and testing run in tests/patterns/test_docs.py, which gives them a service."""
    module = importlib.import_module(name)
    names = {each: getattr(restate_nb.patterns, each) for each in restate_nb.patterns.__all__}
    assert doctest.testmod(module, extraglobs=names).failed == 0
