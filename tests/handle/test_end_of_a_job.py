"""Proves when a job has ended: with its last outcome, not with the note of it. The note is made all the same: before
the session stops, before the job is deleted or run again; and by the next process where this one was killed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.backends.job_store import ObjectJobStore
from restate_nb.handle.job import runner_of
from restate_nb.service.wire import Change, Manifest
from restate_nb.session.session import Session
from tests.support import eventually, submit

CALLS: list[int] = []


def work(n: int) -> int:
    CALLS.append(n)
    return n


class Note:
    """The changes of manifests that note the end of a job: they wait until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        send = ObjectJobStore.change

        async def held(store: ObjectJobStore, manifest: Manifest, change: Change, **options: Any) -> Manifest:
            if change.summary is not None:
                self.begun.set()
                while not self.free.is_set():
                    await asyncio.sleep(0.01)
            return await send(store, manifest, change, **options)

        monkeypatch.setattr(ObjectJobStore, "change", held)


@pytest.fixture
def note(monkeypatch: pytest.MonkeyPatch) -> Iterator[Note]:
    note = Note(monkeypatch)
    yield note
    note.free.set()


def manifest_of(job: rnb.Job[Any]) -> Manifest:
    return runner_of(job).data.manifest


def test_whoever_waits_does_not_wait_until_the_end_is_noted(session: Session, note: Note) -> None:
    job = submit(session, work, range(3))
    assert job.wait(20)
    assert note.begun.wait(20)
    assert (job.status, job.values(), manifest_of(job).summary) == ("finished", [0, 1, 2], None)
    row = rnb.jobs(session).set_index("name").loc[job.name]
    assert (row["status"], row["ok"], row["finished_at"] is not None) == ("finished", 3, True)
    note.free.set()
    eventually(lambda: manifest_of(job).summary)


def test_a_job_that_gave_up_has_ended_when_that_is_noted(session: Session, note: Note) -> None:
    job = submit(session, lambda n: n // 0, range(3), fail_fast=1)
    assert note.begun.wait(20)
    assert not job.wait(0.1)
    note.free.set()
    with pytest.raises(rnb.JobError):
        job.result(20)
    assert manifest_of(job).cancelled


def test_a_retry_comes_after_the_note_of_the_end_before_it(session: Session, note: Note) -> None:
    fails = threading.Event()

    def once(n: int) -> int:
        if not fails.is_set():
            raise ValueError("not yet")
        return n

    job = submit(session, once, range(2))
    assert job.wait(20)
    fails.set()
    retrying = threading.Thread(target=job.retry_failed)
    retrying.start()
    assert note.begun.wait(20)
    note.free.set()
    retrying.join(20)
    assert job.values() == [0, 1]
    summary = eventually(lambda: manifest_of(job).summary)
    assert (summary.ok, len(manifest_of(job).rounds)) == (2, 2)


def test_no_note_comes_after_a_job_was_deleted(session: Session, note: Note) -> None:
    job = submit(session, work, range(3), name="deleted")
    assert job.wait(20)
    assert note.begun.wait(20)
    deleting = threading.Thread(target=job.delete)
    deleting.start()
    note.free.set()
    deleting.join(20)
    assert "deleted" not in rnb.jobs(session)["name"].tolist()
    assert submit(session, work, range(3), name="deleted").values() == [0, 1, 2]


def test_the_end_is_noted_before_the_session_stops(data_dir: Path, note: Note) -> None:
    with Session("noted", data_dir) as session:
        job = submit(session, work, range(3), name="noted")
        assert job.wait(20)
        assert note.begun.wait(20)
        threading.Timer(0.1, note.free.set).start()
    assert manifest_of(job).summary is not None
    with Session("noted", data_dir) as session:
        assert rnb.jobs(session)["status"].tolist() == ["finished"]


def test_the_next_process_notes_what_a_killed_one_did_not(
    data_dir: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restate_nb.session.session.NOTE_PATIENCE", 0.0)
    with Session("killed", data_dir) as session:
        job = submit(session, work, range(3), name="killed")
        assert job.wait(20)
        assert note.begun.wait(20)
    assert manifest_of(job).summary is None
    note.free.set()
    CALLS.clear()
    with Session("killed", data_dir) as session:
        job = submit(session, work, range(3), name="killed")
        assert job.values() == [0, 1, 2]
        assert CALLS == []
        assert eventually(lambda: manifest_of(job).summary).ok == 3
