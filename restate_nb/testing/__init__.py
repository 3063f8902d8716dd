"""For tests of handlers: a context in memory, and a real server as a pytest fixture.

In memory, in milliseconds, with a virtual clock; `ctx.mock` is what the test holds on to:

    async def test_order() -> None:
        ctx = mock_context(services=[inventory], stubs={"Payment/Verify": True})
        assert await validate_order(ctx, order) is None
        assert ctx.mock.journal.names("call") == ["Inventory/Check", "Payment/Verify"]

    async def test_order_is_deterministic() -> None:
        ctx = mock_context(services=[inventory], stubs={"Payment/Verify": True}, replay=True)
        await ctx.mock.invoke(validate_order, order)  # JournalMismatch shows both journals if it is not

    async def test_a_bank_that_is_down() -> None:
        ctx = mock_context(services=[payment])
        ctx.mock.fail("ask the bank", OSError("line cut"), times=2)
        ...

Over the journals of real invocations, so that an upgrade does not break what is under way:

    async def test_orders_under_way_can_go_on() -> None:
        await replay(place_order, "journals/order-17.json")

On the real restate-server, plain and with every wait replayed:

    restate_server = server(orders, inventory, payment, always_replay=True)

    async def test_order(restate_server: LocalServer) -> None:
        assert await restate_server.call(validate_order, order) is None
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from restate_nb.testing.callees import Request
from restate_nb.testing.invocation import MockStuck
from restate_nb.testing.journal import Entry, Journal
from restate_nb.testing.mock import Mock, MockContext, mock_context

if TYPE_CHECKING:
    from restate_nb.testing.local_server import LocalServer, running_server, server
    from restate_nb.testing.recorded import RecordedJournal, Replayed, read_journal, replay

__all__ = [
    "Entry",
    "Journal",
    "LocalServer",
    "Mock",
    "MockContext",
    "MockStuck",
    "RecordedJournal",
    "Replayed",
    "Request",
    "mock_context",
    "read_journal",
    "replay",
    "running_server",
    "server",
]


_ON_SERVER = {
    "LocalServer": "local_server",
    "running_server": "local_server",
    "server": "local_server",
    "RecordedJournal": "recorded",
    "Replayed": "recorded",
    "read_journal": "recorded",
    "replay": "recorded",
}


def __getattr__(name: str) -> Any:
    # The server brings aiohttp and hypercorn, which tests on the mock have no need of.
    if name not in _ON_SERVER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"restate_nb.testing.{_ON_SERVER[name]}"), name)
