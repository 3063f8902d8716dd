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
from dataclasses import dataclass
from pathlib import Path

import pytest

from restate_nb.server.lifecycle import server_status
from tests.durability.killing import kill_server
from tests.durability.notebook import CONCURRENCY


class Notebook:
    """One run of the notebook's cells in a process of its own."""

    def __init__(self, folder: Path, total: int, how: str = "loop") -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.notebook", str(folder), str(total), how],
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


@dataclass(frozen=True)
class Execution:
    """One run of an item in one process; `ended` when it came to its end."""

    item: int
    attempt: int
    process: int
    ended: bool


def executions(folder: Path) -> list[Execution]:
    """All of them, in the order in which they began."""
    path = folder / "runs"
    began: dict[tuple[int, int, int], bool] = {}
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")  # a line may be being written
    for line in whole.splitlines():
        what, *rest = line.split()
        item, attempt, process = map(int, rest)
        began[item, attempt, process] = what == "end"
    return [Execution(*key, ended) for key, ended in began.items()]


def recorded_items(folder: Path) -> set[int]:
    path = folder / "recorded"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


@dataclass(frozen=True)
class Death:
    """A kernel was killed: what was called recorded by then, and which kernels were dead then, itself included."""

    process: int
    recorded: set[int]
    dead: set[int]


def check(folder: Path, total: int, deaths: list[Death]) -> str:
    """Nothing recorded before a kernel died ran after it, and an item ran again only if a death met it in flight."""
    runs = executions(folder)
    assert {run.item for run in runs} == set(range(total))
    for death in deaths:
        again = {run.item for run in runs if run.process not in death.dead and run.item in death.recorded}
        assert not again, f"recorded items ran again: {again}"
    in_kernels = Counter((run.item, run.process) for run in runs)
    assert set(in_kernels.values()) == {1}, "an item ran twice in one kernel"
    counts = Counter(run.item for run in runs)
    met = Counter[int]()  # how many deaths met an item in flight: begun there, and not yet called recorded
    for death in deaths:
        met.update({run.item for run in runs if run.process == death.process} - death.recorded)
    assert all(count <= 1 + met[item] for item, count in counts.items())
    cut_off = sum(not run.ended for run in runs)
    assert cut_off <= CONCURRENCY * len(deaths)
    again = sum(count - 1 for count in counts.values())
    # In flight, or ended since the last group: milliseconds ago; more when the server had been killed just before, or
    # on a busy machine.
    assert again <= 5 * CONCURRENCY * len(deaths)
    return (
        f"{total} items, {again} re-executions ({cut_off} were cut off in the middle, the others had ended in the "
        f"group that was on its way), at most {max(counts.values())} executions of one item"
    )


def test_a_killed_kernel_loses_nothing_that_is_recorded(tmp_path: Path) -> None:
    first = Notebook(tmp_path, 600)
    first.wait_for(300)
    first.kill()
    recorded = recorded_items(tmp_path)
    assert len(recorded) > 150
    attached = Notebook(tmp_path, 600).finish()
    print(check(tmp_path, 600, [Death(first.process.pid, recorded, {first.process.pid})]))
    assert attached >= len(recorded)


def test_a_killed_server_makes_nothing_run_twice(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path, 600)
    notebook.wait_for(300)
    assert kill_server(tmp_path)
    notebook.finish()
    assert Counter(run.item for run in executions(tmp_path)) == dict.fromkeys(range(600), 1)


def loop(folder: Path, seed: int, total: int, kills: int, how: str = "loop") -> None:
    """Kill at random moments; then let it finish."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    deaths: list[Death] = []
    dead: set[int] = set()
    told = Counter[str]()
    notebook = Notebook(folder, total, how)
    while told.total() < kills and not notebook.ended:
        # by progress, not by the clock alone: a fast machine would be through before the last kill, a slow one at none
        notebook.wait_for(len(executions(folder)) + int(rng.uniform(0, 1.2) * total / kills))
        time.sleep(rng.uniform(0, 0.05))
        victim = rng.choice(["kernel", "server", "server and kernel", "kernel and server"])
        if victim.startswith("server"):
            kill_server(folder)
        if "kernel" in victim:
            notebook.kill()
            dead.add(notebook.process.pid)
            deaths.append(Death(notebook.process.pid, recorded_items(folder), set(dead)))
        if victim == "kernel and server":
            kill_server(folder)  # if it has not ended with the kernel already
        told[victim] += 1
        if "kernel" in victim:
            notebook = Notebook(folder, total, how)
    assert told.total() == kills, "the job ended before the kills did"
    before = len(executions(folder))
    done = len(deaths[-1].recorded)
    assert done > total // 10, "too little was recorded for the test to mean anything"
    assert notebook.finish() >= done
    last = executions(folder)[before:][-100:]
    assert len(last) == 100, "too little was left to do after the last kill"
    assert all(run.ended and run.process == notebook.process.pid for run in last)
    print(
        f"{told.total()} kills {dict(told)}; {done} items were recorded when the last kernel died; "
        f"{check(folder, total, deaths)}; the last 100 items ran undisturbed"
    )


@pytest.mark.parametrize("seed", [1])
def test_twenty_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    loop(tmp_path, seed, total=2000, kills=20)


@pytest.mark.parametrize("how", ["thread", "process"])
def test_kills_at_random_moments_wherever_items_run(tmp_path: Path, how: str) -> None:
    loop(tmp_path, seed=2, total=1500, kills=8, how=how)


@pytest.mark.parametrize(("seed", "how"), [(3, "loop"), (4, "thread"), (5, "process")])
def test_values_and_items_in_the_store_outlive_kills(tmp_path: Path, seed: int, how: str) -> None:
    loop(tmp_path, seed, total=1500, kills=8, how=f"stored {how}")


@pytest.mark.soak
@pytest.mark.parametrize(("seed", "how"), [(200, "loop"), (201, "thread"), (202, "process")])
def test_values_and_items_in_the_store_outlive_a_hundred_kills(tmp_path: Path, seed: int, how: str) -> None:
    loop(tmp_path, seed, total=6_000, kills=100, how=f"stored {how}")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_hundred_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    loop(tmp_path, seed, total=20_000, kills=100)


def test_after_the_machine_has_rebooted_the_job_goes_on(tmp_path: Path) -> None:
    """All processes end at once, without a word: sockets, locks and the record of the server's process are left."""
    first = Notebook(tmp_path, 400)
    first.wait_for(200)
    status = server_status(tmp_path / ".restate")
    assert status is not None
    assert status.pid is not None
    victims = (status.supervisor_pid, first.process.pid, status.pid)
    for signal_ in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none sees another end
        for victim in victims:
            os.kill(victim, signal_)
    first.process.communicate()
    left = {path.name for path in (tmp_path / ".restate").rglob("*")}
    assert {"supervisor.sock", "admin.sock", "ingress.sock", "server.json", "lock", "LOCK"} <= left
    recorded = recorded_items(tmp_path)
    assert Notebook(tmp_path, 400).finish() >= len(recorded) > 100
    print(check(tmp_path, 400, [Death(first.process.pid, recorded, {first.process.pid})]))


def test_a_data_directory_that_was_moved_while_nothing_ran_goes_on_where_it_stopped(tmp_path: Path) -> None:
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
    print(check(after, 400, [Death(first.process.pid, recorded, {first.process.pid})]))
