"""Proves that whether the process of a deployment lives is what Restate finds, so that none takes what another runs."""

from __future__ import annotations

import asyncio
import http.server
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.server.admin import Admin
from restate_nb.session import deployments
from restate_nb.session.deployments import Liveness, is_within
from restate_nb.session.session import Session
from tests.handle.counted import Calls
from tests.support import start_python

OURS = {"rnb-tests"}


class Nothing(http.server.BaseHTTPRequestHandler):
    """Another program that listens where a process of ours was."""

    def do_POST(self) -> None:
        self.send_error(404)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def looks(session: Session, uri: str, count: int = 1, ours: set[str] = OURS, *, local: bool = False) -> list[bool]:
    """Whether it counts as gone, look after look."""

    async def look() -> list[bool]:
        async with Admin(session.server.admin) as admin:
            asked = Liveness(admin, local=local)
            return [bool(await asked.gone([{"id": "dp_1", "uri": uri}], ours)) for _ in range(count)]

    return asyncio.run(look())


def test_a_process_that_serves_lives_and_one_that_does_not_listen_is_gone(session: Session) -> None:
    url = session.endpoint.url
    for local in (True, False):
        assert looks(session, url, local=local) == [False]
        assert looks(session, f"{url}/dp_2", local=local) == [False]
        assert looks(session, f"http://127.0.0.1:{free_port()}", local=local) == [True]
    assert looks(session, url, ours={"rnb-other"}) == [True], "its port is another session's by now"
    assert looks(session, "", 4) == [False] * 4, "it is called in another way than by HTTP"


def test_one_failed_look_says_nothing_where_restate_knows_no_better(session: Session, stranger: str) -> None:
    assert looks(session, "http://a-name.that-nobody-has.invalid:9081", 3) == [False, False, True]
    assert looks(session, stranger, 3) == [False, False, True]


def test_a_process_that_takes_connections_and_does_not_answer_may_go_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped, or busy in native code; or its machine is so busy that connections have to wait."""
    monkeypatch.setattr(deployments, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert looks(session, uri, 4, local=True) == [False] * 4
        waiting = [socket.socket() for _ in range(3)]  # fill the backlog
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        assert looks(session, uri, 4) == [False] * 4
        for each in waiting:
            each.close()


@pytest.mark.parametrize(
    ("uri", "place", "within"),
    [
        ("http://h:1", "http://h:1/", True),
        ("http://h:1/dp_1", "http://h:1", True),
        ("https://h", "https://h:443", True),
        ("https://h", "http://h", False),
        ("https://h", "https://h:80", False),
        ("http://H:1", "http://h:1", True),
        ("http://h:1/a", "http://h:1/b", False),
        ("http://h:1/ab", "http://h:1/a", False),
        ("http://h:1/a/dp_1", "http://h:1/a", True),
        ("http://h:12", "http://h:1", False),
        ("", "http://h:1", False),
    ],
)
def test_which_deployment_is_here_is_a_matter_of_the_whole_address(uri: str, place: str, within: bool) -> None:
    assert is_within(uri, place) == within


def test_a_stopped_process_keeps_its_job_and_a_killed_one_loses_it(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("restate_nb.session.deployments.LOOK_SECONDS", 0.2)
    script = f"""
        import time
        from pathlib import Path
        import restate_nb as rnb
        from restate_nb.session.session import Session
        from tests.handle.counted import Calls

        def work(item):
            calls.note(item)
            time.sleep(0.2)
            return item

        calls = Calls(Path({str(tmp_path / "there")!r}))
        session = Session("lives", Path({str(data_dir)!r}))
        job = rnb.map(work, range(20), name="job", concurrency=2, session=session, show=False)
        while job.counts["ok"] < 2:
            time.sleep(0.01)
        print("runs", flush=True)
        time.sleep(60)
    """
    here = Calls(tmp_path / "here")

    def work(item: int) -> int:
        here.note(item)
        return item

    def job() -> rnb.Job[Any]:
        return rnb.map(work, range(20), name="job", concurrency=2, session=session, show=False)

    with Session("lives", data_dir) as session, start_python(script) as there:
        assert there.stdout is not None
        assert there.stdout.readline() == "runs\n"
        os.kill(there.pid, signal.SIGSTOP)
        try:
            with pytest.warns(rnb.OlderResults, match="of an older `work`"):
                assert not job().wait(2)
            assert not here.counts()
        finally:
            there.kill()
        assert job().result(20)["value"].tolist() == list(range(20))
    assert sum(here.counts().values()) >= 10
