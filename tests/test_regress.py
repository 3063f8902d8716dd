"""`python -m benchmarks regress` sees a hot path that became slower, is not misled by bad moments of the machine, ends
in time, and says so where there is nothing to compare with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import regress

ROOT = Path(__file__).parents[1]
TEN_TIMES = """

_once = encode


def encode(value):
    for _ in range(9):
        _once(value)
    return _once(value)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "regress", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def git(folder: Path, *arguments: str) -> None:
    who = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, env=os.environ | who)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the package, the benchmarks and one commit."""
    for part in ("restate_nb", "benchmarks"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "the first")
    return tmp_path


def test_a_checkout_without_history_is_told_and_no_failure(checkout: Path) -> None:
    done = run(checkout, "--fast")
    assert done.returncode == 0, done.stderr
    assert "git fetch --unshallow" in done.stdout


def test_a_path_that_became_slower_fails_and_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that became faster does not."""
    codec = checkout / "restate_nb" / "values" / "codec.py"
    codec.write_text(codec.read_text() + TEN_TIMES)
    git(checkout, "commit", "--quiet", "-a", "-m", "ten times slower")
    monkeypatch.setattr(regress, "PROBES", ["codec"])
    with closing(regress.Side("fast", ROOT)) as fast, closing(regress.Side("slow", checkout)) as slow:
        ratios, _ = regress.measure(fast, slow, time.monotonic(), 3)
        assert regress.is_slower(ratios["codec"], 1.3), ratios
        ratios, _ = regress.measure(slow, fast, time.monotonic(), 3)
        assert not regress.is_slower(ratios["codec"], 1.3), ratios


@pytest.mark.parametrize(
    ("ratios", "slower"),
    [
        ([1.5, 1.4, 1.6, 1.5, 1.4, 1.5, 1.4, 1.5], True),
        ([1.5, 1.4, 1.0, 9.0, 1.1, 1.0, 1.4, 1.5], False),  # some bad moments
        ([1.2] * 8, False),
    ],
)
def test_a_path_is_slower_if_three_pairs_of_four_are_past_the_limit(ratios: list[float], slower: bool) -> None:
    assert regress.is_slower(ratios, 1.3) is slower


class Asked:
    """A side that answers at once; its clock is the test's."""

    def __init__(self, commit: str, tick: Callable[[], None]) -> None:
        self.commit, self._tick = commit, tick

    def ask(self, probe: str) -> dict[str, float | str]:
        self._tick()
        return {"missing": "no such thing"} if (self.commit, probe) == ("a", "frame") else {"seconds": 1.0}


@pytest.mark.parametrize(("probe_seconds", "pairs", "end"), [(0.1, range(6, 50), 26), (0.5, [5], 50), (10, [0, 1], 60)])
def test_the_comparison_ends_when_time_is_up(
    probe_seconds: float, pairs: Sequence[int], end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow machine gets up to twice the time for the fewest pairs; what one side does not have is left out."""
    clock = [0.0]
    monkeypatch.setattr(regress.time, "monotonic", lambda: clock[0])
    sides = [Asked(name, lambda: clock.__setitem__(0, clock[0] + probe_seconds)) for name in "ab"]
    ratios, missing = regress.measure(*sides, 0.0, 25.0)  # type: ignore[arg-type]
    assert missing.keys() <= {"frame"}
    assert {len(found) for name, found in ratios.items() if name != "frame"} <= set(pairs)
    assert clock[0] <= end
