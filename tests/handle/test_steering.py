"""Proves that a job can be steered while it runs and after: paused, retried in part, listed, deleted."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from restate import Context

import restate_nb as rnb
from restate_nb.handle.job import runner_of
from restate_nb.service.wire import Change, Round
from restate_nb.session.session import Session
from tests.support import eventually, submit


class Flaky:
    """Fails by kind until it is healed."""

    def __init__(self) -> None:
        self.healed = False
        self.calls: list[str] = []

    def __call__(self, item: str) -> str:
        self.calls.append(item)
        if not self.healed:
            if item.startswith("t"):
                raise TimeoutError("slow")
            if item.startswith("v"):
                raise ValueError(f"code {item[1:]}")
        return item.upper()


ITEMS = pd.Series(["t1", "t2", "v404", "v429", "x"], index=list("abcde"))


@pytest.mark.parametrize(
    ("where", "again"),
    [
        (None, ["t1", "t2", "v404", "v429"]),
        (TimeoutError, ["t1", "t2"]),
        ("ValueError", ["v404", "v429"]),
        ((TimeoutError, "ValueError"), ["t1", "t2", "v404", "v429"]),
        (lambda failed: failed["error"].str.contains("429"), ["v429"]),
        (["d", "a"], ["t1", "v429"]),
        (KeyError, []),
        ([], []),
    ],
    ids=["all", "a type", "a name", "several", "a predicate", "labels", "no such", "none"],
)
def test_exactly_the_chosen_items_run_again(session: Session, where: Any, again: list[str]) -> None:
    flaky = Flaky()
    job = submit(session, flaky, ITEMS, fresh=True, name="choose")
    assert job.result(20)["status"].tolist() == ["error"] * 4 + ["ok"]
    flaky.calls.clear()
    flaky.healed = True
    frame = job.retry_failed(where).result(20)
    assert sorted(flaky.calls) == again
    assert frame["status"].tolist() == ["ok" if item in [*again, "x"] else "error" for item in ITEMS]


@pytest.mark.parametrize(
    ("where", "says"),
    [(["e"], "'e' is not the index label of a failed item"), (lambda failed: [True], "one truth value a row")],
)
def test_a_choice_that_does_not_fit_is_refused(session: Session, where: Any, says: str) -> None:
    job = submit(session, Flaky(), ITEMS, fresh=True, name="refuse")
    job.result(20)
    with pytest.raises(rnb.InvalidInput, match=says):
        job.retry_failed(where)


@pytest.mark.parametrize("durable", [False, True])
def test_a_paused_job_starts_nothing_until_it_is_resumed(any_session: Session, durable: bool) -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.05)
        return item

    async def durable_work(ctx: Context, item: int) -> int:
        await ctx.run_typed("start", lambda: started.append(item))
        await ctx.sleep(timedelta(milliseconds=50))
        return item

    job = submit(any_session, durable_work if durable else work, range(40), concurrency=2)
    while not started:
        time.sleep(0.01)
    job.pause()
    assert job.status == "paused"
    time.sleep(0.3)
    count = len(started)
    time.sleep(0.3)
    assert len(started) == count < 40
    job.concurrency = 20
    job.resume()
    assert job.values() == list(range(40))


def test_a_paused_job_stays_paused_in_the_next_session(tmp_path: Path) -> None:
    calls: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        calls.append(item)
        if item:
            gate.wait(10)
        return item

    with Session("pause", tmp_path / ".restate") as session:
        job = submit(session, work, range(10), concurrency=1, name="held")
        while job.counts["ok"] < 1:
            time.sleep(0.01)
        job.pause()
        gate.set()
        time.sleep(0.2)
        before = len(calls)
    with Session("pause", tmp_path / ".restate") as session:
        job = submit(session, work, range(10), concurrency=1, name="held")
        time.sleep(0.5)
        assert (job.status, len(calls)) == ("paused", before)
        job.resume()
        assert job.values() == list(range(10))
        assert len(calls) == 10


def add_round(job: rnb.Job[Any], positions: list[int]) -> Any:
    """What adds a round to a job's record, as another process does."""
    record = runner_of(job).data.record
    manifest = record.manifest
    code = manifest.rounds[0].code
    added = Round.over(positions, manifest.total, code=code, started=time.time())
    change = Change(generation=manifest.generation, add_round=added)
    return record.connection.job_store.change(manifest, change)


