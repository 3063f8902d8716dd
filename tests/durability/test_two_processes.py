"""Proves that two processes may have the same session and the same job: one runs it, both see it, and when one ends or
is killed the other goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOTAL = 1500


class Notebook:
    """A process whose cells are run one by one."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.onlooker", folder, str(TOTAL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def run(self, cell: str) -> Any:
        self.begin(cell)
        return self.answer()

    def begin(self, cell: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{cell}\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def wait_for(self, ok: int) -> None:
        while self.run("look")["ok"] < ok:
            time.sleep(0.02)

    def end(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def notebooks(tmp_path: Path) -> Iterator[tuple[Notebook, Notebook]]:
    both = Notebook(tmp_path), Notebook(tmp_path)
    yield both
    for notebook in both:
        if notebook.process.poll() is None:
            notebook.kill()


def executions(folder: Path) -> list[tuple[str, int]]:
    """Item and process, in order."""
    return [(item, int(process)) for item, process in map(str.split, (folder / "runs").read_text().splitlines())]


def test_one_process_runs_the_job_and_both_get_its_frame(tmp_path: Path, notebooks: tuple[Notebook, Notebook]) -> None:
    first, second = notebooks
    first.run("map")
    first.wait_for(300)
    second.run("map")
    assert second.run("look")["status"] == "waiting"
    assert second.run("result") and first.run("result")
    assert Counter(executions(tmp_path)) == {(str(item), first.process.pid): 1 for item in range(TOTAL)}
    assert second.run("jobs") == first.run("jobs") == ["job"]
    for notebook in notebooks:
        notebook.end()


def test_the_second_process_takes_over_when_the_first_is_killed(
    tmp_path: Path, notebooks: tuple[Notebook, Notebook]
) -> None:
    first, second = notebooks
    first.run("map")
    first.wait_for(300)
    second.run("map")
    first.wait_for(500)
    first.kill()
    second.begin("result")
    assert second.answer() is True
    runs = executions(tmp_path)
    assert {int(item) for item, _ in runs} == set(range(TOTAL))
    by = Counter(process for _, process in runs)
    assert by[first.process.pid] >= 500
    assert by[second.process.pid] <= TOTAL - 500
    assert max(Counter(runs).values()) == 1
    second.end()


def test_a_process_that_only_looks_on_takes_nothing_and_leaves_nothing_stuck(
    tmp_path: Path, notebooks: tuple[Notebook, Notebook]
) -> None:
    first, second = notebooks
    assert second.run("jobs") == []
    assert first.run("small-1") == [0, -1, -2]
    assert second.run("small-2") == [0, -1, -2]  # from here on new work goes to the second,
    assert first.run("small-3") == [0, -1, -2]  # and to the first again, whose cell ran last
    second.run("small-4")
    second.run("stop")
    second.end()
    assert first.run("small-5") == [0, -1, -2]  # the second had it, and is gone
    one, two = first.process.pid, second.process.pid
    assert [process for _, process in executions(tmp_path)] == [
        *[one] * 3,
        *[two] * 3,
        *[one] * 3,
        *[two] * 3,
        *[one] * 3,
    ]
    first.end()


def test_each_process_keeps_what_it_runs_when_the_server_is_killed(
    tmp_path: Path, notebooks: tuple[Notebook, Notebook]
) -> None:
    first, second = notebooks
    first.run("map")
    second.run("map")  # sees the same job, and gets what is new
    second.run("other")
    first.wait_for(200)
    for _ in range(2):
        second.run("kill the server")
        before = first.run("look")["ok"]
        first.wait_for(min(before + 300, TOTAL))
    assert first.run("result") and second.run("result")
    ran = Counter(executions(tmp_path))
    assert ran == {(str(item), each.process.pid): 1 for each in notebooks for item in range(TOTAL)}, "a job each"
    for notebook in notebooks:
        notebook.end()


def test_a_process_that_comes_later_takes_no_services_from_the_first(
    tmp_path: Path, notebooks: tuple[Notebook, Notebook]
) -> None:
    first, second = notebooks
    first.run("serve")
    assert second.run("small-1") == [0, -1, -2]
    assert first.run("greet") == f"Hello Ada from {first.process.pid}"
    assert second.run("small-2") == [0, -1, -2]
    assert [process for _, process in executions(tmp_path)] == [second.process.pid] * 6
    for notebook in notebooks:
        notebook.end()


def test_what_a_second_process_was_to_run_comes_back_when_that_is_killed(
    tmp_path: Path, notebooks: tuple[Notebook, Notebook]
) -> None:
    first, second = notebooks
    second.run("map")
    first.run("map")  # the second runs it; what is tried again goes to the first
    second.run("small-1")  # ... and now to the second
    second.wait_for(300)
    second.kill()
    assert first.run("result") is True
    by = Counter(process for _, process in executions(tmp_path))
    assert by[first.process.pid] > 500
    first.end()
