"""For tests of handlers: a context in memory, and a real server as a pytest fixture."""

from restate_nb.testing.context import MockContext, mock_context
from restate_nb.testing.journal import Entry, Journal
from restate_nb.testing.mock import Mock, MockStuck
from restate_nb.testing.world import Request

__all__ = ["Entry", "Journal", "Mock", "MockContext", "MockStuck", "Request", "mock_context"]
