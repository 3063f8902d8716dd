"""Many coroutines in one handler, stepped by hand so that a replay takes the same steps.

    helper --run--> Scheduler --steps--> Fibre (one operation)
                        |                   | awaits a durable future
                        |                   v
                        |                 DurableFuture --yields--> Park(tree)      "wake me when this is resolved"
                        v
                    Wiring.poll(first of all parked trees)                   the SDK's own wait, one at a time

Stored: one `Scheduler` per invocation with two queues (fibres ready to step, fibres parked on a tree), and a `Group`
per running helper with its window of fibres and the outcomes so far. A helper inside an operation parks that fibre on
its group. All fibres are stepped in the handler's own task, first in first out, and the SDK is asked to wait only when
nobody can step. It takes notifications in journal order until the first parked tree is resolved; so what is parked and
what the journal says decide who is woken, and a replay wakes the same fibres in the same order.

The other way would be an asyncio task per operation, with a baton that lets one run at a time. It needs a guess at when
a task has come to rest, and finds out too late about a wait that is not durable; by hand, both are plain to see.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

from restate.exceptions import TerminalError

from restate_nb.patterns.action_threads import in_own_thread
from restate_nb.patterns.durable_future import DurableFuture, Foreign, Park, pause
from restate_nb.patterns.fibre import Body, Fibre, Group, operate
from restate_nb.patterns.loop_guard import OperationLoop, is_in_cancel_scope, refusal, running
from restate_nb.patterns.mismatch import mismatch_of
from restate_nb.patterns.misuse import MISUSE, TerminalInvalidInput, TerminalNotDurable
from restate_nb.patterns.parking import Parking
from restate_nb.patterns.sdk import (
    PASS_THROUGH,
    Tree,
    VMException,
    Wiring,
    adopt_future,
    context_of,
    is_call_future,
    is_sdk_coroutine,
    unresolved,
)
from restate_nb.patterns.teardown import end_after_attempt

_KEY = "_restate_nb_scheduler"


def scheduler_of(ctx: object) -> Scheduler:
    """The one scheduler of this invocation.

    Raises:
        InvalidInput: `ctx` is no invocation's context, or another invocation's.
    """
    wiring = Wiring(ctx)
    wiring.check_current()
    found = vars(ctx).get(_KEY)
    if found is None:
        found = vars(ctx)[_KEY] = Scheduler(wiring)
    assert isinstance(found, Scheduler)
    return found


class Scheduler:
    """Steps the operations of one invocation.

    Attributes:
        is_final: whether an exception that is no TerminalError ends the invocation. Where it does, it stops the other
            operations first, as a TerminalError would, so that they can compensate; else the attempt is made again.
    """

    def __init__(self, wiring: Wiring) -> None:
        self.is_final: Callable[[BaseException], bool] = lambda error: False
        self._wiring = wiring
        self._ready: deque[Fibre] = deque()
        self._parked = Parking(wiring)
        self._current: Fibre | None = None
        self._driving = False
        self._sending = False  # a coroutine of the SDK is stepped for the handler itself
        self._handler = Body()
        self._handler_waits: Tree | None = None
        self._loop: asyncio.AbstractEventLoop
        self._guard: OperationLoop
        self._left: list[Coroutine[Any, Any, Any]] = []

    # What helpers call.

    async def run(self, group: Group[Any]) -> None:
        """Run a group's operations; its outcomes are in the group afterwards.

        Raises:
            restate.TerminalError: the invocation was cancelled, or the operation that this group runs in was stopped.
            BaseException: what ended the attempt, or an operation's exception that was no TerminalError.
        """
        self.open(group)
        try:
            await self._join(group)
        finally:
            self._close(group)
        if group.raised is not None:
            raise group.raised

    def open(self, group: Group[Any]) -> None:
        """Begin with a group: its operations run whenever the one who opened it waits.

        Raises:
            NotDurable: operations run, and it is none of them who calls.
        """
        body: Body = self._handler if self._current is None else self._current
        if self._driving and self._current is None:
            raise self._outside()
        if body is self._handler and not body.groups:
            self._loop = asyncio.get_running_loop()
            self._guard = OperationLoop(self._loop, self._adopt, lambda: str(self._current))
            self._wiring.shadow(self._park, self._made, in_own_thread)
        group.parent = body
        body.groups.append(group)
        self.admit(group)

    def add(self, group: Group[Any], operation: Callable[[], object], name: str, item: object) -> int:
        """Add an operation to an open group, and return its index.

        Raises:
            NotDurable: operations run, and it is none of them who calls.
        """
        if self._driving and self._current is None:
            raise self._outside()
        index = group.add(operation, name, item)
        if group.decided is not None or group.raised is not None:
            group.close()
            group.end(index, error=_stop_of("the group had ended before it began"))
        else:
            self.admit(group)
        return index

    async def leave(self, group: Group[Any], error: BaseException | None) -> None:
        """End with a group that its body leaves, on whose account or on that of `error`, when all have ended.

        Raises:
            restate.TerminalError: the invocation was cancelled meanwhile.
            BaseException: an operation's exception that was no TerminalError.
        """
        try:
            if error is not None and not self.is_end(error):
                return
            if error is not None and group.raised is None:
                self._interrupt(group, _stop_of("the block of the group has ended in an error"), error)
            await self._join(group)
        finally:
            self._close(group)
        if group.raised is not None and group.raised is not error:
            raise group.raised

    def is_end(self, error: BaseException) -> bool:
        """Whether an exception ends what raised it for good: it may compensate. If not, the attempt is made again."""
        return isinstance(error, TerminalError) or self.is_final(error)

    def is_told_to_end(self) -> bool:
        """Whether the operation that runs was stopped, or its invocation cancelled."""
        return self._current is not None and self._current.stopping

    async def until(self, group: Group[Any], index: int | None, condition: Callable[[], bool]) -> None:
        """Wait for the end of one operation of a group, or of any; `condition` is looked at after each.

        Raises:
            restate.TerminalError: the invocation was cancelled, or the waiting operation was stopped.
        """
        while not condition():
            fibre = self._current
            if fibre is None:
                await self._drive(condition)
            else:
                fibre.waits_in = group.waiting.setdefault(index, [])
                fibre.waits_in.append(fibre)
                await pause(group)

    async def _join(self, group: Group[Any]) -> None:
        body = group.parent
        body.joining = group
        try:
            if self._current is None:
                await self._drive(lambda: group.finished, joining=True)
            elif not group.finished:
                await pause(group)
        finally:
            body.joining = None

    def _close(self, group: Group[Any]) -> None:
        body = group.parent
        if group not in body.groups:
            return
        at = body.groups.index(group)
        for each in body.groups[at:]:
            self._abandon(each)
        del body.groups[at:]
        if body is self._handler and not body.groups:
            self._wiring.unshadow()
            self._ready.clear()
            if self._left:
                end_after_attempt(self._left, self._wiring)
                self._left = []

    # The loop.

    async def _drive(self, until: Callable[[], bool], *, joining: bool = False) -> None:
        """Step the operations, in the handler's own wait, until it can go on.

        Args:
            until: whether it can.
            joining: whether it waits for a group, which is told itself when it has to end.
        """
        if self._driving:
            raise self._outside()
        self._driving = True
        try:
            while not until():
                if self._handler.throw is not None and not joining:
                    break
                if not self._ready:
                    await self._progress(joining=joining)
                    continue
                fibre = self._ready.popleft()
                while (foreign := self._step(fibre)) is not None:
                    await pause(foreign.future)
        finally:
            self._driving = False
            self._wiring.update_replaying()
        error, self._handler.throw = self._handler.throw, None
        if error is not None:
            raise error

    async def _wait_in_handler(self, tree: Tree) -> None:
        """What the handler itself waits for, while groups are open: they go on meanwhile."""
        self._handler_waits = unresolved(tree, self._wiring.completed)
        try:
            await self._drive(lambda: self._handler_waits is None)
        finally:
            self._handler_waits = None

    async def _progress(self, *, joining: bool) -> None:
        """Let the SDK wait until a parked fibre can go on; wake all that can, in the order in which they parked."""
        waits, parked = self._handler_waits, self._parked
        if not parked and waits is None:
            raise TerminalInvalidInput("The operations wait for one another, and for nothing else: none can go on.")
        nodes = parked.nodes()
        if waits is not None:
            nodes.append(self._wiring.node(waits))
        try:
            await self._wiring.poll(self._wiring.first_of(nodes))
        except TerminalError as cancelled:
            for group in list(self._handler.groups):
                self._interrupt(group, cancelled)
            if not joining:
                self._handler.throw = cancelled
            return
        if waits is not None:
            self._handler_waits = unresolved(waits, self._wiring.completed)
        woken, changed = parked.wake()
        if not changed and self._handler_waits is waits:  # or this would go round for ever
            raise RuntimeError("restate-sdk reported progress for operations that all still wait.")
        self._ready.extend(woken)

    def _step(self, fibre: Fibre) -> Foreign | None:
        """Take one fibre to its next wait; a `Foreign` has to be waited for before the same fibre is stepped again."""
        if fibre not in fibre.group.running:
            return None  # it was dropped before it had started
        self._current = fibre
        self._wiring.tell_whether_replaying(fibre.context)
        try:
            with running(self._guard):
                step = fibre.resume()
        except StopIteration as end:
            self._ended(fibre, end.value)
        except MISUSE as error:
            self._crashed(fibre, error)
        except TerminalError as error:
            self._ended(fibre, error=error)
        except PASS_THROUGH:  # these derive from Exception
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and not self.is_final(error):
                raise
            self._crashed(fibre, error)
        else:
            if isinstance(step, Foreign):
                return step
            self._rested(fibre, step)
        finally:
            self._current = None
        return None

    def _rested(self, fibre: Fibre, step: object) -> None:
        if isinstance(step, Park):
            fibre.steps += 1
            left = unresolved(step.tree, self._wiring.completed)
            if left is None:
                self._ready.append(fibre)
            else:
                self._parked.add(fibre, left)
        elif step is None and not is_in_cancel_scope(fibre.coroutine):  # asyncio.sleep(0): let the others go first
            self._ready.append(fibre)
        elif not isinstance(step, Group):  # a fibre that waits for others is woken when they have ended
            fibre.throw = refusal(str(fibre), step)
            self._ready.appendleft(fibre)

    # How operations begin and end.

    def admit(self, group: Group[Any]) -> None:
        """Start what there is room for."""
        while len(group.running) < group.window and group.following < len(group.operations) and group.pacing is None:
            index = group.following
            fibre = Fibre(group, index, group.name_at(index))
            if group.pause is not None and (index or group.pause_first):
                group.pacing, fibre.paced = fibre, True
            begin = self._operate_paced if fibre.paced else operate
            fibre.coroutine = begin(fibre, group.operations[index])
            group.following += 1
            group.running[fibre] = None
            self._ready.append(fibre)

    async def _operate_paced(self, fibre: Fibre, operation: Callable[[], object]) -> object:
        group = fibre.group
        assert group.pause is not None
        try:
            await group.pause()
        finally:
            group.pacing = None
            self.admit(group)
        return await operate(fibre, operation)

    def _ended(self, fibre: Fibre, value: object = None, error: TerminalError | None = None) -> None:
        group = fibre.group
        del group.running[fibre]
        outcome = group.end(fibre.index, value, error)
        self._wake_waiting(group, fibre.index)
        if group.decided is None and group.raised is None and group.until(outcome):
            group.decided = outcome
            self._stop_all(group, _stop_of(f"{fibre} decided it"))
            if outcome.error is not None:
                self._tell_body(group, outcome.failure(group.result))
        self.admit(group)
        self._wake_joining(group)

    def _wake_waiting(self, group: Group[Any], index: int) -> None:
        for key in (index, None):
            for fibre in group.waiting.pop(key, ()):
                fibre.waits_in = None
                self._ready.append(fibre)

    def _wake_joining(self, group: Group[Any]) -> None:
        if group.finished and isinstance(group.parent, Fibre) and group.parent.joining is group:
            self._ready.append(group.parent)

    def _crashed(self, fibre: Fibre, error: BaseException) -> None:
        """An exception that is nobody's outcome: it goes to whoever called the helper.

        If the attempt is made again, that is before anyone else takes a step; else when the others have ended.
        """
        group = fibre.group
        del group.running[fibre]
        if isinstance(error, VMException):
            error = mismatch_of(str(fibre), fibre.steps, error)
        elif isinstance(error, MISUSE) or self.is_final(error):
            self._crashed_for_good(fibre, error)
            return
        group.raised = error
        body = group.parent
        for each in body.groups[body.groups.index(group) :]:
            self._abandon(each)
        if body.joining is group and isinstance(body, Fibre):
            self._ready.appendleft(body)
        elif body.joining is not group or body is self._handler:
            self._throw(body, error, first=True)

    def _crashed_for_good(self, fibre: Fibre, error: BaseException) -> None:
        group = fibre.group
        if group.raised is None:
            self._interrupt(group, _stop_of(f"{fibre} failed"), error)
            self._tell_body(group, error)
        else:
            group.raised.add_note(f"While it was stopped, {fibre} raised {type(error).__name__}: {error}")
        self._wake_waiting(group, fibre.index)
        self._wake_joining(group)

    # How operations are stopped.

    def _interrupt(self, group: Group[Any], error: TerminalError, raised: BaseException | None = None) -> None:
        """Raise `error` in every operation of a group, and, when they have ended, where its helper was called.

        Args:
            group: whose operations.
            error: the cancellation of the invocation; or a stop, if there is something else to raise afterwards.
            raised: that.
        """
        if raised is None or group.raised is None:
            group.raised = raised or error
        self._stop_all(group, error, by_sibling=raised is not None)
        self._wake_joining(group)

    def _stop_all(self, group: Group[Any], error: TerminalError, *, by_sibling: bool = True) -> None:
        group.close()
        for fibre in list(group.running):
            self._stop(fibre, error, by_sibling=by_sibling)

    def _stop(self, fibre: Fibre, error: TerminalError, *, by_sibling: bool) -> None:
        # Who compensates already is not disturbed: not by another sibling, and by a cancellation only the second time.
        spared = fibre.stopping and (by_sibling or not fibre.cancelled)
        fibre.stopping, fibre.cancelled = True, fibre.cancelled or not by_sibling
        fibre.stopped = fibre.stopped or by_sibling
        if spared:
            return
        if not fibre.started:
            fibre.coroutine.close()
            if fibre.group.pacing is fibre:
                fibre.group.pacing = None
            del fibre.group.running[fibre]
            fibre.group.end(fibre.index, error=error)
            self._wake_waiting(fibre.group, fibre.index)
        elif fibre.joining is not None and not fibre.joining.finished:
            self._interrupt(fibre.joining, error, error if by_sibling else None)
        else:
            # A new one for each: an exception that is raised in many places drags their tracebacks along.
            self._throw(fibre, TerminalError(error.message, error.status_code))

    def _tell_body(self, group: Group[Any], error: BaseException) -> None:
        """Raise an error in the block of a group of which it is known that it fails, wherever that waits."""
        body = group.parent
        if body.joining is group or (isinstance(body, Fibre) and body.stopping):
            return
        if body.joining is not None and not body.joining.finished:
            self._interrupt(body.joining, _stop_of(f"{group.helper} failed"), error)
        else:
            self._throw(body, error)

    def _throw(self, body: Body, error: BaseException, *, first: bool = False) -> None:
        """Raise an error where a body waits."""
        body.throw = error
        if not isinstance(body, Fibre):
            return  # who drives looks itself
        rested = self._parked.remove(body) or body.waits_in is not None
        if body.waits_in is not None:
            body.waits_in.remove(body)
            body.waits_in = None
        if first:
            if body in self._ready:
                self._ready.remove(body)
            self._ready.appendleft(body)
        elif rested:
            self._ready.append(body)

    def _abandon(self, group: Group[Any]) -> None:
        """Step nothing of this group any more; what has started is ended when the attempt is over."""
        group.close()
        for fibre in group.running:
            self._parked.remove(fibre)
            for inner in fibre.groups:
                self._abandon(inner)
            if fibre.started:
                self._left.append(fibre.coroutine)
            else:
                fibre.coroutine.close()
        group.running.clear()

    # What the SDK calls.

    def _adopt(self, coroutine: Coroutine[Any, Any, Any]) -> DurableFuture:
        """Take over the coroutine of a durable future; the SDK would make an asyncio task of it."""
        if is_sdk_coroutine(coroutine) and context_of(coroutine) not in (None, self._wiring.context):
            coroutine.close()
            raise TerminalInvalidInput(
                f"{self._current} awaited a durable future of another invocation. Use the ctx of the handler that runs."
            )
        return DurableFuture(lambda: coroutine, self._wait, self._send)

    def _made(self, future: Any) -> None:
        """Take over a durable future that was just made."""
        if self._current is not None:
            if is_call_future(future):
                self._current.add_call(future)
        elif self._driving:
            return  # it was made where it must not be; whoever awaits it is told
        first = partial(self._wiring.unless_completed, future.handle)
        adopt_future(future, lambda begin: DurableFuture(begin, self._wait, self._send, first))

    def _wait(self, tree: Tree) -> Generator[Any, Any, None]:
        if self._current is not None:
            yield Park(tree)
        elif self._driving:
            raise self._outside()
        elif self._handler.groups:
            yield from self._wait_in_handler(tree).__await__()
        else:
            yield from self._wiring.poll(tree).__await__()

    async def _park(self, tree: Tree) -> None:
        """Shadows the context's own wait while operations run."""
        if self._current is None and not self._sending:
            if self._driving:
                raise self._outside()
            await self._wait_in_handler(tree)
        else:
            await pause(Park(tree))

    def _send(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Step a coroutine of the SDK: unlike an operation, it may wait for asyncio (for a journal codec)."""
        if self._current is None:
            self._sending = True
            try:
                return coroutine.send(None)
            finally:
                self._sending = False
        with running(self._loop):
            step = coroutine.send(None)
        return step if isinstance(step, Park) else Foreign(step)

    def _outside(self) -> TerminalNotDurable:
        return TerminalNotDurable(
            "ctx was used outside of the operation that it belongs to, in a ctx.run action or in an asyncio task, "
            "while operations run. Use it in the handler or directly in an operation."
        )


def _stop_of(reason: str) -> TerminalError:
    return TerminalError(f"stopped: {reason}", 409)
