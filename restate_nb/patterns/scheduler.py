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
from collections.abc import Coroutine, Generator
from typing import Any

from restate.exceptions import TerminalError

from restate_nb.errors import InvalidInput, JournalMismatch, NotDurable
from restate_nb.patterns.durable_future import DurableFuture, Foreign, Park, pause
from restate_nb.patterns.fibre import Fibre, Group, name_of, operate
from restate_nb.patterns.loop_guard import OperationLoop, refusal, running
from restate_nb.patterns.outcome import Outcome
from restate_nb.patterns.sdk import (
    PASS_THROUGH,
    Tree,
    VMException,
    Wiring,
    context_of,
    first_of,
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
    """Steps the operations of one invocation."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._ready: deque[Fibre] = deque()
        self._parked: dict[Fibre, Tree] = {}
        self._current: Fibre | None = None
        self._driving = False
        self._loop: asyncio.AbstractEventLoop
        self._left: list[Coroutine[Any, Any, Any]] = []

    # What helpers call.

    async def run(self, group: Group[Any]) -> None:
        """Run a group's operations; its outcomes are in the group afterwards.

        Raises:
            restate.TerminalError: the invocation was cancelled, or the operation that this group runs in was stopped.
            BaseException: what ended the attempt, or an operation's exception that was no TerminalError.
        """
        if self._current is not None:
            await self._nest(group, self._current)
        elif self._driving:
            raise self._outside()
        else:
            await self._drive(group)
        if group.raised is not None:
            raise group.raised

    async def _nest(self, group: Group[Any], fibre: Fibre) -> None:
        group.parent, fibre.child = fibre, group
        self._admit(group)
        try:
            if not group.finished:
                await pause(group)
        finally:
            fibre.child = None

    # The loop.

    async def _drive(self, group: Group[Any]) -> None:
        self._loop = asyncio.get_running_loop()
        guard = OperationLoop(self._loop, self._adopt, lambda: str(self._current))
        self._driving = True
        self._wiring.shadow(self._park, self._add_call)
        try:
            self._admit(group)
            while not group.finished:
                if not self._ready:
                    await self._progress(group)
                    continue
                fibre = self._ready.popleft()
                while (foreign := self._step(fibre, guard)) is not None:
                    await pause(foreign.future)
        finally:
            self._driving = False
            self._wiring.unshadow()
            self._abandon(group)
            self._ready.clear()
            if self._left:
                end_after_attempt(self._left, self._wiring)
                self._left = []

    async def _progress(self, root: Group[Any]) -> None:
        """Let the SDK wait until a parked fibre can go on; wake all that can, in the order in which they parked."""
        try:
            await self._wiring.poll(first_of(self._parked.values()))
        except TerminalError as cancelled:
            self._interrupt(root, cancelled)
            return
        completed, parked = self._wiring.completed, self._parked
        # What is resolved may be taken by another fibre, and would then look unresolved again: so keep what is left.
        changed = [(f, left) for f, tree in parked.items() if (left := unresolved(tree, completed)) is not tree]
        if not changed:  # or this would go round for ever
            raise RuntimeError("restate-sdk reported progress for operations that all still wait.")
        for fibre, left in changed:
            if left is None:
                del parked[fibre]
                self._ready.append(fibre)
            else:
                parked[fibre] = left

    def _step(self, fibre: Fibre, guard: OperationLoop) -> Foreign | None:
        """Take one fibre to its next wait; a `Foreign` has to be waited for before the same fibre is stepped again."""
        if fibre not in fibre.group.running:
            return None  # it was dropped before it had started
        self._current = fibre
        try:
            with running(guard):
                step = fibre.resume()
        except StopIteration as end:
            self._ended(fibre, Outcome(fibre.index, end.value))
        except TerminalError as error:
            self._ended(fibre, Outcome(fibre.index, error=error))
        except PASS_THROUGH:  # these derive from Exception
            raise
        except Exception as error:
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
                self._parked[fibre] = left
        elif step is None:  # asyncio.sleep(0): let the others go first
            self._ready.append(fibre)
        elif not isinstance(step, Group):  # a fibre that waits for a group is woken when that has finished
            fibre.throw = refusal(str(fibre), step)
            self._ready.appendleft(fibre)

    # How operations begin and end.

    def _admit(self, group: Group[Any]) -> None:
        while len(group.running) < group.window and group.following < len(group.operations):
            operation = group.operations[group.following]
            fibre = Fibre(group, group.following, name_of(operation))
            fibre.coroutine = operate(fibre, operation)
            group.following += 1
            group.running[fibre] = None
            self._ready.append(fibre)

    def _ended(self, fibre: Fibre, outcome: Outcome[Any]) -> None:
        group = fibre.group
        del group.running[fibre]
        group.outcomes[fibre.index] = outcome
        if group.decided is None and group.raised is None and group.until(outcome):
            group.decided = outcome
            group.close()
            stop = TerminalError(f"stopped: {fibre} decided it", 409)
            for sibling in list(group.running):
                self._stop(sibling, stop, by_sibling=True)
        self._admit(group)
        self._wake_parent(group)

    def _wake_parent(self, group: Group[Any]) -> None:
        if group.finished and group.parent is not None:
            self._ready.append(group.parent)

    def _crashed(self, fibre: Fibre, error: Exception) -> None:
        """An exception that is not terminal: it goes to whoever called the helper, before anyone else takes a step."""
        group = fibre.group
        del group.running[fibre]
        group.raised = _mismatch(fibre, error) if isinstance(error, VMException) else error
        self._abandon(group)
        if group.parent is not None:
            self._ready.appendleft(group.parent)

    # How operations are stopped.

    def _interrupt(self, group: Group[Any], error: TerminalError, *, by_sibling: bool = False) -> None:
        """Raise `error` in every operation of a group, and, when they have ended, where its helper was called."""
        group.raised = error
        group.close()
        for fibre in list(group.running):
            self._stop(fibre, error, by_sibling=by_sibling)
        self._wake_parent(group)

    def _stop(self, fibre: Fibre, error: TerminalError, *, by_sibling: bool) -> None:
        fibre.stopped = fibre.stopped or by_sibling
        if fibre.child is not None and not fibre.child.finished:
            self._interrupt(fibre.child, error, by_sibling=by_sibling)
        elif not fibre.started:
            fibre.coroutine.close()
            del fibre.group.running[fibre]
            fibre.group.outcomes[fibre.index] = Outcome(fibre.index, error=error)
        else:
            # A new one for each: an exception that is raised in many places drags their tracebacks along.
            fibre.throw = TerminalError(error.message, error.status_code)
            if self._parked.pop(fibre, None) is not None:
                self._ready.append(fibre)

    def _abandon(self, group: Group[Any]) -> None:
        """Step nothing of this group any more; what has started is ended when the attempt is over."""
        group.close()
        for fibre in group.running:
            self._parked.pop(fibre, None)
            if fibre.child is not None:
                self._abandon(fibre.child)
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
            raise InvalidInput(
                f"{self._current} awaited a durable future of another invocation. Use the ctx of the handler that runs."
            )
        return DurableFuture(coroutine, self._wait, self._send)

    def _wait(self, tree: Tree) -> Generator[Any, Any, None]:
        if self._current is not None:
            yield Park(tree)
        elif self._driving:
            raise self._outside()
        else:
            yield from self._wiring.poll(tree).__await__()

    async def _park(self, tree: Tree) -> None:
        """Shadows the context's own wait while operations run."""
        if self._current is None:
            raise self._outside()
        await pause(Park(tree))

    def _send(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Step a coroutine of the SDK: unlike an operation, it may wait for asyncio (for a journal codec)."""
        if self._current is None:
            return coroutine.send(None)
        with running(self._loop):
            step = coroutine.send(None)
        return step if isinstance(step, Park) else Foreign(step)

    def _add_call(self, future: Any) -> None:
        if self._current is not None:
            self._current.add_call(future)

    def _outside(self) -> NotDurable:
        return NotDurable(
            "ctx was used outside of the operation that it belongs to, in a ctx.run action or in an asyncio task, "
            "while operations run. Use it in the handler or directly in an operation."
        )


def _mismatch(fibre: Fibre, error: Exception) -> JournalMismatch:
    mismatch = JournalMismatch(f"{fibre}, after {fibre.steps} of its steps: {error}")
    mismatch.__cause__ = error
    return mismatch
