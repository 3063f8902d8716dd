"""Proves that a fork of a session's process is told at once that the session is its parent's, ends in the ordinary way,
and neither harms the parent nor stands in the way of who comes after it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.support import run_python, start_python

_SECONDS = 10.0  # in which a child has to end


@pytest.fixture(autouse=True)
def forks_are_meant() -> Iterator[None]:
    """Python 3.12 and later warn of forks of processes with threads, which is what this is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def ended(pid: int) -> int:
    """The exit code of a child."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def in_child(do: Callable[[], object]) -> tuple[int, str]:
    """Do something in a fork; its exit code, and what it said."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            said = repr(do())
        except BaseException as error:
            code, said = 3, f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(code)
    os.close(writer)
    try:
        return ended(pid), os.read(reader, 100_000).decode()
    finally:
        os.close(reader)


def test_what_needs_the_session_is_refused_in_a_child(session: Session) -> None:
    finished = rnb.map(abs, [-1], session=session, show=False)
    assert finished.values() == [1]
    running = rnb.map(time.sleep, [2], session=session, show=False, name="goes on")
    refused: list[Callable[[], object]] = [
        lambda: rnb.map(abs, [-2], session=session, show=False),
        lambda: rnb.jobs(session),
        lambda: session.job("goes on"),
        lambda: running.result(),
        lambda: running.done(),  # asked over and over it would never say yes
        lambda: running.counts,
        lambda: running.frame(),
        lambda: running.attempts(),
        lambda: running.errors(),
        lambda: running.cancel(),
        lambda: running.pause(),
        lambda: list(rnb.as_completed(running)),
    ]
    for each in refused:
        code, said = in_child(each)
        assert (code, said[:40]) == (3, "InvalidInput: This process was forked fr"), said
    assert not running.done()
    assert in_child(finished.values) == (0, "[1]")
    assert in_child(lambda: (finished.done(), len(finished.frame()), finished.failed)) == (0, "(True, 1, 0)")
    assert in_child(lambda: session.live) == (0, "False")
    assert in_child(session.stop) == (0, "None")
    assert running.result(20)["status"].tolist() == ["ok"]
    assert rnb.map(abs, [-3], session=session, show=False).values() == [3]


def test_a_child_ends_in_the_ordinary_way_and_may_have_a_session_of_its_own(tmp_path: Path) -> None:
    script = f"""
        import multiprocessing, os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import restate_nb as rnb

        session = rnb.start("parent", data_dir={str(tmp_path / "parent")!r})
        rnb.map(abs, [1], show=False).result()
        pid = os.fork()
        if pid == 0:
            sys.exit(0)  # atexit and all
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

        def work():
            child = rnb.start("child", data_dir={str(tmp_path / "child")!r})
            print(rnb.map(abs, [-2], show=False).values(), flush=True)
            child.stop()

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        print(child.exitcode, rnb.map(abs, [-3], show=False).values())
    """
    done = run_python(script)
    assert done.stdout.splitlines() == ["0", "[2]", "0 [3]"], done.stderr


def test_items_may_use_a_pool_of_forks(session: Session) -> None:
    def work(item: int) -> list[int]:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.map(abs, [-item])

    assert rnb.map(work, range(3), session=session, show=False).values() == [[0], [1], [2]]


def test_a_child_that_outlives_its_parent_keeps_nobody_from_taking_over(data_dir: Path) -> None:
    """Its copies of connections would have Restate wait for an answer of the dead."""
    script = f"""
        import os, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from pathlib import Path
        import restate_nb as rnb
        from restate_nb.session.session import Session

        session = Session("outlived", Path({str(data_dir)!r}))
        job = rnb.map(time.sleep, [0.3] * 12, name="job", concurrency=2, session=session, show=False)
        while job.counts["running"] < 2:
            time.sleep(0.01)
        if os.fork() == 0:
            print(os.getpid(), flush=True)
        time.sleep(60)
    """
    with Session("outlived", data_dir) as session, start_python(script) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.kill()
            job = rnb.map(time.sleep, [0.3] * 12, name="job", concurrency=2, session=session, show=False)
            assert job.result(20)["status"].tolist() == ["ok"] * 12
            os.kill(child, 0)  # it is there
        finally:
            os.kill(child, signal.SIGKILL)
