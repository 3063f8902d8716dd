"""Proves `batch`: a batch begins when all of the one before has ended and the pause has passed, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from restate import Context

import restate_nb as rnb
from restate_nb.handle.job import runner_of
from restate_nb.server.lifecycle import server_status
from restate_nb.session.session import Session
from tests.support import eventually


def submit(session: Session, fn: Any, items: Any, **options: Any) -> rnb.Job[Any]:
    return rnb.batch(fn, items, session=session, show=False, **options)


class Spy:
    """Notes when each item began and ended, and how many ran at once."""

    def __init__(self, seconds: float = 0.02, fails: frozenset[int] = frozenset()) -> None:
        self.seconds, self.fails = seconds, fails
        self.began: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.calls = Counter[int]()
        self.now = self.peak = 0

    async def __call__(self, item: int) -> int:
        self.calls[item] += 1
        self.began[item] = time.time()
        self.now += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        self.ended[item] = time.time()
        if item in self.fails:
            raise ValueError(f"bad item {item}")
        return item * 2

    def check(self, batches: list[list[int]], pause: float) -> None:
        """Each batch began a pause after all of the one before had ended."""
        for before, after in zip(batches, batches[1:], strict=False):
            assert min(map(self.began.__getitem__, after)) >= max(map(self.ended.__getitem__, before)) + pause - 0.01


def test_batches_follow_one_another_with_a_pause_between(any_session: Session) -> None:
    spy = Spy(fails=frozenset({4}))
    job = submit(any_session, spy, range(8), batch_size=3, pause=0.3, name="paused")
    frame = job.result(30)
    assert frame["value"].dropna().tolist() == [0, 2, 4, 6, 10, 12, 14]
    assert frame["status"].tolist() == ["ok"] * 4 + ["error"] + ["ok"] * 3
    spy.check([[0, 1, 2], [3, 4, 5], [6, 7]], 0.3)
    assert spy.peak == 3, "the items of a batch run at once"
    assert spy.calls == dict.fromkeys(range(8), 1)
    again = submit(any_session, spy, range(8), batch_size=3, pause=9, name="paused")
    assert again.result(10)["status"].tolist() == frame["status"].tolist()
    assert again.attached == 8


def test_a_pause_is_counted_from_the_end_of_the_last_of_a_batch(session: Session) -> None:
    began: list[tuple[int, float]] = []
    ended: list[float] = []

    async def work(item: int) -> None:
        began.append((item, time.time()))
        await asyncio.sleep(0.6 if item == 0 else 0.01)
        ended.append(time.time())

    job = submit(session, work, range(4), batch_size=2, pause=0.4, name="from the last")
    job.result(20)
    assert began[2][0] == 2
    assert began[2][1] >= max(ended[:2]) + 0.39


def test_a_round_is_known_to_be_submitted_when_its_last_batch_is(session: Session) -> None:
    job = submit(session, Spy(), range(6), batch_size=2, pause=600, name="told")
    eventually(lambda: job.progress().note)
    assert not runner_of(job).data.manifest.rounds[0].submitted, "two batches are still to come"
    submit(session, Spy(), range(6), batch_size=2, pause=0, name="told").result(20)
    assert runner_of(job).data.manifest.rounds[0].submitted
    assert runner_of(job).batches is not None and (runner_of(job).batches.number, runner_of(job).batches.count) == (
        3,
        3,
    )


def test_concurrency_holds_within_a_batch(any_session: Session) -> None:
    spy = Spy()
    submit(any_session, spy, range(12), batch_size=6, concurrency=2).values()
    assert spy.peak == 2
    spy.check([list(range(6)), list(range(6, 12))], 0)


def test_a_batch_that_is_larger_than_a_shard_is_several(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restate_nb.backends.local.MAX_SHARD_ITEMS", 4)
    spy = Spy(0.001)
    job = submit(session, spy, range(25), batch_size=10, name="shards")
    assert job.values() == [item * 2 for item in range(25)]
    spy.check([list(range(10)), list(range(10, 20)), list(range(20, 25))], 0)
    session.forget_handles()  # another handle has to find every shard
    session.connection.runs.forget("shards", 1)
    again = submit(session, spy, range(25), batch_size=10, name="shards")
    assert again.result(20)["value"].tolist() == [item * 2 for item in range(25)]
    assert spy.calls == dict.fromkeys(range(25), 1)
    session.forget_handles()
    assert session.job("shards").result(20)["item"].tolist() == list(range(25))


def test_other_batches_are_another_job_and_another_pause_is_not(session: Session) -> None:
    def same(item: int) -> int:
        return item

    first = submit(session, same, range(4), batch_size=2, name="cut")
    first.result(10)
    assert submit(session, same, range(4), batch_size=2, pause=60, name="cut") is first
    with pytest.raises(rnb.JobMismatch, match="in other batches"):
        submit(session, same, range(4), batch_size=3, name="cut")
    with pytest.raises(rnb.JobMismatch):
        rnb.map(same, range(4), name="cut", session=session, show=False)
    one, other = (submit(session, same, range(4), batch_size=size) for size in (2, 3))
    assert one.name != other.name
    assert one.values() == other.values()


def test_the_panel_says_until_when_the_job_pauses_and_the_pause_can_be_changed(session: Session) -> None:
    spy = Spy()
    job = submit(session, spy, range(6), batch_size=2, pause=600, name="long pause")
    eventually(lambda: job.progress().note)
    assert re.fullmatch(r"pausing until \d\d:\d\d:\d\d, before batch 2 of 3", job.progress().note)
    assert job.status == "running"
    submit(session, spy, range(6), batch_size=2, pause=0, name="long pause")
    assert job.result(10)["status"].eq("ok").all()
    assert job.progress().note == ""


def test_the_time_that_is_left_includes_the_pauses_to_come(session: Session) -> None:
    async def work(item: int) -> None:
        await asyncio.sleep(0.02 + item / 10)  # one by one, or there is no rate to tell

    job = submit(session, work, range(6), batch_size=2, pause=600)
    eventually(lambda: job.progress().note)
    eta = job.progress().eta
    assert eta is not None
    assert 1195 < eta < 1205
    job.cancel()


def test_cancel_in_a_pause_ends_the_job_at_once_and_keeps_what_is_done(any_session: Session) -> None:
    spy = Spy()
    job = submit(any_session, spy, range(300), batch_size=2, pause=600, name="cancelled")
    eventually(lambda: job.progress().note)
    job.cancel()
    assert job.status == "cancelled"
    assert job.counts == {"pending": 0, "running": 0, "ok": 2, "error": 0, "timeout": 0, "cancelled": 298}
    assert sorted(spy.calls) == [0, 1]
    job.retry_failed(lambda failed: failed["item"] < 4)
    assert job.result(20)["status"].tolist()[:5] == ["ok"] * 4 + ["cancelled"]


def test_a_job_that_is_paused_can_be_cancelled_between_batches(session: Session) -> None:
    spy = Spy()
    job = submit(session, spy, range(6), batch_size=2, pause=600, name="held and cancelled")
    eventually(lambda: job.progress().note)
    job.pause()
    job.cancel()
    assert (job.counts["ok"], job.counts["cancelled"]) == (2, 4)
    assert sorted(spy.calls) == [0, 1]


def test_a_job_that_is_paused_in_a_pause_starts_no_batch(session: Session) -> None:
    spy = Spy()
    job = submit(session, spy, range(4), batch_size=2, pause=0.3, name="held")
    eventually(lambda: job.progress().note)
    job.pause()
    time.sleep(0.6)
    assert sorted(spy.calls) == [0, 1]
    assert job.status == "paused"
    job.resume()
    assert job.values() == [0, 2, 4, 6]


def test_fail_fast_begins_no_further_batch(any_session: Session) -> None:
    spy = Spy(fails=frozenset({1}))
    job = submit(any_session, spy, range(9), batch_size=3, pause=600, fail_fast=True, name="given up")
    with pytest.raises(rnb.JobError, match="bad item 1"):
        job.result(20)
    assert sorted(spy.calls) == [0, 1, 2]
    assert job.counts["cancelled"] == 6
    any_session.forget_handles()
    any_session.connection.runs.forget("given up", 1)
    again = submit(any_session, spy, range(9), batch_size=3, pause=600, fail_fast=True, name="given up")
    with pytest.raises(rnb.JobError, match="bad item 1"):
        again.result(20)
    assert sorted(spy.calls) == [0, 1, 2]


def test_failures_that_are_recorded_count_when_fail_fast_is_asked_for_in_a_pause(session: Session) -> None:
    spy = Spy(fails=frozenset({1}))
    job = submit(session, spy, range(6), batch_size=2, pause=600, name="given up later")
    eventually(lambda: job.progress().note)
    with pytest.raises(rnb.JobError, match="bad item 1"):
        submit(session, spy, range(6), batch_size=2, pause=600, fail_fast=True, name="given up later").result(20)
    assert sorted(spy.calls) == [0, 1]
    assert job.counts["cancelled"] == 4


def test_a_further_round_is_cut_into_batches_too(session: Session) -> None:
    fails = Spy(fails=frozenset(range(1, 10, 2)))
    submit(session, fails, range(10), batch_size=4, name="rounds").result(10)
    spy = Spy()
    job = submit(session, spy, range(10), batch_size=2, pause=0.2, name="rounds-2")
    job.result(10)
    with pytest.warns(rnb.OlderResults, match="`Spy\\(\\).fails` has changed since"):
        job = submit(session, spy, range(10), batch_size=4, pause=0.2, name="rounds")
    spy.calls.clear()
    job.retry_failed()
    assert job.values() == [item * 2 for item in range(10)]
    assert spy.calls == dict.fromkeys([1, 3, 5, 7, 9], 1)
    spy.check([[1, 3, 5, 7], [9]], 0.2)


def test_durable_functions_run_in_batches(any_session: Session) -> None:
    began: dict[int, float] = {}
    ended: dict[int, float] = {}

    async def step(ctx: Context, item: int) -> int:
        def note() -> int:
            began[item] = time.time()
            return item

        value = await ctx.run_typed("note", note)
        ended[item] = time.time()
        return value * 2

    job = submit(any_session, step, range(6), batch_size=2, pause=0.2, name="durable batches")
    assert job.values() == [item * 2 for item in range(6)]
    for before, after in (((0, 1), (2, 3)), ((2, 3), (4, 5))):
        assert min(began[item] for item in after) >= max(began[item] for item in before) + 0.19
    assert submit(any_session, step, range(6), batch_size=2, name="durable batches").attached == 6


def test_no_items_are_no_batches(session: Session) -> None:
    assert submit(session, Spy(), [], batch_size=3, pause=5).result(10).empty


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 2.5}, {"batch_size": 2, "pause": -1}])
def test_what_is_no_batch_is_refused(session: Session, options: Any) -> None:
    with pytest.raises(rnb.InvalidInput, match=r"batch_size|pause"):
        submit(session, Spy(), [1], **options)


# ---------------------------------------------------------------- kills

PAUSE = 3.0

NOTEBOOK = """
import asyncio, os, sys, time
from pathlib import Path
import restate_nb as rnb

