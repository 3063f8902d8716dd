"""Proves, against a small model and for random sequences of what a person does and what dies meanwhile, that a job runs
exactly the items that it should, and shows exactly what they gave. The long form: `pytest -m soak tests/durability`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from restate_nb.server.lifecycle import ServerHandle, start_server
from tests.durability.cells import Cells

TOTAL = 5
PENDING, OK, ERROR, CANCELLED = "pending", "ok", "error", "cancelled"
SETTLE = 20.0  # seconds: a killed server or kernel is back in one
LIMITS = st.integers(1, TOTAL)
FAILING = st.lists(st.integers(0, TOTAL - 1), unique=True, max_size=3)


class OwnProcess:
    """A notebook in a process of its own; its methods are those of `Cells`."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.cells", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
            self.process.stdin.flush()
            return self._answer()

        return call

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Machine(RuleBasedStateMachine):
    """A job and its model."""

    folder: Path
    own_process = False
    _examples = 0
    told: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        Machine._examples += 1
        self.name = f"job {Machine._examples}"
        self.notebook: Any = self.start()
        self.known = False  # whether its cell was run since the kernel started
        self.paused = False
        self.version = 0
        self.rounds: list[list[int]] = []
        self.rows: list[list[Any]] = [[PENDING, None] for _ in range(TOTAL)]
        self.pending: list[int] = []
        self.running: dict[int, tuple[int, list[int]]] = {}  # the function that each began with
        self.starts = Counter[int]()
        self.differs = False
        self.steps_in_peace = 0

    def start(self) -> Any:
        return OwnProcess(self.folder) if self.own_process else Cells(self.folder)

    # ------------------------------------------------------------ the model

    @property
    def done(self) -> bool:
        return all(status != PENDING for status, _ in self.rows)

    def status(self) -> str:
        if self.done:
            return "cancelled" if any(status == CANCELLED for status, _ in self.rows) else "finished"
        return "paused" if self.paused else "running"

    def begin_round(self, positions: list[int]) -> None:
        self.rounds.append(positions)
        self.pending = list(positions)
        for position in positions:
            self.rows[position] = [PENDING, None]

    def fill(self) -> None:
        while self.known and not self.paused and self.pending and len(self.running) < self.limit:
            item = self.pending.pop(0)
            self.running[item] = self.version, self.failing
            self.starts[item] += 1

    def end(self, item: int) -> None:
        version, failing = self.running.pop(item)
        self.rows[item] = [ERROR, f"version {version}"] if item in failing else [OK, item * 1000 + version]

    def forget(self) -> None:
        """The kernel is gone, and with it what was in flight."""
        self.known = False
        self.pending = sorted([*self.pending, *self.running])
        self.running.clear()

    def check(self, what: str) -> None:
        """Wait until the notebook shows what the model says, and see that it stays so."""
        self.told[what] += 1
        self.steps_in_peace += 1
        self.fill()
        if not self.known:
            return
        expected = {"rows": self.rows, "running": sorted(self.running), "done": self.done, "status": self.status()}
        deadline = time.monotonic() + SETTLE
        stable = 0
        while stable < 3:
            seen = self.notebook.look()
            stable = stable + 1 if seen == expected else 0
            self.differs = time.monotonic() > deadline
            assert not self.differs, f"after {what}:\nseen     {seen}\nexpected {expected}"
            time.sleep(0.01)
        lines = (self.folder / "starts").read_text().splitlines()
        starts = Counter(int(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{self.name} "))
        assert starts == self.starts, f"after {what}: other items were started"

    # ------------------------------------------------------------ what may happen

    @initialize(limit=LIMITS, failing=FAILING)
    def submit(self, limit: int, failing: list[int]) -> None:
        self.limit, self.failing = limit, failing
        self.begin_round(list(range(TOTAL)))
        self.run_cell("submit")

    def run_cell(self, what: str) -> None:
        self.notebook.run(self.name, TOTAL, self.limit, self.version, self.failing)
        self.known = True
        self.check(what)

    @rule()
    def run_the_cell_again(self) -> None:
        self.run_cell("attach")

    @rule(failing=FAILING)
    def redefine(self, failing: list[int]) -> None:
        self.version, self.failing = self.version + 1, failing
        self.run_cell("redefine")

    @precondition(lambda self: self.known and self.running)
    @rule(data=st.data())
    def let_one_end(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(sorted(self.running)))
        self.notebook.release(item)
        self.end(item)
        self.check("an item ends")

    @precondition(lambda self: self.known and not self.done)
    @rule()
    def pause(self) -> None:
        self.notebook.pause()
        self.paused = True
        self.check("pause")

    @precondition(lambda self: self.known and self.paused)
    @rule()
    def resume(self) -> None:
        self.notebook.resume()
        self.paused = False
        self.check("resume")

    @precondition(lambda self: self.known)
    @rule(limit=LIMITS)
    def change_limit(self, limit: int) -> None:
        self.limit = limit
        self.notebook.limit(limit)
        self.check("change the limit")

    @precondition(lambda self: self.known and not self.done)
    @rule()
    def cancel(self) -> None:
        self.notebook.cancel()
        for item in [*self.pending, *self.running]:
            self.rows[item] = [CANCELLED, "The job was cancelled."]
        self.pending.clear()
        self.running.clear()
        self.check("cancel")

    @precondition(lambda self: self.known and self.done)
    @rule()
    def retry(self) -> None:
        failed = [position for position, (status, _) in enumerate(self.rows) if status != OK]
        self.notebook.retry()
        if failed:
            self.begin_round(failed)
        self.check("retry")

    @precondition(lambda self: self.steps_in_peace >= 5)  # each kill costs a second, and more when they are close
    @rule()
    def kill_server(self) -> None:
        self.steps_in_peace = -1
        server = self.notebook.server()
        if server is not None:
            with suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)
        self.check("kill the server")

    @precondition(lambda self: self.steps_in_peace >= 2)
    @rule()
    def restart_kernel(self) -> None:
        self.steps_in_peace = -1
        if self.own_process:
            self.notebook.kill()
        else:
            self.notebook.stop()
        self.forget()
        self.notebook = self.start()
        self.check("restart the kernel")

    def teardown(self) -> None:
        """See the job to its end."""
        try:
            if self.differs:
                return
            if not self.known:
                self.run_cell("attach")
            if self.paused:
                self.resume()
            while self.running:
                item = min(self.running)
                self.notebook.release(item)
                self.end(item)
                self.check("an item ends")
            assert self.done
            for number, positions in enumerate(self.rounds):
                assert self.notebook.recorded(number) == [[position, 1] for position in positions]
        finally:
            if self.own_process:
                self.notebook.kill()
            else:
                self.notebook.stop()


@pytest.fixture
def kept(tmp_path: Path) -> Any:
    """Keeps the server running between kernels."""
    (tmp_path / "data").mkdir()
    with start_server(tmp_path / "data" / ".restate") as handle:
        yield handle


def explore(folder: Path, seed: int, examples: int, steps: int, *, own_process: bool) -> None:
    print(f"seed {seed}")
    machine = type("Machine", (Machine,), {"folder": folder, "own_process": own_process, "told": Counter()})
    machine._hypothesis_internal_use_seed = seed  # what @hypothesis.seed sets on a function
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{machine.told.total()} steps: {dict(machine.told)}")


@pytest.mark.filterwarnings("ignore::restate_nb.OlderResults")  # each version of the function is told of
def test_a_job_does_what_the_model_says(tmp_path: Path, kept: ServerHandle) -> None:
    explore(tmp_path / "data", seed=1, examples=6, steps=12, own_process=False)


@pytest.mark.filterwarnings("ignore::restate_nb.OlderResults")  # each version of the function is told of
def test_a_job_does_what_the_model_says_when_kernels_are_killed(tmp_path: Path) -> None:
    explore(tmp_path, seed=2, examples=1, steps=10, own_process=True)


@pytest.mark.filterwarnings("ignore::restate_nb.OlderResults")  # each version of the function is told of
@pytest.mark.soak
@pytest.mark.parametrize("seed", [101, 102])
def test_a_job_does_what_the_model_says_for_long(tmp_path: Path, kept: ServerHandle, seed: int) -> None:
    explore(tmp_path / "data", seed, examples=200, steps=30, own_process=False)


@pytest.mark.filterwarnings("ignore::restate_nb.OlderResults")  # each version of the function is told of
@pytest.mark.soak
def test_a_job_does_what_the_model_says_when_kernels_are_killed_for_long(tmp_path: Path) -> None:
    explore(tmp_path, seed=103, examples=40, steps=25, own_process=True)
