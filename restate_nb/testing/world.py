"""All that mock invocations share: one clock, states, promises, and who calls whom.

The world takes one step at a time, and only when every invocation waits: it starts an invocation, applies the end of an
action (in the order in which actions were started, or shuffled by a seed), or turns the clock to the next timer. So
what happens does not depend on how fast things really are.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from restate.exceptions import TerminalError

from restate_nb.patterns.sdk import Failure
from restate_nb.testing.callees import Request, Stub
from restate_nb.testing.invocation import Invocation, MockStuck
from restate_nb.testing.journal import CANCELLED, Answer

_TICKS: Final = 100_000  # of others, while those that the test waits for get nothing
_ALREADY: Final = "the run of this workflow was already begun"


@dataclass(order=True, slots=True)
class _Timer:
    when: float
    order: int
    event: Callable[[], None] = field(compare=False)
    starts: bool = field(compare=False, default=False)  # an invocation that was sent with a delay


class World:
    """Where mock invocations live.

    Attributes:
        now: virtual seconds since it began.
        auto_advance: whether the clock turns by itself while everybody waits.
        seed: of random numbers.
        patience: real seconds to wait for the test.
        callees: what answers calls, by "Service/handler": a stub, or the SDK's handler.
        failures: what the next runs of an action raise, by the step's name.
        awakeables: who waits for an awakeable, and on which handle, by its id.
        invocations: all of them, by id.
        awake: those whose code runs, rather than waiting for an event.
        strict: whether handlers are replayed in other processes, too.
        run_hosted: runs a handler in an invocation that is called.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        patience: float = 5.0,
        replay: bool = False,
        shuffle: int | None = None,
        auto_advance: bool = True,
    ) -> None:
        self.seed, self.patience, self.replay, self.auto_advance = seed, patience, replay, auto_advance
        self.now = 0.0
        self.strict = False
        self.callees: dict[str, Any] = {}
        self.failures: dict[str, list[BaseException]] = {}
        self.awakeables: dict[str, tuple[Invocation, int]] = {}
        self.invocations: dict[str, Invocation] = {}
        self.awake: set[Invocation] = set()
        self.run_hosted: Callable[[Invocation, Any], Any]
        self._states: dict[tuple[str, str], dict[str, bytes]] = {}
        self._promises: dict[tuple[str, str], dict[str, Answer]] = {}
        self._waiting: dict[tuple[str, str], dict[str, list[tuple[Invocation, int]]]] = {}
        self._known: dict[tuple[str, ...], Invocation] = {}  # by idempotency key, and runs of workflows
        self._lanes: dict[tuple[str, str], deque[Invocation]] = {}  # exclusive handlers: the first one runs
        self._shuffled = None if shuffle is None else random.Random(shuffle)
        self._to_start: deque[Invocation] = deque()
        self._timers: list[_Timer] = []
        self._order = itertools.count()
        self._running: dict[tuple[str, int], Callable[[], None] | None] = {}
        self._chosen: tuple[str, int] | None = None
        self._limit: float | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._ticks = 0
        self._stepping = False
        self._top: set[Invocation] = set()  # those that the test waits for
        self._names: Counter[str] = Counter()

    # Invocations.

    def add(self, invocation: Invocation) -> str:
        """Take an invocation in; its id, the same in every run."""
        self._names["invocation"] += 1
        identity = f"inv_{self._names['invocation']}"
        self.invocations[identity] = invocation
        return identity

    def known(self, request: Request) -> Invocation | None:
        """The invocation that a request with its idempotency key, or of the run of its workflow, has made already."""
        return self._known.get(_once(request, self.callees.get(request.target)) or ())

    def claim(self, invocation: Invocation) -> Invocation | None:
        """The invocation that one of the test stands for, if there is one.

        Raises:
            TerminalError: it is the run of a workflow that was begun before.
        """
        request = invocation.request
        once = _once(request, invocation.handler)
        if once is None:
            return None
        before = self._known.setdefault(once, invocation)
        if before is invocation:
            return None
        if once[0] == "workflow":
            raise TerminalError(_ALREADY, 409)
        return before

    def submit(self, request: Request, parameter: bytes) -> Invocation:
        """Begin the invocation of a request after its delay; or find the one that it stands for."""
        callee = self.callees.get(request.target)
        once = _once(request, callee)
        if once is not None and once in self._known:
            return self._known[once]
        invocation = Invocation(self, service=request.target.split("/")[0], key=request.key or "", request=request)
        invocation.parameter = parameter
        if once is not None:
            self._known[once] = invocation
        if callee is None:
            return invocation  # a send to nobody
        if request.delay:
            self.after(request.delay, lambda: self._enqueue(invocation), starts=True)
        else:
            self._enqueue(invocation)
        return invocation

    def _enqueue(self, invocation: Invocation) -> None:
        if invocation.ended:
            return  # it was cancelled before
        lane = self._lane(invocation)
        if lane is not None:
            lane.append(invocation)
            if lane[0] is not invocation:
                return
        self._to_start.append(invocation)
        self.rested()

    def _lane(self, invocation: Invocation) -> deque[Invocation] | None:
        kind = getattr(invocation.handler, "kind", None)
        if kind != "exclusive":
            return None
        return self._lanes.setdefault((invocation.service, invocation.key), deque())

    def enter(self, invocation: Invocation) -> bool:
        """Let the test run an invocation by itself; whether it may begin, or has to wait for its turn."""
        self._top.add(invocation)
        lane = self._lane(invocation)
        if lane is None or invocation in lane:
            return True
        lane.append(invocation)
        return lane[0] is invocation

    def _start(self, invocation: Invocation) -> None:
        if invocation.ended:
            return
        if invocation in self._top:
            invocation.turn.set()
            invocation.awake = True
            return
        callee = self.callees[invocation.request.target]
        invocation.awake = not isinstance(callee, Stub)
        if isinstance(callee, Stub):
            self.begin(invocation, 0)
        work = self._answer(invocation, callee) if isinstance(callee, Stub) else self._run(invocation, callee)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, invocation: Invocation, stub: Stub) -> None:
        try:
            answer = await stub.reply(invocation.request.key, invocation.parameter)
        except Exception as error:
            self.fail(error)
            return
        self.end(invocation, 0, lambda: self.after(stub.delay, lambda: self.finish(invocation, answer)))

    async def _run(self, invocation: Invocation, handler: Any) -> None:
        try:
            answer = await self.run_hosted(invocation, handler)
        except Exception as error:  # a mistake in the handler, or in the test; a server would try again for ever
            self.fail(error)
            return
        self.finish(invocation, answer)

    def finish(self, invocation: Invocation, answer: Answer) -> None:
        """End an invocation: who waits for it gets the answer, and the next of its lane begins."""
        if invocation.ended:
            return
        invocation.ended, invocation.awake, invocation.result = True, False, answer
        invocation.ended_at = self.now
        self._top.discard(invocation)
        self.drop_actions(invocation)
        for recipient, handle in invocation.waiters:
            recipient.deliver(handle, answer)
        invocation.settle()
        lane = self._lane(invocation)
        if lane and invocation in lane:
            was_first = lane[0] is invocation
            lane.remove(invocation)
            if was_first and lane:
                self._to_start.append(lane[0])
        self.rested()

    def attach(self, identity: str, recipient: Invocation, handle: int) -> None:
        """Answer a handle with the result of an invocation, once there is one."""
        invocation = self.invocations.get(identity)
        if invocation is None:
            recipient.deliver(handle, Failure(404, "not found"))
        elif invocation.ended:
            recipient.deliver(handle, invocation.result)
        else:
            invocation.waiters.append((recipient, handle))

    def cancel(self, identity: str) -> None:
        """Cancel an invocation: it ends at once if it has not begun, or is a stub's; else its handler is told."""
        invocation = self.invocations.get(identity)
        if invocation is None or invocation.ended:
            return
        if invocation.begun or (invocation in self._to_start and invocation.handler is not None):
            invocation.deliver(CANCELLED, None)
        else:
            self.finish(invocation, Failure(409, "cancelled"))

    def fail(self, error: BaseException) -> None:
        """End what the test waits for with an error."""
        self._error = self._error or error
        for invocation in list(self.invocations.values()):
            if self.waits_for(invocation):
                invocation.wake()
        self._release_idle()

    def raise_if_failed(self) -> None:
        """Raise, once, what went wrong."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    # State and promises.

    def states(self, service: str, key: str) -> dict[str, bytes]:
        """The states of an object or workflow, as JSON."""
        return self._states.setdefault((service, key), {})

    def promises(self, service: str, key: str) -> dict[str, Answer]:
        """The completed promises of a workflow."""
        return self._promises.setdefault((service, key), {})

    def move(self, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Have what a test has prepared without naming a service be of the service that it then runs."""
        if old != new:
            self._states.setdefault(new, {}).update(self._states.pop(old, {}))
            self._promises.setdefault(new, {}).update(self._promises.pop(old, {}))

    def await_promise(self, name: str, invocation: Invocation, handle: int) -> None:
        """Answer a handle when the promise is completed, or now if it is."""
        key = invocation.service, invocation.key
        done = self.promises(*key)
        if name in done:
            invocation.journal.answer(handle, done[name])
        else:
            self._waiting.setdefault(key, {}).setdefault(name, []).append((invocation, handle))

    def complete_promise(self, service: str, key: str, name: str, answer: Answer) -> Answer:
        """Resolve or reject a promise; the answer to who did it."""
        done = self.promises(service, key)
        if name in done:
            return Failure(409, "the promise was already completed")
        done[name] = answer
        for recipient, handle in self._waiting.get((service, key), {}).pop(name, []):
            recipient.deliver(handle, answer)
        return None

    def complete_awakeable(self, name: str, answer: Answer) -> None:
        """Resolve or reject an awakeable."""
        waiting = self.awakeables.pop(name, None)
        if waiting is not None:
            waiting[0].deliver(waiting[1], answer)

    # Time and actions.

    def after(self, wait: float, event: Callable[[], None], *, starts: bool = False) -> None:
        """Do something at a virtual time."""
        if wait <= 0:
            event()
        else:
            heapq.heappush(self._timers, _Timer(self.now + wait, next(self._order), event, starts))

    def begin(self, invocation: Invocation, handle: int) -> None:
        """Note that an action has been started."""
        self._running[invocation.id, handle] = None

    def end(self, invocation: Invocation, handle: int, ending: Callable[[], None]) -> None:
        """Note that an action has ended; `ending` is what that means, once it is its turn."""
        key = invocation.id, handle
        if key in self._running:
            self._running[key] = ending
            self.rested()

    def runs(self, invocation: Invocation) -> bool:
        """Whether an action of this invocation is under way."""
        return any(identity == invocation.id for identity, _ in self._running)

    def drop_actions(self, invocation: Invocation) -> None:
        """Forget the actions that are under way: their attempt is over."""
        for key in [key for key in self._running if key[0] == invocation.id]:
            del self._running[key]
            self._chosen = None if self._chosen == key else self._chosen

    async def advance(self, seconds: float) -> None:
        """Turn the clock forward, and do what is due meanwhile."""
        self.test_acts()
        target = self.now + seconds
        self._limit = target
        try:
            await self.until_idle()
        finally:
            self._limit = None
        self.now = max(self.now, target)

    async def until_idle(self) -> None:
        """Wait until nobody can do anything more by itself."""
        self.test_acts()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        self.rested()
        await waiter
        self.raise_if_failed()

    def test_acts(self) -> None:
        """Note that the test itself acts: a context that it uses by hand does not hold up the others meanwhile."""
        self.awake = {invocation for invocation in self.awake if not invocation.by_hand}

    # Steps.

    def rested(self) -> None:
        """Take a step soon, if everybody waits."""
        if self._stepping or not self._at_rest():
            return
        with suppress(RuntimeError):  # a test that is not async prepares something
            self._stepping = True
            asyncio.get_running_loop().call_soon(self._step)
            return
        self._stepping = False

    def _at_rest(self) -> bool:
        return not self.awake

    def _step(self) -> None:
        self._stepping = False
        if not self._at_rest():
            return
        if self._to_start:
            self._start(self._to_start.popleft())
        elif self._running:
            self._apply_end()
        elif not self._tick():
            self._release_idle()
            return
        self.rested()

    def _apply_end(self) -> None:
        if self._chosen is None or self._chosen not in self._running:
            under_way = list(self._running)
            self._chosen = under_way[0] if self._shuffled is None else self._shuffled.choice(under_way)
        ending = self._running[self._chosen]
        if ending is not None:
            del self._running[self._chosen]
            invocation, self._chosen = self.invocations[self._chosen[0]], None
            ending()
            invocation.wake()

    def _tick(self) -> bool:
        """Turn the clock to the next thing that happens; False when nothing will."""
        limit = self._limit if self._limit is not None else math.inf if self.auto_advance else self.now
        if not self._timers or self._timers[0].when > limit:
            return False
        if self._timers[0].starts and self._limit is None and not self._top:
            return False  # nobody waits for what was sent with a delay
        self._ticks += 1
        if self._ticks > _TICKS:
            self._ticks = 0
            self.fail(MockStuck("Others go on for ever, and nothing happens to the handler that the test waits for."))
            return False
        timer = heapq.heappop(self._timers)
        if self._shuffled is not None:
            timer = self._one_of_those_due(timer)
        self.now = max(self.now, timer.when)
        timer.event()
        return True

    def _one_of_those_due(self, timer: _Timer) -> _Timer:
        assert self._shuffled is not None
        due = [timer]
        while self._timers and self._timers[0].when == timer.when:
            due.append(heapq.heappop(self._timers))
        chosen = self._shuffled.choice(due)
        for each in due:
            if each is not chosen:
                heapq.heappush(self._timers, each)
        return chosen

    @property
    def is_idle(self) -> bool:
        """Whether everybody waits, and nothing will happen by itself."""
        limit = math.inf if self.auto_advance else self.now
        due = bool(self._timers) and self._timers[0].when <= limit
        return self._at_rest() and not (self._to_start or self._running or due)

    def waits_for(self, invocation: Invocation) -> bool:
        """Whether the test waits for this invocation."""
        return invocation.by_hand or invocation in self._top

    def progressed(self) -> None:
        """Note that something happened to an invocation that the test waits for."""
        self._ticks = 0

    def _release_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for each in waiting:
            if not each.done():
                each.set_result(None)


def _once(request: Request, callee: Any) -> tuple[str, ...] | None:
    """What makes two requests the same invocation; None if nothing does."""
    if getattr(callee, "kind", None) == "workflow":
        return "workflow", request.target, request.key or ""
    if request.idempotency_key is not None:
        return "key", request.target, request.key or "", request.idempotency_key
    return None


def refusal_of_second_run() -> Failure:
    """What a second call of a workflow's run is answered."""
    return Failure(409, _ALREADY)
