"""One mock invocation as its machine and its context see it: the clock, what runs, and what others answer.

Whatever ends (a `ctx.run` action, a call) is noted when it ends and counts when the machine asks, one at a time and in
the order of starting. So the journal does not depend on how fast things really were.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from restate_nb.errors import RestateNbError
from restate_nb.patterns.sdk import Failure
from restate_nb.testing.journal import Answer, Journal
from restate_nb.testing.shared_state import Effect, Request, Stub, World

if TYPE_CHECKING:
    from restate_nb.testing.context import MockContext

_GIVE_UP_AFTER = 70  # attempts of a step without limits; restate-server would pause the invocation then


class MockStuck(RestateNbError, RuntimeError):
    """The handler waits for something that nobody does, or a step fails for ever."""


class Running:
    """What is kept of one invocation over its attempts."""

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
        self.effects: list[Effect] | None = None  # on other invocations; kept by one that another invocation called
        self.requests: dict[int, Callable[[], Any]] = {}  # calls and sends to make, by handle
        self.performing: dict[int, Callable[[], Any]] = {}  # those that are under way
        self.working: dict[int, Callable[[], None] | None] = {}  # what was started, in order; how it ended once it did
        self.backing_off: set[int] = set()
        self.awaited: list[int] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._failed: dict[int, tuple[int, float]] = {}  # attempts of a failing action, and when the first one was
        self._in_flight: dict[str, int] = {}  # calls without a result: invocation id to handle
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._broken: BaseException | None = None

    # Time.

    def after(self, wait: float, event: Callable[[], None]) -> None:
        """Do something at a virtual time."""
        heapq.heappush(self._timers, (self.now + max(wait, 0.0), next(self._order), event))

    def tick(self) -> bool:
        """Turn the clock to the next thing that happens; False when nothing will."""
        if not self._timers:
            return False
        when, _, event = heapq.heappop(self._timers)
        self.now = max(self.now, when)
        event()
        return True

    # Actions and calls.

    def done(self, handle: int, ending: Callable[[], None]) -> None:
        """Something that was started has ended."""
        if handle in self.working:  # else it was started by an attempt that is over
            self.working[handle] = ending

    def settle(self) -> bool:
        """Let the end of what was started first count; False when that still runs."""
        first = next(iter(self.working), None)
        if first is None or (ending := self.working[first]) is None:
            return False
        del self.working[first]
        ending()
        return True

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
            self.journal.answer(handle, Failure(500, failure.message))
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
        try:
            reply = await stub.call(request, parameter, self.now + request.delay)
        except Exception as error:
            self._broken = error
            return

        def arrive() -> None:
            self._in_flight.pop(request.invocation_id, None)
            if kind == "call":
                self.journal.answer(handle, reply.answer)

        def ended() -> None:
            self.performing.pop(handle, None)
            for effect in reply.effects:
                self.after(effect.at - self.now, effect.happen(self))
            wait = request.delay + reply.took
            if wait:
                self.after(wait, arrive)
            else:
                arrive()

        self.done(handle, ended)

    def cancelled(self, invocation_id: str) -> None:
        """The handler cancelled an invocation: a call of its own ends in 409."""
        handle = self._in_flight.pop(invocation_id, None)
        if handle is not None:
            self.journal.answer(handle, Failure(409, "cancelled"))

    # State, awakeables, promises.

    @property
    def states(self) -> dict[str, bytes]:
        """The states of this object or workflow, as JSON."""
        return self.world.states.setdefault((self.service, self.key), {})

    @property
    def promises(self) -> dict[str, Any]:
        """The completed promises of this workflow."""
        return self.world.promises.setdefault((self.service, self.key), {})

    @property
    def _waiting(self) -> dict[str, list[tuple[Running, int]]]:
        return self.world.waiting.setdefault((self.service, self.key), {})

    def complete_awakeable(self, name: str, answer: Answer) -> None:
        """Resolve or reject an awakeable, of this or of another invocation."""
        waiting = self.world.awakeables.pop(name, None)
        if waiting is not None:
            self.reach(*waiting, answer)

    def await_promise(self, name: str, handle: int) -> None:
        """Answer `handle` when the promise is completed, or now if it is."""
        if name in self.promises:
            self.journal.answer(handle, self.promises[name])
        else:
            self._waiting.setdefault(name, []).append((self, handle))

    def complete_promise(self, name: str, answer: Answer) -> Answer:
        """Resolve or reject a promise; the answer to who did it."""
        if name in self.promises:
            return Failure(409, "the promise was already completed")
        self.promises[name] = answer
        for owner, handle in self._waiting.pop(name, []):
            self.reach(owner, handle, answer)
        return None

    def reach(self, owner: Running, handle: int, answer: Answer) -> None:
        """Answer what an invocation waits for: this one, or another, which learns of it in its own time."""
        if owner is self:
            self.journal.answer(handle, answer)
        elif self.effects is not None:
            self.effects.append(Effect(self.now, owner, handle, answer))
        else:
            owner.journal.answer(handle, answer)
            owner.wake()

    # The channel on which the context waits.

    def wake(self) -> None:
        """Let the context look again."""
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
