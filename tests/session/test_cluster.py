"""Proves that a session on a Restate that others run says when that does not answer, and nothing while it does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import restate_nb as rnb
from restate_nb.patterns import ServiceClient
from restate_nb.server.address import Address
from restate_nb.server.lifecycle import start_server
from restate_nb.session.cluster import RemoteCluster
from tests.workers.crew import free_port


def test_one_that_answers_has_no_trouble_and_one_that_hangs_has(tmp_path: Path) -> None:
    with start_server(tmp_path, listen="tcp") as server:
        there = RemoteCluster(server.ingress, None, None, 300.0)
        assert there.trouble() == ""
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert there.trouble().startswith(f"{server.ingress} does not answer; the job goes on when it does")
            assert time.monotonic() - began < 10
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_cluster_can_be_asked_where_a_loop_runs() -> None:
    """As in a cell of a notebook."""
    assert asyncio.get_running_loop().is_running()
    there = RemoteCluster(Address(f"http://127.0.0.1:{free_port()}"), None, None, 7.0)
    assert "no longer followed after 7 s" in there.trouble()


def test_a_job_whose_restate_is_away_says_so(tmp_path: Path) -> None:
    with start_server(tmp_path, listen="tcp") as server:
        url = server.ingress.url
        with rnb.connect(url, token="", name="away") as session:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)
            try:
                job = rnb.invoke(ServiceClient[int, int]("Nobody", "x"), [1], session=session, show=False)
                end = time.monotonic() + 60
                while f"nothing is recorded: {url} does not answer" not in job.progress().note:
                    assert time.monotonic() < end, job.progress().note
                    time.sleep(0.2)
            finally:
                os.kill(server.pid, signal.SIGCONT)
