"""What the scheduler keeps of one running operation (`Fibre`) and of the operations of one helper (`Group`)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from restate.exceptions import TerminalError

from restate_nb.patterns.misuse import TerminalInvalidInput
from restate_nb.patterns.outcome import FanOutResult, Outcome, described
from restate_nb.patterns.sdk import CallFuture, in_flight, is_call_future

T = TypeVar("T")

_KEEP_CALLS = 64  # above this, a fibre that makes call after call drops the finished ones from its list


def name_of(operation: object) -> str:
    """The name of a function, for messages; empty for a lambda."""
    name = str(getattr(getattr(operation, "func", operation), "__name__", ""))
    return "" if name == "<lambda>" else name


class Body:
    """Who calls helpers: the handler itself, or an operation.

    Attributes:
        groups: those that it has open, the outermost first: `async with group(...)`, and the helper that it called.
        joining: the group of which it waits for the end.
        throw: raised in it when it goes on.
    """

    __slots__ = ("groups", "joining", "throw")

    def __init__(self) -> None:
        self.groups: list[Group[Any]] = []
        self.joining: Group[Any] | None = None
        self.throw: BaseException | None = None

    def __str__(self) -> str:
        return "the handler"


class Fibre(Body):
    """One operation, running: its coroutine and where it stands.

    Attributes:
        stopped: whether a sibling's failure (or success, in a race) stopped it: its calls in flight are then cancelled.
        stopping: whether it was told to end, for whatever reason; its compensation is not disturbed again.
        cancelled: whether that was, or was also, since the invocation is cancelled.
        waits_in: the waiting list that it is on, for the end of other operations.
        paced: whether it may begin only after the pause that the group's rate asks for.
        steps: the waits that it has been through.
    """

    __slots__ = (
        "calls", "cancelled", "context", "coroutine", "group", "index", "name", "paced", "started", "steps", "stopped",
        "stopping", "waits_in",
    )  # fmt: skip

    def __init__(self, group: Group[Any], index: int, name: str) -> None:
        super().__init__()
        self.group = group
        self.index = index
        self.name = name
        self.coroutine: Coroutine[Any, Any, Any]
        self.context: Context = copy_context()
        self.started = False
        self.stopped = False
        self.stopping = group.spared
        self.cancelled = False
        self.waits_in: list[Fibre] | None = None
        self.paced = False
        self.steps = 0
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
        inside = f" in {self.group.parent}" if isinstance(self.group.parent, Fibre) else ""
        label = described(self.index, self.name, self.group.item_of(self.index))
        return f"{label} of {self.group.helper}{inside}"


class Group(Generic[T]):
    """The operations of one helper: those that wait for room, those that run, and what became of the others.

    Args:
        helper: the helper's name, for messages.
        operations: what to run, in order.
        window: how many run at once.
        until: true for the outcome that decides the helper; the operations that still run are then stopped.
        items: what the operations are applied to, one an operation; for messages.
        pause: called before an operation begins that has to keep its distance from the one before.
        pause_first: whether the first one has to, as well.
        spared: whether the operations compensate something: what is raised in those that do is not raised in them.

    Attributes:
        names: what the operations are called, where that is not their functions' names.
        parent: who opened it.
        following: the next operation to start.
        running: those that have started, and not ended.
        outcomes: what became of each.
        ended: the indexes of those that ended, in that order.
        decided: the outcome that decided it.
        raised: raised where the helper was called, instead of its outcomes.
        pacing: the operation that keeps its distance; none may start meanwhile.
        waiting: operations that wait for the end of one operation, by its index, or of any (None).
    """

    __slots__ = (
        "decided", "ended", "following", "helper", "items", "names", "operations", "outcomes", "pacing", "parent",
        "pause", "pause_first", "raised", "running", "spared", "until", "waiting", "window",
    )  # fmt: skip

    def __init__(
        self,
        helper: str,
        operations: list[Callable[[], object]],
        window: int,
        until: Callable[[Outcome[T]], bool],
        *,
        items: list[Any] | None = None,
        pause: Callable[[], Awaitable[object]] | None = None,
        pause_first: bool = False,
        spared: bool = False,
    ) -> None:
        self.helper = helper
        self.operations = operations
        self.window = window
        self.until = until
        self.items = items or []
        self.pause = pause
        self.pause_first = pause_first
        self.spared = spared
        self.names: dict[int, str] = {}
        self.parent: Body
        self.following = 0
        self.running: dict[Fibre, None] = {}
        self.outcomes: list[Outcome[T] | None] = [None] * len(operations)
        self.ended: list[int] = []
        self.decided: Outcome[T] | None = None
        self.raised: BaseException | None = None
        self.pacing: Fibre | None = None
        self.waiting: dict[int | None, list[Fibre]] = {}

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing is left to start."""
        return not self.running and self.following >= len(self.operations)

    def add(self, operation: Callable[[], object], name: str, item: object) -> int:
        """Add an operation, and return its index."""
        index = len(self.operations)
        self.operations.append(operation)
        self.items.append(item)
        self.outcomes.append(None)
        self.names[index] = name
        return index

    def close(self) -> None:
        """Start no further operation."""
        self.following = len(self.operations)

    def name_at(self, index: int) -> str:
        """The name of an operation."""
        name = self.names.get(index)
        return name_of(self.operations[index]) if name is None else name

    def item_of(self, index: int) -> object:
        """What an operation is applied to; None where that is not known."""
        return self.items[index] if index < len(self.items) else None

    def end(self, index: int, value: Any = None, error: TerminalError | None = None) -> Outcome[T]:
        """Note what became of an operation."""
        if error is None:
            outcome: Outcome[T] = Outcome(index, value)
        else:
            outcome = Outcome(index, error=error, name=self.name_at(index), item=self.item_of(index))
        self.outcomes[index] = outcome
        self.ended.append(index)
        return outcome

    def result(self) -> FanOutResult[T]:
        """What became of each operation so far; one that has not ended is a failure, which says so."""
        running = {fibre.index for fibre in self.running}
        return FanOutResult(
            tuple(
                outcome
                or Outcome(index, error=not_ended(index in running), name=self.name_at(index), item=self.item_of(index))
                for index, outcome in enumerate(self.outcomes)
            )
        )


def not_ended(running: bool = False) -> TerminalError:
    """What stands for the outcome of an operation that has none."""
    return TerminalError("it has not ended yet" if running else "it was not started", 409)


async def operate(fibre: Fibre, operation: Callable[[], object]) -> object:
    """The coroutine of one operation, whatever it was given as."""
    try:
        try:
            value = operation()
        except TypeError as error:
            _check_takes_nothing(fibre, operation, error)
            raise
        if inspect.isawaitable(value):
            if is_call_future(value) and value not in fibre.calls:
                fibre.add_call(value)
            value = await value
    except TerminalError:
        await fibre.cancel_calls()
        raise
    await fibre.cancel_calls()
    return value


def _check_takes_nothing(fibre: Fibre, operation: Callable[[], object], error: TypeError) -> None:
    """Tell a function that cannot be called as it was given from one that raised a TypeError."""
    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        return
    try:
        inspect.signature(operation).bind()
    except TypeError as wrong:
        raise TerminalInvalidInput(
            f"{fibre} cannot be called: {wrong}. Give its arguments with it: partial(fetch, ctx, item), "
            "lambda: fetch(ctx, item)."
        ) from error
    except ValueError:  # a function of C that does not say what it takes
        return
