"""For tests of handlers: a context in memory, and a real server as a pytest fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from restate_nb.testing.context import MockContext, mock_context
from restate_nb.testing.journal import Entry, Journal
from restate_nb.testing.mock import Mock
from restate_nb.testing.running import MockStuck
from restate_nb.testing.world import Request

if TYPE_CHECKING:
    from restate_nb.testing.local_server import LocalServer, running_server, server

__all__ = [
    "Entry",
    "Journal",
    "LocalServer",
    "Mock",
    "MockContext",
    "MockStuck",
    "Request",
    "mock_context",
    "running_server",
    "server",
]


def __getattr__(name: str) -> Any:
    # The server brings aiohttp and hypercorn, which tests on the mock have no need of.
    if name not in {"LocalServer", "running_server", "server"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from restate_nb.testing import local_server  # noqa: PLC0415

    return getattr(local_server, name)
