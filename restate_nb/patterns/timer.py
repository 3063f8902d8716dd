"""Durable pauses."""

from __future__ import annotations

from datetime import timedelta

from restate import Context

from restate_nb.limits import Seconds
from restate_nb.validation import seconds


class WorkflowTimer:
    """Sleeps that Restate keeps: the handler may be suspended, and the time goes on while nothing runs.

    Args:
        ctx: the handler's context; any kind of handler, not only a workflow's.

    Example:
        >>> async def handler(ctx: Context) -> None:
        ...     await WorkflowTimer(ctx).sleep(timedelta(hours=1))
    """

    __slots__ = ("_ctx",)

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def sleep(self, duration: Seconds, *, name: str | None = None) -> None:
        """Wait.

        Args:
            duration: seconds, or a timedelta; 0 returns at once.
            name: what the journal calls it.

        Raises:
            InvalidInput: the duration is negative or no number.
            restate.TerminalError: the invocation was cancelled (409).
        """
        length = seconds("duration", duration, zero=True)
        if length > 0:
            await self._ctx.sleep(timedelta(seconds=length), name)
