"""`compensate`: undo, in reverse, what a block has done when it fails for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec

from restate import Context
from restate.exceptions import TerminalError

from restate_nb.errors import RestateNbError
from restate_nb.patterns.fan_out import never
from restate_nb.patterns.fibre import Group, name_of
from restate_nb.patterns.misuse import TerminalInvalidInput
from restate_nb.patterns.scheduler import scheduler_of

P = ParamSpec("P")


class CompensationFailed(RestateNbError, TerminalError):
    """A block failed, and so did something that was to undo what it had done.

    Attributes:
        cause: what the block failed with.
        failures: what went wrong while it was undone, in that order.
    """

    def __init__(self, cause: BaseException, failures: Sequence[tuple[str, BaseException]]) -> None:
        reasons = "; ".join(f"{name}: {error}" if name else str(error) for name, error in failures)
        super().__init__(f"{cause}; and it could not be undone: {reasons}", getattr(cause, "status_code", 500))
        self.cause = cause
        self.failures: tuple[BaseException, ...] = tuple(error for _, error in failures)
        self.__cause__ = cause


class Compensation:
    """What undoes the steps of a block; made by `compensate`. Call it to add something."""

    __slots__ = ("_ctx", "_steps")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def __call__(self, operation: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Add what undoes the step that was just taken, or is about to be.

        Args:
            operation: a function (async or not), which may return something to await.
            args: what to call it with.
            kwargs: the same, by name.

        Raises:
            InvalidInput: it is no function.
        """
        if not callable(operation):
            raise TerminalInvalidInput(
                f"undo takes a function and its arguments, such as undo(refund, ctx, order), not {operation!r}."
            )
        self._steps.append((name_of(operation), partial(operation, *args, **kwargs)))

    async def __aenter__(self) -> Compensation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not scheduler_of(self._ctx).is_end(error):
            return
        failures: list[tuple[str, BaseException]] = []
        while self._steps:
            name, step = self._steps.pop()
            failure = await self._undo(step)
            if failure is not None:
                failures.append((name, failure))
        if failures:
            raise CompensationFailed(error, failures) from error

    async def _undo(self, step: Callable[[], object]) -> BaseException | None:
        """Run one step; what it failed with. A cancellation that comes meanwhile does not reach it."""
        scheduler = scheduler_of(self._ctx)
        group: Group[Any] = Group("compensate", [step], 1, never, spared=True)
        raised: BaseException | None = None
        try:
            await scheduler.run(group)
        except BaseException as error:
            if not scheduler.is_end(error):
                raise
            raised = error
        (outcome,) = group.outcomes
        return raised if outcome is None else outcome.error


def compensate(ctx: Context) -> Compensation:
    """A block that, when it fails for good, undoes what it has done: last step first, each one whatever the others do.

    Failing for good is a TerminalError (a refused step, a cancellation, a sibling that stopped it), and in `rnb.call`
    and `rnb.map` any exception that is not tried again. Where the attempt is made again, there is nothing to undo.

    Args:
        ctx: the handler's context.

    Raises:
        CompensationFailed: the block failed, and a step of its undoing failed, too. Else the block's own exception.

    Example:
        >>> async def book(ctx: Context, trip: str) -> str:
        ...     async with compensate(ctx) as undo:
        ...         flight = await ctx.run_typed("fly", lambda: f"flight to {trip}")
        ...         undo(ctx.run_typed, "cancel the flight", lambda: None)
        ...         return flight
    """
    return Compensation(ctx)
