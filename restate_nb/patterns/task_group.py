"""`group`: operations that are started one by one in a block, with a handle of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from restate import Context

from restate_nb.errors import InvalidInput
from restate_nb.limits import PerSecond
from restate_nb.patterns.fan_out import failure, never
from restate_nb.patterns.fibre import Group, name_of
from restate_nb.patterns.late_binding import LateBinding
from restate_nb.patterns.misuse import TerminalInvalidInput, terminal
from restate_nb.patterns.operations import close_unused, operations_of
from restate_nb.patterns.options import Options, checked, options_of, retried
from restate_nb.patterns.outcome import FanOutResult, Outcome
from restate_nb.patterns.scheduler import Scheduler, scheduler_of
from restate_nb.policy import Retry

P = ParamSpec("P")
T = TypeVar("T")


class Handle(Generic[T]):
    """An operation of a `group`: await it for its value.

    It can be awaited in the block, in other operations, and as often as one likes. After the block, it has ended.

    Attributes:
        index: which operation of the group, from 0 in the order they were started.
        name: the name of its function, or the one that it was given; empty for a lambda.
    """

    __slots__ = ("_group", "_scheduler", "index", "name")

    def __init__(self, group: Group[Any], scheduler: Scheduler, index: int, name: str) -> None:
        self._group = group
        self._scheduler = scheduler
        self.index: int = index
        self.name: str = name

    def done(self) -> bool:
        """Whether it has ended."""
        return self._group.outcomes[self.index] is not None

    @property
    def outcome(self) -> Outcome[T] | None:
        """How it ended; None while it has not."""
        return self._group.outcomes[self.index]

    def result(self) -> T:
        """Its value, when it has ended.

        Raises:
            OperationFailed: it failed.
            InvalidInput: it has not ended: await it.
        """
        outcome = self.outcome
        if outcome is None:
            raise TerminalInvalidInput(f"Operation {self.index} has not ended. Await its handle, or leave the block.")
        if outcome.error is not None:
            raise outcome.failure(self._group.result) from outcome.error
        return outcome.value  # type: ignore[return-value]  # T may itself include None

    def __await__(self) -> Generator[Any, Any, T]:
        yield from self._scheduler.until(self._group, self.index, self.done).__await__()
        return self.result()

    def __repr__(self) -> str:
        state = "running" if self.outcome is None else "ok" if self.outcome.ok else "failed"
        return f"Handle({self.index}, {self.name!r}, {state})"


class _Starter:
    """Starts operations in a group, with options of their own."""

    __slots__ = ("_group", "_name", "_retry")

    def __init__(self, group: OperationGroup, name: str, retry: Retry | None) -> None:
        self._group = group
        self._name = name
        self._retry = retry

    @overload
    def start(self, operation: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...
    @overload
    def start(self, operation: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...
    @overload
    def start(self, operation: Awaitable[T], /) -> Handle[T]: ...
    def start(self, operation: Any, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start an operation; see `OperationGroup.start`."""
        return self._group.add(operation, args, kwargs, self._name, self._retry)


