"""Proves that jobs are seen and steered from another process, and that nothing is kept of that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb import cli
from restate_nb.session.session import Session


class Gate:
    """Items that wait until they are let go."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def item(self, number: int) -> int:
        if number == 3:
            raise ValueError("no luck")
        if number > 5:
            self.open.wait(30)
        return number


@pytest.fixture
def running(session: Session) -> Iterator[tuple[rnb.Job[Any], Gate]]:
    """A job of ten items of which four wait."""
    gate = Gate()
    job = rnb.map(gate.item, range(10), name="long one", concurrency=1, fresh=True, session=session, show=False)
    until = time.monotonic() + 20
    while job.counts["ok"] < 5 and time.monotonic() < until:
        time.sleep(0.01)
    yield job, gate
    gate.open.set()
    job.wait(20)


def told(session: Session, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """What the command line answers: exit code, output, errors. In a thread, as a terminal of its own would."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main([*words, "--data-dir", str(session.data_dir)])))
    thread.start()
    thread.join(60)
    output, errors = capsys.readouterr()
    return codes[0], output, errors


def test_what_runs_is_listed_with_its_counts(
    session: Session, running: tuple[rnb.Job[Any], Gate], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = told(session, capsys, "jobs")
    line = next(line for line in output.splitlines() if "long one" in line)
    assert code == 0 and "running" in line and "6 of 10" in line
    code, output, _ = told(session, capsys, "jobs", "--json")
    (listed,) = [each for each in json.loads(output) if each["name"] == "long one"]
    live = listed["live"]
    assert (live["ok"], live["failed"], live["running"], live["total"]) == (5, 1, 1, 10)
    assert live["errors"] == [{"error_type": "ValueError", "message": "no luck", "count": 1}]


def test_a_job_is_shown_paused_resumed_and_cancelled(
    session: Session, running: tuple[rnb.Job[Any], Gate], capsys: pytest.CaptureFixture[str]
) -> None:
    job, gate = running
    code, output, _ = told(session, capsys, "show", "long one")
    assert code == 0 and "6 of 10 items, 1 failed" in output and "1 x ValueError: no luck" in output
    assert told(session, capsys, "pause", "long one")[:2] == (0, "long one is paused.\n")
    assert job.status == "paused"
    assert told(session, capsys, "resume", "long one")[:2] == (0, "long one is resumed.\n")
    assert job.status == "running"
    assert told(session, capsys, "cancel", "long one")[:2] == (0, "long one is cancelled.\n")
    gate.open.set()
    assert job.wait(20) and job.status == "cancelled"
    code, _, errors = told(session, capsys, "pause", "long one")
    assert code == cli.FAILED and "has ended: it is cancelled" in errors


def test_what_is_wrong_is_said_in_words(session: Session, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rnb.map(abs, [1], name="known", session=session, show=False).result()
    code, _, errors = told(session, capsys, "show", "knwon")
    assert code == cli.FAILED and "Did you mean 'known'?" in errors
    assert cli.main(["jobs", "--data-dir", str(tmp_path)]) == cli.FAILED
    assert "No server runs on" in capsys.readouterr().err
    assert cli.main(["jobs", "--ingress", "http://127.0.0.1:1"]) == cli.FAILED
    assert "--ingress and --admin go together" in capsys.readouterr().err


def test_a_call_from_outside_leaves_nothing_in_restate(
    session: Session, running: tuple[rnb.Job[Any], Gate], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        told(session, capsys, "jobs")
    query = "select target from sys_invocation where target_handler_name in ('live', 'steer')"
    until = time.monotonic() + 10
    while (left := session.io.run(session.connection.admin.query(query))) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


KERNEL = """
import os, signal, sys, time
import restate_nb as rnb
rnb.start("gone", data_dir=sys.argv[1])
rnb.map(time.sleep, [0.01, 60], name="left alone", show=False).wait(2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_whose_kernel_is_gone_is_unfinished_and_cannot_be_steered(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run([sys.executable, "-c", KERNEL, str(session.data_dir)], timeout=60, check=False, env=os.environ)
    code, output, _ = told(session, capsys, "show", "left alone")
    assert code == 0 and "status    unfinished" in output and "nobody runs it now" in output
    query = "select id from sys_invocation where target_service_name = 'rnb-gone' and target_handler_name = 'live'"
    assert session.io.run(session.connection.admin.query(query)) == [], "a kernel that is gone was asked"
    code, _, errors = told(session, capsys, "cancel", "left alone")
    assert code == cli.FAILED and "No kernel runs the job 'left alone'" in errors
