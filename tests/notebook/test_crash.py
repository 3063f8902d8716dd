"""Proves that nothing recorded is lost or run twice when the kernel, the server, or both are killed with -9."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

TOTAL = 600
CONCURRENCY = 20  # as in crash_job.py


class Notebook:
    """One run of the notebook's cells in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        arguments = [str(folder / ".restate"), str(folder / "runs"), str(folder / "recorded"), str(TOTAL)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.notebook.crash_job", *arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.server = int(self.process.stdout.readline().split()[1])

    def wait_for(self, runs: int) -> None:
        while len(executions(self.folder)) < runs:
            assert self.process.poll() is None, "the notebook ended early"
            time.sleep(0.005)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> dict[str, str]:
        out, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0
        said = dict(line.split(maxsplit=1) for line in out.splitlines() if " " in line)
        assert out.endswith("finished\n")
        return said


def executions(folder: Path) -> list[tuple[int, int]]:
    """(item, process) in order."""
    path = folder / "runs"
    if not path.exists():
        return []
    return [(int(item), int(pid)) for item, pid in map(str.split, path.read_text().splitlines())]


def check(folder: Path, dead: list[int], recorded: set[int]) -> None:
    """What was recorded before a kill never ran in a later process; in-flight items ran once more at most."""
    runs = executions(folder)
    assert {item for item, _ in runs} == set(range(TOTAL))
    again = [item for item, pid in runs if pid not in dead and item in recorded]
    assert not again, f"recorded items ran again: {again}"
    counts = Counter(item for item, _ in runs)
    assert max(counts.values()) <= 1 + len(dead)
    twice = sum(count > 1 for count in counts.values())
    print(f"{len(dead)} kills of the kernel, {TOTAL} items, {twice} run again")
    # In flight, or finished within the group that was on its way: a group takes milliseconds, an item 20 of them.
    assert twice <= 2 * CONCURRENCY * len(dead)


def recorded_items(folder: Path) -> set[int]:
    path = folder / "recorded"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


def test_a_killed_kernel_loses_nothing_that_is_recorded(tmp_path: Path) -> None:
    first = Notebook(tmp_path)
    first.wait_for(TOTAL // 2)
    first.kill()
    recorded = recorded_items(tmp_path)
    assert len(recorded) > TOTAL // 4
    said = Notebook(tmp_path).finish()
    check(tmp_path, [first.process.pid], recorded)
    assert int(said["attached"]) >= len(recorded)


def test_a_killed_server_makes_nothing_run_twice(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    notebook.wait_for(TOTAL // 2)
    os.kill(notebook.server, signal.SIGKILL)
    notebook.finish()
    assert Counter(item for item, _ in executions(tmp_path)) == dict.fromkeys(range(TOTAL), 1)


@pytest.mark.parametrize("seed", [1])
def test_kernel_and_server_killed_at_random_moments_again_and_again(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    dead: list[int] = []
    recorded: set[int] = set()
    for _ in range(4):
        notebook = Notebook(tmp_path)
        time.sleep(rng.uniform(0.0, 0.4))
        victims = rng.choice(["kernel", "server and kernel", "kernel and server"])
        if victims.startswith("server"):
            os.kill(notebook.server, signal.SIGKILL)
        notebook.kill()
        if victims.endswith("and server"):
            try:
                os.kill(notebook.server, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended with the kernel
        dead.append(notebook.process.pid)
        recorded |= recorded_items(tmp_path)
    Notebook(tmp_path).finish()
    check(tmp_path, dead, recorded)