class OperationGroup:
    """The group of a block; made by `group`."""

    __slots__ = ("_ctx", "_group", "_handles", "_late", "_options", "_scheduler", "_state")

    def __init__(self, ctx: Context, scheduler: Scheduler, options: Options, *, fail_fast: bool) -> None:
        self._ctx = ctx
        self._scheduler = scheduler
        self._options = options
        self._group: Group[Any] = Group(
            "group", [], options.window, failure if fail_fast else never, items=[], pause=options.pause
        )
        self._handles: list[Handle[Any]] = []
        self._late = LateBinding("group", lambda index: self._handles[index].done())
        self._state = "new"

    async def __aenter__(self) -> OperationGroup:
        if self._state != "new":
            raise TerminalInvalidInput("This group was used already: make one for each block, `async with group(ctx)`.")
        self._scheduler.open(self._group)
        self._state = "open"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._scheduler.leave(self._group, error)
        finally:
            self._state = "ended"
            close_unused(self._group.operations)
        decided = self._group.decided
        if error is None and decided is not None and decided.error is not None:
            raise decided.failure(self._group.result) from decided.error

    @overload
    def start(self, operation: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...
    @overload
    def start(self, operation: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...
    @overload
    def start(self, operation: Awaitable[T], /) -> Handle[T]: ...
    def start(self, operation: Any, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start an operation, as soon as there is room for it.

        It takes its first step when the block, or the operation that started it, waits for something.

        Args:
            operation: a function (async or not), which may return something to await; or an awaitable.
            args: what to call it with.
            kwargs: the same, by name.

        Raises:
            InvalidInput: the group is not open, or it is no operation.
        """
        return self.add(operation, args, kwargs, "", None)

    def options(self, *, name: str = "", retry: Retry | None = None) -> _Starter:
        """Start the next operation with options of its own: `g.options(name="Ada").start(greet, ctx, user)`.

        Args:
            name: what errors call it; else it is the function's name.
            retry: when it is tried again, instead of what the group says.

        Raises:
            InvalidInput: `retry` is no `Retry`.
        """
        with terminal():
            return _Starter(self, name, checked(retry))

    def as_completed(self) -> AsyncIterator[Handle[Any]]:
        """The handles of all operations, each as soon as it has ended; those that failed, too.

        It ends when all have ended that were started, so that the body of the loop may start more.
        """
        return _Completed(self._group, self._scheduler, self._handles)

    @property
    def handles(self) -> tuple[Handle[Any], ...]:
        """The handles, in the order they were started."""
        return tuple(self._handles)

    def results(self) -> FanOutResult[Any]:
        """What became of each operation so far; one that has not ended is a failure, which says so."""
        return self._group.result()

    def add(
        self, operation: object, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, retry: Retry | None
    ) -> Handle[Any]:
        """Start an operation with all that there is to say; `start` and `options` are what to call.

        Args:
            operation: see `start`.
            args: of a function, by position.
            kwargs: of a function, by name.
            name: what it is called; empty for the name of the function.
            retry: when it is tried again; None for as the group has it.

        Raises:
            InvalidInput: the group is not open, or it is no operation.
        """
        if self._state != "open":
            raise TerminalInvalidInput(
                "An operation can be started only within the block of its group:\n"
                "    async with group(ctx) as g:\n        handle = g.start(fetch, ctx, url)"
            )
        with terminal():
            given = operation
            if args or kwargs:
                if not callable(operation):
                    raise InvalidInput(f"g.start takes a function and its arguments, not {operation!r}.")
                given = partial(operation, *args, **kwargs)
            (checked_operation,) = operations_of("group", self._ctx, [given])
            self._late.look(len(self._handles), checked_operation)
        called = name or name_of(checked_operation)
        run = retried(self._ctx, self._scheduler, checked_operation, retry or self._options.retry, called)
        index = self._scheduler.add(self._group, run, called, _item_of(self._ctx, args))
        handle: Handle[Any] = Handle(self._group, self._scheduler, index, called)
        self._handles.append(handle)
        return handle


class _Completed:
    """Iterates over the handles of a group in the order of their ends."""

    def __init__(self, group: Group[Any], scheduler: Scheduler, handles: list[Handle[Any]]) -> None:
        self._group = group
        self._scheduler = scheduler
        self._handles = handles
        self._at = 0

    def __aiter__(self) -> AsyncIterator[Handle[Any]]:
        return self

    async def __anext__(self) -> Handle[Any]:
        ended = self._group.ended
        if self._at >= len(self._handles):
            raise StopAsyncIteration
        await self._scheduler.until(self._group, None, lambda: len(ended) > self._at)
        self._at += 1
        return self._handles[ended[self._at - 1]]


def _item_of(ctx: Context, args: tuple[Any, ...]) -> object:
    """What an operation is about, for messages: its arguments but for the context."""
    rest = tuple(each for each in args if each is not ctx)
    return rest[0] if len(rest) == 1 else rest or None


def group(
    ctx: Context,
    *,
    max_concurrent: int | None = None,
    max_per_second: PerSecond | None = None,
    retry: Retry | None = None,
    fail_fast: bool = True,
) -> OperationGroup:
    """A block in which operations are started one by one; it ends when all of them have.

    For what the other helpers cannot say: operations that are not known beforehand, results as they come, an operation
    that starts others. The block itself may take durable steps, and start operations from what it learns; they go on
    whenever it waits.

    The first failure stops the other operations and the block, as in `fan_out_fail`, and is raised at its end. An
    exception of the block stops them, too.

    Args:
        ctx: the handler's context.
        max_concurrent: how many run at once, 50 unless told otherwise.
        max_per_second: how many begin a second, or `(count, seconds)`: a durable pause lies between two beginnings.
        retry: when an operation that raised is tried again, from its beginning, after a durable pause. A TerminalError
            is only if `retry_on` names it.
        fail_fast: False to let the others go on; each failure is then only in its handle, and in `g.results()`.

    Raises:
        OperationFailed: an operation failed; at the end of the block. Its `result` has what had ended.
        InvalidInput: an option is out of range.
        restate.TerminalError: the invocation was cancelled (409).

    Example:
        >>> async def handler(ctx: Context, urls: list[str]) -> list[str]:
        ...     async with group(ctx, max_concurrent=20) as g:
        ...         handles = [g.start(fetch, ctx, url) for url in urls]
        ...         async for handle in g.as_completed():
        ...             print(handle.index, await handle)
        ...     return [handle.result() for handle in handles]
    """
    with terminal():
        scheduler = scheduler_of(ctx)
    return OperationGroup(ctx, scheduler, options_of(ctx, max_concurrent, max_per_second, retry), fail_fast=fail_fast)
