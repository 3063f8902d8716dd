"""`python -m benchmarks regress A B`: whether the hot paths of commit B cost more than those of commit A.

Both are checked out beside each other and measured in turn, in pairs, by the same probes (`hot_paths.py`) on the
packages of this environment. What is compared is processor time, which a busy machine disturbs less than time on the
clock. (Instruction counts would be steadier still, but virtual machines seldom have the counters.)

`--fast` is for CI: half a minute, and never a whole one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import table

ROOT = Path(__file__).parents[1]
PROBES = [
    "engine", "threads", "processes", "rows", "items", "values", "frame", "codec", "commits", "scheduler",
]  # fmt: skip
FEWEST = 5
"""Pairs without which there is no verdict. They are measured even if time is up, but not if twice the time is up."""

FAST = 25.0
NOTHING_BEFORE = """\
There is no earlier commit to compare with, so nothing was measured. In a shallow clone, get the history first:
  git fetch --unshallow --tags"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", nargs="?", help="a commit (default: the newest tag, or the parent of B)")
    parser.add_argument("b", nargs="?", default=".", help="another one; '.', the default, is the tree as it is")
    parser.add_argument("--limit", type=float, default=1.3, help="B may take this many times the time of A")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long to measure (default 60)")
    parser.add_argument(
        "--fast", action="store_const", const=FAST, dest="seconds", help=f"--seconds {FAST:g}, as in CI"
    )
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    a = arguments.a or _before(arguments.b)
    if a is None:
        print(NOTHING_BEFORE)
        return
    began = time.monotonic()
    with ExitStack() as stack:
        before, after = (stack.enter_context(Side.of(commit)) for commit in (a, arguments.b))
        ratios, missing = measure(before, after, began, arguments.seconds)
    judged = {name: found for name, found in ratios.items() if len(found) >= FEWEST}
    slower = [name for name, found in judged.items() if is_slower(found, arguments.limit)]
    rows = [["path", "time, B / A", "quartiles", "pairs", ""]]
    for name, found in judged.items():
        low, middle, high = statistics.quantiles(found, n=4)
        verdict = "slower" if name in slower else ""
        rows.append([name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", str(len(found)), verdict])
    print(f"A: {a}; B: {arguments.b}\n\n{table(rows)}")
    for name in ratios.keys() - judged.keys():
        print(f"{name} has no verdict: the machine was too busy for {FEWEST} pairs in {2 * arguments.seconds:g} s")
    for name, reason in missing.items():
        print(f"{name} is left out, since A has no such thing ({reason})")
    if arguments.json:
        arguments.json.write_text(json.dumps({"a": a, "b": arguments.b, "ratios": ratios, "missing": missing}))
    if slower:
        raise SystemExit(f"\nMore than {arguments.limit} times the time of A in 3 pairs of 4: {', '.join(slower)}")


def is_slower(ratios: list[float], limit: float) -> bool:
    """Whether three of four pairs are beyond the limit: a few bad moments of the machine don't count."""
    return statistics.quantiles(ratios, n=4)[0] > limit


def measure(one: Side, other: Side, began: float, seconds: float) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time ratios of each probe, other / one, in pairs that begin with each side in turn; and why some have none.

    Args:
        one: a commit.
        other: another one, on which all probes run.
        began: when the time began, by the monotonic clock.
        seconds: until no further round of pairs is begun, if there are enough; until twice that, if not.

    Raises:
        SystemExit: a probe does not run on `other`, or a process ended.
    """
    ratios: dict[str, list[float]] = {name: [] for name in PROBES}
    missing: dict[str, str] = {}
    pair = 0
    while time.monotonic() < began + (2 * seconds if pair < FEWEST else seconds):
        for name in [name for name in PROBES if name not in missing]:
            if time.monotonic() > began + 2 * seconds:
                break
            order = (one, other) if pair % 2 == 0 else (other, one)
            found = {side: side.ask(name) for side in order}
            if "missing" in found[other]:
                raise SystemExit(f"{name} does not run on {other.commit}: {found[other]['missing']}")
            if "missing" in found[one]:
                missing[name] = found[one]["missing"]
                del ratios[name]
            else:
                ratios[name].append(found[other]["seconds"] / found[one]["seconds"])
        pair += 1
    return ratios, missing


class Side:
    """A process that measures one commit."""

    def __init__(self, commit: str, package: Path) -> None:
        self.commit = commit
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "benchmarks" / "hot_paths.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(package)},
        )
        found = Path(self._answer()["package"])
        if not found.is_relative_to(package):
            raise SystemExit(f"{commit} was to be measured, but {found} was imported.")

    @classmethod
    @contextmanager
    def of(cls, commit: str) -> Iterator[Side]:
        with _checked_out(commit) as package:
            side = cls(commit, package)
            try:
                yield side
            finally:
                side.close()

    def ask(self, probe: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{probe}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"The measuring of {self.commit} ended; its messages are above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def _checked_out(commit: str) -> Iterator[Path]:
    if commit == ".":
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, "tree").resolve()
        _git("worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _before(commit: str) -> str | None:
    """The newest tag before a commit, or its parent; None where there is neither."""
    if shutil.which("git") is None:
        return None
    head = "HEAD" if commit == "." else commit
    for command in (["describe", "--tags", "--abbrev=0", f"{head}^"], ["rev-parse", "--short", f"{head}^"]):
        found = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return None


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)} failed:\n{done.stderr}")
