"""Proves that a server which a full disk has stopped is started anew once there is room, and only then."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from restate_nb.server import lifecycle, supervisor
from restate_nb.server.health import trouble
from restate_nb.server.lifecycle import ServerHandle, start_server
from tests.support import eventually


def wait_for_restart(handle: ServerHandle, restarts: int) -> None:
    eventually(lambda: handle.status().restarts >= restarts and handle.status().pid is not None)


def test_a_server_that_does_not_go_on_when_there_is_room_again_is_started_anew_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its log says decides; `tests/durability/test_full_disk.py` fills a disk."""
    monkeypatch.setattr(lifecycle, "GOES_ON_SECONDS", 0.3)
    with start_server(data_dir) as handle:
        time.sleep(0.7)
        assert handle.status().restarts == 0
        with handle.log_path.open("a") as log:
            log.write(f"IO error: {supervisor.DISK_FULL_SIGNS[0]}: While appending to file\n")
        assert "has room again" in trouble(handle)
        wait_for_restart(handle, 1)
        eventually(lambda: not trouble(handle), 10, shows=lambda: trouble(handle))
        time.sleep(1)
        assert handle.status().restarts == 1


def test_a_server_that_records_again_by_itself_is_left_alone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "GOES_ON_SECONDS", 0.3)
    with start_server(data_dir) as handle:
        with handle.log_path.open("a") as log:
            log.write(f"IO error: {supervisor.DISK_FULL_SIGNS[1]}\nProcessor {supervisor.WORKS_AGAIN} of epoch e9\n")
        time.sleep(1)
        assert handle.status().restarts == 0
