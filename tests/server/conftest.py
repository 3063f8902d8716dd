"""A real restate-server for the tests, got as a user gets it: from the cache, which the first use fills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from restate_nb.server.binary import ensure_binary
from restate_nb.server.lifecycle import ServerHandle, start_server, stop_server
from tests.server.serverlab import processes_on


@pytest.fixture(scope="session")
def binary() -> Path:
    return ensure_binary()


@pytest.fixture(scope="session")
def server(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    """One server for the tests that only talk to it."""
    with start_server(tmp_path_factory.mktemp("server")) as handle:
        yield handle


@pytest.fixture
def data_dir(binary: Path, tmp_path: Path) -> Iterator[Path]:
    """A directory for a server of the test's own; nothing may run on it in the end."""
    path = tmp_path / "data"
    yield path
    with suppress(Exception):
        stop_server(path)
    left = processes_on(path)
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}"
