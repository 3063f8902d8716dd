"""Single calls from a cell: a handler of a served service, or a durable function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from restate.handler import Handler, handler_from_callable

from restate_nb.engine.target import Target, name_of
from restate_nb.errors import InvalidInput, InvocationFailed
from restate_nb.notebook.received import received
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.server.ingress import Ingress
from restate_nb.service.durable import (
    DURABLE_HANDLER,
    DurableRequest,
    arguments_of,
    attempt_decoder,
)
from restate_nb.service.wire import encode as encode_request
from restate_nb.service.wire import items_service

_QUIET_SECONDS: Final = 2.0  # that a call may take without a word


async def call_handler(
    ingress: Ingress,
    admin: Admin | None,
    function: Callable[..., Any],
    arg: tuple[Any, ...],
    *,
    key: str | None,
    idempotency_key: str | None,
) -> Any:
    """Call a handler by its function."""
    handler = _handler(function)
    tag = handler.service_tag
    if (key is not None) != (tag.kind != "service"):
        problem = "a service has no keys" if key is not None else "it needs one: key=..."
        raise InvalidInput(f"{tag.name}/{handler.name} belongs to a Restate {tag.kind}: {problem}.")
    if len(arg) != handler.arity - 1:
        wanted = "one argument, its input" if handler.arity == 2 else "no argument"
        raise InvalidInput(f"{tag.name}/{handler.name} takes {wanted}, and {len(arg)} were given.")
    body = handler.handler_io.input_serde.serialize(arg[0]) if arg else b""
    call = asyncio.create_task(
        ingress.call(tag.name, handler.name, bytes(body), key=key, idempotency_key=idempotency_key)
    )
    try:
        if admin is not None:
            await _tell_of_failures(call, admin, tag.name, handler.name)
        return handler.handler_io.output_serde.deserialize(await call)
    finally:
        call.cancel()


async def _tell_of_failures(call: asyncio.Task[bytes], admin: Admin, service: str, handler: str) -> None:
    """Until the call has ended, say which attempts fail: Restate tries again for ever, and nobody would know."""
    told = None
    await asyncio.wait({call}, timeout=_QUIET_SECONDS)
    while not call.done():
        rows = await admin.query(
            "select retry_count, last_failure from sys_invocation where status = 'backing-off' "
            f"and target_service_name = {sql_literal(service)} and target_handler_name = {sql_literal(handler)} "
            "order by modified_at desc limit 1"
        )
        if rows and rows[0]["last_failure"] != told:
            told = rows[0]["last_failure"]
            print(
                f"{service}/{handler}: attempt {rows[0]['retry_count']} failed, Restate tries again: {told}\n"
                "Mend the handler and serve it again; or interrupt, and the invocation goes on without you."
            )
        await asyncio.wait({call}, timeout=_QUIET_SECONDS)


def _handler(function: Callable[..., Any]) -> Handler[Any, Any]:
    try:
        return handler_from_callable(function)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"{function!r} is no handler. Decorate it with @service.handler() and serve it, or, for a durable function "
            "without a service, use rnb.call(fn, ...)."
        ) from None


async def call_durable(
    ingress: Ingress, session: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a durable function once."""
    passing, item = arguments_of(args, kwargs)
    name = name_of(fn)
    target = Target(fn, passing, durable=True)
    raw = target.encode(item)
    target.check_item(0, item, raw)
    request = DurableRequest(function=name, name=name, passing=passing, item=msgspec.Raw(raw))
    body = await ingress.call(items_service(session), DURABLE_HANDLER, encode_request(request))
    attempt = received(attempt_decoder, body, f"the outcome of {name}")
    if (failure := attempt.failure) is not None:
        raise InvocationFailed(500, f"{failure.type}: {failure.message}\n\n{failure.traceback}", f"of {name}")
    return target.value(attempt.value)
