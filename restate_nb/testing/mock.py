"""`mock_context()`: a context in memory for unit tests of handlers, and `ctx.mock`, the controls of its invocation."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, overload

from restate import RestateDurableFuture, SdkInternalBaseException, WorkflowContext
from restate.exceptions import TerminalError

from restate_nb.errors import JournalMismatch
from restate_nb.limits import Seconds
from restate_nb.patterns import sdk
from restate_nb.patterns.sdk import Failure, ServerInvocationContext, VMException, running_context
from restate_nb.patterns.typed_values import typed_values, use_typed_values
from restate_nb.testing.callees import Request, Stub, decode, encode, handler_of, target_of
from restate_nb.testing.elsewhere import Recording, replay_elsewhere
from restate_nb.testing.fake_core import FakeCore
from restate_nb.testing.invocation import Invocation
from restate_nb.testing.journal import CANCELLED, Answer, Journal, mismatch
from restate_nb.testing.world import World
from restate_nb.validation import seconds

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - the SDK's name for a handler's input
I2 = TypeVar("I2")
I3 = TypeVar("I3")

_OWN = "Mock/handler"


class Mock:
    """The controls of one mock invocation, `ctx.mock`, and of the world that it is in.

    Attributes:
        journal: what the handler did and was answered; `str()` of it shows both.
        requests_made: the calls and sends, in order.
        runs: how often each `ctx.run` action was started, by the step's name.
        id: of the invocation.
        world: what the invocations of this mock share.
    """

    journal: Journal
    requests_made: list[Request]
    runs: Counter[str]
    id: str

    def __init__(self, invocation: Invocation, world: World) -> None:
        self.world = world
        self._own = invocation
        self._show(invocation)

    def _show(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self.journal = invocation.journal
        self.requests_made = invocation.requests_made
        self.runs = invocation.runs
        self.id = invocation.id

    @property
    def now(self) -> float:
        """The virtual seconds since the beginning; of an invocation that has ended, until its end."""
        return self._invocation.now

    @property
    def attempts(self) -> int:
        """How often the handler was started by `invoke`."""
        return self._invocation.attempts

    # What a test prepares.

    def stub(self, handler: object, answer: object, *, delay: Seconds = 0) -> None:
        """Say what calls to a handler return.

        Args:
            handler: the handler function, or "Service/handler".
            answer: the result; or a function (async or not) of nothing, of the input, or of the key and the input,
                that returns it. It fails the call by raising `restate.TerminalError`. An annotated input is decoded to
                its type. What is returned is written as the handler would, if that is given.
            delay: virtual seconds that the call takes.

        Raises:
            InvalidInput: `handler` is neither a handler nor a name.
        """
        target, found = target_of(handler), handler_of(handler)
        serde = None if found is None else found.handler_io.output_serde
        self.world.callees[target] = Stub(answer, seconds("delay", delay, zero=True), serde)

    def host(self, *services: Any) -> None:
        """Run the real handlers of these services, objects and workflows when they are called, as invocations of their
        own in the same world: side by side, on one clock, with one state for each key."""
        typed_values(*services)
        for service in services:
            for handler in service.handlers.values():
                self.world.callees[f"{service.service_tag.name}/{handler.name}"] = handler

    def fail(self, step: str, error: BaseException, *, times: int = 1) -> None:
        """Let the next runs of the `ctx.run` action called `step` raise `error` instead of doing anything."""
        self.world.failures.setdefault(step, []).extend([error] * times)

    def set_state(self, name: str, value: object) -> None:
        """Set a state of this object or workflow."""
        self._invocation.states[name] = encode(value)

    def state(self, name: str) -> Any:
        """A state of this object or workflow, decoded from JSON; None when it is not set."""
        return decode(self._invocation.states.get(name, b""))

    def resolve_awakeable(self, name: str, value: object) -> None:
        """Resolve the awakeable with this id."""
        self.world.complete_awakeable(name, encode(value))

    def reject_awakeable(self, name: str, message: str, code: int = 500) -> None:
        """Reject the awakeable with this id."""
        self.world.complete_awakeable(name, Failure(code, message))

    def resolve_promise(self, name: str, value: object) -> None:
        """Resolve a promise of this workflow, before or while the handler waits for it."""
        self._invocation.complete_promise(name, encode(value))

    def reject_promise(self, name: str, message: str, code: int = 500) -> None:
        """Reject a promise of this workflow."""
        self._invocation.complete_promise(name, Failure(code, message))

    def resolve_signal(self, name: str, value: object) -> None:
        """Send a named signal to this invocation."""
        self._invocation.signal(name, encode(value))

    def cancel(self, *, after: Seconds = 0) -> None:
        """Cancel the invocation, `after` virtual seconds from now. The calls that it waits for are cancelled, too.

        Raises:
            InvalidInput: `after` is negative.
        """
        invocation = self._invocation
        self.world.after(seconds("after", after, zero=True), lambda: invocation.deliver(CANCELLED, None))

    @property
    def awakeables(self) -> list[str]:
        """The ids of the awakeables that wait, in order of their making."""
        return list(self.world.awakeables)

    async def settled(self) -> None:
        """Wait until nobody can do anything more by itself: the handler waits for an awakeable, a promise, a signal,
        or, where the test turns the clock, for time."""
        await self.world.until_idle()

    async def advance(self, wait: Seconds) -> None:
        """Turn the virtual clock forward, and run what is due meanwhile.

        By default the clock turns by itself while everybody waits; with `mock_context(auto_advance=False)` only this
        turns it.

        Raises:
            InvalidInput: `wait` is negative.

        Example:
            >>> import asyncio
            >>> from datetime import timedelta
            >>> async def handler(ctx: Context) -> str:
            ...     await ctx.sleep(timedelta(days=1))
            ...     return "a day later"
            >>> async def test() -> None:
            ...     ctx = mock_context(auto_advance=False)
            ...     running = asyncio.create_task(ctx.mock.invoke(handler))
            ...     await ctx.mock.advance(timedelta(hours=23))
            ...     assert not running.done()
            ...     await ctx.mock.advance(timedelta(hours=1))
            ...     assert await running == "a day later"
            >>> asyncio.run(test())
        """
        await self.world.advance(seconds("wait", wait, zero=True))

    # Running handlers.

    @overload
    async def invoke(
        self,
        handler: Callable[[Any], Awaitable[T]],
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_attempts: int = 1,
    ) -> T: ...
    @overload
    async def invoke(
        self,
        handler: Callable[[Any, I], Awaitable[T]],
        arg: I,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_attempts: int = 1,
    ) -> T: ...
    @overload
    async def invoke(
        self,
        handler: Callable[[Any, I, I2], Awaitable[T]],
        arg: I,
        second: I2,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_attempts: int = 1,
    ) -> T: ...
    @overload
    async def invoke(
        self,
        handler: Callable[[Any, I, I2, I3], Awaitable[T]],
        arg: I,
        second: I2,
        third: I3,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_attempts: int = 1,
    ) -> T: ...
    async def invoke(
        self,
        handler: Callable[..., Awaitable[Any]],
        *args: Any,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_attempts: int = 1,
    ) -> Any:
        """Run a handler as Restate would, from the first attempt to its result; input and result as they travel.

        With `mock_context(replay=True)` the handler is suspended when it waits and runs again from its journal: at
        every wait at first, and in handlers of many steps more and more seldom, so that the time grows with their
        number. A further `invoke` is another invocation in the same world: it sees the states and promises that the
        ones before have left, and `journal`, `runs` and so on are those of the newest.

        A `ctx.run` action that fails fails its attempt, as on a server: after its back-off all of the handler runs
        again from its journal.

        Args:
            handler: the handler function; it gets a context, and `args`.
            args: the input, if it takes one.
            key: of the object or workflow; the one of `mock_context` by default.
            idempotency_key: a second invocation of the handler with the same key is the first one.
            headers: what `ctx.request().headers` has; those of `mock_context` by default.
            max_attempts: after an exception that is no TerminalError the handler runs again from its journal, until it
                ran so many times.

        Raises:
            JournalMismatch: a replay did something else than the journal says; both are shown.
            MockStuck: it waits for something that nobody does.
            Exception: what the handler raised.

        Example:
            >>> import asyncio
            >>> import restate
            >>> counter = restate.VirtualObject("MockedCounter")
            >>> @counter.handler()
            ... async def add(ctx: restate.ObjectContext, amount: int) -> int:
            ...     total = (await ctx.get("total") or 0) + amount
            ...     ctx.set("total", total)
            ...     return total
            >>> async def test() -> list[int]:
            ...     mock = mock_context().mock
            ...     return [await mock.invoke(add, 2, key=key) for key in "aab"]
            >>> asyncio.run(test())
            [2, 4, 2]
        """
        found = handler_of(handler)
        invocation = self._next_invocation(found, key, idempotency_key, headers)
        if found is None:
            return await self._in_turn(invocation, _Run(lambda ctx: handler(ctx, *args)), max_attempts, handler, args)
        io = found.handler_io
        invocation.parameter = bytes(io.input_serde.serialize(*args)) if args else b""
        before = self.world.claim(invocation)
        if before is not None:
            await before.until_ended()
            self.world.raise_if_failed()
            return _value_of(before.result, io.output_serde)
        answer = await self._in_turn(
            invocation, _Run(_served(found, invocation.parameter)), max_attempts, handler, args
        )
        return io.output_serde.deserialize(answer)

    async def replay(self, handler: Callable[..., Awaitable[T]], /, *args: Any) -> T:
        """Run a handler once more over the journal that there is, as after a crash just before its end.

        Args:
            handler: the handler function that `invoke` ran, or another one that should do the same.
            args: what it was given.

        Raises:
            JournalMismatch: it did something else than the journal says; both are shown.
            Exception: what the handler raised.
        """
        found, invocation = handler_of(handler), self._invocation
        run = _Run(lambda ctx: handler(ctx, *args)) if found is None else _Run(_served(found, invocation.parameter))
        invocation.ended = False
        try:
            value = await run.to_end(invocation, self, 1)
        finally:
            invocation.awake, invocation.ended = False, True
        return value if found is None else found.handler_io.output_serde.deserialize(value)  # type: ignore[no-any-return]

    def _next_invocation(
        self, handler: Any, key: str | None, idempotency_key: str | None, headers: Mapping[str, str] | None
    ) -> Invocation:
        """This invocation, if nothing has happened to it yet; else another one in the same world."""
        own, shown = self._own, self._invocation
        key = own.key if key is None else key
        service = "Mock" if handler is None else handler.service_tag.name
        request = replace(
            own.request,
            target=_OWN if handler is None else f"{service}/{handler.name}",
            key=key,
            headers=own.request.headers if headers is None else tuple(headers.items()),
            idempotency_key=own.request.idempotency_key if idempotency_key is None else idempotency_key,
        )
        if shown is own and not (shown.begun or shown.ended or len(shown.journal)):
            self.world.move((own.service, own.key), (service, key))
        else:
            shown = Invocation(self.world, replay=own.replay, request=request)
        shown.service, shown.key, shown.request, shown.handler = service, key, request, handler
        shown.by_hand = False
        self._show(shown)
        return shown

    async def _in_turn(
        self, invocation: Invocation, run: _Run, max_attempts: int, handler: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        world = self.world
        world.test_acts()
        if not world.enter(invocation):
            await invocation.turn.wait()
        try:
            value = await run.to_end(invocation, self, max_attempts)
        except TerminalError as error:
            world.finish(invocation, Failure(error.status_code, error.message, metadata=error.metadata))
            await world.until_idle()
            await self._check_elsewhere(invocation, handler, args)
            raise
        except BaseException:
            world.finish(invocation, Failure(500, "it did not end"))
            raise
        world.finish(invocation, value if isinstance(value, bytes) else None)
        await world.until_idle()  # what was sent to runs, too
        await self._check_elsewhere(invocation, handler, args)
        return value

    async def _check_elsewhere(
        self, invocation: Invocation, handler: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if self.world.strict:
            journal = invocation.journal
            await replay_elsewhere(
                Recording(
                    handler, args, invocation.request, invocation.service, journal.entries, journal.answers,
                    self.world.seed,
                )
            )  # fmt: skip


async def replayed(recording: Recording) -> str:
    """Replay an invocation of another process; what it did else, in words, or nothing.

    Raises:
        Exception: what the handler raised that is no TerminalError.
    """
    world = World(seed=recording.seed)
    world.run_hosted = partial(_run_hosted, world)
    handler, request = recording.handler, recording.request
    invocation = Invocation(world, service=recording.service, key=request.key or "", request=request)
    invocation.handler = found = handler_of(handler)
    invocation.journal.entries.extend(recording.entries)
    for handle, answer in recording.answers:
        invocation.journal.answer(handle, answer)
    targets = {entry.name: entry.name for entry in recording.entries if entry.kind == "call"}
    world.callees.update(dict.fromkeys(targets, Stub(None)))
    mock = Mock(invocation, world)
    run = _Run(lambda ctx: handler(ctx, *recording.args))
    if found is not None:
        invocation.parameter = bytes(found.handler_io.input_serde.serialize(*recording.args)) if recording.args else b""
        run = _Run(_served(found, invocation.parameter))
    steps = len(recording.entries)
    try:
        await run.to_end(invocation, mock, 1)
    except TerminalError:
        pass  # it may have ended so before
    except JournalMismatch as error:
        return str(error)
    if len(invocation.journal.entries) > steps:
        return str(mismatch(recording.entries, invocation.journal.entries))
    return ""


@contextlib.contextmanager
def _open_attempt(context: MockContext) -> Any:
    try:
        with running_context(context):
            yield
    finally:
        context.core.end_attempt()
        context.on_attempt_finished()  # type: ignore[no-untyped-call]


class _Run:
    """Runs a handler, attempt after attempt."""

    def __init__(self, handler: Callable[[Any], Awaitable[Any]]) -> None:
        self._handler = handler

    async def to_end(self, invocation: Invocation, mock: Mock, max_attempts: int) -> Any:
        """What the handler returns.

        Raises:
            JournalMismatch: a replay did something else than the journal says.
            Exception: what the handler raised.
        """
        failures = 0
        while True:
            await invocation.until_backed_off()
            invocation.begin_attempt()
            context = MockContext(mock, invocation)
            try:
                with _open_attempt(context):
                    try:
                        value = await self._handler(context)
                    except Exception as error:
                        # A `finally` may have raised something else while the attempt was suspended.
                        if context.core.closed or _is_internal(error):
                            continue
                        raise
                    finally:
                        if not context.core.closed:
                            mock.world.raise_if_failed()
                    _check_replayed(invocation, context)
                    return value
            except TerminalError:
                _check_replayed(invocation, context)
                raise
            except JournalMismatch:
                raise
            except VMException as error:
                raise JournalMismatch(str(error)) from error
            except SdkInternalBaseException:
                continue
            except Exception:
                failures += 1
                if failures >= max_attempts:
                    raise
            finally:
                await asyncio.sleep(0)  # let what the attempt left behind come to its end


def _is_internal(error: BaseException | None) -> bool:
    """Whether the SDK's own exception, which ends an attempt, is behind this one."""
    while error is not None:
        if isinstance(error, SdkInternalBaseException):
            return True
        error = error.__cause__
    return False


