"""Calls to several handlers at once."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, overload

from restate import Context

from restate_nb.patterns.clients import KeyedClient
from restate_nb.patterns.fan_out import failure, run_group, values_of
from restate_nb.patterns.misuse import TerminalInvalidInput
from restate_nb.patterns.options import options_of

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
I1 = TypeVar("I1")
I2 = TypeVar("I2")
I3 = TypeVar("I3")
I4 = TypeVar("I4")
I5 = TypeVar("I5")
O1 = TypeVar("O1")
O2 = TypeVar("O2")
O3 = TypeVar("O3")
O4 = TypeVar("O4")
O5 = TypeVar("O5")


class Callee(Protocol[I_contra, O_co]):
    """What can be invoked: a `ServiceClient`, or the client of one key, `ObjectClient(...).at(key)`."""

    def call(self, ctx: Context, arg: I_contra, /) -> Awaitable[O_co]:
        """Call the handler."""
        ...


@overload
async def parallel_invoke(  # type: ignore[overload-overlap]  # tuples come before other sequences
    ctx: Context,
    clients: tuple[Callee[I1, O1], Callee[I2, O2]],
    inputs: tuple[I1, I2],
    *,
    max_concurrent: int | None = None,
) -> tuple[O1, O2]: ...
@overload
async def parallel_invoke(  # type: ignore[overload-overlap]
    ctx: Context,
    clients: tuple[Callee[I1, O1], Callee[I2, O2], Callee[I3, O3]],
    inputs: tuple[I1, I2, I3],
    *,
    max_concurrent: int | None = None,
) -> tuple[O1, O2, O3]: ...
@overload
async def parallel_invoke(  # type: ignore[overload-overlap]
    ctx: Context,
    clients: tuple[Callee[I1, O1], Callee[I2, O2], Callee[I3, O3], Callee[I4, O4]],
    inputs: tuple[I1, I2, I3, I4],
    *,
    max_concurrent: int | None = None,
) -> tuple[O1, O2, O3, O4]: ...
@overload
async def parallel_invoke(  # type: ignore[overload-overlap]
    ctx: Context,
    clients: tuple[Callee[I1, O1], Callee[I2, O2], Callee[I3, O3], Callee[I4, O4], Callee[I5, O5]],
    inputs: tuple[I1, I2, I3, I4, I5],
    *,
    max_concurrent: int | None = None,
) -> tuple[O1, O2, O3, O4, O5]: ...
@overload
async def parallel_invoke(
    ctx: Context, clients: Sequence[Callee[I1, O1]], inputs: Sequence[I1], *, max_concurrent: int | None = None
) -> list[O1]: ...
async def parallel_invoke(
    ctx: Context, clients: Sequence[Callee[Any, Any]], inputs: Sequence[Any], *, max_concurrent: int | None = None
) -> Any:
    """Call each client with its input, side by side; the first failure ends them all and cancels the calls in flight.

    Args:
        ctx: the handler's context.
        clients: whom to call; a tuple of up to five keeps the type of each.
        inputs: what to call them with, one for each client.
        max_concurrent: how many calls are open at once, 50 unless told otherwise.

    Returns:
        The results in the clients' order; a tuple when `clients` is one.

    Raises:
        OperationFailed: with the `index` of the client and the `cause`.
        InvalidInput: there are not as many inputs as clients, or something is no client.

    Example:
        >>> stats, unread = ServiceClient[str, dict]("UserStats", "Get"), ServiceClient[str, int]("Inbox", "GetUnread")
        >>> async def handler(ctx: Context, user: str) -> tuple[dict, int]:
        ...     return await parallel_invoke(ctx, (stats, unread), (user, user))
    """
    if len(clients) != len(inputs):
        raise TerminalInvalidInput(
            f"parallel_invoke takes one input for each client, but got {len(clients)} clients and {len(inputs)} inputs."
        )
    for index, client in enumerate(clients):
        if not _can_be_called(client):
            raise TerminalInvalidInput(
                f"Client {index} of parallel_invoke is {client!r}. Pass a ServiceClient, or the client of one key: "
                'ObjectClient("Inbox", "Get").at(key).'
            )
    calls = [partial(client.call, ctx, given) for client, given in zip(clients, inputs, strict=True)]
    options = options_of(ctx, max_concurrent)
    values = values_of(await run_group("parallel_invoke", ctx, calls, options, failure, items=list(inputs)))
    return tuple(values) if isinstance(clients, tuple) else values


def _can_be_called(client: object) -> bool:
    """Whether it is a `Callee`, and not a client that still needs a key."""
    return callable(getattr(client, "call", None)) and not isinstance(client, KeyedClient)
