"""Proves that a disk that becomes full under a job costs it nothing but time: it is said, and when there is room again
the job goes on by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.durability.full_disk import TOTAL
from tests.durability.full_store import TOTAL as IN_STORE

OWN_MOUNTS = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def mounts_are_allowed(folder: Path) -> bool:
    """Whether this user may mount a disk that nobody else sees: root may, others where user namespaces are allowed."""
    try:
        mount = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", folder]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_job_whose_disk_becomes_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk, record = tmp_path / "disk", tmp_path / "record.json"
    disk.mkdir()
    if not mounts_are_allowed(disk):
        pytest.skip("a disk of its own for the test needs root, or user namespaces")
    notebook = subprocess.run(
        [*OWN_MOUNTS, sys.executable, "-m", "tests.durability.full_disk", disk, record],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    print(notebook.stdout, notebook.stderr)
    assert notebook.returncode == 0
    full, room = [line for line in notebook.stdout.splitlines() if line.startswith("said:")]
    assert full == (
        f"said: nothing is recorded: the disk of {disk}/.restate is full: make room, and the job goes on by itself"
    )
    assert "has room again: restate-server tries anew within a minute" in room
    assert Counter(json.loads(record.read_text())) == {"1": TOTAL}


def test_a_job_whose_store_becomes_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """Values lie on a disk of their own: nothing is recorded that is not there, and nothing is run again."""
    disk, record = tmp_path / "disk", tmp_path / "record.json"
    disk.mkdir()
    if not mounts_are_allowed(disk):
        pytest.skip("a disk of its own for the test needs root, or user namespaces")
    notebook = subprocess.run(
        [*OWN_MOUNTS, sys.executable, "-m", "tests.durability.full_store", disk, record],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    print(notebook.stdout, notebook.stderr)
    assert notebook.returncode == 0
    said, recorded, more = notebook.stdout.splitlines()
    assert said.startswith(f"said: The disk of the store {disk}/values/full is full: make room there.")
    assert 0 < int(recorded.removeprefix("recorded before: ")) < IN_STORE
    assert more == "bytes too many: 0"
    assert Counter(json.loads(record.read_text())) == {"1": IN_STORE}
