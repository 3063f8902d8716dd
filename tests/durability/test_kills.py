"""Proves that nothing recorded is lost or run twice, whoever is killed with -9 and however often: kernel, server, both.

The long form: `pytest -m soak tests/durability`.
"""

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

from restate_nb.server.process import server_status
from tests.durability.notebook import CONCURRENCY


class Notebook:
    """One run of the notebook's cells in a process of its own."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.notebook", str(folder), str(total)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "submitted\n"

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_for(self, runs: int) -> None:
        while len(executions(self.folder)) < runs:
            assert not self.ended, "the notebook ended early"
            time.sleep(0.005)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> int:
        """Let it end, and return how many items were done when it attached."""
        out, _ = self.process.communicate(timeout=300)
        assert self.process.returncode == 0
        assert out.endswith("finished\n")
        return int(out.split()[1])


def kill_server(folder: Path) -> bool:
    status = server_status(folder / ".restate")
    if status is None or status.pid is None:
        return False
    try:
        os.kill(status.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def executions(folder: Path) -> list[tuple[int, int]]:
    """(item, process) in order."""
    path = folder / "runs"
    if not path.exists():
        return []
    return [(int(item), int(pid)) for item, pid in map(str.split, path.read_text().splitlines())]


def recorded_items(folder: Path) -> set[int]:
    path = folder / "recorded"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


def check(folder: Path, total: int, recorded: list[tuple[set[int], set[int]]]) -> str:
    """What was recorded before a kernel died never ran in a later one. `recorded`: (items, dead processes)."""
    runs = executions(folder)
    assert {item for item, _ in runs} == set(range(total))
    for items, dead in recorded:
        again = {item for item, pid in runs if pid not in dead and item in items}
        assert not again, f"recorded items ran again: {again}"
    per_process = Counter(runs)
    assert max(per_process.values()) == 1, "an item ran twice in one kernel"
    counts = Counter(item for item, _ in runs)
    again = sum(count - 1 for count in counts.values())
    # In flight, or finished within the group that was on its way: a group takes milliseconds, an item 20 of them.
    assert again <= 2 * CONCURRENCY * len(recorded)
    return f"{total} items, {again} executions more than that, at most {max(counts.values())} of one item"


def test_a_killed_kernel_loses_nothing_that_is_recorded(tmp_path: Path) -> None:
    first = Notebook(tmp_path, 600)
    first.wait_for(300)
    first.kill()
    recorded = recorded_items(tmp_path)
    assert len(recorded) > 150
    attached = Notebook(tmp_path, 600).finish()
    print(check(tmp_path, 600, [(recorded, {first.process.pid})]))
    assert attached >= len(recorded)


def test_a_killed_server_makes_nothing_run_twice(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path, 600)
    notebook.wait_for(300)
    assert kill_server(tmp_path)
    notebook.finish()
    assert Counter(item for item, _ in executions(tmp_path)) == dict.fromkeys(range(600), 1)


def loop(folder: Path, seed: int, total: int, kills: int) -> None:
    """Kill at random moments; then let it finish."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    recorded: list[tuple[set[int], set[int]]] = []
    dead: set[int] = set()
    told = Counter[str]()
    notebook = Notebook(folder, total)
    while told.total() < kills and not notebook.ended:
        time.sleep(rng.uniform(0, 0.5))
        victim = rng.choice(["kernel", "server", "server and kernel", "kernel and server"])
        if victim.startswith("server"):
            kill_server(folder)
        if "kernel" in victim:
            notebook.kill()
            dead.add(notebook.process.pid)
            recorded.append((recorded_items(folder), set(dead)))
        if victim == "kernel and server":
            kill_server(folder)  # if it has not ended with the kernel already
        told[victim] += 1
        if "kernel" in victim:
            notebook = Notebook(folder, total)
    assert told.total() == kills, "the job ended before the kills did"
    done = len(recorded[-1][0])
    assert done > total // 10, "too little was recorded for the test to mean anything"
    assert notebook.finish() >= done
    print(f"{dict(told)}; {done} items were recorded when the last kernel died; {check(folder, total, recorded)}")


@pytest.mark.parametrize("seed", [1])
def test_twenty_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    loop(tmp_path, seed, total=4000, kills=20)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_hundred_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    loop(tmp_path, seed, total=20_000, kills=100)


def test_a_data_directory_that_was_moved_while_nothing_ran_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """As after a reboot: all processes are gone, and the directory is there, under another name."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    first = Notebook(before, 400)
    first.wait_for(200)
    first.kill()
    recorded = recorded_items(before)
    deadline = time.monotonic() + 10
    while server_status(before / ".restate") is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    before.rename(after)
    assert Notebook(after, 400).finish() >= len(recorded) > 100
    print(check(after, 400, [(recorded, {first.process.pid})]))