def test_a_round_of_another_process_is_followed_when_the_cell_runs_again(session: Session, tmp_path: Path) -> None:
    """Else the handle would show, for as long as its kernel lives, what was before that round."""
    healed = tmp_path / "healed"

    def flaky(item: int) -> int:
        if not healed.exists():
            raise ValueError(item)
        return item

    job = submit(session, flaky, range(3), name="elsewhere")
    assert job.result(20)["status"].tolist() == ["error"] * 3
    healed.touch()
    session.io.run(add_round(job, [0, 1]))
    assert submit(session, flaky, range(3), name="elsewhere") is job
    assert job.result(20)["status"].tolist() == ["ok", "ok", "error"]


def test_a_round_of_its_own_that_is_being_added_is_not_followed_twice(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell runs again in the moment in which the job notes a round: that one is followed by whoever adds it."""
    flaky = Flaky()
    job = submit(session, flaky, ITEMS, name="own round", version=1)
    job.result(20)
    runner, followed = runner_of(job), list[Any]()
    record = runner.data.record
    monkeypatch.setattr(runner, "follow", followed.append)

    async def adding() -> Any:
        async with record.changing:
            opening = asyncio.create_task(runner.reopen(record.manifest, fresh=False))
            await asyncio.sleep(0.05)  # it waits for its turn by now
            record.manifest = await add_round(job, [0])
        return await opening

    session.io.run(adding())
    assert len(record.manifest.rounds) == 2
    assert followed == []


def test_all_jobs_of_the_server_are_listed_with_their_counts(tmp_path: Path) -> None:
    data_dir, gate = tmp_path / ".restate", threading.Event()

    def fails(item: int) -> int:
        return 1 // item

    def waits(item: int) -> int:
        gate.wait(20)
        return item

    with Session("one", data_dir) as one, Session("other", data_dir) as other:
        assert len(rnb.jobs(one)) == 0
        submit(one, fails, [0, 1, 2], name="fails").result(20)
        running = submit(one, waits, [1, 2], name="waits")
        submit(other, fails, [0], name="fails").result(20)
        eventually(lambda: rnb.jobs(other)["status"].tolist()[2] == "finished")
        listed = rnb.jobs(other)
        assert listed[["name", "session", "status"]].to_numpy().tolist() == [
            ["fails", "other", "finished"],
            ["waits", "one", "unfinished"],
            ["fails", "one", "finished"],
        ]
        assert listed["ok"].tolist() == [0, pd.NA, 2]
        assert listed["failed"].tolist() == [1, pd.NA, 1]
        assert (listed["elapsed_s"] >= 0).all()
        assert listed["started_at"].dt.tz is not None
        gate.set()
        running.result(20)
        eventually(lambda: rnb.jobs(other)["status"].tolist() == ["finished"] * 3)  # noted behind the job's back
        assert rnb.jobs(one).loc[1, "ok"] == 2


def test_the_time_between_a_round_and_the_next_is_in_no_list(tmp_path: Path) -> None:
    def fails_at_first(item: int) -> int:
        time.sleep(0.05)
        if not again.is_set():
            raise ValueError("not yet")
        return item

    again = threading.Event()
    with Session("one", tmp_path / ".restate") as one, Session("other", tmp_path / ".restate") as other:
        job = submit(one, fails_at_first, [1], name="rounds")
        job.wait()
        time.sleep(2)
        again.set()
        job.retry_failed().result(20)
        own = job.progress().elapsed
        eventually(lambda: rnb.jobs(other)["status"].tolist() == ["finished"])
        here, there = (rnb.jobs(session).iloc[0] for session in (one, other))
        assert own == pytest.approx(here["elapsed_s"])
        assert own == pytest.approx(there["elapsed_s"])
        assert 0.1 < own < (there["finished_at"] - there["started_at"]).total_seconds() - 1.9
        assert there["rounds"] == 2


@pytest.mark.parametrize("durable", [False, True])
def test_a_deleted_job_leaves_no_invocation_and_its_cell_runs_it_anew(any_session: Session, durable: bool) -> None:
    calls: list[int] = []

    def work(item: int) -> int:
        calls.append(item)
        return item

    async def durable_work(ctx: Context, item: int) -> int:
        return await ctx.run_typed("work", lambda: work(item))

    fn = durable_work if durable else work
    job = submit(any_session, fn, range(5), name=f"deleted {durable}")
    job.result(20)
    job.delete()
    left = any_session.io.run(any_session.connection.admin.query("select idempotency_key from sys_invocation"))
    assert not [row for row in left if (row.get("idempotency_key") or "").startswith(f"deleted {durable}")]
    assert f"deleted {durable}" not in rnb.jobs(any_session)["name"].tolist()
    assert job.frame()["value"].tolist() == list(range(5)), "the handle keeps what it has"
    again = submit(any_session, fn, range(5), name=f"deleted {durable}")
    assert again.values() == list(range(5))
    assert again is not job
    assert again.attached == 0
    assert len(calls) == 10


def test_a_deleted_job_that_was_cancelled_runs_anew_as_any_other(session: Session) -> None:
    gate = threading.Event()

    def work(item: int) -> int:
        if item:
            gate.wait(10)
        return item

    job = submit(session, work, range(3), name="cancelled and deleted", concurrency=1)
    job.delete()
    gate.set()
    assert submit(session, work, range(3), name="cancelled and deleted").values() == [0, 1, 2]


@pytest.mark.parametrize("durable", [False, True])
def test_a_job_is_had_by_its_name_without_its_cell(tmp_path: Path, durable: bool) -> None:
    def work(item: Any) -> Any:
        return 1 / item["x"]

    async def durable_work(ctx: Context, item: Any) -> Any:
        return await ctx.run_typed("divide", lambda: 1 / item["x"] if item["x"] else None)

    data_dir, fn = tmp_path / ".restate", durable_work if durable else work
    items = [{"x": each} for each in (1, 2, 0, 4)]
    with Session("named", data_dir) as session:
        first = submit(session, fn, items, name="by name")
        before = first.result(20)
        assert session.job("by name") is first
    with Session("named", data_dir) as session:
        job = session.job("by name")
        frame = job.result(20)
        pd.testing.assert_frame_equal(frame, before)
        assert frame["item"].tolist() == items
        assert job.attached == 4
        pd.testing.assert_frame_equal(job.attempts(), first.attempts())
        if not durable:
            with pytest.raises(rnb.InvalidInput, match="run the cell that maps it first"):
                job.retry_failed()
        assert submit(session, fn, items, name="by name") is job
        if not durable:
            assert job.retry_failed().result(20)["attempts"].tolist() == [1, 1, 2, 1]
        with pytest.raises(rnb.InvalidInput, match="Did you mean 'by name'"):
            session.job("my name")


def test_an_unfinished_job_that_is_had_by_its_name_waits_for_its_function(tmp_path: Path) -> None:
    def work(item: int) -> int:
        time.sleep(0.02)
        return item

    data_dir = tmp_path / ".restate"
    with Session("waits", data_dir) as session:
        job = submit(session, work, range(100), name="half", concurrency=1)
        while job.counts["ok"] < 10:
            time.sleep(0.01)
    with Session("waits", data_dir) as session:
        job = session.job("half")
        time.sleep(0.5)
        assert not job.done()
        assert job.progress().note == "waiting for work: run the cell that maps it"
        assert job.counts["ok"] >= 10, "what is done is known"
        assert submit(session, work, range(100), name="half", concurrency=20) is job
        assert job.values() == list(range(100))


def test_a_plain_and_a_durable_function_never_share_a_job(session: Session) -> None:
    async def durable(ctx: Context, item: int) -> int:
        return item

    submit(session, abs, [1], name="one kind").result(10)
    with pytest.raises(rnb.JobMismatch, match="another kind of function"):
        submit(session, durable, [1], name="one kind")
