"""The handle of one invocation: what `session.send` and `session.invocation` return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar, cast

from restate.serde import Serde

from restate_nb.backends.connection import Connection
from restate_nb.errors import InvocationFailed
from restate_nb.limits import Seconds
from restate_nb.server.admin import sql_literal
from restate_nb.session.calls import HandlerCall, answer_of
from restate_nb.validation import seconds

T = TypeVar("T")

_ENDED: Final = {"success": "succeeded", "failure": "failed"}


class Invocation(Generic[T]):
    """One invocation of a handler, which runs in Restate whatever becomes of this process.

    Attributes:
        id: as Restate and its UI show it.

    Example:
        import restate
        import restate_nb as rnb

        greeter = restate.Service("greeter")

        @greeter.handler()
        async def greet(ctx: restate.Context, name: str) -> str:
            return f"Hello {name}"

        session = rnb.start()
        session.serve(greeter)
        greeting = session.send(greet, "Ada", idempotency_key="greet Ada")
        greeting.status
        greeting.result()
    """

    def __init__(
        self,
        invocation_id: str,
        call: HandlerCall,
        connection: Connection,
        wait_for: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self.id = invocation_id
        self._called = replace(call.called, where=f"id = {sql_literal(invocation_id)}")
        self._serde: Serde[Any] = call.handler.handler_io.output_serde
        self._connection = connection
        self._wait_for = wait_for

    def result(self, timeout: Seconds | None = None) -> T:
        """Wait for what the handler returns. Ctrl-C ends the waiting; the invocation goes on.

        Args:
            timeout: seconds (or a timedelta) after which the waiting ends.

        Raises:
            InvocationFailed: it ended with an error, or was cancelled.
            TimeoutError: it has not ended in that time; it goes on.
            ServerError: Restate does not keep it any more, or does not answer.
        """
        patience = None if timeout is None else seconds("timeout", timeout, zero=True)
        return cast("T", self._wait_for(self._result(patience)))

    async def _result(self, patience: float | None) -> Any:
        asking = self._connection.ingress.attach_id(self.id)
        try:
            async with asyncio.timeout(patience):
                return self._serde.deserialize(await answer_of(self._connection, asking, self._called))
        except TimeoutError:
            raise TimeoutError(
                f"{self._called.name} ({self.id}) has not ended in {patience:g} s; it goes on."
            ) from None

    def cancel(self) -> bool:
        """Ask it to end: its handler gets a `TerminalError` with code 409, and may compensate. Says whether it was
        still under way.

        Raises:
            InvalidInput: the session was connected without Restate's admin API.
        """
        return cast("bool", self._wait_for(self._connection.admin.cancel(self.id)))

    @property
    def status(self) -> str:
        """How it stands: "scheduled", "pending", "running", "suspended", "backing-off", "paused", "succeeded" or
        "failed"; "unknown" when Restate has not begun it, or no longer keeps it.

        Raises:
            InvalidInput: the session was connected without Restate's admin API.
        """
        row = self._wait_for(self._connection.admin.invocation(self.id))
        if row is None:
            return "unknown"
        if row["status"] == "completed":
            return _ENDED.get(row.get("completion_result") or "", "succeeded")
        return str(row["status"])

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.status in ("succeeded", "failed")

    def exception(self, timeout: Seconds | None = None) -> InvocationFailed | None:
        """Wait until it ends; the error that it ended with, if any.

        Args:
            timeout: as for `result`.

        Raises:
            TimeoutError: it has not ended in that time.
        """
        try:
            self.result(timeout)
        except InvocationFailed as error:
            return error
        return None

    def __repr__(self) -> str:
        return f"<Invocation of {self._called.name}: {self.id}>"
