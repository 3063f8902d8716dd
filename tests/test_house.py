"""Proves what keeps the code easy to walk: private stays private, functions and modules are short; each test file says
what it proves and lies where the package has what it is about; test names are short and stand once."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sources import ROOT, Module, functions, modules

MAX_FUNCTION = 60
"""Lines of a function, from `def` on, without its docstring."""
MAX_MODULE = 520
MAX_NAME = 80

OF_OTHER_LIBRARIES = {
    "restate_nb.values.arrays: _baseclass, _fill_value",  # numpy: a masked array is copied with them
    "restate_nb.engine.function: _lru_cache_wrapper",  # functools: the type has no other name
    "restate_nb.values.keepable: _fields, _is_protocol",  # named tuples say so; typing: what is a protocol
    "restate_nb.values.leaves: _minutes",  # pytz: the offset of a fixed zone
    "restate_nb.engine.loop_thread: _fd_to_key, _selector",  # asyncio: what a forked child must not share
    "restate_nb.values.classes: _fields",
    "restate_nb.engine.process_child: _exit",
    "restate_nb.engine.stacks: _current_frames",
    "restate_nb.handle.items: _fields",
    "restate_nb.handle.originals: _fields",
    "restate_nb.patterns.loop_guard: _asyncio_future_blocking, _get_running_loop, _set_running_loop",
    "restate_nb.patterns.sdk: _encode, _restate_context_var",  # the SDK, of versions that were tested
    "restate_nb.server.die_with_parent: _exit",
    "restate_nb.server.supervisor: _exit",
    "restate_nb.service.identity.arrays: _data, _mask, _pa_array",  # pandas: the memory of its arrays
    "restate_nb.service.identity.code: _fields",  # ast
    "restate_nb.service.identity.content: _name_, _value_",  # enum
    "restate_nb.tracebacks: _getframe",
}
"""What has no other name: private members of Python and of other libraries, each looked at."""


BESIDE_THE_PACKAGE = {
    *("browser", "cluster", "deploy", "durability", "notebooks", "security"),  # of the whole
    *("data", "docs", "examples", "mutation", "typing"),
}
"""Folders of tests that mirror none of the package."""

KNOWN = modules()


def members_of(lists: set[str]) -> set[tuple[str, str]]:
    lines = (line.split(": ") for line in lists)
    return {(module, name) for module, names in lines for name in names.split(", ")}


def private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def its_own(node: ast.Attribute) -> bool:
    return ast.unparse(node.value) in {"self", "cls", "super()"}


def defined_in(module: Module) -> set[str]:
    """Names that a module defines: functions, classes, variables, and members that it sets on `self`."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and its_own(node):
            found.add(node.attr)
    return found


