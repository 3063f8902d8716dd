"""One mock invocation over all of its attempts: its journal, its calls, and what it waits for."""

# ruff: noqa: D102 - the methods of a protocol are those of the class that it stands for

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from restate_nb.errors import RestateNbError
from restate_nb.patterns.sdk import Failure
from restate_nb.testing.callees import Request, Stub
from restate_nb.testing.journal import Answer, Journal

_GIVE_UP_AFTER: Final = 70  # attempts of a step without limits; restate-server would pause the invocation then
_DENSE: Final = 64  # a replay at every wait up to so many answers, then at every 64th part of them


class MockStuck(RestateNbError, RuntimeError):
    """The handler waits for something that nobody does, or a step fails for ever."""


class Surroundings(Protocol):
    """The world, as an invocation sees it; its methods are those of `World`."""

    replay: bool
    patience: float
    now: float
    seed: int
    callees: dict[str, Any]
    failures: dict[str, list[BaseException]]
    awake: set[Invocation]

    @property
    def is_idle(self) -> bool: ...
    def add(self, invocation: Invocation, /) -> str: ...
    def after(self, wait: float, event: Callable[[], None], /) -> None: ...
    def drop_actions(self, invocation: Invocation, /) -> None: ...
    def states(self, service: str, key: str, /) -> dict[str, bytes]: ...
    def promises(self, service: str, key: str, /) -> dict[str, Answer]: ...
    def await_promise(self, name: str, invocation: Invocation, handle: int, /) -> None: ...
    def complete_promise(self, service: str, key: str, name: str, answer: Answer, /) -> Answer: ...
    def rested(self) -> None: ...
    def raise_if_failed(self) -> None: ...
    def waits_for(self, invocation: Invocation, /) -> bool: ...
    def progressed(self) -> None: ...


