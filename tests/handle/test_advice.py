"""Proves that a job whose items compute, one at a time, says what processes would bring; and that no other one does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.backends import pooled
from restate_nb.engine.function import Function
from restate_nb.engine.pool import Pool
from restate_nb.handle import advice
from restate_nb.panel import to_html, to_text
from restate_nb.session.session import Session
from tests.support import eventually, submit

CORES = 4


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes could use four processors."""
    for module in (pooled, advice):
        monkeypatch.setattr(module, "cpus", lambda: CORES)


@pytest.fixture
def computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The items of every pool keep the interpreter to themselves."""
    monkeypatch.setattr(Pool, "gil_bound", property(lambda _: True))


GATE = threading.Event()


@pytest.fixture(autouse=True)
def gate() -> Iterator[threading.Event]:
    GATE.clear()
    yield GATE
    GATE.set()


def work(item: int) -> int:
    if item >= 20:
        GATE.wait(20)
    time.sleep(0.01)
    return item


def running(session: Session, fn: Any = work, count: int = 100, **options: Any) -> rnb.Job[Any]:
    job = submit(session, fn, range(count), **options)
    eventually(lambda: job.counts["ok"] >= min(10, count // 2) or job.counts["error"])
    return job


@pytest.mark.usefixtures("computes")
def test_panel_text_and_diagnosis_say_what_processes_would_bring(session: Session) -> None:
    job = running(session, name="computes", concurrency=10)
    says = 'These items compute, one at a time: executor="process" would use all 4 cores (job.executor = "process" now)'
    now = job.progress()
    assert now.hint == says
    assert says in to_text(now)
    assert says.replace('"', "&quot;") in to_html(now)
    (reason,) = job.diagnose().reasons
    assert reason.startswith("These items compute, one at a time, since Python lets one thread compute")
    assert "In processes they use all 4 cores, up to 4 times as fast" in reason
    assert reason.endswith('job.executor = "process" moves what has not begun.')
    job.executor = "process"
    assert not job.progress().hint
    assert not job.diagnose().reasons
    GATE.set()
    job.cancel()


@pytest.mark.usefixtures("computes")
@pytest.mark.parametrize(
    ("left", "says"),
    [
        (100, "up to 4 times as fast, about 15 s left in place of 1 min 00 s: "),
        (3, "up to 3 times as fast, about 20 s left in place of 1 min 00 s: "),
        (1, ""),
    ],
)
def test_a_diagnosis_estimates_what_it_brings_from_what_is_left(left: int, says: str) -> None:
    gives, function = advice.ProcessAdvice(), Function(work)
    assert gives.hint(function, CORES)
    assert says in (reason := gives.reason(function, left, 60.0))
    assert bool(reason) is bool(says)


def test_what_comes_and_goes_is_said_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    gives, function = advice.ProcessAdvice(), Function(work)
    assert not gives.hint(function, 0)
    assert gives.hint(function, 2) == gives.hint(function, 0) != ""
    assert not gives.hint(function.with_executor("process"), 0), "but not of another executor"
    assert gives.hint(function, 2)
    monkeypatch.setattr(advice, "HELD_SECONDS", 0.05)
    time.sleep(0.1)
    assert not gives.hint(function, 0)


@pytest.mark.usefixtures("computes")
def test_what_keeps_the_function_from_processes_is_said(session: Session) -> None:
    lock = threading.Lock()

    def holds_a_lock(item: int) -> int:
        with lock:
            return work(item)

    job = running(session, holds_a_lock, name="a lock", concurrency=10)
    for said in (job.progress().hint, job.diagnose().reasons[0]):
        assert "holds_a_lock cannot be sent to a process: " in said
        assert "lock" in said and "open files, connections, locks and models inside the function" in said
        assert "job.executor =" not in said
    GATE.set()
    job.cancel()


@pytest.mark.usefixtures("computes")
def test_it_is_found_out_once_and_no_copy_of_what_the_function_uses_is_made(session: Session) -> None:
    pickled: list[int] = []

    class Large:
        def __init__(self) -> None:
            self.parts = [bytes([each]) * 1_000_000 for each in range(100)]

        def __reduce__(self) -> Any:
            pickled.append(1)
            return Large, (), None, map(self.note, range(100))

        def note(self, each: int) -> bytes:
            pickled.append(each)
            return self.parts[each]

    large = Large()

    def uses(item: int) -> int:
        return work(item) + len(large.parts)

    job = running(session, uses, name="large", concurrency=10)
    pickled.clear()
    assert job.progress().hint
    assert 1 < len(pickled) < 40, "its first megabytes"
    count = len(pickled)
    assert job.progress().hint and job.diagnose().reasons
    assert len(pickled) == count
    GATE.set()
    job.cancel()


@pytest.mark.usefixtures("computes")
@pytest.mark.parametrize(
    "options",
    [{"concurrency": 1}, {"executor": "process"}, {"count": 20}],
    ids=["one at a time is wanted", "in processes", "nothing is left to begin"],
)
def test_where_processes_would_change_nothing_nothing_is_said(session: Session, options: Any) -> None:
    if options.get("count"):
        job = submit(session, lambda item: GATE.wait(20), range(20), name="all begun", concurrency=20)
        eventually(lambda: job.counts["running"] == 20)
    else:
        job = running(session, name=f"nothing {options}", **options)
    assert not job.progress().hint
    assert not job.diagnose().reasons
    GATE.set()
    job.cancel()


@pytest.mark.usefixtures("computes")
def test_fewer_at_once_use_fewer_cores_and_a_paused_or_ended_job_says_nothing(session: Session) -> None:
    job = running(session, name="three", concurrency=3)
    assert 'executor="process" would use 3 cores (' in job.progress().hint
    job.pause()
    assert not job.progress().hint
    GATE.set()
    job.resume()
    job.result(30)
    assert not job.progress().hint
    assert job.diagnose().reasons == []


@pytest.mark.usefixtures("computes")
def test_of_items_that_are_over_at_once_nothing_is_said(session: Session) -> None:
    """To send one to a process costs more than it takes."""
    job = running(session, lambda item: item if item < 5_000 else GATE.wait(20), 10_000, name="tiny", concurrency=10)
    eventually(lambda: job.counts["ok"] >= 5_000)
    assert not job.progress().hint
    GATE.set()
    job.cancel()


def test_items_that_compute_are_seen(session: Session) -> None:
    """Nothing is told to the pool here: it sees by itself that the items keep the interpreter busy."""

    def computes(item: int) -> int:
        return sum(each * each for each in range(200_000))

    job = submit(session, computes, range(10_000), name="really computes")
    eventually(lambda: 'executor="process" would use' in job.progress().hint)
    job.executor = "process"
    before = job.counts["ok"]
    eventually(lambda: job.counts["ok"] > before + 20)
    assert not job.progress().hint
    job.cancel()


def test_items_that_wait_say_nothing(session: Session) -> None:
    job = running(session, name="waits", concurrency=10)
    assert not job.progress().hint
    GATE.set()
    job.result(30)
