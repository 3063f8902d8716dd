"""Proves that a job whose invocations somebody ends in Restate itself comes to its end, says why, and can go on."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import restate_nb as rnb
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.service.wire import job_key
from restate_nb.session.session import Session


@pytest.mark.parametrize("order", ["kill", "cancel"])
def test_items_that_restate_was_told_to_end_are_cancelled_with_the_reason(session: Session, order: str) -> None:
    """As somebody does it in the Restate UI. What is done stays, and `retry_failed` runs the rest."""
    gate, name = threading.Event(), f"ended by {order}"

    async def work(item: int) -> int:
        while item >= 3 and not gate.is_set():
            await asyncio.sleep(0.01)
        return item

    async def end_it() -> None:
        async with Admin(session.server.admin) as admin:
            mine = f"starts_with(idempotency_key, {sql_literal(job_key(name, 1))})"
            (row,) = await admin.query(f"select id from sys_invocation where {mine}", texts=["id"])
            assert await getattr(admin, order)(row["id"])

    job = rnb.map(work, range(6), session=session, name=name, show=False)
    end = time.monotonic() + 20
    while job.counts["ok"] < 3 or job.counts["running"] < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    asyncio.run(end_it())
    frame = job.result(20)
    assert frame["status"].tolist() == ["ok"] * 3 + ["cancelled"] * 3
    if order == "kill":
        assert frame["error"].iloc[3].startswith("Restate ended this part of the job: ")
    assert job.counts["running"] == 0
    gate.set()
    assert job.retry_failed().result(20)["value"].tolist() == list(range(6))
