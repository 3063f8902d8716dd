"""Proves that a job of which Restate goes away says so in plain words, and goes on when Restate is back: whatever was
being asked of it in that moment."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.engine.waiting import cause_of
from restate_nb.errors import ServerError
from restate_nb.handle.job import runner_of
from restate_nb.handle.record import JobRecord
from restate_nb.server.http import Unreachable
from restate_nb.server.lifecycle import ServerHandle, start_server, stop_server
from restate_nb.session.session import Session


async def slowly(ctx: Any, item: int) -> int:
    await ctx.sleep(timedelta(milliseconds=300))
    return item


def slow(item: int) -> int:
    time.sleep(0.1)
    return item


@pytest.fixture
def server(data_dir: Path) -> Iterator[list[ServerHandle]]:
    """A server that a test may stop, and start again."""
    handles = [start_server(data_dir, listen="tcp")]
    yield handles
    for handle in handles:
        handle.close()


def connected(handle: ServerHandle) -> Session:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return rnb.connect(
        handle.ingress.url,
        admin_url=handle.admin.url,
        endpoint=f"http://127.0.0.1:{port}",
        identity_key=handle.identity_key,
        name="away",
        patience=0.5,
    )


def test_a_job_says_that_restate_is_away_and_is_followed_again_by_its_cell(
    server: list[ServerHandle], data_dir: Path
) -> None:
    jobs: dict[str, tuple[Callable[..., Any], int]] = {"plain": (slow, 60), "durable": (slowly, 30)}

    def run(name: str) -> rnb.Job[int]:
        fn, count = jobs[name]
        return rnb.map(fn, range(count), concurrency=2, name=name, session=session, show=False)

    with connected(server[0]) as session:
        begun = [run(name) for name in jobs]
        while min(job.counts["ok"] for job in begun) < 2:
            time.sleep(0.02)
        stop_server(data_dir)
        for job in begun:
            with pytest.raises(rnb.JobError, match=r"to its end: restate-server at .* its cell again\.$") as caught:
                job.result(30)
            assert isinstance(caught.value.__cause__, Unreachable)
            assert "TaskGroup" not in str(caught.value)
        server.append(start_server(data_dir, listen="tcp"))
        for name, job in zip(jobs, begun, strict=True):
            assert run(name) is job
            assert job.result(30)["value"].tolist() == list(range(jobs[name][1]))


def test_the_cause_of_a_group_is_the_first_error_and_ours_before_restate_away() -> None:
    away, other, fault = Unreachable("away"), ServerError("other"), KeyError("fault")
    assert cause_of(away) is away
    assert cause_of(ExceptionGroup("g", [away, other])) is away
    assert cause_of(ExceptionGroup("g", [ExceptionGroup("h", [away]), ExceptionGroup("i", [other, fault])])) is fault


@pytest.mark.parametrize("when", ["submitted", "summary"])
def test_a_job_outlives_its_server_and_supervisor_in_the_moment_in_which_it_is_noted(
    when: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come back after the time for which a cell would wait."""
    change, died = JobRecord.change, threading.Event()
    monkeypatch.setattr("restate_nb.backends.job_store.DEFAULT_PATIENCE", 0.5)
    monkeypatch.setattr("restate_nb.handle.runner.NOTED_SECONDS", 0.3)
    with Session("noted", data_dir) as session:

        async def dying(self: JobRecord, **changes: Any) -> None:
            if when in changes and not died.is_set():
                os.kill(session.server.status().supervisor_pid, signal.SIGKILL)  # the server dies with it
                died.set()
            await change(self, **changes)

        monkeypatch.setattr(JobRecord, "change", dying)
        job = rnb.map(abs, range(100), name="noted", session=session, show=False)
        assert died.wait(20)
        assert job.wait(1.0) == (when == "summary"), "what has all its outcomes has ended"
        assert job.status in ("submitting", "finished")
        session.revive()
        assert rnb.map(abs, range(100), name="noted", session=session, show=False) is job
        assert job.values() == list(range(100))
        end = time.monotonic() + 20
        while runner_of(job).data.manifest.summary is None:
            assert time.monotonic() < end
            time.sleep(0.02)
    with Session("noted", data_dir) as session:
        assert rnb.jobs(session)["status"].tolist() == ["finished"]


