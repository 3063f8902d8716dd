"""Every soak test has a short form that CI runs, made of the same code, and CONTRIBUTING.md has the command of the long
one, and all folders of tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_soak(function: Function) -> bool:
    return any("mark.soak" in ast.unparse(each) for each in function.decorator_list)


def functions_of(path: Path) -> dict[str, Function]:
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, Function)}


def soaks() -> list[str]:
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        found += [f"{path.relative_to(ROOT)}::{name}" for name, each in functions_of(path).items() if is_soak(each)]
    return found


def used(function: Function, helpers: set[str]) -> set[str]:
    """The helpers of the same file that a test calls."""
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} & helpers


@pytest.mark.parametrize("name", soaks())
def test_a_soak_test_has_a_short_form_of_the_same_code(name: str) -> None:
    path, _, soak = name.partition("::")
    functions = functions_of(ROOT / path)
    helpers = {each for each in functions if not each.startswith("test_")}
    short = [each for each, function in functions.items() if each.startswith("test_") and not is_soak(function)]
    assert used(functions[soak], helpers), "it shares no code with a short form"
    assert any(used(functions[each], helpers) >= used(functions[soak], helpers) for each in short)


def test_contributing_names_the_command_of_every_long_run() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text()
    folders = {Path(name.partition("::")[0]).parent for name in soaks()}
    assert len(folders) >= 4
    assert [str(each) for each in folders if f"`pytest -m soak {each}`" not in told] == []


def test_contributing_says_what_every_folder_of_tests_is_for() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text()
    folders = sorted(path.parent.name for path in (ROOT / "tests").glob("*/*.py"))
    assert [each for each in dict.fromkeys(folders) if f"`tests/{each}`" not in told] == []