def _check_replayed(invocation: Invocation, context: MockContext) -> None:
    """Check that the handler, which has ended, has taken all steps that its journal has."""
    if len(context.core.issued) < len(invocation.journal):
        raise JournalMismatch(str(mismatch(invocation.journal.entries, context.core.issued)))


def _served(handler: Any, parameter: bytes) -> Callable[[Any], Awaitable[bytes]]:
    """Runs a handler of the SDK from bytes to bytes, as a server has it done."""

    async def run(context: Any) -> bytes:
        io = handler.handler_io
        async with contextlib.AsyncExitStack() as stack:
            for manager in handler.context_managers or ():
                await stack.enter_async_context(manager())
            if handler.arity == 1:
                found = await handler.fn(context)
            else:
                try:
                    given = io.input_serde.deserialize(parameter)
                except Exception as error:
                    raise TerminalError(f"Unable to parse an input argument. {error}") from error
                found = await handler.fn(context, given)
            return bytes(io.output_serde.serialize(found))

    return run


async def _run_hosted(world: World, invocation: Invocation, handler: Any) -> Answer:
    """Run a handler that was called; its result, as the caller gets it."""
    try:
        answer: bytes = await _Run(_served(handler, invocation.parameter)).to_end(
            invocation, Mock(invocation, world), 1
        )
        return answer
    except TerminalError as error:
        return Failure(error.status_code, error.message, metadata=error.metadata)


