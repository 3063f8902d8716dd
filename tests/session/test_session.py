"""Proves that a session leaves nothing behind: no thread, process, socket, port, file, or job past its time."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

import restate_nb as rnb
from restate_nb.server.lifecycle import stop_server
from restate_nb.session.session import Session
from tests.support import run_python


def traces() -> tuple[set[str], list[int], int]:
    """The threads of ours, the child processes, and how many file descriptors are open."""
    gc.collect()  # what other tests left to the collector
    threads = {each.name for each in threading.enumerate() if each.name.startswith("rnb")}
    return threads, [each.pid for each in psutil.Process().children(recursive=True)], psutil.Process().num_fds()


async def work(item: int) -> int:
    await asyncio.sleep(0.001)
    return item


@pytest.mark.parametrize("in_flight", [False, True])
def test_nothing_is_left_after_stop(data_dir: Path, in_flight: bool) -> None:
    with rnb.start("warm-up", data_dir=data_dir):  # what is opened once and for all: sockets of libraries, a resolver
        rnb.map(work, [1], show=False).result(20)
    before = traces()
    supervisors: list[int] = []
    for _ in range(5):
        with rnb.start("leak", data_dir=data_dir) as session:
            job = rnb.map(work, range(20_000 if in_flight else 20), show=False, concurrency=20)
            if in_flight:
                time.sleep(0.1)
            else:
                job.result(20)
            supervisors.append(session.server.status().supervisor_pid)
    deadline = time.monotonic() + 5
    while (traces() != before or any(map(psutil.pid_exists, supervisors))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert traces() == before
    assert not any(map(psutil.pid_exists, supervisors))
    assert not (data_dir / "supervisor.sock").exists()


def test_a_script_that_ends_without_stop_leaves_nothing_and_says_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            import restate_nb as rnb
            session = rnb.start()
            rnb.map(str, range(10), show=False).result()
            rnb.map(time.sleep, [30] * 3, show=False)
            time.sleep(0.2)
            print(session.name, session.server.status().supervisor_pid)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    name, supervisor = done.stdout.split()
    assert name == "script"
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(supervisor)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(supervisor))


def test_a_job_that_is_left_running_is_told_so_and_can_be_gone_on_with(data_dir: Path) -> None:
    with rnb.start("left", data_dir=data_dir):
        job = rnb.map(work, range(3000), show=False, concurrency=2, name="long")
        time.sleep(0.3)
    with pytest.raises(rnb.JobError, match=r"session was stopped.*run its cell again"):
        job.result(5)
    with rnb.start("left", data_dir=data_dir):
        job = rnb.map(work, range(3000), show=False, concurrency=200, name="long")
        assert job.values() == list(range(3000))
        assert job.attached > 10


def test_a_server_that_was_stopped_by_someone_else_is_started_again(data_dir: Path) -> None:
    with rnb.start("revived", data_dir=data_dir) as session:
        rnb.map(work, range(10), show=False, name="before").result(10)
        stop_server(data_dir)
        assert rnb.start() is session
        assert rnb.map(work, range(10), show=False, name="before").attached == 10
        assert rnb.map(work, range(20), show=False).values() == list(range(20))


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("pandas", "numpy", "matplotlib", "ipywidgets", "restate", "aiohttp", "hypercorn")
    code = f"import sys, restate_nb; print([each for each in {heavy} if each in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_ctrl_c_gives_the_prompt_back_and_the_job_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, time
            import restate_nb as rnb
            async def work(item):
                await asyncio.sleep(0.05)
                return item
            with rnb.start():
                job = rnb.map(work, range(100), show=False, concurrency=1)
                print("waiting", flush=True)
                try:
                    job.result()
                except KeyboardInterrupt:
                    began = job.counts["ok"]
                    time.sleep(0.5)
                    print("went on", job.counts["ok"] - began, flush=True)
            """
        )
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        interrupted = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        says = process.stdout.readline()
        assert time.monotonic() - interrupted < 1
        assert "the job goes on" in says
        assert "job.cancel()" in says
        assert int(process.stdout.readline().split()[2]) >= 5
    assert process.returncode == 0


def test_a_finished_job_is_forgotten_when_its_retention_is_over(data_dir: Path) -> None:
    often = {"RESTATE_WORKER__CLEANUP_INTERVAL": "1s"}  # the server looks once an hour
    with Session("brief", data_dir, retention=timedelta(seconds=3), server_env=often) as session:
        job = rnb.map(lambda item: item, range(5), name="brief", session=session, show=False)
        job.result()
        assert session.list_jobs()["name"].tolist() == ["brief"]

        def kept() -> int:
            query = "select count(*) as n from sys_invocation where target_service_name = 'rnb-brief'"
            return int(session.io.run(session.connection.admin.query(query))[0]["n"])

        assert kept() == 1
        deadline = time.monotonic() + 30
        while len(session.list_jobs()) or kept():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert job.frame()["value"].tolist() == list(range(5))  # what the handle has stays


def test_start_says_in_what_the_live_session_is_another(tmp_path: Path) -> None:
    with rnb.start("one", data_dir=tmp_path / "data", retention=timedelta(days=2)) as live:
        assert rnb.start() is live is rnb.start("one", listen="unix", retention=timedelta(days=2))
        for asked, says in [
            ({"name": "two"}, "its name is not 'two'"),
            ({"data_dir": tmp_path}, "its data are not in"),
            ({"listen": "tcp"}, "its server listens on unix"),
            ({"retention": timedelta(days=3)}, "it keeps jobs for 2 days"),
            ({"store": tmp_path / "values"}, "it does not keep values in"),
        ]:
            with pytest.raises(rnb.InvalidInput, match=says):
                rnb.start(**asked)  # type: ignore[arg-type]
        for wrong in ({"retention": 5}, {"retention": timedelta(0)}, {"listen": "udp"}):
            with pytest.raises(rnb.InvalidInput, match=next(iter(wrong))):
                rnb.start(**wrong)  # type: ignore[arg-type]