class Invocation:
    """What an invocation keeps from one attempt to the next.

    Attributes:
        handler: the SDK's handler that it runs; None where the test runs a function that is none.
        request: what it was called with.
        parameter: its input, as bytes.
        by_hand: whether the test uses its context without `invoke`.
        begun: whether an attempt was begun.
        ended: whether it has a result.
        result: what it is answered.
        waiters: who is answered the same.
        turn: set when it is its turn, for handlers that run one after the other.
        backing_off: actions that wait for their next attempt.
        awaited: the handles that the handler waits for.
        signals: those that came, by name.
    """

    def __init__(
        self, world: Surroundings, *, service: str = "Mock", key: str = "", replay: bool | None = None, request: Request
    ) -> None:
        self.world = world
        self.service, self.key = service, key
        self.replay = world.replay if replay is None else replay
        self.id = world.add(self)
        self.request = request
        self.parameter = b""
        callee = world.callees.get(request.target)
        self.handler: Any = None if isinstance(callee, Stub) else callee
        self.journal = Journal()
        self.requests_made: list[Request] = []
        self.runs: Counter[str] = Counter()
        self.attempts = 0
        self.by_hand = True
        self.begun = False
        self.ended = False
        self.ended_at: float | None = None
        self.result: Answer = None
        self.waiters: list[tuple[Invocation, int]] = []
        self.turn = asyncio.Event()
        self.backing_off: set[int] = set()
        self.awaited: list[int] = []
        self.signals: dict[str, Answer] = {}
        self._signals_awaited: dict[str, list[int]] = {}
        self._failed: dict[int, tuple[int, float]] = {}  # attempts of a failing action, and when the first one was
        self._polls: list[asyncio.Future[None]] = []
        self._settled: list[asyncio.Future[None]] = []

    @property
    def awake(self) -> bool:
        """Whether its code runs, rather than waiting for an event."""
        return self in self.world.awake

    @awake.setter
    def awake(self, value: bool) -> None:
        if value and not self.ended:
            self.world.awake.add(self)
        else:
            self.world.awake.discard(self)

    @property
    def now(self) -> float:
        """The virtual time that it has come to."""
        return self.world.now if self.ended_at is None else self.ended_at

    def begin_attempt(self) -> None:
        """Begin an attempt: the actions of the one before are forgotten, and run again."""
        self.attempts += 1
        self.begun, self.awake, self.by_hand = True, True, False
        self.world.drop_actions(self)

    def is_due_to_suspend(self, began_with: int) -> bool:
        """Whether it is time for a replay, given with how many answers the attempt began."""
        return self.replay and len(self.journal.answers) - began_with >= max(1, began_with // _DENSE)

    # Actions and calls.

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
    ) -> str:
        """What becomes of an action that failed: it "waits", it has "failed" for good, or the invocation is "stuck"."""
        attempts, since = self._failed.get(handle, (0, self.world.now))
        attempts += 1
        self._failed[handle] = (attempts, since)
        limited = max_attempts is not None or max_seconds is not None
        spent = max_seconds is not None and self.world.now - since >= max_seconds
        if spent or (max_attempts is not None and attempts >= max_attempts):
            self.journal.answer(handle, Failure(500, failure.message))
            return "failed"
        if not limited and attempts >= _GIVE_UP_AFTER:
            return "stuck"
        self.backing_off.add(handle)
        self.world.after(min(first * factor ** (attempts - 1), longest), partial(self._go_on, handle))
        return "waits"

    def failures_of(self, handle: int) -> int:
        """How often an action has failed."""
        return self._failed[handle][0]

    def _go_on(self, handle: int) -> None:
        self.backing_off.discard(handle)
        self.wake()

    def state_access(self, writes: bool) -> str:
        """Why the handler may not use state so; empty if it may."""
        if self.handler is None:
            return ""
        tag = self.handler.service_tag
        if tag.kind == "service":
            return f"{tag.name} is a service, and has no state: make it a restate.VirtualObject."
        if writes and self.handler.kind == "shared":
            return f"{tag.name}/{self.handler.name} is a shared handler, which may read state, and not change it."
        return ""

    # State, promises, signals.

    @property
    def states(self) -> dict[str, bytes]:
        """The states of this object or workflow, as JSON."""
        return self.world.states(self.service, self.key)

    @property
    def promises(self) -> dict[str, Answer]:
        """The completed promises of this workflow."""
        return self.world.promises(self.service, self.key)

    def await_promise(self, name: str, handle: int) -> None:
        """Answer `handle` when the promise is completed, or now if it is."""
        self.world.await_promise(name, self, handle)

    def complete_promise(self, name: str, answer: Answer) -> Answer:
        """Resolve or reject a promise; the answer to who did it."""
        return self.world.complete_promise(self.service, self.key, name, answer)

    def await_signal(self, name: str, handle: int) -> None:
        """Answer `handle` with the signal of that name."""
        if name in self.signals:
            self.journal.answer(handle, self.signals.pop(name))
        else:
            self._signals_awaited.setdefault(name, []).append(handle)

    def signal(self, name: str, answer: Answer) -> None:
        """Take a signal: who waits for it first is answered."""
        waiting = self._signals_awaited.get(name)
        if waiting:
            self.deliver(waiting.pop(0), answer)
        else:
            self.signals[name] = answer

    def deliver(self, handle: int, answer: Answer) -> None:
        """Record an answer, and wake the handler."""
        self.journal.answer(handle, answer)
        self.wake()

    # Events, on which the SDK's context waits.

    def acts(self) -> None:
        """Note that its code runs; an action that uses the context, while the handler waits, does not count."""
        if not self._polls:
            self.awake = True

    def wake(self) -> None:
        """Let the context ask the core again."""
        self.world.progressed()
        polls, self._polls = self._polls, []
        for each in polls:
            if not each.done():
                each.set_result(None)
                self.awake = True

    async def until_backed_off(self) -> None:
        """Wait until it is time for the next attempt."""
        while self.backing_off:
            await self.next_event()

    async def next_event(self) -> None:
        """Wait until something has happened that the context has to know."""
        self.world.raise_if_failed()
        poll: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._polls.append(poll)
        self.awake = False
        self.world.rested()
        while not (await asyncio.wait({poll}, timeout=self.world.patience))[0]:
            if self.world.waits_for(self) and self.world.is_idle:
                raise self._stuck()
        self.world.raise_if_failed()

    def _stuck(self) -> MockStuck:
        waits = ", ".join(str(self.journal.entry_of(handle)) for handle in self.awaited)
        return MockStuck(
            f"The handler waits for: {waits}; and nothing happened for {self.world.patience:g} s. Resolve it from the "
            "test: ctx.mock.resolve_awakeable(...), resolve_promise(...) or resolve_signal(...)."
        )

    async def until_ended(self) -> None:
        """Wait until it has a result."""
        if not self.ended:
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settled.append(settled)
            self.world.rested()
            await settled

    def settle(self) -> None:
        """Tell those who wait that it has a result."""
        settled, self._settled = self._settled, []
        for each in settled:
            if not each.done():
                each.set_result(None)
