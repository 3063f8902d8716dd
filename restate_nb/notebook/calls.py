"""Single calls from a cell: a handler of a served service, or a durable function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from restate.handler import Handler, handler_from_callable

from restate_nb.engine.codec import encode
from restate_nb.engine.target import Target, name_of
from restate_nb.errors import InvalidInput, InvocationFailed
from restate_nb.server.ingress import Ingress
from restate_nb.service.durable import (
    DURABLE_HANDLER,
    DurableRequest,
    arguments_of,
    attempt_decoder,
)
from restate_nb.service.wire import encode as encode_request
from restate_nb.service.wire import items_service


async def call_handler(
    ingress: Ingress, function: Callable[..., Any], arg: tuple[Any, ...], key: str | None, idempotency_key: str | None
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
    answer = await ingress.call(tag.name, handler.name, bytes(body), key=key, idempotency_key=idempotency_key)
    return handler.handler_io.output_serde.deserialize(answer)


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
    raw = encode(item)
    target.check_item(0, item, raw)
    request = DurableRequest(function=name, name=name, passing=passing, item=msgspec.Raw(raw))
    body = await ingress.call(items_service(session), DURABLE_HANDLER, encode_request(request))
    attempt = attempt_decoder.decode(body)
    if (failure := attempt.failure) is not None:
        raise InvocationFailed(500, f"{failure.type}: {failure.message}\n\n{failure.traceback}", f"of {name}")
    return target.value(attempt.value)
