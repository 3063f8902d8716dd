"""What the scheduler keeps of one running operation (`Fibre`) and of one running helper (`Group`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from restate.exceptions import TerminalError

from restate_nb.patterns.outcome import Outcome
from restate_nb.patterns.sdk import CallFuture, in_flight, is_call_future

T = TypeVar("T")

_KEEP_CALLS = 64  # above this, a fibre that makes call after call drops the finished ones from its list


def name_of(operation: object) -> str:
    """The name of a function, for messages; empty for a lambda."""
    name = str(getattr(getattr(operation, "func", operation), "__name__", ""))
    return "" if name == "<lambda>" else name


class Fibre:
    """One operation, running: its coroutine and where it stands."""

    __slots__ = (
        "calls", "child", "context", "coroutine", "group", "index", "name", "started", "steps", "stopped", "throw"
    )  # fmt: skip

    def __init__(self, group: Group[Any], index: int, name: str) -> None:
        self.group = group
        self.index = index
        self.name = name
        self.coroutine: Coroutine[Any, Any, Any]
        self.context: Context = copy_context()
        self.child: Group[Any] | None = None  # the helper that it waits for
        self.throw: BaseException | None = None  # raised in it when it is stepped next
        self.started = False
        self.stopped = False  # by a sibling: its calls in flight are cancelled when it ends
        self.steps = 0  # waits that it has been through
        self.calls: list[CallFuture] = []

    def resume(self) -> object:
        """Take the coroutine to its next wait; what it yields there."""
        self.started = True
        error, self.throw = self.throw, None
        if error is None:
            return self.context.run(self.coroutine.send, None)
        return self.context.run(self.coroutine.throw, error)

    def add_call(self, future: CallFuture) -> None:
        """Remember a call, so that it can be cancelled with this operation."""
        if len(self.calls) >= _KEEP_CALLS:
            self.calls = [call for call in self.calls if in_flight(call)]
        self.calls.append(future)

    async def cancel_calls(self) -> None:
        """Cancel the calls that are in flight, if a sibling stopped this operation."""
        if self.stopped:
            for call in self.calls:
                if in_flight(call):
                    await call.cancel_invocation()

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        inside = f" in {self.group.parent}" if self.group.parent is not None else ""
        return f"operation {self.index}{name} of {self.group.helper}{inside}"


class Group(Generic[T]):
    """The operations of one helper: those that wait for room, those that run, and what became of the others.

    Args:
        helper: the helper's name, for messages.
        operations: what to run, in order.
        window: how many run at once.
        until: true for the outcome that decides the helper; the operations that still run are then stopped.
    """

    __slots__ = (
        "decided", "following", "helper", "operations", "outcomes", "parent", "raised", "running", "until", "window"
    )  # fmt: skip

    def __init__(
        self,
        helper: str,
        operations: Sequence[Callable[[], object]],
        window: int,
        until: Callable[[Outcome[T]], bool],
    ) -> None:
        self.helper = helper
        self.operations = operations
        self.window = window
        self.until = until
        self.parent: Fibre | None = None
        self.following = 0  # the next operation to start
        self.running: dict[Fibre, None] = {}
        self.outcomes: list[Outcome[T] | None] = [None] * len(operations)
        self.decided: Outcome[T] | None = None
        self.raised: BaseException | None = None  # raised where the helper was called, instead of its outcomes

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        return not self.running and self.following >= len(self.operations)

    def close(self) -> None:
        """Start no further operation."""
        self.following = len(self.operations)


async def operate(fibre: Fibre, operation: Callable[[], object]) -> object:
    """The coroutine of one operation, whatever it was given as."""
    try:
        value = operation()
        if inspect.isawaitable(value):
            if is_call_future(value) and value not in fibre.calls:
                fibre.add_call(value)
            value = await value
    except TerminalError:
        await fibre.cancel_calls()
        raise
    await fibre.cancel_calls()
    return value
