"""Proves that a job that grows loses nothing, and runs nothing recorded again, when its kernel or its server is killed
with -9: at each moment of a growth, and at any. The long form: `pytest -m soak tests/durability`."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from restate_nb.session.session import Session
from tests.durability.killing import kill_server


def start(folder: Path, rows: int, where: str = "never") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.durability.growing", str(folder), str(rows), where]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate(timeout=120)
    assert out.endswith("finished\n")
    assert process.returncode == 0


def counted(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def recorded_and_runs(folder: Path) -> dict[int, int]:
    """How often each item had run that is recorded by now; of what nobody adds to any more."""
    recorded, runs = counted(folder / "recorded"), counted(folder / "runs")
    return {item: runs[item] for item in recorded}


@pytest.mark.parametrize("where", ["stored", "changed", "submitted"])
def test_a_kernel_that_dies_in_a_growth_loses_nothing_and_repeats_nothing(tmp_path: Path, where: str) -> None:
    finish(start(tmp_path, 20))
    process = start(tmp_path, 30, where)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = recorded_and_runs(tmp_path)
    with Session("growing", tmp_path / ".restate") as session:
        job = session.job("growing")
        assert len(job) == (20 if where == "stored" else 30)
        assert [*job.frame()["item"]] == [*range(len(job))]
        session.forget_handles()
    finish(start(tmp_path, 30))
    runs = counted(tmp_path / "runs")
    assert {item: runs[item] for item in before} == before
    assert {item: runs[item] for item in range(20)} == dict.fromkeys(range(20), 1)
    assert set(runs) == set(range(30))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 12))])
def test_a_job_that_grows_and_is_killed_at_random_moments_repeats_nothing_recorded(tmp_path: Path, seed: int) -> None:
    dice, rows, before = random.Random(seed), 20, dict[int, int]()
    kills = 3 if seed == 1 else 10
    for _ in range(kills):
        process = start(tmp_path, rows)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.2))
        if dice.random() < 0.4:
            kill_server(tmp_path)
        process.kill()
        process.communicate()
        now = recorded_and_runs(tmp_path)
        assert {item: now[item] for item in before} == before
        before = now
        rows += dice.choice((0, 10, 25))
    finish(start(tmp_path, rows))
    runs = counted(tmp_path / "runs")
    assert {item: runs[item] for item in before} == before
    assert set(runs) == set(range(rows))
