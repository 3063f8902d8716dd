"""Proves that `stop()` and the end of the interpreter take seconds whatever the items do, also when the server does not
answer any more, and leave no process behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.support import run_python

BOUND = 5.0  # seconds that stop() takes at most


@pytest.fixture(scope="module", autouse=True)
def blocked_loops_leave() -> Iterator[None]:
    """A loop that is blocked cannot close its connections, and leaves them to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: list[int], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(runs, pids))


class Hold:
    """Functions that hang until they are let go."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def plain(self, _: Any) -> None:
        self.begun.set()
        self.let_go.wait(60)

    async def blocks(self, _: Any) -> None:
        self.plain(_)

    async def in_thread(self, _: Any) -> None:
        await asyncio.to_thread(self.plain, _)

    async def durable(self, ctx: Any, _: Any) -> None:
        self.plain(_)


def sleeps(_: Any) -> None:
    time.sleep(60)


def nothing(_: int) -> None:
    """Leave the server alone."""


def stopped_server(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def children_but(others: Collection[int]) -> list[int]:
    """The processes that are below this one, but for those of other tests."""
    return [each.pid for each in psutil.Process().children(recursive=True) if each.pid not in others]


@pytest.mark.parametrize(
    ("how", "to_server"),
    [
        ("blocks", nothing),
        ("plain", nothing),
        ("in_thread", nothing),
        ("durable", nothing),
        ("process", nothing),
        ("plain", stopped_server),
        ("blocks", stopped_server),
    ],
)
def test_stop_takes_seconds_and_leaves_nothing(data_dir: Path, how: str, to_server: Callable[[int], None]) -> None:
    hold = Hold()
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    session = Session("stopping", data_dir)
    status = session.server.status()
    assert status.pid is not None
    if how == "process":
        job = rnb.map(sleeps, range(2), session=session, show=False, executor="process")
        while job.counts["running"] < 2 or len(children_but(before)) < 2:
            time.sleep(0.02)
    else:
        job = rnb.map(getattr(hold, how), range(2), session=session, show=False)
        assert hold.begun.wait(20)
    children = children_but(before)
    waited: list[BaseException] = []

    def wait() -> None:
        try:
            job.result()
        except BaseException as error:
            waited.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    to_server(status.pid)
    began = time.monotonic()
    session.stop()
    took = time.monotonic() - began
    try:
        assert took < BOUND
        assert not session.live
        assert all_gone([status.pid, status.supervisor_pid, *children])
        waiting.join(5)
        assert [type(each) for each in waited] == [rnb.JobError], (
            "who waits for a job is told that it is followed no more"
        )
    finally:
        hold.let_go.set()
    with Session("next", data_dir) as again:  # nothing holds the data directory
        assert rnb.map(abs, [-1], session=again, show=False).values() == [1]


def test_stop_is_quick_where_server_and_supervisor_are_gone(data_dir: Path) -> None:
    session = Session("stopping", data_dir)
    rnb.map(abs, [-1], session=session, show=False).result()
    status = session.server.status()
    assert status.pid is not None
    os.kill(status.supervisor_pid, signal.SIGKILL)
    os.kill(status.pid, signal.SIGKILL)
    assert all_gone([status.pid, status.supervisor_pid])
    began = time.monotonic()
    session.stop()
    assert time.monotonic() - began < BOUND


def test_each_stage_of_stop_runs_though_those_before_failed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session("stopping", data_dir)
    status = session.server.status()

    def fails() -> None:
        raise RuntimeError("a defect")

    for stage in ("_end_items", "_end_following"):
        whole = getattr(session, stage)
        monkeypatch.setattr(session, stage, lambda whole=whole: (whole(), fails()))
    session.stop()
    assert [each.getMessage().count("a defect") for each in caplog.records if "stopped" in each.getMessage()] == [1, 1]
    assert status.pid is not None
    assert all_gone([status.pid, status.supervisor_pid])
    session.stop()


def test_the_interpreter_ends_in_seconds_though_a_loop_is_blocked_and_threads_hang(tmp_path: Path) -> None:
    script = """
        import asyncio, time
        import restate_nb as rnb
        session = rnb.start("ending", data_dir=".restate")
        async def in_thread(item): await asyncio.to_thread(time.sleep, 60)
        async def blocks(item): time.sleep(60)
        def hangs(item): time.sleep(60)
        jobs = [rnb.map(fn, [1], show=False) for fn in (in_thread, hangs)]
        while not all(job.counts["running"] for job in jobs): time.sleep(0.02)
        job = rnb.map(blocks, [1], show=False)
        while not job.counts["running"]: time.sleep(0.02)
        status = session.server.status()
        print(status.pid, status.supervisor_pid, time.time(), flush=True)
    """
    ended = run_python(script, cwd=tmp_path, timeout=50)
    *pids, at = ended.stdout.split()
    assert time.time() - float(at) < 2 * BOUND  # and the interpreter's own end
    assert all_gone([int(each) for each in pids])
    assert "blocks the loop" in ended.stderr
    assert "in blocks" in ended.stderr, "and it is told where"
