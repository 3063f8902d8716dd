"""Typed clients of other handlers, by name or from the handler itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast, get_args

from restate import Context, RestateDurableCallFuture, SendHandle, Service, VirtualObject, Workflow
from restate.handler import handler_from_callable

from restate_nb.errors import InvalidInput
from restate_nb.limits import Seconds
from restate_nb.patterns.typed_values import with_typed_io
from restate_nb.validation import seconds

I = TypeVar("I")  # noqa: E741 - the SDK's names for a handler's input and output
O = TypeVar("O")  # noqa: E741

HI = TypeVar("HI")
HO = TypeVar("HO")

Handler = Callable[[Any, I], Awaitable[O]]
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Options:
    """How a call or a send is made, as the clients' methods take it."""

    idempotency_key: str | None
    headers: Headers | None
    scope: str | None
    limit_key: str | None


class _Client(Generic[I, O]):
    """What the three clients have in common: the handler that they stand for."""

    _definition: Callable[[str], Any]  # the SDK's class of such services

    def __init__(
        self,
        service: str,
        handler: str,
        *,
        input_type: type[I] | None = None,
        output_type: type[O] | None = None,
    ) -> None:
        self.service = service
        self.handler = handler
        self._types = (input_type, output_type)
        self._function: Any = None

    @classmethod
    def _of(cls, handler: Any) -> Any:
        try:
            found: Any = handler_from_callable(handler)
        except (TypeError, ValueError):
            raise InvalidInput(
                f"{handler!r} is no Restate handler. Decorate it with @service.handler(), or name it: "
                f'{cls.__name__}("Inventory", "Get").'
            ) from None
        with_typed_io(found)
        client = cls(found.service_tag.name, found.name)
        client._function = handler
        return client

    def _handler_function(self) -> Any:
        """The SDK's handler function: the real one, or one that stands for its name and types."""
        if self._function is None:
            written = get_args(getattr(self, "__orig_class__", None)) or (Any, Any)  # ServiceClient[str, Stock](...)
            input_type, output_type = (given or found for given, found in zip(self._types, written, strict=True))

            async def stand_in(ctx: Any, arg: Any) -> Any:
                raise NotImplementedError

            stand_in.__annotations__ = {"arg": input_type, "return": output_type}
            self._function = type(self)._definition(self.service).handler(self.handler)(stand_in)
            with_typed_io(handler_from_callable(self._function))
        return self._function

    @staticmethod
    def _methods(ctx: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The methods of a context, or of a scope of it, that call and send to such handlers."""
        raise NotImplementedError

    def _call(self, ctx: Context, *args: Any, options: _Options) -> RestateDurableCallFuture[O]:
        call, _ = self._methods(_scoped(ctx, options))
        return cast("RestateDurableCallFuture[O]", call(self._handler_function(), *args, **_keywords(options)))

    def _send(self, ctx: Context, *args: Any, delay: Seconds, options: _Options) -> SendHandle:
        length = seconds("delay", delay, zero=True)
        _, send = self._methods(_scoped(ctx, options))
        send_delay = timedelta(seconds=length) if length else None
        return cast("SendHandle", send(self._handler_function(), *args, send_delay=send_delay, **_keywords(options)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.service!r}, {self.handler!r})"


def _scoped(ctx: Context, options: _Options) -> Any:
    if options.scope is None and options.limit_key is not None:
        raise InvalidInput("limit_key works only within a scope: pass scope=, too.")
    return ctx if options.scope is None else ctx.scope(options.scope)


def _keywords(options: _Options) -> dict[str, Any]:
    given: dict[str, Any] = {"idempotency_key": options.idempotency_key, "headers": options.headers}
    return given if options.scope is None else given | {"limit_key": options.limit_key}


def handler_function(client: ServiceClient[Any, Any] | ObjectClient[Any, Any] | WorkflowClient[Any, Any]) -> Any:
    """The SDK's handler function that a client stands for, with its types.

    It is the one that the client was made of, or one that cannot be run, with the names and types that it was given.
    """
    return client._handler_function()


class ServiceClient(_Client[I, O]):
    """A handler of a service.

    Args:
        service: the service's name.
        handler: the handler's name.
        input_type: what the handler takes; any type counts, such as `list[Model]`, a dataclass or `Model | None`. The
            client goes by it when it writes. `ServiceClient[I, O](...)` says it, too.
        output_type: what it returns, and what the client makes of that. Without it, or with `Any`, plain data.

    Example:
        >>> stock = ServiceClient[str, int]("Inventory", "Get")
        >>> async def handler(ctx: Context, sku: str) -> int:
        ...     return await stock.call(ctx, sku)
    """

    _definition = Service

    @staticmethod
    def _methods(ctx: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return ctx.service_call, ctx.service_send

    @classmethod
    def of(cls, handler: Handler[HI, HO]) -> ServiceClient[HI, HO]:
        """The client of a handler function of the SDK, with its types.

        Raises:
            InvalidInput: it is no handler.
        """
        return cast("ServiceClient[HI, HO]", cls._of(handler))

    def call(
        self,
        ctx: Context,
        arg: I,
        *,
        idempotency_key: str | None = None,
        headers: Headers | None = None,
        scope: str | None = None,
        limit_key: str | None = None,
    ) -> RestateDurableCallFuture[O]:
        """Call the handler: a durable future to await, to gather, or to return from an operation.

        Args:
            ctx: the caller's context.
            arg: the input.
            idempotency_key: calls with one key run the handler once.
            headers: sent along.
            scope: the scope for flow control (restate-server 1.7, preview).
            limit_key: the concurrency limit within the scope.

        Raises:
            InvalidInput: there is a `limit_key` without a scope.
        """
        return self._call(ctx, arg, options=_Options(idempotency_key, headers, scope, limit_key))

    def send(
        self,
        ctx: Context,
        arg: I,
        *,
        delay: Seconds = 0,
        idempotency_key: str | None = None,
        headers: Headers | None = None,
        scope: str | None = None,
        limit_key: str | None = None,
    ) -> SendHandle:
        """Send to the handler without waiting for its result.

        Args:
            ctx: the caller's context.
            arg: the input.
            delay: seconds (or a timedelta) after which the handler runs.
            idempotency_key: as for `call`.
            headers: as for `call`.
            scope: as for `call`.
            limit_key: as for `call`.

        Raises:
            InvalidInput: there is a `limit_key` without a scope, or the delay is negative.
        """
        return self._send(ctx, arg, delay=delay, options=_Options(idempotency_key, headers, scope, limit_key))


class KeyedClient(_Client[I, O]):
    """What objects and workflows have in common: a key."""

    def call(
        self,
        ctx: Context,
        key: str,
        arg: I,
        *,
        idempotency_key: str | None = None,
        headers: Headers | None = None,
        scope: str | None = None,
        limit_key: str | None = None,
    ) -> RestateDurableCallFuture[O]:
        """Call the handler of the object or workflow with this key; see `ServiceClient.call`.

        Args:
            ctx: the caller's context.
            key: of the object or workflow.
            arg: the input.
            idempotency_key: as for `ServiceClient.call`.
            headers: as for `ServiceClient.call`.
            scope: as for `ServiceClient.call`.
            limit_key: as for `ServiceClient.call`.

        Raises:
            InvalidInput: there is a `limit_key` without a scope.
        """
        return self._call(ctx, key, arg, options=_Options(idempotency_key, headers, scope, limit_key))

    def send(
        self,
        ctx: Context,
        key: str,
        arg: I,
        *,
        delay: Seconds = 0,
        idempotency_key: str | None = None,
        headers: Headers | None = None,
        scope: str | None = None,
        limit_key: str | None = None,
    ) -> SendHandle:
        """Send to the handler of the object or workflow with this key; see `ServiceClient.send`.

        Args:
            ctx: the caller's context.
            key: of the object or workflow.
            arg: the input.
            delay: seconds (or a timedelta) after which the handler runs.
            idempotency_key: as for `ServiceClient.call`.
            headers: as for `ServiceClient.call`.
            scope: as for `ServiceClient.call`.
            limit_key: as for `ServiceClient.call`.

        Raises:
            InvalidInput: there is a `limit_key` without a scope, or the delay is negative.
        """
        return self._send(ctx, key, arg, delay=delay, options=_Options(idempotency_key, headers, scope, limit_key))

    def at(self, key: str) -> KeyedCallee[I, O]:
        """The client of one key, for `parallel_invoke`."""
        return KeyedCallee(self, key)


class KeyedCallee(Generic[I, O]):
    """An object's or a workflow's handler at one key; made by `ObjectClient.at`."""

    __slots__ = ("client", "key")

    def __init__(self, client: KeyedClient[I, O], key: str) -> None:
        self.client: KeyedClient[I, O] = client
        self.key: str = key

    def call(self, ctx: Context, arg: I, /) -> RestateDurableCallFuture[O]:
        """Call the handler at this key."""
        return self.client.call(ctx, self.key, arg)


class ObjectClient(KeyedClient[I, O]):
    """A handler of a virtual object; takes the arguments of `ServiceClient`.

    Example:
        >>> notify = ObjectClient[str, bool]("UserNotification", "Send")
        >>> async def handler(ctx: Context, user: str) -> bool:
        ...     return await notify.call(ctx, user, "hello")
    """

    _definition = VirtualObject

    @staticmethod
    def _methods(ctx: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return ctx.object_call, ctx.object_send

    @classmethod
    def of(cls, handler: Handler[HI, HO]) -> ObjectClient[HI, HO]:
        """The client of a handler function of the SDK, with its types.

        Raises:
            InvalidInput: it is no handler.
        """
        return cast("ObjectClient[HI, HO]", cls._of(handler))


class WorkflowClient(KeyedClient[I, O]):
    """A handler of a workflow; takes the arguments of `ServiceClient`.

    Example:
        >>> signup = WorkflowClient[str, bool]("Signup", "run")
        >>> async def handler(ctx: Context, user: str) -> None:
        ...     signup.send(ctx, user, "user@example.com")
    """

    _definition = Workflow

    @staticmethod
    def _methods(ctx: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return ctx.workflow_call, ctx.workflow_send

    @classmethod
    def of(cls, handler: Handler[HI, HO]) -> WorkflowClient[HI, HO]:
        """The client of a handler function of the SDK, with its types.

        Raises:
            InvalidInput: it is no handler.
        """
        return cast("WorkflowClient[HI, HO]", cls._of(handler))
