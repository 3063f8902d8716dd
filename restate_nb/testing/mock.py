"""`mock_context()`: a context in memory for unit tests of handlers, and `ctx.mock`, the controls of its invocation."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from restate import RestateDurableFuture, SdkInternalBaseException, WorkflowContext
from restate.exceptions import TerminalError

from restate_nb.errors import JournalMismatch
from restate_nb.limits import Seconds
from restate_nb.patterns import sdk
from restate_nb.patterns.sdk import Failure, ServerInvocationContext, VMException, running_context
from restate_nb.patterns.typed_values import typed_values, use_typed_values
from restate_nb.testing.fake_core import FakeCore
from restate_nb.testing.invocation import Invocation
from restate_nb.testing.journal import CANCELLED, Answer, Journal, mismatch
from restate_nb.testing.shared_state import Reply, Request, SharedState, Stub, decode, encode, target_of
from restate_nb.validation import seconds

T = TypeVar("T")


class Mock:
    """The controls of one mock invocation, `ctx.mock`.

    Attributes:
        journal: what the handler did and was answered; `str()` of it shows both.
        requests_made: the calls and sends, in order.
        runs: how often each `ctx.run` action was started, by the step's name.
        attempts: how often the handler was started by `invoke`.
    """

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._shared = invocation.shared
        self.journal: Journal = invocation.journal
        self.requests_made: list[Request] = invocation.requests_made
        self.runs: Counter[str] = invocation.runs
        self.attempts: int = 0

    @property
    def now(self) -> float:
        """The virtual seconds since the invocation began."""
        return self._invocation.now

    # What a test prepares.

    def stub(self, handler: object, answer: object, *, delay: Seconds = 0) -> None:
        """Say what calls to a handler return.

        Args:
            handler: the handler function, or "Service/handler".
            answer: the result; or a function (async or not) of nothing, of the input, or of the key and the input,
                that returns it. It fails the call by raising `restate.TerminalError`. An annotated input is decoded to
                its type.
            delay: virtual seconds that the call takes.

        Raises:
            InvalidInput: `handler` is neither a handler nor a name.
        """
        self._shared.callees[target_of(handler)] = Stub(answer, seconds("delay", delay, zero=True))

    def host(self, *services: Any) -> None:
        """Run the real handlers of these services, objects and workflows when they are called, on mocks of their own.

        A handler that was called runs to its end before its caller sees anything of it; then everything that it did
        counts from the virtual time at which it did it. So it cannot wait for something that its caller does later.
        """
        typed_values(*services)
        for service in services:
            for handler in service.handlers.values():
                target = f"{service.service_tag.name}/{handler.name}"
                self._shared.callees[target] = _Hosted(handler, self._shared)

    def fail(self, step: str, error: BaseException, *, times: int = 1) -> None:
        """Let the next runs of the `ctx.run` action called `step` raise `error` instead of doing anything."""
        self._shared.failures.setdefault(step, []).extend([error] * times)

    def set_state(self, name: str, value: object) -> None:
        """Set a state of this object or workflow."""
        self._invocation.states[name] = encode(value)

    def state(self, name: str) -> Any:
        """A state of this object or workflow, decoded from JSON; None when it is not set."""
        return decode(self._invocation.states.get(name, b""))

    def resolve_awakeable(self, name: str, value: object) -> None:
        """Resolve the awakeable with this id."""
        self._invocation.complete_awakeable(name, encode(value))
        self._invocation.wake()

    def reject_awakeable(self, name: str, message: str, code: int = 500) -> None:
        """Reject the awakeable with this id."""
        self._invocation.complete_awakeable(name, Failure(code, message))
        self._invocation.wake()

    def resolve_promise(self, name: str, value: object) -> None:
        """Resolve a promise of this workflow, before or while the handler waits for it."""
        self._invocation.complete_promise(name, encode(value))
        self._invocation.wake()

    def reject_promise(self, name: str, message: str, code: int = 500) -> None:
        """Reject a promise of this workflow."""
        self._invocation.complete_promise(name, Failure(code, message))
        self._invocation.wake()

    def resolve_signal(self, name: str, value: object) -> None:
        """Send a named signal to this invocation."""
        self.resolve_promise(f"signal {name}", value)

    def cancel(self, *, after: Seconds = 0) -> None:
        """Cancel the invocation, `after` virtual seconds from now.

        Raises:
            InvalidInput: `after` is negative.
        """
        self._invocation.after(seconds("after", after, zero=True), lambda: self.journal.answer(CANCELLED, None))
        self._invocation.wake()

    @property
    def awakeables(self) -> list[str]:
        """The ids of the awakeables that wait, in order of their making."""
        return list(self._shared.awakeables)

    async def settled(self) -> None:
        """Wait until the handler can do nothing more by itself: it waits for an awakeable, a promise or a signal."""
        await self._invocation.until_idle()

    # Running a handler.

    async def invoke(self, handler: Callable[..., Awaitable[T]], *args: Any, max_attempts: int = 1) -> T:
        """Run a handler as Restate would, from the first attempt to its result.

        With `mock_context(replay=True)` the handler is suspended at every wait and runs again from its journal.

        Args:
            handler: the handler function; it gets a context, and `args`.
            args: the input, if it takes one.
            max_attempts: after an exception that is no TerminalError the handler runs again from its journal, until it
                ran so many times.

        Raises:
            JournalMismatch: a replay did something else than the journal says; both are shown.
            MockStuck: it waits for something that nobody does.
            Exception: what the handler raised.
        """
        failures = 0
        while True:
            self.attempts += 1
            self._invocation.begin_attempt()
            context = MockContext(self, self._invocation)
            try:
                with running_context(context):
                    result = await handler(context, *args)
                self._check_replayed(context)
                await self._invocation.make_pending_calls()
                return result
            except SdkInternalBaseException:
                continue
            except TerminalError:
                self._check_replayed(context)
                raise
            except JournalMismatch:
                raise
            except VMException as error:
                raise JournalMismatch(str(error)) from error
            except Exception:
                failures += 1
                if failures >= max_attempts:
                    raise
            finally:
                context.on_attempt_finished()  # type: ignore[no-untyped-call]
                await asyncio.sleep(0)  # let what the attempt left behind come to its end

    def _check_replayed(self, context: MockContext) -> None:
        """Check that the handler, which has ended, has taken all steps that its journal has."""
        self._invocation.raise_if_failed()
        if len(context.core.issued) < len(self.journal):
            raise JournalMismatch(str(mismatch(self.journal.entries, context.core.issued)))


@dataclass(frozen=True, slots=True)
class _Hosted:
    """Answers calls with a real handler, which runs on a mock context of its own."""

    handler: Any
    shared: SharedState

    async def call(self, request: Request, parameter: bytes, now: float) -> Reply:
        """Answer a call; see `Callee`."""
        handler, key = self.handler, request.key or ""
        service, io = handler.service_tag.name, handler.handler_io
        invocation = Invocation(self.shared, service=service, key=key, now=now, identity=request.invocation_id)
        invocation.effects = []
        arguments = [] if handler.arity == 1 else [io.input_serde.deserialize(parameter)]
        async with self.shared.exclusive(handler, key):
            try:
                answer: Answer = bytes(io.output_serde.serialize(await Mock(invocation).invoke(handler.fn, *arguments)))
            except TerminalError as error:
                answer = Failure(error.status_code, error.message)
        return Reply(answer, invocation.now - now, invocation.effects)


class _Events:
    """Where the SDK's context waits for news of the core."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    async def __call__(self) -> Any:
        return await self._invocation.next_event()

    async def enqueue_restate_event(self, what: Any) -> None:
        self._invocation.wake()


