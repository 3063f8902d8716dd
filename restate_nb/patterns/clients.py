"""Typed clients of other handlers, by name or from the handler itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast, get_args

from restate import Context, RestateDurableCallFuture, SendHandle, Service, VirtualObject, Workflow
from restate.handler import handler_from_callable

from restate_nb.errors import InvalidInput
from restate_nb.limits import Seconds
from restate_nb.validation import seconds

I = TypeVar("I")  # noqa: E741 - the SDK's names for a handler's input and output
O = TypeVar("O")  # noqa: E741

HI = TypeVar("HI")
HO = TypeVar("HO")

Handler = Callable[[Any, I], Awaitable[O]]
Headers = dict[str, str]


class _Client(Generic[I, O]):
    """What the three clients have in common: the handler that they stand for."""

    _kind: str  # of the SDK's methods: service_call, object_call, workflow_call
    _host: Callable[[str], Any]

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
        self._target: Any = None

    @classmethod
    def _of(cls, handler: Any) -> Any:
        try:
            found: Any = handler_from_callable(handler)
        except (TypeError, ValueError):
            raise InvalidInput(
                f"{handler!r} is no Restate handler. Decorate it with @service.handler(), or name it: "
                f'{cls.__name__}("Inventory", "Get").'
            ) from None
        client = cls(found.service_tag.name, found.name)
        client._target = handler
        return client

    def _handler(self) -> Any:
        """The SDK's handler function: the real one, or one that stands for its name and types."""
        if self._target is None:
            input_type, output_type = self._known_types()

            async def stand_in(ctx: Any, arg: Any) -> Any:
                raise NotImplementedError

            stand_in.__annotations__ = {"arg": input_type, "return": output_type}
            self._target = type(self)._host(self.service).handler(self.handler)(stand_in)
        return self._target

    def _request(
        self, ctx: Context, verb: str, *args: Any, scope: str | None, limit_key: str | None, **options: Any
    ) -> Any:
        if scope is None and limit_key is not None:
            raise InvalidInput("limit_key works only within a scope: pass scope=, too.")
        target: Any = ctx
        if scope is not None:
            target, options["limit_key"] = ctx.scope(scope), limit_key
        return getattr(target, f"{self._kind}_{verb}")(self._handler(), *args, **options)

    def _known_types(self) -> tuple[Any, Any]:
        written = get_args(getattr(self, "__orig_class__", None)) or (Any, Any)  # ServiceClient[str, Stock](...)
        return tuple(given or found for given, found in zip(self._types, written, strict=True))  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.service!r}, {self.handler!r})"


class ServiceClient(_Client[I, O]):
    """A handler of a service.

    Args:
        service: the service's name.
        handler: the handler's name.
        input_type: what the handler takes: a pydantic model, a msgspec Struct, or JSON. `ServiceClient[I, O](...)` says
            it, too.
        output_type: what it returns.

    Example:
        >>> stock = ServiceClient[str, int]("Inventory", "Get")
        >>> async def handler(ctx: Context, sku: str) -> int:
        ...     return await stock.call(ctx, sku)
    """

    _kind, _host = "service", Service

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
        future = self._request(
            ctx, "call", arg, scope=scope, limit_key=limit_key, idempotency_key=idempotency_key, headers=headers
        )
        return cast("RestateDurableCallFuture[O]", future)

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
        options = {"send_delay": _delay(delay), "idempotency_key": idempotency_key, "headers": headers}
        handle = self._request(ctx, "send", arg, scope=scope, limit_key=limit_key, **options)
        return cast("SendHandle", handle)


class _KeyedClient(_Client[I, O]):
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
        future = self._request(
            ctx, "call", key, arg, scope=scope, limit_key=limit_key, idempotency_key=idempotency_key, headers=headers
        )
        return cast("RestateDurableCallFuture[O]", future)

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
        options = {"send_delay": _delay(delay), "idempotency_key": idempotency_key, "headers": headers}
        handle = self._request(ctx, "send", key, arg, scope=scope, limit_key=limit_key, **options)
        return cast("SendHandle", handle)

    def at(self, key: str) -> KeyedCallee[I, O]:
        """The client of one key, for `parallel_invoke`."""
        return KeyedCallee(self, key)


class KeyedCallee(Generic[I, O]):
    """An object's or a workflow's handler at one key; made by `ObjectClient.at`."""

    __slots__ = ("client", "key")

    def __init__(self, client: _KeyedClient[I, O], key: str) -> None:
        self.client: _KeyedClient[I, O] = client
        self.key: str = key

    def call(self, ctx: Context, arg: I, /) -> RestateDurableCallFuture[O]:
        """Call the handler at this key."""
        return self.client.call(ctx, self.key, arg)


class ObjectClient(_KeyedClient[I, O]):
    """A handler of a virtual object; takes the arguments of `ServiceClient`.

    Example:
        >>> notify = ObjectClient[str, bool]("UserNotification", "Send")
        >>> async def handler(ctx: Context, user: str) -> bool:
        ...     return await notify.call(ctx, user, "hello")
    """

    _kind, _host = "object", VirtualObject

    @classmethod
    def of(cls, handler: Handler[HI, HO]) -> ObjectClient[HI, HO]:
        """The client of a handler function of the SDK, with its types.

        Raises:
            InvalidInput: it is no handler.
        """
        return cast("ObjectClient[HI, HO]", cls._of(handler))


class WorkflowClient(_KeyedClient[I, O]):
    """A handler of a workflow; takes the arguments of `ServiceClient`.

    Example:
        >>> signup = WorkflowClient[str, bool]("Signup", "run")
        >>> async def handler(ctx: Context, user: str) -> None:
        ...     signup.send(ctx, user, "user@example.com")
    """

    _kind, _host = "workflow", Workflow

    @classmethod
    def of(cls, handler: Handler[HI, HO]) -> WorkflowClient[HI, HO]:
        """The client of a handler function of the SDK, with its types.

        Raises:
            InvalidInput: it is no handler.
        """
        return cast("WorkflowClient[HI, HO]", cls._of(handler))


def _delay(delay: Seconds) -> timedelta | None:
    length = seconds("delay", delay, zero=True)
    return timedelta(seconds=length) if length else None
