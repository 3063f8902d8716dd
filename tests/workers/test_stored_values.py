"""Proves that workers take items from the session's store, and put values there, where they are started with it; and
that those without it, or a session whose store they cannot reach, say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import restate_nb as rnb
from restate_nb.errors import InvalidInput
from restate_nb.handle.job import runner_of
from restate_nb.session.session import Session
from restate_nb.store.opening import parse_store
from restate_nb.values.reference import is_reference
from tests.workers import work
from tests.workers.crew import Worker, free_port


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Path]]:
    """A session with a store that workers can reach, and where that is."""
    folder = tmp_path_factory.mktemp("shared")
    store = folder / "values"
    store.mkdir(mode=0o700)
    with Session("stored", folder / ".restate", listen="tcp", store=parse_store(str(store))) as session:
        yield session, folder


def worker_of(session: Session, folder: Path, log: str, *more: str) -> Worker:
    server = session.server
    return Worker(
        folder / log,
        session.name,
        free_port(),
        "--admin",
        server.admin.url,
        "--identity-key",
        server.identity_key,
        *more,
    )


def on_workers(session: Session, function: Any, items: Any, **options: Any) -> rnb.Job[Any]:
    return rnb.map(function, items, on="workers", session=session, show=False, **options)


def test_workers_take_items_from_the_store_and_put_values_there(shared: tuple[Session, Path]) -> None:
    session, folder = shared
    worker = worker_of(session, folder, "worker.log", "--store", str(folder / "values"))
    try:
        items = [np.arange(at, at + 2_000) for at in range(6)]
        for executor in ("auto", "process"):
            job = on_workers(session, work.doubled_array, items, name=executor, executor=executor, concurrency=2)
            for value, item in zip(job.values(), items, strict=True):
                np.testing.assert_array_equal(value, item * 2)
            data = runner_of(job).data
            assert all(map(is_reference, data.items.encoded))
            folders = {each.name: each.size for each in session.connection.store.folders()}  # type: ignore[union-attr]
            assert folders[data.manifest.folder] > 12 * items[0].nbytes
        session.forget_handles()
        np.testing.assert_array_equal(session.job("auto").values()[5], items[5] * 2)
    finally:
        worker.kill()


def test_a_worker_without_the_store_says_what_it_was_to_be_started_with(shared: tuple[Session, Path]) -> None:
    session, folder = shared
    worker = worker_of(session, folder, "without.log")
    try:
        frame = on_workers(session, work.doubled_array, [np.zeros(2_000)], name="without").result(30)
        assert frame["status"].tolist() == ["error"]
        assert "--store" in frame["error"].iloc[0]
        values = on_workers(session, work.zeros, [3_000], name="inline").values()
        assert values[0].shape == (3_000,), "what a journal takes goes there"
    finally:
        worker.kill()


def test_a_store_that_workers_cannot_reach_is_not_used_and_what_needs_it_is_refused(tmp_path: Path) -> None:
    with Session("private", tmp_path / ".restate", listen="tcp") as session:
        worker = worker_of(session, tmp_path, "worker.log")
        try:
            items = [np.zeros(2_000)]
            job = on_workers(session, work.doubled_array, items)
            assert job.values()[0].shape == (2_000,)
            assert not runner_of(job).data.manifest.folder
            with pytest.raises(InvalidInput, match="store="):
                on_workers(session, work.doubled_array, [np.zeros(3_000_000)])
        finally:
            worker.kill()
