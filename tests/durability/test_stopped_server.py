"""Proves that a server that stands still (SIGSTOP, a suspended machine) costs a job nothing but time, and that the
person who waits is told what is the matter. The long form: `pytest -m soak tests/durability`."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import restate_nb as rnb
from restate_nb.server import http
from restate_nb.session.session import Session


@pytest.fixture
def session(data_dir: Path) -> Iterator[Session]:
    with Session("stopped", data_dir) as session:
        yield session


def stand_still(session: Session, seconds: float) -> None:
    """A job of 3,000 short items, whose server is stopped for a while in the middle of it."""
    calls = Counter[int]()

    async def work(item: int) -> int:
        calls[item] += 1
        await asyncio.sleep(0.02)
        return item * item

    job = rnb.map(work, range(3000), session=session, concurrency=20, show=False)
    while job.counts["ok"] < 500:
        time.sleep(0.01)
    server = session.server.pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    try:
        recorded = job.counts["ok"]
        asked: list[list[str] | rnb.ServerError] = []

        def ask() -> None:
            try:
                asked.append(rnb.map(str, [1, 2], name="asked", session=session, show=False).values())
            except rnb.ServerError as error:
                asked.append(error)

        asking = threading.Thread(target=ask)
        asking.start()  # another cell
        began, said = time.monotonic(), ""
        while time.monotonic() - began < seconds:
            time.sleep(0.1)
            said = job.progress().note
            assert job.status == "running"
            assert job.counts["ok"] - recorded <= 20, "nothing is called recorded that is not"
        assert said == (
            f"nothing is recorded: restate-server was stopped: kill -CONT {server} lets it go on, and the job with it"
        )
    finally:
        os.kill(server, signal.SIGCONT)
    frame = job.result(60)
    assert frame["status"].eq("ok").all()
    assert frame["value"].tolist() == [item * item for item in range(3000)]
    assert calls == dict.fromkeys(range(3000), 1)
    assert frame["attempts"].eq(1).all()
    assert job.progress().note == ""
    asking.join(20)
    if seconds > http.DEFAULT_PATIENCE:  # the cell has ended with an error that says why, and is run again
        assert "it hangs, or its process is stopped" in str(asked.pop())
        ask()
    assert asked == [["1", "2"]]
    assert session.server.status().restarts == 0


def test_a_job_goes_on_where_it_was_when_its_server_does(session: Session) -> None:
    stand_still(session, 6)


@pytest.mark.soak
@pytest.mark.parametrize("seconds", [30, 90])
def test_a_job_goes_on_after_long_too(session: Session, seconds: float) -> None:
    stand_still(session, seconds)


def test_a_question_to_a_server_that_stands_still_ends_with_an_error(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.connection.admin, "patience", 1.0)  # of 30 s
    monkeypatch.setattr(http, "PROBE_TIMEOUT", 0.5)
    server = session.server.pid
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(rnb.ServerError, match="does not answer: it hangs, or its process is stopped"):
            rnb.jobs(session)
    finally:
        os.kill(server, signal.SIGCONT)
    assert len(rnb.jobs(session)) == 0