async def _send(_: Any) -> None:
    """A mock has no wire."""


class MockContext(ServerInvocationContext, WorkflowContext):
    """A context of the SDK over a journal in memory; for services, objects and workflows alike.

    Attributes:
        mock: the controls for the test.
        core: stands in for the SDK's native core.
    """

    def __init__(self, mock: Mock, invocation: Invocation) -> None:
        self.mock = mock
        self.core = FakeCore(invocation)
        self._invocation = invocation
        random_seed = zlib.crc32(f"{invocation.shared.seed} {invocation.id}".encode())
        request = sdk.Invocation(invocation.id, random_seed, [], b"", invocation.key)
        core: Any = self.core
        handler: Any = None
        events: Any = _Events(invocation)
        super().__init__(core, handler, request, {}, _send, events)
        self.core.actions = self.run_coros_to_execute
        use_typed_values(self)

    def time(self) -> RestateDurableFuture[float]:
        """The virtual time: seconds since the invocation began."""
        return self.run_typed("timestamp", lambda: self.mock.now)

    async def create_run_coroutine(self, handle: int, action: Any, *args: Any, **options: Any) -> None:
        """Run a `ctx.run` action, or fail in its place as the test wants it."""
        name = self.mock.journal.entry_of(handle).name
        self.mock.runs[name] += 1
        failures = self._invocation.shared.failures.get(name)
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
    shared = SharedState(seed=seed, patience=seconds("patience", patience))
    invocation = Invocation(shared, key=key, replay=replay)
    ctx = MockContext(Mock(invocation), invocation)
    ctx.mock.host(*services)
    for handler, answer in (stubs or {}).items():
        ctx.mock.stub(handler, answer)
    for name, value in (state or {}).items():
        ctx.mock.set_state(name, value)
    return ctx
