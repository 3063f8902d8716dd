"""`mock_context()`: a context in memory for unit tests of handlers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from restate import RestateDurableFuture, WorkflowContext

from restate_nb.limits import Seconds
from restate_nb.patterns.sdk import Invocation, ServerInvocationContext
from restate_nb.testing.fake_core import Machine
from restate_nb.testing.mock import Mock
from restate_nb.testing.shared_state import World
from restate_nb.validation import seconds


class _Channel:
    """Where the context waits for news."""

    def __init__(self, mock: Mock) -> None:
        self._mock = mock

    async def __call__(self) -> Any:
        return await self._mock.receive()

    async def enqueue_restate_event(self, what: Any) -> None:
        self._mock.wake()


async def _send(_: Any) -> None:
    """A mock has no wire."""


class MockContext(ServerInvocationContext, WorkflowContext):
    """A context of the SDK over a journal in memory; for services, objects and workflows alike.

    Attributes:
        mock: the controls for the test.
    """

    def __init__(self, mock: Mock) -> None:
        self.mock = mock
        self.machine = Machine(mock)
        self.started: dict[int, Callable[[], Any]] = {}  # the actions of this attempt, to run one again
        invocation = Invocation(mock.id, zlib.crc32(f"{mock.world.seed} {mock.id}".encode()), [], b"", mock.key)
        channel: Any = _Channel(mock)
        machine: Any = self.machine
        handler: Any = None
        super().__init__(machine, handler, invocation, {}, _send, channel)
        mock.context = self

    def time(self) -> RestateDurableFuture[float]:
        """The virtual time: seconds since the invocation began."""
        return self.run_typed("timestamp", lambda: self.mock.now)

    def run_again(self, handle: int) -> None:
        """Let the action of a failed step be run once more."""
        if handle in self.started:
            self.run_coros_to_execute[handle] = self.started[handle]

    async def create_run_coroutine(self, handle: int, action: Any, *args: Any, **options: Any) -> None:
        """Run a `ctx.run` action, or fail in its place as the test wants it."""
        name = self.mock.journal.entry_of(handle).name
        self.mock.runs[name] += 1
        failures = self.mock.world.failures.get(name)
        if failures:
            error = failures.pop(0)

            async def fail() -> None:
                raise error

            action = fail
        await super().create_run_coroutine(handle, action, *args, **options)


def mock_context(
    *,
    key: str = "key",
    services: Sequence[Any] = (),
    stubs: Mapping[Any, Any] | None = None,
    state: Mapping[str, object] | None = None,
    replay: bool = False,
    seed: int = 0,
    patience: Seconds = 5.0,
) -> MockContext:
    """A context in memory: no server, no network, and a day's `ctx.sleep` takes no time.

    Steps really run, and are retried by their RunOptions; the clock is virtual; calls are answered by stubs or by real
    handlers hosted on mocks of their own; everything is in `ctx.mock.journal`. It is the SDK's own context over a
    journal in memory, so serdes, `restate.gather`, `select`, `as_completed` and the helpers work as they do on a
    server, and everything happens in one fixed order. Pass it to a handler, or let `ctx.mock.invoke(handler, arg)` run
    the handler with retries and replays.

    Args:
        key: of the object or workflow.
        services: services, objects and workflows whose real handlers answer calls.
        stubs: what answers calls: handler function or "Service/handler" to a value or a function (see `Mock.stub`).
        state: the object's state at the beginning.
        replay: `ctx.mock.invoke` suspends the handler at every wait and runs it again from its journal, as
            restate-server may do; whoever does something else then gets a `JournalMismatch` that shows both journals.
        seed: of `ctx.random()` and `ctx.uuid()`.
        patience: real seconds to wait for an awakeable, promise or signal that the test resolves.

    Raises:
        InvalidInput: a key of `stubs` is neither a handler nor a name, or `patience` is not more than 0.

    Example:
        >>> import asyncio
        >>> from restate_nb.patterns import fan_out
        >>> async def handler(ctx: Context) -> list[int | None]:
        ...     return (await fan_out(ctx, [lambda: 1, lambda: ctx.run_typed("two", lambda: 2)])).results
        >>> asyncio.run(handler(mock_context()))
        [1, 2]
    """
    world = World(seed=seed, patience=seconds("patience", patience))
    ctx = MockContext(Mock(world, key=key, replay=replay))
    ctx.mock.host(*services)
    for handler, answer in (stubs or {}).items():
        ctx.mock.stub(handler, answer)
    for name, value in (state or {}).items():
        ctx.mock.set_state(name, value)
    return ctx
