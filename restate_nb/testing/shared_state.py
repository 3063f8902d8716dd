"""What a mock invocation shares with those that it calls: stubs, states, promises, awakeables."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from restate.exceptions import TerminalError
from restate.handler import handler_from_callable

from restate_nb.errors import InvalidInput
from restate_nb.patterns.sdk import Failure
from restate_nb.patterns.typed_values import TypedSerde
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


class Recipient(Protocol):
    """An invocation that waits for an answer which another one, or the test, gives."""

    def deliver(self, handle: int, answer: Answer) -> None:
        """Record the answer, and wake the invocation."""


@dataclass(frozen=True, slots=True)
class Effect:
    """An answer that an invocation gave to another one at the virtual time `at`."""

    at: float
    recipient: Recipient
    handle: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended, after how many virtual seconds, and its effects on other invocations meanwhile."""

    answer: Answer
    took: float = 0.0
    effects: Sequence[Effect] = ()


class Callee(Protocol):
    """What answers the calls to one handler."""

    async def call(self, request: Request, parameter: bytes, now: float) -> Reply:
        """Answer a call that starts at the virtual time `now`."""
        ...


@dataclass(slots=True)
class Stub:
    """Answers calls with a value, or with what a function returns."""

    answer: Any
    delay: float = 0.0

    async def call(self, request: Request, parameter: bytes, now: float) -> Reply:
        """Answer a call; see `Callee`."""
        value = self.answer
        try:
            if callable(value):
                value = value(*_arguments(value, request.key, parameter))
                if inspect.isawaitable(value):
                    value = await value
        except TerminalError as error:
            return Reply(Failure(error.status_code, error.message), self.delay)
        return Reply(encode(value), self.delay)


@dataclass(slots=True)
class SharedState:
    """What mock invocations share.

    Attributes:
        seed: of random numbers.
        patience: real seconds to wait for the test.
        callees: what answers calls, by "Service/handler".
        states: of objects and workflows, by service and key.
        promises: of workflows that are completed, by service and key.
        waiting: who waits for a promise, and on which handle, by service and key.
        awakeables: who waits for an awakeable, and on which handle, by its id.
        failures: what the next runs of an action raise, by the step's name.
        locks: of objects, by service and key.
        invocations: how many there were.
    """

    seed: int = 0
    patience: float = 5.0
    callees: dict[str, Callee] = field(default_factory=dict)
    states: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    promises: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    waiting: dict[tuple[str, str], dict[str, list[tuple[Recipient, int]]]] = field(default_factory=dict)
    awakeables: dict[str, tuple[Recipient, int]] = field(default_factory=dict)
    failures: dict[str, list[BaseException]] = field(default_factory=dict)
    locks: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)
    invocations: int = 0

    def next_id(self) -> str:
        """The id of the next invocation; the same in every run."""
        self.invocations += 1
        return f"inv_{self.invocations}"

    def exclusive(self, handler: Any, key: str) -> AbstractAsyncContextManager[None]:
        """The lock of an object, which runs its exclusive handlers one after the other; none for other handlers."""
        if handler.kind != "exclusive":
            return nullcontext()
        return self.locks.setdefault((handler.service_tag.name, key), asyncio.Lock())


def target_of(handler: object) -> str:
    """The "Service/handler" of a name or of a handler function of the SDK.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(handler, str):
        if handler.count("/") != 1:
            raise InvalidInput(f'Name a handler as "Service/handler", not {handler!r}.')
        return handler
    try:
        found: Any = handler_from_callable(typing.cast(Any, handler))
    except (TypeError, ValueError):
        raise InvalidInput(f'{handler!r} is no Restate handler; pass one, or its name "Service/handler".') from None
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
