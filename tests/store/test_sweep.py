"""Proves which folders are swept from a store: those that are old, and that no job names and no process writes to;
and of a store that others use, only what is one's own."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from restate_nb.store.base import HOUR, StoreConfig
from restate_nb.store.local import LocalStore
from restate_nb.store.opening import open_store, parse_store
from restate_nb.store.sweep import drop, old_folders, sweep
from tests.store.buckets import BUCKET, s3


def make(root: Path, *folders: str, age: float = 2 * HOUR) -> None:
    writer = LocalStore(StoreConfig(str(root), private=True))
    then = time.time() - age
    for folder in folders:
        writer.append(folder, [b"x" * 10])
        for each in [*(root / folder).iterdir(), root / folder]:
            os.utime(each, (then, then))


def names(store: LocalStore) -> list[str]:
    return sorted(each.name for each in store.folders())


def test_what_is_old_and_named_by_no_job_goes_and_all_else_stays(tmp_path: Path) -> None:
    store = LocalStore(StoreConfig(str(tmp_path), private=True))
    make(tmp_path, "named", "orphan", "orphan-2")
    make(tmp_path, "young", age=HOUR / 2)
    store.append("old-and-written-to", [b"x"])
    make(tmp_path, "old-and-written-to")
    assert store.in_use("old-and-written-to")
    for each in [*(tmp_path / "old-and-written-to").iterdir(), tmp_path / "old-and-written-to"]:
        os.utime(each, (0, 0))
    old = old_folders(store)
    assert sorted(old) == ["named", "old-and-written-to", "orphan", "orphan-2"]
    assert sorted(sweep(store, old, {"named", "deleted-long-ago"})) == ["orphan", "orphan-2"]
    assert names(store) == ["named", "old-and-written-to", "young"]
    store.close()  # as the death of its process does
    assert sweep(store, old_folders(store), {"named"}) == ["old-and-written-to"]


def test_of_a_store_that_others_use_only_the_owners_folders_are_swept(tmp_path: Path) -> None:
    make(tmp_path, "mine-1", "mine-2", "minemine-3", "theirs-1", "0123")
    store = LocalStore(StoreConfig(str(tmp_path), private=True, shared=True))
    assert old_folders(store) == []  # whose this session is, is not known
    store.owner = "mine"
    assert sorted(sweep(store, old_folders(store), ["mine-2"])) == ["mine-1"]
    assert names(store) == ["0123", "mine-2", "minemine-3", "theirs-1"]
    assert store.new_folder().startswith("mine-")


@pytest.mark.parametrize("name", ["", "..", "../../elsewhere", "/"])
def test_a_name_that_leads_elsewhere_deletes_nothing(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes from the record of a dropped job, which whoever reaches Restate can write."""
    make(tmp_path / "store", "kept")
    (tmp_path / "elsewhere").mkdir()
    store = LocalStore(StoreConfig(str(tmp_path / "store" / "session"), private=True))
    drop(store, name)
    assert (tmp_path / "elsewhere").is_dir()
    assert (tmp_path / "store" / "kept").is_dir()
    assert "A folder is not deleted" in caplog.text


def test_in_a_bucket_which_cannot_tell_who_writes_a_folder_is_left_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3(monkeypatch):
        store = open_store(parse_store(f"s3://{BUCKET}"))
        store.owner = "mine"
        for name in ("mine-named", "mine-orphan", "theirs"):
            store.append(name, [b"x"])
        now = time.time()
        for hours, old in ((2, []), (23, []), (25, ["mine-named", "mine-orphan"])):
            monkeypatch.setattr(time, "time", partial(float, now + hours * HOUR))
            assert sorted(old_folders(store)) == old
        assert sweep(store, old_folders(store), ["mine-named"]) == ["mine-orphan"]
        assert sorted(each.name for each in store.folders()) == ["mine-named", "theirs"]