@pytest.mark.parametrize("fn", [slow, slowly])
def test_a_cancel_while_restate_is_away_returns_soon_and_counts_later(
    fn: Callable[..., Any], data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("restate_nb.handle.job.CANCEL_SECONDS", 0.3)
    with Session("cancelled", data_dir) as session:
        job = rnb.map(fn, range(200), concurrency=2, name="cancelled", session=session, show=False)
        while job.counts["ok"] < 2:
            time.sleep(0.02)
        pid = session.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            job.cancel()
            assert time.monotonic() - began < 5
        finally:
            os.kill(pid, signal.SIGCONT)
        assert "goes on by itself: job.diagnose() says" in capsys.readouterr().out
        assert job.wait(30)
        counts = job.counts
        assert counts["cancelled"] > 150
        assert counts["ok"] + counts["cancelled"] == 200
    with Session("cancelled", data_dir) as session:
        assert rnb.jobs(session)["status"].tolist() == ["cancelled"]


def test_a_cancellation_that_waited_does_not_end_a_later_round(data_dir: Path) -> None:
    """Changes of a job's record are made in the order in which they were asked for."""
    with Session("ordered", data_dir) as session:
        job = rnb.map(slow, range(4), name="ordered", session=session, show=False)
        job.result(20)
        record, order = runner_of(job).data.record, []

        async def note(what: str) -> None:
            await record.change(paused=what == "first")
            order.append(what)

        async def both() -> None:
            await record.changing.acquire()
            first, second = asyncio.create_task(note("first")), asyncio.create_task(note("second"))
            await asyncio.sleep(0.05)
            record.changing.release()
            await asyncio.gather(second, first)

        session.io.run(both())
        assert order == ["first", "second"]
        assert not record.manifest.paused


def test_deleting_the_data_directory_of_a_running_job_is_noticed_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("restate_nb.session.session.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("restate_nb.session.session.STANDS_SECONDS", 0.5)
    home = tmp_path / "data"
    session = Session("deleted", home)
    try:
        job = rnb.map(lambda item: time.sleep(0.02) or "x" * 20_000, range(5_000), session=session, show=False)
        while job.counts["ok"] < 50:
            time.sleep(0.02)
        subprocess.run(["rm", "-rf", home], check=False)  # goes on where the server makes files meanwhile
        told = f"The data directory {home} was deleted or replaced while its server ran"
        assert told in str(job.diagnose())
        assert told in job.progress().note
        for do in (lambda: rnb.map(abs, [1], session=session, show=False), session.revive):
            with pytest.raises(
                ServerError, match=r"was deleted or replaced .* rnb\.start\(\) ends that server, and begins anew"
            ):
                do()
        if not job.wait(0):
            with pytest.raises(rnb.JobError, match=r"was deleted or replaced .* begins anew\.$"):
                job.result(30)
        capsys.readouterr()
    finally:
        session.stop()
    assert told in capsys.readouterr().out
    with Session("deleted", home) as session:
        assert rnb.map(abs, [-1], session=session, show=False).values() == [1]


def test_start_begins_anew_where_the_data_of_the_live_session_were_deleted(tmp_path: Path) -> None:
    home = tmp_path / "data"
    before = rnb.start("anew", data_dir=home)
    try:
        assert rnb.start("anew", data_dir=home) is before
        assert before.lost == ""
        subprocess.run(["rm", "-rf", home], check=False)
        assert before.lost
        after = rnb.start("anew", data_dir=home)
        assert (before.live, after.live, after.lost) == (False, True, "")
        assert rnb.map(abs, [-1], show=False).values() == [1]
    finally:
        rnb.start("anew", data_dir=home).stop()
