"""The controls of a mock invocation: its clock, its journal, what others answer, and running a handler on it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from restate import SdkInternalBaseException
from restate.exceptions import TerminalError

from restate_nb.errors import JournalMismatch, RestateNbError
from restate_nb.patterns.sdk import Failure, VMException, running_context
from restate_nb.policy import Seconds, seconds
from restate_nb.testing.journal import CANCELLED, Answer, Journal, mismatch
from restate_nb.testing.world import Hosted, Request, Stub, World, encode, target_of

if TYPE_CHECKING:
    from restate_nb.testing.context import MockContext

T = TypeVar("T")

_GIVE_UP_AFTER = 70  # attempts of a step without limits; restate-server would pause the invocation then


class MockStuck(RestateNbError, RuntimeError):
    """The handler waits for something that nobody does, or a step fails for ever."""


class Mock:
    """The controls of one mock invocation, `ctx.mock`.

    Attributes:
        journal: what the handler did and was answered; `str()` of it shows both.
        requests_made: the calls and sends, in order.
        runs: how often each `ctx.run` action was started, by the step's name.
        now: the virtual seconds since the invocation began.
        attempts: how often the handler was started by `invoke`.
    """

    def __init__(
        self,
        world: World,
        *,
        service: str = "Mock",
        key: str = "",
        replay: bool = False,
        now: float = 0.0,
        identity: str | None = None,
    ) -> None:
        self.world = world
        self.service, self.key, self.replay, self.now = service, key, replay, now
        self.id = identity or world.next_id()
        self.journal = Journal()
        self.requests_made: list[Request] = []
        self.runs: Counter[str] = Counter()
        self.attempts = 0
        self.context: MockContext
        # What the machine works with.
        self.requests: dict[int, Callable[[], Any]] = {}  # calls and sends to make, by handle
        self.performing: dict[int, Callable[[], Any]] = {}  # those that are under way
        self.working: dict[int, Callable[[], None] | None] = {}  # what was started, in order; how it ends once it did
        self.backing_off: set[int] = set()
        self.awaited: list[int] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._failed: dict[int, tuple[int, float]] = {}  # attempts of a failing action, and when the first one was
        self._in_flight: dict[str, int] = {}  # calls without a result: invocation id to handle
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._broken: BaseException | None = None

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
        self.world.stubs[target_of(handler)] = Stub(answer, seconds("delay", delay, zero=True))

    def host(self, *services: Any) -> None:
        """Run the real handlers of these services, objects and workflows when they are called, on mocks."""
        for service in services:
            for handler in service.handlers.values():
                target = f"{service.service_tag.name}/{handler.name}"
                self.world.stubs[target] = Stub(Hosted(handler, self.world))

    def fail(self, step: str, error: BaseException, *, times: int = 1) -> None:
        """Let the next runs of the `ctx.run` action called `step` raise `error` instead of doing anything."""
        self.world.failures.setdefault(step, []).extend([error] * times)

    def set_state(self, name: str, value: object) -> None:
        """Set a state of this object or workflow."""
        self.states[name] = encode(value)

    def state(self, name: str) -> Any:
        """A state of this object or workflow, decoded from JSON; None when it is not set."""
        from restate_nb.testing.world import decode  # noqa: PLC0415

        return decode(self.states.get(name, b""))

    def resolve_awakeable(self, name: str, value: object) -> None:
        """Resolve the awakeable with this id."""
        self.complete_awakeable(name, encode(value))

    def reject_awakeable(self, name: str, message: str, code: int = 500) -> None:
        """Reject the awakeable with this id."""
        self.complete_awakeable(name, Failure(code, message))

    def resolve_promise(self, name: str, value: object) -> None:
        """Resolve a promise of this workflow, before or while the handler waits for it."""
        self.complete_promise(name, encode(value))
        self._wake()

    def reject_promise(self, name: str, message: str, code: int = 500) -> None:
        """Reject a promise of this workflow."""
        self.complete_promise(name, Failure(code, message))
        self._wake()

    def resolve_signal(self, name: str, value: object) -> None:
        """Send a named signal to this invocation."""
        self.resolve_promise(f"signal {name}", value)

    def cancel(self, *, after: Seconds = 0) -> None:
        """Cancel the invocation, `after` virtual seconds from now."""
        self.after(seconds("after", after, zero=True), lambda: self.answer(CANCELLED, None))
        self._wake()

    @property
    def awakeables(self) -> list[str]:
        """The ids of the awakeables that wait, in order of their making."""
        return list(self.world.awakeables)

    async def settled(self) -> None:
        """Wait until the handler can do nothing more by itself: it waits for an awakeable, a promise or a signal."""
        await self._idle.wait()

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
        from restate_nb.testing.context import MockContext  # noqa: PLC0415 - a context has a mock

        failures = 0
        while True:
            self._begin(MockContext(self))
            try:
                with running_context(self.context):
                    result = await handler(self.context, *args)
                self._end()
                await self._drain()
                return result
            except SdkInternalBaseException:
                continue
            except TerminalError:
                self._end()
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
                self.context.on_attempt_finished()  # type: ignore[no-untyped-call]
                await asyncio.sleep(0)  # let what the attempt left behind come to its end

    def _begin(self, context: MockContext) -> None:
        self.attempts += 1
        self.context = context
        for handle, ending in list(self.working.items()):  # actions that died with the attempt before
            if ending is None:
                del self.working[handle]
        self.requests |= self.performing
        self.performing.clear()
        self._idle.clear()

    def _end(self) -> None:
        self._raise_if_broken()
        machine = self.context.machine
        if len(machine.issued) < len(self.journal):
            raise JournalMismatch(str(mismatch(self.journal.entries, machine.issued)))

    async def _drain(self) -> None:
        """Let the handlers that were only sent to run."""
        for handle in sorted(self.requests):
            self.working[handle] = None
            await self.requests.pop(handle)()
        self._raise_if_broken()

    # What the machine and the context call.

    @property
    def states(self) -> dict[str, bytes]:
        """The states of this object or workflow, as JSON."""
        return self.world.states.setdefault((self.service, self.key), {})

    @property
    def promises(self) -> dict[str, Any]:
        """The resolved promises of this workflow."""
        return self.world.promises.setdefault((self.service, self.key), {})

    def after(self, wait: float, event: Callable[[], None]) -> None:
        """Do something at a virtual time."""
        heapq.heappush(self._timers, (self.now + wait, next(self._order), event))

    def tick(self) -> bool:
        """Turn the clock to the next thing that happens; False when nothing will."""
        if not self._timers:
            return False
        when, _, event = heapq.heappop(self._timers)
        self.now = max(self.now, when)
        event()
        return True

    def answer(self, handle: int, answer: Answer) -> None:
        """Record an answer."""
        self.journal.answer(handle, answer)

    def deliver(self, handle: int, answer: Answer) -> None:
        """Record an answer that comes from outside, and wake the handler."""
        self.answer(handle, answer)
        self._wake()

    def done(self, handle: int, ending: Callable[[], None]) -> None:
        """Something that was started has ended; it counts in the order of starting, so that every run is the same."""
        if handle not in self.working:
            return  # of an attempt that is over
        self.working[handle] = ending
        while self.working:
            first, ready = next(iter(self.working.items()))
            if ready is None:
                return
            del self.working[first]
            ready()

    def retry(
        self,
        handle: int,
        failure: Failure,
        *,
        max_attempts: int | None,
        max_seconds: float | None,
        first: float,
        factor: float,
        longest: float,
    ) -> None:
        """An action failed: run it again later, or give up."""
        attempts, since = self._failed.get(handle, (0, self.now))
        attempts += 1
        self._failed[handle] = (attempts, since)
        limited = max_attempts is not None or max_seconds is not None
        spent = max_seconds is not None and self.now - since >= max_seconds
        if spent or (max_attempts is not None and attempts >= max_attempts):
            self.answer(handle, Failure(500, failure.message))
        elif not limited and attempts >= _GIVE_UP_AFTER:
            self._broken = MockStuck(
                f"A step failed {attempts} times; restate-server would pause the invocation now: {failure.message}. "
                "Limit its attempts with RunOptions(max_attempts=...).\n" + (failure.stacktrace or "")
            )
        else:
            self.backing_off.add(handle)
            self.after(min(first * factor ** (attempts - 1), longest), lambda: self._again(handle))

    def _again(self, handle: int) -> None:
        self.backing_off.discard(handle)
        self.context.run_again(handle)

    def requested(self, kind: str, handle: int, request: Request, parameter: bytes) -> None:
        """The handler made a call or a send."""
        self.requests_made.append(request)
        stub = self.world.stubs.get(request.target)
        if stub is None:
            return
        if kind == "call":
            self._in_flight[request.invocation_id] = handle
        self.requests[handle] = lambda: self._perform(kind, handle, request, parameter, stub)

    async def _perform(self, kind: str, handle: int, request: Request, parameter: bytes, stub: Stub) -> None:
        answer: Answer = None
        took = request.delay
        try:
            answer, more = await stub.call(request, parameter, self.now)
            took += more
        except TerminalError as error:
            answer = Failure(error.status_code, error.message)
        except Exception as error:
            self._broken = error

        def arrive() -> None:
            self._in_flight.pop(request.invocation_id, None)
            if kind == "call" and self._broken is None:
                self.answer(handle, answer)

        self.performing.pop(handle, None)
        self.done(handle, arrive if not took else lambda: self.after(took, arrive))

    def cancelled(self, invocation_id: str) -> None:
        """The handler cancelled an invocation: a call of its own ends in 409."""
        handle = self._in_flight.pop(invocation_id, None)
        if handle is not None:
            self.answer(handle, Failure(409, "cancelled"))

    def complete_awakeable(self, name: str, answer: Answer) -> None:
        """Resolve or reject an awakeable, of this or of another mock invocation."""
        complete = self.world.awakeables.pop(name, None)
        if complete is not None:
            complete(answer)

    def await_promise(self, name: str, handle: int) -> None:
        """Answer `handle` when the promise is completed, or now if it is."""
        waiting = self.promises
        if name in waiting:
            self.answer(handle, waiting[name])
        else:
            self._promised.setdefault(name, []).append(handle)

    @property
    def _promised(self) -> dict[str, list[int]]:
        return self.world.promises.setdefault((self.service, f"{self.key} awaited"), {})

    def complete_promise(self, name: str, answer: Answer) -> Answer:
        """Resolve or reject a promise; the answer to who did it."""
        if name in self.promises:
            return Failure(409, "the promise was already completed")
        self.promises[name] = answer
        for handle in self._promised.pop(name, []):
            self.answer(handle, answer)
        return None

    # The channel on which the context waits.

    def _wake(self) -> None:
        self._idle.clear()
        self._events.put_nowait({"type": "restate.run_completed", "data": None})

    async def receive(self) -> Any:
        """Wait for something to happen."""
        self._raise_if_broken()
        event = await (self._events.get() if self.working else self._outside())
        self._raise_if_broken()
        return event

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    async def _outside(self) -> Any:
        self._idle.set()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._events.get(), self.world.patience)
        waits = ", ".join(str(self.journal.entry_of(handle)) for handle in self.awaited)
        raise MockStuck(
            f"The handler waits for: {waits}; and nothing happened for {self.world.patience:g} s. Resolve it from the "
            "test: ctx.mock.resolve_awakeable(...), resolve_promise(...) or resolve_signal(...)."
        )
