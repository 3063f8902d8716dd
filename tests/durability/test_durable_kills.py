"""Proves that durable functions, calls and fan-outs end, whoever is killed with -9, and run no recorded step again.

The long form, a hundred kills of the server and a hundred of the kernel: `pytest -m soak tests/durability`.
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

from tests.durability.killing import kill_server

STEPS = ["first", "last", "left", "right", "task", "thread"]


class Notebook:
    """One run of the notebook's cells in a process of its own."""

    def __init__(self, folder: Path, total: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.durable_notebook", str(folder), str(total)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "submitted\n"

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> None:
        out, _ = self.process.communicate(timeout=300)
        assert (self.process.returncode, out) == (0, "finished\n")


def lines_of(folder: Path) -> list[str]:
    path = folder / "steps"
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")  # a line may be being written
    return whole.splitlines()


def check(folder: Path, total: int) -> str:
    """Every step ran; none ran again once it was recorded, or in the process where it ran already."""
    recorded: set[tuple[str, str]] = set()
    began = Counter[tuple[str, str]]()
    in_process = Counter[tuple[str, str, str]]()
    for line in lines_of(folder):
        what, key, step, process = line.split()
        if what == "recorded":
            recorded.add((key, step))
        elif what == "begin":
            assert (key, step) not in recorded, f"the recorded step {step} of {key} ran again"
            began[key, step] += 1
            in_process[key, step, process] += 1
    calls = range(total // 20)
    wanted = {(f"item-{item}", step) for item in range(total) for step in STEPS}
    wanted |= {(f"call-{item}", step) for item in calls for step in STEPS}
    wanted |= {(f"ship-{item}", step) for item in calls for step in ("first", "last")}
    assert set(began) == recorded == wanted
    # A handler that is the user's own has the SDK's steps as they are, which begin again when the connection breaks.
    twice = [each for each, count in in_process.items() if count > 1 and not each[0].startswith("ship-")]
    assert not twice, f"these ran twice in one process: {twice}"
    again = sum(began.values()) - len(began)
    return f"{total} items, {2 * len(calls)} calls, {len(recorded)} steps; {again} in flight at a kill began again"


def loop(folder: Path, seed: int, total: int, kills: int) -> None:
    """Kill the server so often, and the kernel, in a random order; then let it finish."""
    print(f"seed {seed}")
    rng, begun = random.Random(seed), time.monotonic()
    victims = ["server"] * kills + ["kernel"] * kills
    rng.shuffle(victims)
    notebook, seen = Notebook(folder, total), 0
    expected = total * len(STEPS) * 3  # lines, when all is done
    for victim in victims:
        seen = len(lines_of(folder)) + int(rng.uniform(0, 1.2) * expected / len(victims) / 2)
        while len(lines_of(folder)) < seen:
            assert notebook.process.poll() is None, "the notebook ended before the kills did"
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.05))
        if victim == "kernel":
            notebook.kill()
            notebook = Notebook(folder, total)
            continue
        while not kill_server(folder):  # it is being started
            time.sleep(0.02)
    done = sum(line.startswith("recorded") for line in lines_of(folder))
    assert done < total * len(STEPS) * 0.95, "too little was left to do after the last kill"
    notebook.finish()
    print(
        f"{kills} kills of the server and {kills} of the kernel: {check(folder, total)}, 0 recorded ones; all ended, "
        f"in {time.monotonic() - begun:.0f} s"
    )


@pytest.mark.parametrize("seed", [1])
def test_kills_leave_no_durable_function_behind_and_run_no_recorded_step_again(tmp_path: Path, seed: int) -> None:
    loop(tmp_path, seed, total=160, kills=2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [100])
def test_a_hundred_kills_of_the_server_and_a_hundred_of_the_kernel(tmp_path: Path, seed: int) -> None:
    loop(tmp_path, seed, total=6000, kills=100)
