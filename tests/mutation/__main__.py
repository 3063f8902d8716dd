"""Mutate a module of the package and see which tests notice.

    python -m tests.mutation restate_nb/engine/outbox.py --tests tests/engine

A mutant is killed when a test that runs its line fails, or when the tests hang. All runs are on copies of the
repository. Once, the tests run with coverage, which says what each line is run by; then each mutant runs in a process
forked from this one, so that nothing heavy is imported twice.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
HEAVY = ("aiohttp", "pandas", "restate", "matplotlib.pyplot", "cloudpickle", "msgspec", "IPython")
OURS = ("restate_nb", "tests")
HUNG = "hung"
NOT_RUN, PASSED = "not run by any test", 0


@dataclass(frozen=True, slots=True)
class Known:
    """What the tests did on the unchanged package."""

    seconds: dict[str, float]
    """How long each test took, set-up included."""
    by_line: dict[str, dict[int, list[str]]]
    """The tests that run each line of each module; of lines that run at import, none."""

    def of(self, module: Path, mutant: Mutant, budget: float) -> list[str]:
        """The tests for a mutant, quick ones first, until they take `budget` seconds in all."""
        if (tests := self.by_line[str(module)].get(mutant.line)) is None:
            return []
        tests = tests or list(self.seconds)
        chosen, left = [], budget
        for test in sorted(tests, key=self.seconds.__getitem__):
            left -= self.seconds[test]
            if chosen and left < 0:
                break
            chosen.append(test)
        return chosen


class Recorder:
    """A pytest plugin: which test runs now, and how long each took."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        started = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - started
        return result


def main() -> None:
    options = parsed()
    for name in HEAVY:
        with suppress(ImportError):
            importlib.import_module(name)
    reports = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as place:
        trees = [copied(Path(place, str(number))) for number in range(options.processes)]
        known = recorded(trees[0], options.modules, options.tests)
        for module in options.modules:
            reports.append(report := examine(module, known, trees, options))
            print(f"{module}: {report['killed']} of {report['mutants']} killed, {report['hung']} of them by a hang")
            if options.json:
                options.json.write_text(json.dumps(reports, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="+", type=Path, help="such as restate_nb/engine/outbox.py")
    parser.add_argument("--tests", nargs="+", default=["tests/engine"], help="the tests to run; default: tests/engine")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds of tests for a mutant; default: 15")
    parser.add_argument("--sample", type=int, help="so many mutants of each module, at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=int, nargs="+", help="only mutants of these lines")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2, help="mutants at a time")
    parser.add_argument("--json", type=Path, help="write the survivors there")
    return parser.parse_args()


def copied(tree: Path) -> Path:
    """A copy of what the tests need, to be broken."""
    for name in ("restate_nb", "tests", "notebooks", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def examine(module: Path, known: Known, trees: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Run the mutants of one module, one in each tree at a time."""
    text = (trees[0] / module).read_text()
    waiting = [each for each in mutants(text) if not options.lines or each.line in options.lines]
    if options.sample is not None and options.sample < len(waiting):
        waiting = sorted(random.Random(options.seed).sample(waiting, options.sample), key=lambda each: each.start)
    total = len(waiting)
    running: dict[int, tuple[Mutant, Path, float]] = {}
    free, survivors, hung = list(trees), [], 0
    while waiting or running:
        while waiting and free:
            mutant = waiting.pop(0)
            if not (tests := known.of(module, mutant, options.budget)):
                survivors.append({"mutant": str(mutant), "why": NOT_RUN})
                continue
            tree = free.pop()
            broken(tree / module, mutant.source(text.encode()))
            limit = time.monotonic() + 10 + 3 * sum(known.seconds[test] for test in tests)
            running[forked(tree, lambda tests=tests: pytest.main(["-x", *QUIET, *tests]))] = (mutant, tree, limit)
        for pid, (mutant, tree, limit) in list(running.items()):
            if (code := ended(pid, limit)) is None:
                continue
            del running[pid]
            broken(tree / module, text.encode())
            free.append(tree)
            hung += code == HUNG
            if code == PASSED:
                survivors.append({"mutant": str(mutant), "tests": len(known.of(module, mutant, options.budget))})
                print(f"{module}:{mutant} survived", flush=True)
            elif code == int(pytest.ExitCode.NO_TESTS_COLLECTED):
                raise RuntimeError(
                    f"{module}:{mutant}: pytest found no tests to run: {known.of(module, mutant, options.budget)}"
                )
        time.sleep(0.02)
    return {
        "module": str(module),
        "mutants": total,
        "killed": total - len(survivors),
        "hung": hung,
        "survivors": survivors,
    }


QUIET = (
    "-q",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "--durations=0",
    "--tb=no",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)


def broken(file: Path, source: bytes) -> None:
    """Write the module. The byte code is removed: it is only told apart by size and second."""
    file.write_bytes(source)
    for cached in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        cached.unlink()


def forked(tree: Path, work: Callable[[], int], log: str = "last.log") -> int:
    """Run `work` in a child that has the package from `tree`; its exit code is what `work` returns."""
    if pid := os.fork():
        return pid
    with child_of(tree, log):
        code = 99
        try:
            code = int(work())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)


@contextmanager
def child_of(tree: Path, log: str) -> Iterator[None]:
    os.setsid()
    os.chdir(tree)
    output = os.open(tree / log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(each for each in sys.path if Path(each or ".").resolve() != ROOT)]
    for name in [each for each in sys.modules if each.split(".")[0] in OURS]:
        del sys.modules[name]
    yield


def ended(pid: int, limit: float) -> int | str | None:
    """The exit code of a child, or None while it runs; it is ended when its time is up."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        return os.waitstatus_to_exitcode(status)
    if time.monotonic() < limit:
        return None
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return HUNG


def recorded(tree: Path, modules: list[Path], tests: list[str]) -> Known:
    """Run the tests once on the unchanged package."""
    result = tree / "known.json"

    def run() -> int:
        measured = coverage.Coverage(data_file=None, include=[str(tree / each) for each in modules], config_file=False)
        recorder = Recorder(measured)
        measured.start()
        code = int(pytest.main([*QUIET, *tests], plugins=[recorder]))
        measured.stop()
        data = measured.get_data()
        by_line = {
            str(module): {
                line: sorted(set(contexts) & recorder.seconds.keys())
                for line, contexts in data.contexts_by_lineno(str(tree / module)).items()
            }
            for module in modules
        }
        loaded = sys.modules["restate_nb"].__file__
        assert loaded and Path(loaded).is_relative_to(tree), loaded
        result.write_text(json.dumps([recorder.seconds, by_line]))
        return code

    pid = forked(tree, run, "known.log")
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"The tests fail on the unchanged package:\n{(tree / 'known.log').read_text()[-3000:]}")
    seconds, by_line = json.loads(result.read_text())
    return Known(
        seconds, {name: {int(line): tests for line, tests in lines.items()} for name, lines in by_line.items()}
    )


if __name__ == "__main__":
    main()
