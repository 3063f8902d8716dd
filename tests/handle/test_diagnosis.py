"""Proves that a job which stands still says why, and what to do: in `job.diagnose()` and in its panel."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import restate

import restate_nb as rnb
from restate_nb.handle import status
from restate_nb.handle.diagnosis import Diagnosis
from restate_nb.session.session import Session
from tests.support import eventually

numbers = itertools.count()


@contextmanager
def submitted(session: Session, fn: Any, items: Any, **options: Any) -> Iterator[rnb.Job[Any]]:
    options.setdefault("name", f"job {next(numbers)}")
    job = rnb.map(fn, items, session=session, show=False, **options)
    try:
        yield job
    finally:
        job.cancel()


def until(job: rnb.Job[Any], says: Callable[[Diagnosis], bool]) -> Diagnosis:
    return eventually(lambda: found if says(found := job.diagnose()) else None, 10, shows=job.diagnose)


async def waits_in_vain(item: int) -> None:
    await asyncio.sleep(100)  # here it is


def sleeps(item: int) -> None:
    time.sleep(0.5)
    time.sleep(100 if item < 0 else 0)


def test_a_job_that_has_ended_has_nothing_to_diagnose(session: Session) -> None:
    job = rnb.map(lambda item: item, range(3), session=session, show=False)
    job.result()
    assert str(job.diagnose()).splitlines()[1:] == ["- It has ended."]
    assert "finished; 3 ok" in str(job.diagnose())


def test_a_diagnosis_shows_the_line_at_which_a_coroutine_waits(session: Session) -> None:
    with submitted(session, waits_in_vain, {"a": 1, "b": 2}) as job:
        found = until(job, lambda each: len(each.running) >= 4)
    assert found.reasons == []
    assert found.running[0].startswith(("item 'a' for", "item 'b' for"))
    assert "test_diagnosis.py" in found.running[1] and found.running[1].endswith("in waits_in_vain")


def test_a_diagnosis_shows_the_stack_of_a_thread_and_of_one_that_hangs(session: Session) -> None:
    with submitted(session, sleeps, [1, 2], concurrency=1) as job:
        found = until(job, lambda each: len(each.running) > 1)
        assert found.running[1].strip().startswith("test_diagnosis.py") and found.running[1].endswith("in sleeps")
    with submitted(session, sleeps, [3, 4, 5], concurrency=1, timeout=0.1, name="hangs") as job:
        found = until(job, lambda each: "timed out" in " ".join(each.running))
    assert any("busy with items that timed out" in each and "process" in each for each in found.reasons)


def test_a_diagnosis_says_that_a_rate_or_a_shared_limit_holds_items_up(session: Session) -> None:
    with submitted(session, lambda item: item, range(5), max_per_second=0.1) as job:
        assert "max_per_second" in until(job, lambda each: bool(each.reasons)).reasons[0]
    limit = rnb.Limit("narrow", concurrency=1)
    with (
        submitted(session, waits_in_vain, [1], limit=limit) as holder,
        submitted(session, waits_in_vain, [2], limit=limit, name="second") as job,
    ):
        while not holder.counts["running"]:
            time.sleep(0.01)
        assert "the limit 'narrow'" in until(job, lambda each: bool(each.reasons)).reasons[0]


def test_a_diagnosis_says_how_many_items_wait_for_their_next_attempt(session: Session) -> None:
    def fails(item: int) -> None:
        raise OSError

    with submitted(session, fails, range(4), retry=rnb.Retry(2, initial_interval=100, jitter=0)) as job:
        found = until(job, lambda each: "4 items failed" in " ".join(each.reasons))
    assert found.reasons[0].endswith(("the first in 1 min 00 s.", "the first in 59 s.", "the first in 58 s."))


def test_a_diagnosis_says_that_the_job_is_paused(session: Session) -> None:
    with submitted(session, waits_in_vain, [1], concurrency=1) as job:
        job.pause()
        until(job, lambda each: each.reasons == ["It is paused: job.resume() goes on."])


def test_a_diagnosis_says_that_the_cell_is_awaited(data_dir: Path) -> None:
    async def of_a_cell(item: int) -> None:
        await asyncio.sleep(100)

    with Session("awaited", data_dir) as first:
        job = rnb.map(of_a_cell, [1], session=first, show=False, name="to be gone on with")
        while not job.counts["running"]:  # all of it is submitted then
            time.sleep(0.01)
    with Session("awaited", data_dir) as second:
        job = second.job("to be gone on with")
        until(job, lambda each: each.reasons == ["It waits for of_a_cell: run the cell that maps it."])
        job.cancel()


def test_a_diagnosis_tells_what_restate_has_paused_and_resume_goes_on(session: Session) -> None:
    async def step(ctx: restate.Context, item: int) -> int:
        await ctx.sleep(timedelta(seconds=0.5))
        return item

    job = rnb.map(step, [7], session=session, show=False)
    admin, key = session.connection.admin, job.name
    rows: list[dict[str, Any]] = []
    while not rows:
        rows = session.io.run(
            admin.query(f"select id from sys_invocation where idempotency_key like '{key}%' and status <> 'completed'")
        )
    session.io.run(admin.pause(rows[0]["id"]))
    found = until(job, lambda each: "paused" in " ".join(each.reasons))
    assert "Restate has paused 1 invocation" in found.reasons[0] and "job.resume()" in found.reasons[0]
    job.resume()
    assert job.values() == [7]


def test_the_panel_shows_the_diagnosis_after_some_seconds(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(status, "LONG_SECONDS", 0.4)
    with submitted(session, waits_in_vain, [1]) as job:
        while not job.counts["running"]:
            time.sleep(0.01)
        assert job.progress().note == ""
        time.sleep(0.5)
        assert "job.diagnose()" in job.progress().note
    with submitted(session, lambda item: item, range(5), max_per_second=0.1) as job:
        while not job.counts["ok"]:
            time.sleep(0.01)
        job.progress()
        time.sleep(0.3)
        assert "max_per_second" in job.progress().note


def test_a_diagnosis_reads_well_in_a_notebook(session: Session) -> None:
    with submitted(session, waits_in_vain, [1]) as job:
        found = until(job, lambda each: len(each.running) > 1)
    assert repr(found) == str(found) and found._repr_html_().startswith("<pre>")
