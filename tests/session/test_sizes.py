"""Proves that size is bounded by the disk, not by memory: many bytes in and out, and generators are not collected."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

import restate_nb as rnb
from restate_nb.backends import local
from restate_nb.handle.job import runner_of
from restate_nb.session.session import Session
from tests.handle.counted import Calls


@dataclasses.dataclass
class Page:
    number: int
    text: str


def test_a_generator_is_read_once_and_its_items_are_not_kept(session: Session) -> None:
    alive: list[weakref.ref[Page]] = []
    most = 0

    def pages() -> Iterator[Page]:
        nonlocal most
        for number in range(500):
            page = Page(number, "x" * number)
            alive.append(weakref.ref(page))
            most = max(most, sum(each() is not None for each in alive))
            yield page

    def length(page: Page) -> int:
        return len(page.text)

    job = rnb.map(length, pages(), session=session, show=False)
    frame = job.result()
    gc.collect()
    assert most <= 3  # the one that is made, the one that is encoded, the one before
    assert not any(each() for each in alive)
    assert frame["value"].tolist() == list(range(500))
    assert frame["item"].iloc[7] == Page(7, "x" * 7)  # as the function got it


def test_input_that_does_not_fit_into_the_server_at_once_is_sent_as_shards_end(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of items that are too small for the store."""
    monkeypatch.setattr(local, "MAX_SHARD_BYTES", 100_000)
    monkeypatch.setattr(local, "MAX_UNFINISHED_BYTES", 300_000)
    calls = Calls(tmp_path / "calls")
    seen: list[int] = []
    most = 0

    async def work(item: str) -> int:
        nonlocal most
        calls.note(int(item[:5]))
        return len(item)

    job = rnb.map(work, (f"{each:05}" + "x" * 4_000 for each in range(500)), session=session, show=False)
    for row in rnb.as_completed(job):
        seen.append(row.index)
        most = max(most, runner_of(job).data.backend.unfinished_bytes)  # type: ignore[attr-defined]
    assert sorted(seen) == list(range(500)) and set(job.values()) == {4_005}
    assert calls.counts() == dict.fromkeys(map(str, range(500)), 1)
    assert 90_000 < most <= 300_000


def test_a_hundred_megabytes_of_results_come_back(session: Session) -> None:
    """Through follow-up shards: one output stays under what restate-server can move."""
    job = rnb.map(lambda each: f"{each:04}" * 250_000, range(100), session=session, show=False)
    values = job.values()
    assert [value[:4] for value in values] == [f"{each:04}" for each in range(100)]
    assert {len(value) for value in values} == {1_000_000}


def test_a_deleted_job_gives_the_disk_back(session: Session) -> None:
    """The database does, at once; the log is cut off bit by bit, by restate-server itself."""
    database = session.server.data_dir / "restate-nb" / "db"

    def used() -> int:
        return sum(each.stat().st_blocks * 512 for each in database.rglob("*") if each.is_file())

    def write(name: str, count: int) -> rnb.Job[int]:
        job = rnb.map(lambda item: os.urandom(250_000).hex(), range(count), name=name, session=session, show=False)
        job.result()
        return job

    before = used()
    write("large", 80).delete()
    deadline = time.monotonic() + 30
    for number in itertools.count():  # what is written next has the deletions reach the files
        write(f"next {number}", 4).delete()
        if used() < before + 20_000_000:
            return
        assert time.monotonic() < deadline, f"{used():,} bytes, and {before:,} before"
        time.sleep(0.2)
