"""Proves that every way of looking finds the same public names, and that each is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import jedi
import pytest

import restate_nb
import restate_nb.patterns
import restate_nb.testing

ROOT = Path(__file__).parents[1]


def test_the_names_are_sorted_and_all_there() -> None:
    names = restate_nb.__all__
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(restate_nb, name) is not None


def test_dir_shows_the_public_names_and_no_other() -> None:
    assert {name for name in dir(restate_nb) if not name.startswith("_")} == set(restate_nb.__all__)


def test_a_type_checker_sees_what_is_there_at_run_time() -> None:
    source = inspect.getsource(restate_nb)
    for name in restate_nb.__all__:
        home = restate_nb._HOME_OF[name]
        assert f"from restate_nb.{home} import" in source
        assert getattr(importlib.import_module(f"restate_nb.{home}"), name) is getattr(restate_nb, name)


MODULES = (restate_nb, restate_nb.patterns, restate_nb.testing)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_type_checkers_are_asked_for_every_public_name(module: ModuleType) -> None:
    """tests/typing/exports.py has all of them, and mypy and pyright check it."""
    tree = ast.parse((ROOT / "tests" / "typing" / "exports.py").read_text())
    asked = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= set(asked)


@pytest.mark.usefixtures("jedi_ends")
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_completion_offers_every_public_name(module: ModuleType) -> None:
    """Before anything is loaded, as jedi, which completes in notebooks, reads the source."""
    offered = jedi.Script(f"import {module.__name__}\n{module.__name__}.").complete(2, len(module.__name__) + 1)
    assert set(module.__all__) <= {each.name for each in offered}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name(module: ModuleType) -> None:
    """An `auto...` directive for each, on a page that says of which module it is."""
    documented = set()
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        current = ""
        for kind, name in re.findall(r"^\.\. (currentmodule|auto\w+):: ([\w.]+)", page.read_text(), re.MULTILINE):
            current = name if kind == "currentmodule" else current
            documented.add(name if "." in name else f"{current}.{name}")
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= documented


def test_star_imports_bring_the_public_names_alone() -> None:
    """What is private, and what a module imports for itself, stays behind."""
    for module in MODULES:
        names: dict[str, object] = {}
        exec(f"from {module.__name__} import *", names)
        assert set(names) - {"__builtins__"} == set(module.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="restate_nb has no 'mapp'"):
        restate_nb.mapp  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("module", [restate_nb, restate_nb.patterns, restate_nb.testing])
def test_every_public_name_is_documented(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        thing = getattr(module, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and callable(value):
                    assert inspect.getdoc(value), f"{name}.{member}"
