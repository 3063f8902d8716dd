"""What the tests share: sessions on the real restate-server, each with a data directory of its own."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from jedi.api import environment

from restate_nb.session.session import Session

ALWAYS_REPLAY = {"RESTATE_WORKER__INVOKER__INACTIVITY_TIMEOUT": "0s"}
"""The server asks every invocation that waits to suspend: each group costs an attempt, which replays all before it."""


LONG = (
    "durability/test_kills.py",
    "browser",
    "patterns/test_sdk_range.py",
    "patterns/test_scheduler_on_server.py",
    "durability",
    "notebooks",
    "handle/test_live_executor.py",
)
"""Where the tests are few and long, the longest first."""


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # of xdist, which would begin with the files that have most tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first: begun last, it is waited for on one processor while the others are idle."""
    tests = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        path = item.path.relative_to(tests).as_posix()
        return next((place for place, long in enumerate(LONG) if path.startswith(long)), len(LONG))

    items.sort(key=turn)


@pytest.fixture(scope="module", autouse=True)
def garbage_is_ones_own() -> Iterator[None]:
    """What a file's tests leave to the garbage collector is found here, not in whatever test runs later."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A live session."""
    with Session("tests", tmp_path_factory.mktemp("data") / ".restate") as session:
        yield session


@pytest.fixture(scope="module", params=["patient", "always replayed"])
def any_session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A live session; once as users have it, and once on a server that makes every wait be replayed."""
    replayed = request.param == "always replayed"
    env = ALWAYS_REPLAY if replayed else None
    with Session(
        "tests", tmp_path_factory.mktemp("data") / ".restate", patient=not replayed, server_env=env
    ) as session:
        yield session


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory for a server."""
    return tmp_path / ".restate"


@pytest.fixture
def jedi_ends() -> Iterator[None]:
    """jedi, which completes names, keeps a process for ten minutes and leaves its pipes to the garbage collector, which
    would warn in whatever test runs then."""
    yield
    environment._get_cached_default_environment.clear_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
