"""Proves the stop rules: a job that gives up starts nothing more, keeps what is done, says so, and can be resumed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import restate

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.support import submit


def test_the_first_failure_ends_the_job_with_what_is_done(any_session: Session) -> None:
    calls: list[int] = []

    async def work(item: int) -> int:
        calls.append(item)
        await asyncio.sleep(0.001)
        if item == 30:
            raise ValueError("no thirty")
        return item

    job = submit(any_session, work, range(1000), concurrency=1, fail_fast=True, name="first")
    with pytest.raises(
        rnb.JobError, match=r"(?s)fail_fast=True, after 1 of 31 items.*30 have a value.*no thirty"
    ) as got:
        job.result(20)
    assert calls == list(range(31))
    frame = got.value.frame
    assert frame is not None
    assert frame["status"].tolist() == ["ok"] * 30 + ["error"] + ["cancelled"] * 969
    assert frame["error"].iloc[-1] == "The job stopped, with fail_fast=True, after 1 of 31 items had failed."
    assert job.status == "cancelled"
    with pytest.raises(rnb.JobError, match="fail_fast"):
        job.values()
    with pytest.raises(rnb.JobError, match="fail_fast"):
        asyncio.run(wait_for(job))


async def wait_for(job: rnb.Job[Any]) -> Any:
    return await job


def test_it_goes_on_with_what_was_repaired_and_the_rule_counts_anew(any_session: Session) -> None:
    calls = Counter[int]()

    async def work(item: int) -> int:
        calls[item] += 1
        await asyncio.sleep(0.001)
        if item % 10 == 3 and calls[item] == 1:
            raise ValueError(item)
        return item

    job = submit(any_session, work, range(40), concurrency=1, fail_fast=2, name="repaired")
    with pytest.raises(rnb.JobError, match="after 2 of 14"):
        job.result(20)
    with pytest.raises(rnb.JobError, match="after 2 of 22"):
        job.retry_failed().result(20)
    assert job.retry_failed().result(20)["value"].tolist() == list(range(40))
    assert all(calls[item] == (2 if item % 10 == 3 else 1) for item in range(40))


def test_a_share_of_failures_is_looked_at_once_enough_items_have_ended(session: Session) -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(0)
        if item % 5 == 0:
            raise ValueError("every fifth")
        return item

    few = submit(session, work, range(19), concurrency=1, fail_fast=0.1)
    assert few.result(20)["status"].tolist().count("error") == 4
    many = submit(session, work, range(500), concurrency=1, fail_fast=0.1)
    with pytest.raises(rnb.JobError, match=r"fail_fast=0\.1, after 4 of 20"):
        many.result(20)
    fine = submit(session, work, range(500), concurrency=1, fail_fast=0.3, name="fine")
    assert fine.result(20)["status"].tolist().count("error") == 100


def test_attempts_that_are_followed_by_others_do_not_count(session: Session) -> None:
    calls = Counter[int]()

    async def flaky(item: int) -> int:
        calls[item] += 1
        if calls[item] == 1:
            raise OSError("once")
        return item

    retry = rnb.Retry(max_attempts=2, initial_interval=0)
    assert submit(session, flaky, range(50), fail_fast=True, retry=retry).values() == list(range(50))


def test_a_failure_with_nothing_left_to_cancel_is_told_too(session: Session) -> None:
    async def work(item: int) -> int:
        return 1 // item

    job = submit(session, work, [1, 1, 0], concurrency=1, fail_fast=True)
    with pytest.raises(rnb.JobError, match="after 1 of 3 items had failed"):
        job.result(20)
    assert job.frame()["status"].tolist() == ["ok", "ok", "error"]


def test_a_job_that_gave_up_is_found_so_by_the_next_session_and_goes_on_there(data_dir: Path) -> None:
    def work_of(broken: bool) -> Any:
        async def work(item: int) -> int:
            await asyncio.sleep(0.001)
            if broken and item == 12:
                raise ValueError("broken")
            return item

        return work

    with Session("stops", data_dir) as session, pytest.raises(rnb.JobError):
        submit(session, work_of(True), range(100), concurrency=1, fail_fast=True, name="job").result(20)
    with Session("stops", data_dir) as session:
        with pytest.warns(rnb.OlderResults, match="`work.broken` has changed since"):
            job = submit(session, work_of(False), range(100), name="job")
        with pytest.raises(rnb.JobError, match="fail_fast=True, after 1 of 13"):
            job.result(20)
        assert job.counts["ok"] == 12
        assert job.retry_failed().values() == list(range(100))
    with Session("stops", data_dir) as session:
        job = submit(session, work_of(False), range(100), fail_fast=True, name="job")
        assert job.values() == list(range(100))


def test_failures_that_an_earlier_process_recorded_count(data_dir: Path) -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(0.01)
        if item in (3, 30):
            raise ValueError(item)
        if item == 10:
            await asyncio.sleep(600)
        return item

    with Session("counts", data_dir) as session:
        job = submit(session, work, range(60), concurrency=1, fail_fast=2, name="job")
        while job.counts["ok"] < 9:
            pass

    async def fixed(item: int) -> int:
        await asyncio.sleep(0.01)
        if item == 30:
            raise ValueError(item)
        return item

    with Session("counts", data_dir) as session:
        with pytest.warns(rnb.OlderResults, match="of an older `fixed`"):
            job = submit(session, fixed, range(60), concurrency=1, fail_fast=2, name="job")
        with pytest.raises(rnb.JobError, match="fail_fast=2"):
            job.result(20)
        assert job.counts["error"] == 2
        assert job.counts["cancelled"] > 20


def test_jobs_over_durable_functions_give_up_too(data_dir: Path) -> None:
    ran: list[int] = []

    async def durable(ctx: restate.Context, item: int) -> int:
        await ctx.run_typed("step", lambda: ran.append(item))
        if item == 5:
            raise ValueError("five")
        return item

    with Session("durable", data_dir) as session:
        job = submit(session, durable, range(30), concurrency=1, fail_fast=True, name="durable")
        with pytest.raises(rnb.JobError, match="after 1 of 6"):
            job.result(20)
        assert job.frame()["status"].tolist() == ["ok"] * 5 + ["error"] + ["cancelled"] * 24
    with Session("durable", data_dir) as session:
        job = submit(session, durable, range(30), concurrency=1, fail_fast=True, name="durable")
        with pytest.raises(rnb.JobError, match="fail_fast=True"):
            job.result(20)
        assert job.frame()["status"].tolist() == ["ok"] * 5 + ["error"] + ["cancelled"] * 24
    assert sorted(set(ran)) == list(range(6))


@pytest.mark.parametrize("wrong", [0, -1, 1.0, 0.0, 2.5, "first", None])
def test_a_rule_that_is_none_is_refused(session: Session, wrong: Any) -> None:
    with pytest.raises(rnb.InvalidInput, match=r"fail_fast is True \(stop at the first failure\)"):
        submit(session, str, [1], fail_fast=wrong)
