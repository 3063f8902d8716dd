"""The examples in the docstrings run, and every public name has one or says what it does."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
from types import ModuleType
from typing import Any

import pytest
import restate

import restate_nb.patterns
import restate_nb.testing
from tests.support import run_python


def modules(package: ModuleType) -> list[str]:
    return [f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]


@pytest.mark.parametrize("name", [*modules(restate_nb.patterns), *modules(restate_nb.testing)])
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    inventory = restate.Service("DocsInventory")

    @inventory.handler()
    async def get_stock(ctx: restate.Context, sku: str) -> int:
        return 5

    public = {name: getattr(restate_nb.patterns, name) for name in restate_nb.patterns.__all__}
    names: dict[str, Any] = public | {"Context": restate.Context, "inventory": inventory, "get_stock": get_stock}
    result = doctest.testmod(module, extraglobs=names)
    assert result.failed == 0


@pytest.mark.parametrize("package", [restate_nb.patterns, restate_nb.testing], ids=lambda package: package.__name__)
def test_the_public_names_are_sorted_documented_and_all_there(package: ModuleType) -> None:
    assert list(package.__all__) == sorted(package.__all__, key=lambda name: (name.islower(), name))
    for name in package.__all__:
        assert getattr(package, name).__doc__, name


def test_functions_that_run_operations_have_an_example() -> None:
    for name in restate_nb.patterns.__all__:
        found = getattr(restate_nb.patterns, name)
        if not isinstance(found, type) or not issubclass(found, BaseException):
            has = ">>>" in (found.__doc__ or "")
            assert has or name in {"Compensation", "FanOutTuple", "Handle", "OperationGroup", "Outcome"}, name


@pytest.mark.parametrize("name", ["restate_nb.patterns", "restate_nb.testing"])
def test_importing_patterns_and_testing_brings_no_notebook_and_no_server(name: str) -> None:
    """A service that uses the helpers pays for restate-sdk (which brings hypercorn if it is there), not for pandas."""
    code = f"import json, sys, {name}; print(json.dumps(sorted(sys.modules)))"
    heavy = {
        "pandas",
        "matplotlib",
        "ipywidgets",
        "aiohttp",
        "restate_nb.session",
        "restate_nb.handle",
        "restate_nb.server",
    }
    assert not heavy & set(json.loads(run_python(code).stdout))