def reaches(module: Module) -> Iterator[tuple[int, str]]:
    """Line and name of each private member of something else that a module uses, imports or asks for by name."""
    own = defined_in(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            if private(node.attr) and node.attr not in own and not its_own(node):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, each.name) for each in node.names if private(each.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr", "hasattr", "delattr"}:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if private(name):
                yield node.lineno, str(name)


def test_no_module_reaches_what_is_private_to_another() -> None:
    known = members_of(OF_OTHER_LIBRARIES)
    found = [
        f"{module.path}:{line} {name}"
        for module in KNOWN.values()
        for line, name in reaches(module)
        if (module.name, name) not in known
    ]
    assert not found, "\n".join(["private to another module:", *found])


def docstring_lines(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines its own docstring has."""
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def test_functions_are_at_most_60_lines_and_modules_520_without_docstrings() -> None:
    long = []
    for module in KNOWN.values():
        documented = [
            each
            for each in ast.walk(module.tree)
            if isinstance(each, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        lines = len(module.text.splitlines()) - sum(map(docstring_lines, [module.tree, *documented]))
        if lines > MAX_MODULE:
            long.append(f"{module.name}: {lines}")
        for name, node in functions(module.tree):
            lines = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
            if lines > MAX_FUNCTION:
                long.append(f"{module.name}.{name}: {lines}")
    assert not long


# ---------------------------------------------------------------- tests


def files_of_tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


def test_each_test_file_says_what_it_proves() -> None:
    assert not [str(path) for path in files_of_tests() if not ast.get_docstring(ast.parse(path.read_text()))]


def test_names_of_tests_have_at_most_80_characters_and_stand_once() -> None:
    where = defaultdict(list)
    for path in files_of_tests():
        for name, node in functions(ast.parse(path.read_text())):
            if node.name.startswith("test_"):
                where[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not [places for name, places in where.items() if len(name) > MAX_NAME], "too long"
    assert not [places for places in where.values() if len(places) > 1], "stands twice"


def test_no_test_asks_a_job_or_a_session_for_what_is_private() -> None:
    """There are `runner_of(job)`, `session.connection` and the like."""
    reach = re.compile(r"\b\w*(?:job|session)\w*\._(?!repr_|asdict)\w+")
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found += [f"{path.relative_to(ROOT)}: {each}" for each in reach.findall(path.read_text())]
    assert not found


def test_folders_of_tests_mirror_those_of_the_package() -> None:
    package = {path.parent.name for path in (ROOT / "restate_nb").glob("*/__init__.py")}
    tests = {path.relative_to(ROOT / "tests").parts[0] for path in files_of_tests()}
    assert {each for each in tests if not each.endswith(".py")} <= package | BESIDE_THE_PACKAGE


# ---------------------------------------------------------------- CI


def sessions() -> set[str]:
    """The sessions of noxfile.py, by the names under which they are run."""
    found = set()
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        if isinstance(node, ast.FunctionDef) and (decorator := node.decorator_list):
            options = {each.arg: each.value for each in getattr(decorator[0], "keywords", [])}
            name = ast.literal_eval(options["name"]) if "name" in options else node.name
            every = "python" in options and ast.unparse(options["python"]) == "PYTHONS"
            found |= {f"{name}-{each}" for each in PYTHONS} if every else {name}
    return found


PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
"""In noxfile.py and in the workflows."""

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(workflow: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each step of a workflow, with its job."""
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        for step in job.get("steps", []):
            yield job, step


def test_ci_runs_sessions_that_there_are() -> None:
    known, called = sessions(), set()
    commands = [step.get("run", "") for workflow in WORKFLOWS for _, step in steps(workflow)]
    for command in [*commands, *(ROOT / ".ci" / "run").read_text().splitlines()]:
        for options in re.findall(r"\bnox(?: -\S+)* -s ([^\n]*)", command):
            for name in options.replace("${{ matrix.python }}", "3.12").split():
                called.add(name)
                assert name in known, f"{name} in {command}"
    assert known - called <= {"tests-core-3.11"}, "sessions that nobody runs"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_only_and_pin_what_they_use(workflow: Path) -> None:
    whole = yaml.safe_load(workflow.read_text())
    assert whole["permissions"] == {"contents": "read"}
    for job in whole["jobs"].values():
        assert set(job.get("permissions", {})) <= {"id-token", "pages"}
        assert job.get("strategy", {}).get("matrix", {"python": PYTHONS}) == {"python": PYTHONS}
        assert "uses" in job or "timeout-minutes" in job
    for _, step in steps(workflow):
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step.get("uses", "a/b@v1.2.3"))


def test_the_tests_of_the_readme_are_those_of_nox() -> None:
    names = {}
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = ast.literal_eval(node.value)
    assert f"&& .venv/bin/python -m {' '.join(names['PYTEST'])}\n" in (ROOT / "README.md").read_text()
    assert names["PYTHONS"] == PYTHONS
    missing = [path for path in names["BESIDE"] + names["CORE"] if not (ROOT / path).exists()]
    assert not missing
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    assert set(names["CORE_NEEDS"]) <= {re.split("[<>=]", each)[0] for each in extra}


def test_hooks_before_a_commit_are_pinned() -> None:
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]:
        assert repository["repo"].startswith("https://github.com/")
        assert re.fullmatch(r"v\d+\.\d+\.\d+", repository["rev"])