folder = Path(sys.argv[1])
runs = os.open(folder / "runs", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

async def work(item):
    os.write(runs, b"%d %d %f\\n" % (item, os.getpid(), time.time()))
    await asyncio.sleep(1 if item % 2 else 0.05)
    return item * item

with rnb.start("batches", data_dir=folder / ".restate"):
    job = rnb.batch(work, range(6), batch_size=2, pause=float(sys.argv[2]), show=False)
    print("submitted", flush=True)
    frame = job.result(60)
    print(frame["value"].tolist(), *(when.timestamp() for when in frame["finished_at"]), flush=True)
"""


class Kernel:
    """One run of the notebook in a process of its own."""

    def __init__(self, folder: Path, pause: float = PAUSE) -> None:
        self.folder = folder
        (folder / "notebook.py").write_text(NOTEBOOK)
        self.process = subprocess.Popen(
            [sys.executable, folder / "notebook.py", folder, str(pause)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline()) != "submitted\n":  # start() may tell of unfinished jobs first
            assert line, "the notebook ended early"

    def runs(self) -> list[tuple[int, float]]:
        """(item, when) in order."""
        path = self.folder / "runs"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), float(line.split()[2])) for line in lines]

    def wait_for_runs(self, count: int) -> None:
        eventually(lambda: len(self.runs()) >= count)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> list[float]:
        """Let it end, and return when each item ended."""
        out, _ = self.process.communicate(timeout=90)
        assert self.process.returncode == 0
        values, _, ends = out.rstrip().partition("] ")
        assert values == "[0, 1, 4, 9, 16, 25"
        return [float(each) for each in ends.split()]

    def kill_server(self) -> None:
        status = server_status(self.folder / ".restate")
        assert status is not None and status.pid is not None
        os.kill(status.pid, signal.SIGKILL)


def began(runs: list[tuple[int, float]], item: int) -> float:
    return max(when for each, when in runs if each == item)


def check_pauses(kernel: Kernel, ends: list[float], pause: float = PAUSE) -> list[float]:
    """What passed between batches, in seconds."""
    runs = kernel.runs()
    waits = [min(began(runs, n), began(runs, n + 1)) - max(ends[n - 2], ends[n - 1]) for n in (2, 4)]
    assert min(waits) >= pause - 0.01, waits
    return waits


def test_a_kernel_that_is_killed_in_a_pause_waits_only_for_what_remains(tmp_path: Path) -> None:
    first = Kernel(tmp_path)
    first.wait_for_runs(2)
    time.sleep(1.8)
    first.kill()
    second = Kernel(tmp_path)
    attached = time.time()
    ends = second.finish()
    assert Counter(item for item, _ in second.runs()) == dict.fromkeys(range(6), 1)
    waits = check_pauses(second, ends)
    assert began(second.runs(), 2) < attached + PAUSE - 0.5, "the pause began anew"
    print(f"pauses of {waits} s")


def test_a_kernel_that_is_killed_within_a_batch_ends_that_batch_first(tmp_path: Path) -> None:
    first = Kernel(tmp_path, 0.5)
    first.wait_for_runs(4)
    time.sleep(0.4)  # the short item of the batch is recorded, the long one runs
    first.kill()
    second = Kernel(tmp_path, 0.5)
    ends = second.finish()
    counts = Counter(item for item, _ in second.runs())
    assert {item for item, count in counts.items() if count > 1} <= {2, 3}
    assert counts[3] == 2
    check_pauses(second, ends, 0.5)


@pytest.mark.parametrize("when", ["in a batch", "in a pause"])
def test_a_server_that_is_killed_makes_nothing_run_twice_and_no_pause_shorter(tmp_path: Path, when: str) -> None:
    kernel = Kernel(tmp_path, 1.0)
    kernel.wait_for_runs(2)
    time.sleep(0.4 if when == "in a batch" else 1.4)
    kernel.kill_server()
    ends = kernel.finish()
    assert Counter(item for item, _ in kernel.runs()) == dict.fromkeys(range(6), 1)
    check_pauses(kernel, ends, 1.0)


def test_kernel_and_server_that_are_killed_in_a_pause_lose_nothing(tmp_path: Path) -> None:
    first = Kernel(tmp_path, 1.5)
    first.wait_for_runs(2)
    time.sleep(1.5)
    first.kill_server()
    first.kill()
    second = Kernel(tmp_path, 1.5)
    ends = second.finish()
    assert Counter(item for item, _ in second.runs()) == dict.fromkeys(range(6), 1)
    check_pauses(second, ends, 1.5)
