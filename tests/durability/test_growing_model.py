"""Proves, against a plain dict as a model and for random sequences of what a person does to the input of a keyed job,
that exactly what is new or changed runs, and that the frame is the input as it is. The long form, with 300 examples:
`pytest -m soak tests/durability`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import restate_nb as rnb
from restate_nb.errors import InvalidInput
from restate_nb.handle.job import Job
from restate_nb.session.session import Session

Item = tuple[int, int]
"""A key and its content."""

KEYS = st.integers(0, 7)
RETRY = rnb.Retry(max_attempts=2, initial_interval=0.001, jitter=0.0)


class World:
    """What items do when they run, beyond what counts as the function's code."""

    runs: ClassVar[Counter[Item]] = Counter()
    failing: ClassVar[set[Item]] = set()
    version = 1


def work(key: int, content: int) -> list[int]:
    World.runs[key, content] += 1
    if (key, content) in World.failing:
        raise ValueError(f"{key} with {content}")
    return [key, content, World.version]


class Machine(RuleBasedStateMachine):
    """A keyed job and its model."""

    session: ClassVar[Session]
    _examples = 0

    def __init__(self) -> None:
        super().__init__()
        Machine._examples += 1
        self.name = f"grows {Machine._examples}"
        World.runs, World.failing, World.version = Counter(), set(), 1
        self.rows: list[Item] = []
        self.job: Job[Any] | None = None
        self.known: dict[Item, list[int] | None] = {}  # None: it failed
        self.made_by: dict[Item, int] = {}
        self.expected = Counter[Item]()
        self.last: list[Item] | None = None  # rows of the run that the record has last
        self.last_attempts = self.attempts = 1  # as the record has it, and of the cell
        self.runs_recorded = 0

    # ------------------------------------------------------------ the input

    @rule(key=KEYS)
    def add(self, key: int) -> None:
        if key not in dict(self.rows):
            self.rows.append((key, 0))

    @rule(key=KEYS, content=st.integers(0, 2))
    def change(self, key: int, content: int) -> None:
        self.rows = [(each, content if each == key else old) for each, old in self.rows]

    @rule(key=KEYS)
    def drop(self, key: int) -> None:
        self.rows = [each for each in self.rows if each[0] != key]

    @rule(dice=st.randoms(use_true_random=False))
    def shuffle(self, dice: Any) -> None:
        dice.shuffle(self.rows)

    @precondition(lambda self: self.rows)
    @rule(at=st.integers(0, 100))
    def duplicate(self, at: int) -> None:
        self.rows.append(self.rows[at % len(self.rows)])

    # ------------------------------------------------------------ what items do

    @rule(key=KEYS, content=st.integers(0, 2))
    def fail(self, key: int, content: int) -> None:
        World.failing.add((key, content))

    @rule()
    def heal(self) -> None:
        World.failing.clear()

    @rule()
    def redefine(self) -> None:
        World.version += 1

    # ------------------------------------------------------------ the job

    @rule()
    def come_back(self) -> None:
        """Another process, as far as the job can tell."""
        self.session.forget_handles()
        self.job = None

    @precondition(lambda self: self.rows)
    @rule(attempts=st.sampled_from([1, 1, 2]), changed=st.booleans())
    def run_cell(self, attempts: int, changed: bool) -> None:
        options: dict[str, Any] = {"fresh": "changed"} if changed else {}
        if attempts == 2:
            options["retry"] = RETRY
        frame = pd.DataFrame(self.rows, columns=["key", "content"])
        arguments: dict[str, Any] = {"name": self.name, "key": "key", "version": World.version, "show": False}
        twice = len(set(self.rows)) < len(self.rows)
        if twice:
            with pytest.raises(InvalidInput, match="have the key"):
                rnb.map(work, frame, **arguments, session=self.session)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rnb.OlderResults)
            self.job = rnb.map(work, frame, **arguments, **options, unique=twice, session=self.session)
        assert self.job.wait(60)
        self._expect(attempts, changed=changed)
        self.check()

    def _expect(self, attempts: int, *, changed: bool) -> None:
        rows = [*dict.fromkeys(self.rows)]
        old = {each for each in rows if each in self.known and self.made_by[each] != World.version}
        for each in rows:
            if each not in self.known:
                self._ran(each, attempts)
        again = set(old) if changed else set()
        retries_more = self.last is not None and self.last_attempts == 1 < attempts
        if retries_more:
            again |= {each for each in rows if self.known[each] is None}
        for each in again:
            self._ran(each, attempts)
        if self.last is None or self.rows != self.last:
            self.runs_recorded += 1
            self.last_attempts = attempts
        elif retries_more:
            self.last_attempts = attempts
        self.last, self.attempts = list(self.rows), attempts

    def _ran(self, item: Item, attempts: int) -> None:
        fails = item in World.failing
        self.expected[item] += attempts if fails else 1
        self.known[item] = None if fails else [*item, World.version]
        self.made_by[item] = World.version

    @precondition(lambda self: self.job is not None)
    @rule()
    def retry_failed(self) -> None:
        assert self.job is not None
        assert self.last is not None
        self.job.retry_failed()
        assert self.job.wait(60)
        for each in dict.fromkeys(self.last):
            if self.known[each] is None:
                self._ran(each, self.attempts)
        self.check()

    def check(self) -> None:
        assert self.job is not None
        assert self.last is not None
        assert World.runs == self.expected
        frame = self.job.frame()
        assert [(each["key"], each["content"]) for each in frame["item"]] == self.last
        wanted = [self.known[each] for each in self.last]
        assert [None if status == "error" else value for status, value in self.outcomes(frame)] == wanted
        assert self.job.counts["ok"] == sum(each is not None for each in wanted)
        assert self.job.counts["error"] == self.job.failed == sum(each is None for each in wanted)
        history = self.job.history()
        assert len(history) == self.runs_recorded
        assert (history["new"] + history["changed"]).sum() == len(self.known)

    @staticmethod
    def outcomes(frame: pd.DataFrame) -> Iterator[tuple[str, Any]]:
        return zip(frame["status"], frame["value"], strict=True)

    def teardown(self) -> None:
        if self.job is not None:
            with suppress(rnb.RestateNbError):
                self.job.delete()


def run_machine(folder: Path, examples: int, steps: int) -> None:
    with Session("model", folder / ".restate") as Machine.session:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_random_edits_of_the_input_run_exactly_what_is_new_or_changed(tmp_path: Path) -> None:
    run_machine(tmp_path, 15, 15)


@pytest.mark.soak
def test_random_edits_of_the_input_for_long(tmp_path: Path) -> None:
    run_machine(tmp_path, 300, 25)
