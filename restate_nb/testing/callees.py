"""What mock invocations ask of one another: requests, handlers by name, and stubs that answer."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from restate.exceptions import TerminalError
from restate.handler import handler_from_callable
from restate.serde import Serde

from restate_nb.errors import InvalidInput
from restate_nb.patterns.sdk import Failure
from restate_nb.patterns.typed_values import TypedSerde, with_typed_io
from restate_nb.testing.journal import Answer


@dataclass(frozen=True, slots=True)
class Request:
    """A call or a send that a mock invocation made.

    Args:
        target: "Service/handler".
        key: of the object or workflow; None for a service.
        arg: the input, decoded from JSON.
        invocation_id: of the invocation that it started.
        delay: virtual seconds after which it was to start.
        headers: what was sent along.
        idempotency_key: as given.
        scope: as given.
        limit_key: as given.
    """

    target: str
    key: str | None
    arg: Any
    invocation_id: str
    delay: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    idempotency_key: str | None = None
    scope: str | None = None
    limit_key: str | None = None


@dataclass(frozen=True, slots=True)
class Stub:
    """Answers calls with a value, or with what a function returns, after some virtual seconds."""

    answer: Any
    delay: float = 0.0
    serde: Serde[Any] | None = None

    async def reply(self, key: str | None, parameter: bytes) -> Answer:
        """What a call is answered."""
        value = self.answer
        try:
            if callable(value):
                value = value(*_arguments(value, key, parameter))
                if inspect.isawaitable(value):
                    value = await value
            return encode(value) if self.serde is None else bytes(self.serde.serialize(value))
        except TerminalError as error:
            return Failure(error.status_code, error.message)


def handler_of(handler: object) -> Any:
    """The SDK's handler of a handler function, with typed values; None of anything else."""
    try:
        return with_typed_io(handler_from_callable(typing.cast(Any, handler)))
    except (TypeError, ValueError):
        return None


def target_of(handler: object) -> str:
    """The "Service/handler" of a name or of a handler function of the SDK.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(handler, str):
        if handler.count("/") != 1:
            raise InvalidInput(f'Name a handler as "Service/handler", not {handler!r}.')
        return handler
    found = handler_of(handler)
    if found is None:
        raise InvalidInput(f'{handler!r} is no Restate handler; pass one, or its name "Service/handler".')
    return f"{found.service_tag.name}/{found.name}"


def encode(value: Any) -> bytes:
    """A value as JSON, as handlers of typed services write it."""
    return TypedSerde().serialize(value)


def decode(buffer: bytes) -> Any:
    """JSON as a value."""
    return TypedSerde().deserialize(buffer)


def _arguments(function: Callable[..., Any], key: str | None, parameter: bytes) -> list[Any]:
    """The arguments that a stub takes: nothing, the input, or the key and the input (of the type that it names)."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (TypeError, ValueError, NameError):
        return [decode(parameter)]
    taken = [p for p in signature.parameters.values() if p.default is p.empty and p.kind in (0, 1)]
    if not taken:
        return []
    hint = Any if taken[-1].annotation is inspect.Parameter.empty else taken[-1].annotation
    arg = TypedSerde(hint).deserialize(parameter)
    return [key, arg] if len(taken) > 1 else [arg]