def _value_of(answer: Answer, serde: Any) -> Any:
    if isinstance(answer, Failure):
        raise TerminalError(answer.message, answer.code, metadata=answer.metadata)
    return serde.deserialize(answer)


class _Events:
    """Where the SDK's context waits for news of the core."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    async def __call__(self) -> Any:
        await self._invocation.next_event()
        return {"type": "restate.run_completed", "data": None}

    async def enqueue_restate_event(self, what: Any) -> None:
        """The world wakes the invocation when it is the turn of what has ended."""


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
        self.core = FakeCore(invocation, mock.world)
        self._invocation = invocation
        asked = invocation.request
        random_seed = zlib.crc32(f"{invocation.world.seed} {invocation.id}".encode())
        request = sdk.Invocation(
            invocation.id, random_seed, list(asked.headers), invocation.parameter, invocation.key
        )  # fmt: skip
        for name in ("scope", "limit_key", "idempotency_key"):
            if hasattr(request, name):  # the oldest versions have fewer
                setattr(request, name, getattr(asked, name))
        core: Any = self.core
        events: Any = _Events(invocation)
        super().__init__(core, invocation.handler, request, {}, _send, events)
        self.core.actions = self.run_coros_to_execute
        use_typed_values(self)

    def time(self) -> RestateDurableFuture[float]:
        """The virtual time: seconds since the invocation began."""
        return self.run_typed("timestamp", lambda: self._invocation.world.now)

    async def create_run_coroutine(self, handle: int, action: Any, *args: Any, **options: Any) -> None:
        """Run a `ctx.run` action, or fail in its place as the test wants it."""
        name = self._invocation.journal.entry_of(handle).name
        self._invocation.runs[name] += 1
        failures = self._invocation.world.failures.get(name)
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
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    replay: bool = False,
    seed: int = 0,
    shuffle: int | None = None,
    strict: bool = False,
    auto_advance: bool = True,
    patience: Seconds = 5.0,
) -> MockContext:
    """A context in memory: no server, no network, and a day's `ctx.sleep` takes no time.

    Steps really run, and are retried by their RunOptions; the clock is virtual; calls are answered by stubs or by real
    handlers, which run side by side in the same world as invocations of their own; everything is in
    `ctx.mock.journal`. It is the SDK's own context over a journal in memory, so `restate.gather`, `select`,
    `as_completed` and the helpers work as they do on a server, what travels is written and read as there, and
    everything happens in one fixed order. Pass it to a handler, or let `ctx.mock.invoke(handler, arg)` run the handler
    with retries and replays.

    Args:
        key: of the object or workflow.
        services: services, objects and workflows whose real handlers answer calls.
        stubs: what answers calls: handler function or "Service/handler" to a value or a function (see `Mock.stub`).
        state: the object's state at the beginning.
        headers: what `ctx.request().headers` has.
        idempotency_key: what `ctx.request().idempotency_key` has.
        replay: `ctx.mock.invoke` suspends the handler when it waits and runs it again from its journal, as
            restate-server may do; whoever does something else then gets a `JournalMismatch` that shows both journals.
        seed: of `ctx.random()` and `ctx.uuid()`.
        shuffle: a seed: what runs at the same time ends in an order that it chooses, another one for each seed.
        strict: `ctx.mock.invoke` has the handler replayed in other processes at last, at another time, with other
            random numbers and sets in another order; it takes a second or two.
        auto_advance: whether the clock turns by itself while everybody waits; if not, `ctx.mock.advance` turns it.
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
    world = World(
        seed=seed, patience=seconds("patience", patience), replay=replay, shuffle=shuffle, auto_advance=auto_advance
    )
    world.run_hosted = partial(_run_hosted, world)
    world.strict = strict
    given = tuple((headers or {}).items())
    request = Request(_OWN, key, None, "", headers=given, idempotency_key=idempotency_key)
    invocation = Invocation(world, key=key, request=request)
    ctx = MockContext(Mock(invocation, world), invocation)
    ctx.mock.host(*services)
    for handler, answer in (stubs or {}).items():
        ctx.mock.stub(handler, answer)
    for name, value in (state or {}).items():
        ctx.mock.set_state(name, value)
    return ctx
