"""Proves that threads are used again and end when they are idle, and that none that hangs holds up the interpreter."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from restate_nb.engine.threads import DaemonExecutor, NoThread, Threads
from tests.support import eventually, run_python


def named(name: str) -> int:
    return sum(each.name.startswith(name) for each in threading.enumerate())


def run(threads: Threads, job: object) -> Future[None]:
    done: Future[None] = Future()
    threads.run("rnb-of-test", job, lambda: done.set_result(None))  # type: ignore[arg-type]
    return done


def test_one_job_after_the_other_needs_one_thread() -> None:
    threads = Threads()
    for _ in range(50):
        run(threads, lambda: None).result(5)
    assert named("rnb-of-test") == 1
    threads.close()
    eventually(lambda: named("rnb-of-test") == 0)


def test_threads_that_are_idle_end_and_later_jobs_find_new_ones() -> None:
    threads = Threads(idle=0.05)
    for _ in range(3):
        barrier = threading.Barrier(21)
        jobs = [run(threads, barrier.wait) for _ in range(20)]
        barrier.wait(5)
        for each in jobs:
            each.result(5)
        eventually(lambda: named("rnb-of-test") == 0)
    threads.close()


def test_no_job_is_lost_while_threads_end_by_themselves() -> None:
    threads = Threads(idle=0.001)
    for number in range(300):
        run(threads, lambda: None).result(5)
        time.sleep(0.001 * (number % 3) / 2)
    threads.close()


def test_an_idle_thread_keeps_nothing_of_its_last_job() -> None:
    class Thing:
        pass

    threads = Threads()
    for _ in range(2):
        thing = Thing()
        gone = weakref.ref(thing)
        run(threads, lambda thing=thing: None).result(5)
        del thing
        eventually(lambda gone=gone: gone() is None)
    threads.close()


def test_a_thread_that_the_machine_does_not_give_is_told_of_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(NoThread):
            threads.run("rnb-of-test", lambda: None, lambda: None)
    run(threads, lambda: None).result(5)
    threads.close()
    with pytest.raises(RuntimeError, match="closed"):
        threads.run("rnb-of-test", lambda: None, lambda: None)


def test_the_executor_gives_values_and_errors_in_as_many_threads_as_it_may() -> None:
    executor = DaemonExecutor(3)
    assert isinstance(executor, ThreadPoolExecutor), "asyncio takes no other"
    lock, counts = threading.Lock(), [0, 0]

    def work(item: int) -> int:
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        time.sleep(0.005)
        with lock:
            counts[0] -= 1
        if item == 7:
            raise SystemExit(1)
        return item

    futures = [executor.submit(work, item) for item in range(12)]
    assert [each.result(5) for at, each in enumerate(futures) if at != 7] == [*range(7), *range(8, 12)]
    assert isinstance(futures[7].exception(5), SystemExit)
    assert counts == [0, 3]
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(work, 1)


def test_an_executor_that_is_shut_down_cancels_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = DaemonExecutor(1)
    release = threading.Event()
    first, second = executor.submit(release.wait, 5), executor.submit(print)
    executor.shutdown(wait=True)
    assert second.cancelled()
    release.set()
    assert first.result(5)


def test_a_thread_that_hangs_holds_up_no_interpreter_that_ends() -> None:
    script = """
        import asyncio, time
        from restate_nb.engine.loop_thread import LoopThread
        loop = LoopThread("rnb-test")
        loop.start(asyncio.to_thread(time.sleep, 60))
        time.sleep(0.1)
    """
    run_python(script, timeout=20)
