"""Proves that `job.executor = ...` moves a job that runs: each item runs once, what has not begun by the new executor;
what cannot be is refused before anything changes; and it holds until the cell is run again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import restate

import restate_nb as rnb
from restate_nb.engine.cpus import cpus
from restate_nb.session.session import Session
from tests.handle.counted import Calls, where, where_awaited
from tests.handle.live_executor import TOTAL, cell
from tests.support import eventually, submit

HERE = os.getpid()


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


def times_each(calls: Calls) -> Counter[int]:
    """How often each item ran."""
    return Counter(int(line.split()[0]) for line in calls.counts().elements())


def processes(calls: Calls) -> set[int]:
    """Those in which items ran."""
    return {int(line.split()[1]) for line in calls.counts()}


@pytest.mark.parametrize("fn", [where, where_awaited], ids=["plain", "coroutine"])
@pytest.mark.parametrize(("before", "after"), [("thread", "process"), ("process", "auto"), ("auto", "process")])
def test_what_has_not_begun_is_run_by_the_executor_that_is_set(
    any_session: Session, calls: Calls, fn: Any, before: Any, after: Any
) -> None:
    job = submit(
        any_session,
        partial(fn, calls, 0.02),
        range(300),
        name=f"{before} {after} {fn.__name__}",
        executor=before,
        concurrency=4,
    )
    assert job.executor == before
    eventually(lambda: job.counts["ok"] >= 20)
    job.executor = after
    assert job.executor == after
    values = job.values()
    moved = [(value != HERE) == (after == "process") for value in values]
    assert times_each(calls) == dict.fromkeys(range(300), 1)
    assert moved.count(False) >= 20, "what had begun ended where it was"
    assert all(moved[100:])


def test_it_can_be_changed_again_and_again_and_each_item_runs_once(session: Session, calls: Calls) -> None:
    job = submit(session, partial(where, calls, 0.005), range(1_000), name="to and fro", concurrency=3)
    orders = ("process", "thread", "process", "auto", "process")
    for number, executor in enumerate(orders, 1):
        eventually(lambda number=number: job.counts["ok"] >= 150 * number)  # type: ignore[misc]
        job.executor = executor
    job.result(60)
    assert times_each(calls) == dict.fromkeys(range(1_000), 1)
    assert len(processes(calls)) > 1 and HERE in processes(calls)


@pytest.mark.parametrize(("before", "then"), [("thread", "process"), ("process", "thread")])
def test_after_a_kill_the_executor_of_the_cell_counts_and_can_be_set_again(
    tmp_path: Path, calls: Calls, before: Any, then: Any
) -> None:
    command = [sys.executable, "-m", "tests.handle.live_executor", str(tmp_path), before, then]
    notebook = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert notebook.stdout is not None
    recorded = {int(each) for each in notebook.stdout.readline().split()}
    assert len(recorded) >= 40
    os.kill(notebook.pid, signal.SIGKILL)
    notebook.communicate()
    begun = times_each(calls)
    assert set(begun.values()) == {1}
    with Session("killed", tmp_path / ".restate") as session:
        job = cell(session, tmp_path, before)
        assert job.executor == before
        eventually(lambda: job.counts["ok"] >= len(recorded) + 20)
        job.executor = then
        values = job.values()
    ran = times_each(calls)
    assert set(ran) == set(range(TOTAL))
    again = {item for item, times in ran.items() if times > 1}
    assert all(ran[item] == 2 and begun[item] == 1 for item in again), "only what the kill met in flight"
    assert not again & recorded
    assert (values[-1] != HERE) == (then == "process")


def test_items_that_wait_for_their_next_attempt_are_tried_by_the_new_executor(session: Session) -> None:
    def fails_here(item: int) -> int:
        if os.getpid() == pid:
            raise OSError("not here")
        return item

    pid = HERE
    retry = rnb.Retry(3, initial_interval=1, jitter=0)
    job = submit(session, fails_here, range(6), name="tried elsewhere", retry=retry)
    eventually(lambda: len(job.attempts()) >= 6)
    job.executor = "process"
    assert job.values() == list(range(6))
    assert job.frame()["attempts"].tolist() == [2] * 6


def test_a_job_that_has_ended_keeps_it_for_what_is_run_again(session: Session, calls: Calls) -> None:
    def fails_here(item: int) -> int:
        if os.getpid() == pid:
            raise OSError("not here")
        return item

    pid = HERE
    job = submit(session, fails_here, range(3), name="ended")
    assert job.result(20)["status"].tolist() == ["error"] * 3
    job.executor = "process"
    assert job.frame()["status"].tolist() == ["error"] * 3
    assert job.retry_failed().values() == [0, 1, 2]


def test_the_operations_of_a_fan_out_move_too(session: Session, calls: Calls) -> None:
    operations = {each: partial(where, calls, 0.05, each) for each in range(40)}
    job = rnb.fan_out(operations, name="moved operations", concurrency=2, session=session, show=False)
    eventually(lambda: job.counts["ok"] >= 4)
    job.executor = "process"
    values = job.values()
    assert times_each(calls) == dict.fromkeys(range(40), 1)
    assert values[0] == HERE and HERE not in values[-20:]


def test_processes_are_as_many_as_processors_until_told_otherwise(session: Session, calls: Calls) -> None:
    job = submit(session, partial(where, calls, 0.05), range(600), name="how many", concurrency=40)
    eventually(lambda: job.counts["running"] == 40)
    job.executor = "process"
    assert job.concurrency == cpus()
    eventually(lambda: job.counts["running"] <= cpus())
    job.executor = "thread"
    assert job.concurrency == 40, "as before"
    job.executor = "process"
    job.concurrency = cpus() + 1
    eventually(lambda: job.counts["running"] == cpus() + 1)
    job.executor = "thread"
    assert job.concurrency == cpus() + 1, "what was said last"
    job.cancel()


def test_what_is_printed_in_processes_is_its_items_and_its_cells(session: Session) -> None:
    def says(item: int) -> None:
        time.sleep(0.02)
        print(f"item {item}")

    job = submit(session, says, range(40), name="says", concurrency=2)
    eventually(lambda: job.counts["ok"] >= 4)
    job.executor = "process"
    job.result(20)
    logs = job.logs()
    assert sorted(zip(logs["position"], logs["text"], strict=True)) == [(each, f"item {each}") for each in range(40)]


def test_running_the_cell_again_takes_its_own_executor(session: Session, calls: Calls) -> None:
    def again() -> rnb.Job[Any]:
        return submit(session, partial(where, calls, 0.02), range(200), name="its own", concurrency=2)

    job = again()
    eventually(lambda: job.counts["ok"] >= 4)
    job.executor = "process"
    eventually(lambda: processes(calls) - {HERE})
    assert again() is job
    assert job.executor == "auto"
    assert job.values()[-1] == HERE
    assert times_each(calls) == dict.fromkeys(range(200), 1)


def test_what_the_function_changes_in_threads_that_it_came_to_makes_no_other_job(session: Session) -> None:
    seen: list[int] = []

    def work(item: int) -> int:
        seen.append(item)
        time.sleep(0.02)
        return item

    job = submit(session, work, range(100), executor="process", concurrency=2)
    eventually(lambda: job.counts["ok"] >= 4)
    assert not seen
    job.executor = "thread"
    job.result(30)
    assert seen
    assert submit(session, work, range(100), executor="process").name == job.name


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("processes", r'"thread" or "process", not \'processes\'. Did you mean "process"\?'),
        ("Threads", r'not \'Threads\'. Did you mean "thread"\?'),
        ("gpu", r"not 'gpu'\.$"),
        (4, r"not 4\.$"),
        (None, r"not None\.$"),
        ("process", "cannot be sent to a process.*inside the function"),
    ],
)
def test_what_cannot_be_is_refused_and_the_job_goes_on_as_it_was(session: Session, value: Any, says: str) -> None:
    def holds_a_lock(item: int, lock: Any = threading.Lock()) -> int:  # noqa: B008
        time.sleep(0.01)
        return os.getpid()

    job = submit(session, holds_a_lock, range(60), name=f"refused {value}", concurrency=7)
    with pytest.raises(rnb.InvalidInput, match=f"(?s){says}"):
        job.executor = value
    assert (job.executor, job.concurrency) == ("auto", 7)
    assert set(job.values()) == {HERE}


async def durable(ctx: restate.Context, item: int) -> int:
    await asyncio.sleep(0)
    return item


@pytest.mark.parametrize("value", ["process", "thread"])
def test_a_durable_function_has_no_executor_to_set(session: Session, value: Any) -> None:
    job = submit(session, durable, [1], name=f"durable {value}")
    with pytest.raises(rnb.InvalidInput, match=r"durable is a durable function.*takes no executor"):
        job.executor = value
    assert job.executor == "auto"
    assert job.values() == [1]


def test_a_job_whose_function_is_not_known_here_says_so(tmp_path: Path) -> None:
    def of_a_cell(item: int) -> int:
        time.sleep(0.02)
        return item

    with Session("unknown", tmp_path / ".restate") as session:
        submit(session, of_a_cell, range(200), name="unknown", concurrency=1)
    with Session("unknown", tmp_path / ".restate") as session:
        job = session.job("unknown")
        with pytest.raises(rnb.InvalidInput, match="of_a_cell is not known here: run the cell that maps it first"):
            job.executor = "process"
        job.cancel()
