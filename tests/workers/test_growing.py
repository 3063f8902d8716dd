"""Proves that a job with keys that workers run grows as one that runs here, and that it says which store it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

import restate_nb as rnb
from restate_nb.errors import InvalidInput
from restate_nb.session.session import Session
from restate_nb.store.opening import parse_store
from tests.workers import work
from tests.workers.crew import Worker, executions, free_port


def test_a_job_on_workers_runs_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    store = tmp_path / "values"
    store.mkdir(mode=0o700)
    with Session("growing", tmp_path / ".restate", listen="tcp", store=parse_store(str(store))) as session:
        server = session.server
        reach = ("--admin", server.admin.url, "--identity-key", server.identity_key, "--store", str(store))
        worker = Worker(tmp_path / "log", session.name, free_port(), *reach)
        runs = tmp_path / "runs"

        def grown(numbers: list[int]) -> rnb.Job[int]:
            items = [(str(runs), number, 0.01) for number in numbers]
            return rnb.starmap(
                work.double,
                items,
                key=lambda item: item[1],
                name="on workers",
                on="workers",
                concurrency=4,
                session=session,
                show=False,
            )

        try:
            assert grown([0]).values() == [0]
            assert grown([*range(30)]).values() == [2 * n for n in range(30)]
            session.forget_handles()
            job = grown([*range(35, 10, -1)])
            assert job.values() == [2 * n for n in range(35, 10, -1)]
            assert "19 kept, 6 new, 11 dropped" in repr(job)
            assert sorted(executions(runs)) == [*range(36)]
        finally:
            worker.kill()


def test_a_session_whose_store_workers_do_not_reach_refuses_keys(tmp_path: Path) -> None:
    with (
        Session("refused", tmp_path / ".restate", listen="tcp") as session,
        pytest.raises(InvalidInput, match=r"in a store that they reach, too: rnb.start\(store=...\)"),
    ):
        rnb.map(work.even, [1], key="item", name="x", on="workers", session=session, show=False)
