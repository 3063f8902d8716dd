"""One mock invocation over all of its attempts: the clock, the actions and calls under way, and what they are answered.

The end of an action or a call is noted when it ends, and applied when the core asks, one at a time and in the order of
starting. So the journal does not depend on how fast things really were.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from restate_nb.errors import RestateNbError
from restate_nb.patterns.sdk import Failure
from restate_nb.testing.journal import Answer, Journal
from restate_nb.testing.shared_state import Callee, Effect, Recipient, Request, SharedState

_GIVE_UP_AFTER = 70  # attempts of a step without limits; restate-server would pause the invocation then


class MockStuck(RestateNbError, RuntimeError):
    """The handler waits for something that nobody does, or a step fails for ever."""


class Invocation:
    """What an invocation keeps from one attempt to the next.

    Attributes:
        effects: what it did to other invocations; kept by one that another invocation called.
        pending_calls: calls and sends that are still to be made, by handle.
        open_calls: those under way.
        running: actions and calls under way, in the order of starting; how each ended, once it did.
        backing_off: actions that wait for their next attempt.
        awaited: the handles that the handler waits for.
    """

    def __init__(
        self,
        shared: SharedState,
        *,
        service: str = "Mock",
        key: str = "",
        replay: bool = False,
        now: float = 0.0,
        identity: str | None = None,
    ) -> None:
        self.shared = shared
        self.service, self.key, self.replay, self.now = service, key, replay, now
        self.id = identity or shared.next_id()
        self.journal = Journal()
        self.requests_made: list[Request] = []
        self.runs: Counter[str] = Counter()
        self.effects: list[Effect] | None = None
        self.pending_calls: dict[int, Callable[[], Any]] = {}
        self.open_calls: dict[int, Callable[[], Any]] = {}
        self.running: dict[int, Callable[[], None] | None] = {}
        self.backing_off: set[int] = set()
        self.awaited: list[int] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._failed: dict[int, tuple[int, float]] = {}  # attempts of a failing action, and when the first one was
        self._unanswered: dict[str, int] = {}  # calls without a result: invocation id to handle
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._error: BaseException | None = None

    def begin_attempt(self) -> None:
        """Forget the actions that died with the attempt before; calls that were under way are made again."""
        self.running = {handle: ending for handle, ending in self.running.items() if ending is not None}
        self.pending_calls |= self.open_calls
        self.open_calls.clear()
        self._idle.clear()

    async def make_pending_calls(self) -> None:
        """Run the handlers that were only sent to, after the handler has ended."""
        for handle in sorted(self.pending_calls):
            self.running[handle] = None
            await self.pending_calls.pop(handle)()
        self.raise_if_failed()

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

    def note_end(self, handle: int, ending: Callable[[], None]) -> None:
        """Note that an action or a call has ended; `ending` is what that means, once it is its turn."""
        if handle in self.running:  # else it was started by an attempt that is over
            self.running[handle] = ending

    def apply_next_end(self) -> bool:
        """Apply the end of what was started first; False while that still runs."""
        first = next(iter(self.running), None)
        if first is None or (ending := self.running[first]) is None:
            return False
        del self.running[first]
        ending()
        return True

    def action_failed(
        self,
        handle: int,
        failure: Failure,
        *,
        max_attempts: int | None,
        max_seconds: float | None,
        first: float,
        factor: float,
        longest: float,
    ) -> bool:
        """Whether the action runs again after a back-off; when not, it has failed for good."""
        attempts, since = self._failed.get(handle, (0, self.now))
        attempts += 1
        self._failed[handle] = (attempts, since)
        limited = max_attempts is not None or max_seconds is not None
        spent = max_seconds is not None and self.now - since >= max_seconds
        if spent or (max_attempts is not None and attempts >= max_attempts):
            self.journal.answer(handle, Failure(500, failure.message))
            return False
        if not limited and attempts >= _GIVE_UP_AFTER:
            self._error = MockStuck(
                f"A step failed {attempts} times; restate-server would pause the invocation now: {failure.message}. "
                "Limit its attempts with RunOptions(max_attempts=...).\n" + (failure.stacktrace or "")
            )
            return False
        self.backing_off.add(handle)
        self.after(min(first * factor ** (attempts - 1), longest), lambda: self.backing_off.discard(handle))
        return True

    def add_request(self, kind: str, handle: int, request: Request, parameter: bytes) -> None:
        """Add a call or a send of the handler to those that are to be made."""
        self.requests_made.append(request)
        callee = self.shared.callees.get(request.target)
        if callee is None:
            return
        if kind == "call":
            self._unanswered[request.invocation_id] = handle
        self.pending_calls[handle] = lambda: self._call(kind, handle, request, parameter, callee)

    async def _call(self, kind: str, handle: int, request: Request, parameter: bytes, callee: Callee) -> None:
        try:
            reply = await callee.call(request, parameter, self.now + request.delay)
        except Exception as error:
            self._error = error
            return

        def answer() -> None:
            self._unanswered.pop(request.invocation_id, None)
            if kind == "call":
                self.journal.answer(handle, reply.answer)

        def ended() -> None:
            self.open_calls.pop(handle, None)
            for effect in reply.effects:
                self.after(effect.at - self.now, partial(self.answer, effect.recipient, effect.handle, effect.answer))
            wait = request.delay + reply.took
            if wait:
                self.after(wait, answer)
            else:
                answer()

        self.note_end(handle, ended)

    def cancel_invocation(self, invocation_id: str) -> None:
        """Cancel another invocation: a call of this one's own ends in 409."""
        handle = self._unanswered.pop(invocation_id, None)
        if handle is not None:
            self.journal.answer(handle, Failure(409, "cancelled"))

    # State, awakeables, promises.

    @property
    def states(self) -> dict[str, bytes]:
        """The states of this object or workflow, as JSON."""
        return self.shared.states.setdefault((self.service, self.key), {})

    @property
    def promises(self) -> dict[str, Any]:
        """The completed promises of this workflow."""
        return self.shared.promises.setdefault((self.service, self.key), {})

    @property
    def _waiting(self) -> dict[str, list[tuple[Recipient, int]]]:
        return self.shared.waiting.setdefault((self.service, self.key), {})

    def complete_awakeable(self, name: str, answer: Answer) -> None:
        """Resolve or reject an awakeable, of this or of another invocation."""
        waiting = self.shared.awakeables.pop(name, None)
        if waiting is not None:
            self.answer(*waiting, answer)

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
        for recipient, handle in self._waiting.pop(name, []):
            self.answer(recipient, handle, answer)
        return None

    def answer(self, recipient: Recipient, handle: int, answer: Answer) -> None:
        """Answer what an invocation waits for: this one, or another, which sees it at its own virtual time."""
        if recipient is self:
            self.journal.answer(handle, answer)
        elif self.effects is not None:
            self.effects.append(Effect(self.now, recipient, handle, answer))
        else:
            recipient.deliver(handle, answer)

    def deliver(self, handle: int, answer: Answer) -> None:
        """Record an answer that another invocation gave, and wake this one."""
        self.journal.answer(handle, answer)
        self.wake()

    # Events, on which the SDK's context waits.

    def wake(self) -> None:
        """Let the context ask the core again."""
        self._idle.clear()
        self._events.put_nowait({"type": "restate.run_completed", "data": None})

    async def next_event(self) -> Any:
        """Wait until something has happened that the context has to know.

        Raises:
            MockStuck: nothing runs, and the test does nothing.
        """
        self.raise_if_failed()
        event = await (self._events.get() if self.running else self._event_of_the_test())
        self.raise_if_failed()
        return event

    async def until_idle(self) -> None:
        """Wait until the handler can do nothing more by itself."""
        await self._idle.wait()

    def raise_if_failed(self) -> None:
        """Raise, once, what went wrong in a call or a step of this invocation."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    async def _event_of_the_test(self) -> Any:
        self._idle.set()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._events.get(), self.shared.patience)
        waits = ", ".join(str(self.journal.entry_of(handle)) for handle in self.awaited)
        raise MockStuck(
            f"The handler waits for: {waits}; and nothing happened for {self.shared.patience:g} s. Resolve it from the "
            "test: ctx.mock.resolve_awakeable(...), resolve_promise(...) or resolve_signal(...)."
        )
