"""`call`: a durable function, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from restate_nb.errors import InvalidInput
from restate_nb.service.durable_handler import takes_context
from restate_nb.session.current import current
from restate_nb.session.session import Session

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


@overload
def call(
    fn: Callable[..., Awaitable[T]],
    /,
    *,
    idempotency_key: str | None = None,
    session: Session | None = None,
    **kwargs: Any,
) -> T: ...
@overload
def call(
    fn: Callable[[Any, A], Awaitable[T]],
    arg: A,
    /,
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
    session: Session | None = None,
) -> T: ...
@overload
def call(
    fn: Callable[[Any, A, B], Awaitable[T]],
    arg: A,
    second: B,
    /,
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
    session: Session | None = None,
) -> T: ...
@overload
def call(
    fn: Callable[[Any, A, B, C], Awaitable[T]],
    arg: A,
    second: B,
    third: C,
    /,
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
    session: Session | None = None,
) -> T: ...
@overload
def call(
    fn: Callable[[Any, A, B, C, D], Awaitable[T]],
    arg: A,
    second: B,
    third: C,
    fourth: D,
    /,
    *more: Any,
    key: str | None = None,
    idempotency_key: str | None = None,
    session: Session | None = None,
) -> T: ...
def call(
    fn: Callable[..., Awaitable[Any]],
    /,
    *args: Any,
    idempotency_key: str | None = None,
    session: Session | None = None,
    **kwargs: Any,
) -> Any:
    """Run a durable function once, as an invocation of its own, and wait for what it returns.

    A durable function takes a Restate context first and may take many durable steps: `ctx.run_typed`, `ctx.sleep`,
    calls, and the helpers of `restate_nb.patterns`. It needs no service: the cell that defines it is enough, and
    running that cell again replaces it. Ctrl-C ends the waiting; the invocation goes on.

    When the server dies meanwhile, the call waits until it is back, and says so after some seconds; no step that ended
    is run again. When this process dies, the invocation waits for the cell: the same call then goes on with it if it
    has an `idempotency_key`, and begins another one if not.

    Args:
        fn: `async def fn(ctx, ...)`.
        args: its arguments after the context; or else `kwargs`.
        idempotency_key: names this call: a further call of a function of this name with the same key is the same
            invocation, whatever its arguments, in another process too, and returns what that returned. By default each
            call is a new one. `key=` is the same, for functions without a parameter of that name.
        session: the session to use; the live one by default.
        kwargs: its arguments by name.

    Raises:
        InvalidInput: it is no durable function, or the arguments do not fit.
        InvocationFailed: it raised; the message has the traceback.
        ServerError: Restate does not answer a connected session for longer than it waits.

    Example:
        import restate
        import restate_nb as rnb
        from restate_nb.patterns import map_concurrent

        async def total(ctx: restate.Context, numbers: list[int]) -> int:
            return sum(await map_concurrent(ctx, numbers, lambda n: ctx.run_typed("square", lambda: n * n)))

        rnb.start()
        rnb.call(total, [1, 2, 3])
    """
    if not callable(fn) or not takes_context(fn):
        raise InvalidInput(
            "rnb.call runs a durable function: async def fn(ctx, ...), whose first parameter is named ctx or annotated "
            f"restate.Context. {fn!r} is none; for plain functions use rnb.map."
        )
    return (session or current()).call_durable(fn, args, kwargs, idempotency_key)
