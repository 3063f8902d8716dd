"""Proves that a session's loops can be left by Ctrl-C, and that a cell can wait where its own loop runs already."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

import restate_nb as rnb
from restate_nb.engine.loop_thread import LoopThread
from restate_nb.engine.waiting import until_done


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread("loop of a test")
    yield thread
    thread.close()
    thread.close()  # once more is no harm


def test_ctrl_c_ends_the_waiting_and_the_coroutine(thread: LoopThread) -> None:
    ended = threading.Event()

    async def waits() -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        thread.run(waits())
    assert ended.wait(10), "the coroutine goes on though nobody waits"
    assert thread.run(asyncio.sleep(0, result=3)) == 3


def test_what_runs_is_cancelled_at_the_end() -> None:
    thread, ended = LoopThread("loop of a test"), threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    future = thread.start(waits())
    assert thread.run(asyncio.sleep(0.01, result=1)) == 1
    thread.close()
    assert ended.is_set() and future.cancelled()
    assert thread.loop.is_closed()


async def test_cancelling_the_waiting_cell_leaves_the_future_alone(thread: LoopThread) -> None:
    future = thread.start(asyncio.sleep(0.3, result="done"))
    waiting = asyncio.create_task(until_done(future))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not future.cancelled()
    assert await until_done(future) == "done"


def test_who_waits_for_a_loop_that_has_died_is_told_so() -> None:
    thread = LoopThread("loop of a test")
    waiting = thread.start(asyncio.sleep(60))

    turns = iter(range(100))  # then it is given up

    def broken() -> None:
        if next(turns, None) is None:
            del thread.loop._run_once  # type: ignore[attr-defined]
            return
        raise OSError("the selector was closed")

    def breaks() -> None:
        thread.loop._run_once = broken  # type: ignore[attr-defined]

    thread.loop.call_soon_threadsafe(breaks)
    with pytest.raises(rnb.ServerError, match="event loop has ended"):
        waiting.result(10)
    with pytest.raises(rnb.ServerError, match="event loop has ended"):
        thread.run(asyncio.sleep(0))
    assert thread.close()


def test_a_loop_never_waits_for_itself(thread: LoopThread) -> None:
    async def waits() -> None:
        thread.run(asyncio.sleep(0))

    with pytest.raises(rnb.InvalidInput, match="on that loop itself"):
        thread.run(waits())


def test_where_the_machine_gives_no_thread_no_loop_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(rnb.ServerError, match="no more threads"):
        LoopThread("loop of a test")
