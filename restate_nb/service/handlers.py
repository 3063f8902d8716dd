"""The SDK's handler of a function that a service was made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from restate.handler import Handler, handler_from_callable

from restate_nb.errors import InvalidInput
from restate_nb.patterns.typed_values import with_typed_io


def handler_of(function: Callable[..., Any]) -> Handler[Any, Any]:
    """The handler, which reads and writes by its annotations.

    Raises:
        InvalidInput: it is no handler.
    """
    try:
        return with_typed_io(handler_from_callable(function))
    except (TypeError, ValueError):
        raise InvalidInput(
            f"{function!r} is no handler. Decorate it with @service.handler() and serve it, or, for a durable function "
            "without a service, use rnb.call(fn, ...)."
        ) from None
