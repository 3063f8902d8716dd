"""Proves that cancelling durable items ends them wherever they stand, when Restate is away as soon as it is back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from restate import Context

import restate_nb as rnb
from restate_nb.handle.job import runner_of
from restate_nb.server.http import UnknownInvocation, Unreachable
from restate_nb.session.session import Session
from tests.support import eventually


async def waits(ctx: Context, item: int) -> int:
    await ctx.sleep(timedelta(hours=1))
    return item


def test_a_cancel_of_durable_items_while_restate_is_away_is_done_later(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restate_nb.handle.job.CANCEL_SECONDS", 0.3)

    async def fn(ctx: Context, item: int) -> int:
        await ctx.sleep(timedelta(milliseconds=100 if item < 6 else 3_600_000))
        return item

    async def away(*_: Any, **__: Any) -> Any:
        raise Unreachable("it does not answer")

    job = rnb.map(fn, range(10), concurrency=2, session=session, show=False)
    with monkeypatch.context() as patch:
        patch.setattr(session.connection.admin, "query", away)
        job.cancel()
        assert not job.done()
    frame = job.result(20)
    assert set(frame["status"]) <= {"ok", "cancelled"}
    assert frame["status"].iloc[6:].eq("cancelled").all()


def test_what_could_not_be_cancelled_at_once_is_cancelled_later(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert session.connection.admin is not None
    cancel, refusals = session.connection.admin.cancel, iter([Unreachable("away"), UnknownInvocation("gone")])

    async def first_away(invocation: str) -> bool:
        for refusal in refusals:
            raise refusal
        return await cancel(invocation)

    job = rnb.map(waits, range(5), session=session, show=False)
    eventually(lambda: len(job.steps()) == 5)
    monkeypatch.setattr(session.connection.admin, "cancel", first_away)
    job.cancel()
    assert job.result(20)["status"].tolist() == ["cancelled"] * 5


def test_a_paused_job_is_cancelled(session: Session) -> None:
    job = rnb.map(waits, range(5), concurrency=2, session=session, show=False, fresh=True)
    eventually(lambda: len(job.steps()) == 2)
    job.pause()
    job.cancel()
    assert job.result(20)["status"].tolist() == ["cancelled"] * 5


def test_items_whose_function_is_lost_or_changed_are_cancelled_too(tmp_path: Path) -> None:
    def version(step: str) -> Any:
        async def fn(ctx: Context, item: int) -> None:
            await ctx.run_typed(step, lambda: 1)
            await ctx.sleep(timedelta(hours=1))

        return fn

    with Session("lost", tmp_path / ".restate") as session:
        lost = rnb.map(version("only here"), range(3), name="lost", session=session, show=False)
        changed = rnb.map(version("first"), range(3), name="changed", session=session, show=False)
        eventually(lambda: len(lost.steps()) == 6 and len(changed.steps()) == 6)
    with Session("lost", tmp_path / ".restate") as session:
        with pytest.warns(rnb.OlderResults, match="`fn.step` has changed since"):
            changed = rnb.map(version("other"), range(3), name="changed", session=session, show=False)
        lost = session.job("lost")
        eventually(
            lambda: (
                runner_of(changed).data.backend.mismatched == 3 and "Waiting for the function" in str(lost.diagnose())
            )
        )
        for job in (lost, changed):
            job.cancel()
            assert job.result(20)["status"].tolist() == ["cancelled"] * 3
