"""Proves that a session of many jobs is flat: threads, descriptors, handles, functions and memory do not grow with the
jobs that have ended. The long form, 500 jobs: `pytest -m soak tests/durability`."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import psutil
import pytest

import restate_nb as rnb
from restate_nb.engine import threads
from restate_nb.session.registry import _ENDED_KEPT
from restate_nb.session.session import Session

ME = psutil.Process()
ITEMS = 20


async def awaited(item: int) -> str:
    return "v" * 200


def plain(item: int) -> int:
    time.sleep(0.001)
    return item


async def fails(item: int) -> None:
    raise ValueError(f"item {item}")


def prints(item: int) -> None:
    print(".", end="")


async def durable(ctx: Any, item: int) -> int:
    return item


KINDS = awaited, plain, fails, prints, durable


def run(session: Session, numbers: range) -> None:
    for number in numbers:
        fn = KINDS[number % len(KINDS)]
        count = 3 if fn is durable else ITEMS
        again = number % 7 == 0  # under a name that is used again and again
        name = f"again {fn.__name__}" if again else f"job {number}"
        job = rnb.map(fn, range(count), session=session, show=False, name=name, fresh=again, concurrency=20)
        assert job.wait(30)
        assert job.counts["error" if fn is fails else "ok"] == count


def kept(session: Session) -> dict[str, int]:
    """What a session holds, and what this process does."""
    gc.collect()
    return {
        "threads": sum(each.name.startswith("rnb") for each in threading.enumerate()),
        "descriptors": ME.num_fds(),
        "handles": len(session.jobs),
        "runs": len(session.connection.runs),
        "functions": len(session.connection.functions),
        "kB": tracemalloc.get_traced_memory()[0] // 1024,
    }


def many(data_dir: Path, jobs: int, growth_kb: int) -> None:
    with Session("many", data_dir) as session:
        tracemalloc.start()
        run(session, range(_ENDED_KEPT + 5))  # until what is kept of jobs that have ended is as much as it ever is
        before = kept(session)
        run(session, range(100, 100 + jobs))
        after = kept(session)
        tracemalloc.stop()
        print(f"{jobs} jobs: {before} -> {after}")
        assert after["kB"] - before["kB"] < growth_kb
        assert after["threads"] <= 20 + 5, "as many as run at once, and those of the session"
        assert after["descriptors"] <= before["descriptors"] + 5
        begun_afresh = jobs // 7  # an older generation that nobody holds may still have something to be cancelled
        for what, most in (
            ("handles", _ENDED_KEPT + 8),
            ("runs", _ENDED_KEPT + 8 + begun_afresh),
            ("functions", _ENDED_KEPT + 8),
        ):
            assert after[what] <= most, what
        deadline = time.monotonic() + threads.IDLE + 5
        while any(each.name.startswith("rnb-job") for each in threading.enumerate()):
            assert time.monotonic() < deadline, "threads of jobs that have ended live on"
            time.sleep(0.05)


def test_40_jobs_leave_nothing_in_the_session(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.Threads.__init__, "__defaults__", (0.3,))
    many(data_dir, 40, growth_kb=400)


@pytest.mark.soak
def test_500_jobs_leave_nothing_in_the_session(data_dir: Path) -> None:
    many(data_dir, 500, growth_kb=600)


def test_a_handle_that_somebody_holds_stays_and_goes_on(data_dir: Path) -> None:
    let: list[bool] = []

    def flaky(item: int) -> int:
        if not let:
            raise ValueError(f"item {item}")
        return item

    with Session("held", data_dir) as session:
        job = rnb.map(flaky, range(3), session=session, show=False, name="held")
        job.wait(20)
        for number in range(_ENDED_KEPT + 5):
            rnb.map(abs, [-number], session=session, show=False, name=f"other {number}").result(20)
        gc.collect()
        assert session.job("held") is job
        assert job in session.jobs
        assert "other 0" not in [each.name for each in session.jobs]
        let.append(True)
        assert job.retry_failed().result(20)["value"].tolist() == [0, 1, 2]
        assert session.job("other 0").result(20)["value"].tolist() == [0], "it is read back from Restate"
        again = rnb.map(abs, [-1], session=session, show=False, name="other 1")
        assert (again.values(), again.attached) == ([1], 1)
