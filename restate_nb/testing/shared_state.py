"""Where mock invocations live: stubs, states, awakeables; shared by an invocation and those that it calls."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from restate.exceptions import TerminalError
from restate.handler import handler_from_callable
from restate.serde import DefaultSerde

from restate_nb.errors import InvalidInput
from restate_nb.patterns.sdk import Failure
from restate_nb.testing.journal import Answer

if TYPE_CHECKING:
    from restate_nb.testing.invocation import Running


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
class Effect:
    """What an invocation did to another one, and when."""

    at: float
    owner: Running
    handle: int
    answer: Answer

    def happen(self, seen_by: Running) -> Callable[[], None]:
        """Let it happen, as the invocation that learns of it sees it."""
        return lambda: seen_by.reach(self.owner, self.handle, self.answer)


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended, after how many virtual seconds, and what it did to others meanwhile."""

    answer: Answer
    took: float = 0.0
    effects: Sequence[Effect] = ()


@dataclass(slots=True)
class Stub:
    """What answers the calls to one handler."""

    answer: Any
    delay: float = 0.0

    async def call(self, request: Request, parameter: bytes, now: float) -> Reply:
        """Answer a call that starts at the virtual time `now`."""
        if isinstance(self.answer, Hosted):
            return await self.answer.call(request, parameter, now)
        value = self.answer
        try:
            if callable(value):
                value = value(*_arguments(value, request.key, parameter))
                if inspect.isawaitable(value):
                    value = await value
        except TerminalError as error:
            return Reply(Failure(error.status_code, error.message), self.delay)
        return Reply(encode(value), self.delay)


@dataclass(frozen=True, slots=True)
class Hosted:
    """A real handler that runs on a mock context of its own when it is called."""

    handler: Any
    world: World

    async def call(self, request: Request, parameter: bytes, now: float) -> Reply:
        """Run the handler from the virtual time `now` on."""
        from restate_nb.testing.mock import Mock  # noqa: PLC0415 - a mock holds a world, which holds this

        handler, key = self.handler, request.key or ""
        mock = Mock(self.world, service=handler.service_tag.name, key=key, now=now, identity=request.invocation_id)
        mock.effects = []
        io = handler.handler_io
        arguments = [] if handler.arity == 1 else [io.input_serde.deserialize(parameter)]
        async with self.world.turn(handler, key):
            try:
                answer: Answer = bytes(io.output_serde.serialize(await mock.invoke(handler.fn, *arguments)))
            except TerminalError as error:
                answer = Failure(error.status_code, error.message)
        return Reply(answer, mock.now - now, mock.effects)


@dataclass(slots=True)
class World:
    """What mock invocations share."""

    seed: int = 0
    patience: float = 5.0
    stubs: dict[str, Stub] = field(default_factory=dict)
    states: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    promises: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    waiting: dict[tuple[str, str], dict[str, list[tuple[Running, int]]]] = field(default_factory=dict)
    awakeables: dict[str, tuple[Running, int]] = field(default_factory=dict)
    failures: dict[str, list[BaseException]] = field(default_factory=dict)
    locks: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)
    invocations: int = 0

    def next_id(self) -> str:
        """The id of the next invocation; the same in every run."""
        self.invocations += 1
        return f"inv_{self.invocations}"

    def turn(self, handler: Any, key: str) -> AbstractAsyncContextManager[None]:
        """Wait for one's turn: an object runs its exclusive handlers one after the other."""
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
    """A value as JSON, as the SDK writes it."""
    return bytes(DefaultSerde(type(value)).serialize(value))


def decode(buffer: bytes) -> Any:
    """JSON as a value."""
    return DefaultSerde().deserialize(buffer)


def _arguments(function: Callable[..., Any], key: str | None, parameter: bytes) -> list[Any]:
    """Call a stub with what it takes: nothing, the input, or the key and the input (of the type that it names)."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (TypeError, ValueError, NameError):
        return [decode(parameter)]
    taken = [p for p in signature.parameters.values() if p.default is p.empty and p.kind in (0, 1)]
    if not taken:
        return []
    hint = None if taken[-1].annotation is inspect.Parameter.empty else taken[-1].annotation
    arg = DefaultSerde(hint).deserialize(parameter)
    return [key, arg] if len(taken) > 1 else [arg]
