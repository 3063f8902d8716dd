"""Values of handlers by their annotations: what clients, steps, states, handlers and promises read and write.

The SDK knows a pydantic model or a msgspec Struct where it is the whole annotation, and writes all else by
`json.dumps`. Here every annotation counts (`list[Model]`, dataclasses, TypedDicts, alternatives, generics), as
`values/typed.py` says.
It takes the place of the SDK's default serdes only: a serde that the user gives is left alone.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from restate import RunOptions, Service, TerminalError, VirtualObject, Workflow
from restate.handler import Handler, handler_from_callable
from restate.serde import DefaultSerde, MsgspecJsonSerde, PydanticJsonSerde, Serde
from restate.server_context import current_context

from restate_nb.errors import NotEncodable
from restate_nb.patterns.sdk import ServerInvocationContext
from restate_nb.values.classes import Classes
from restate_nb.values.codec import decode, encode, has_objects
from restate_nb.values.structure import classes_of, parameter_annotations
from restate_nb.values.typed import Typed, typed

_DEFAULTS: Final = (DefaultSerde, PydanticJsonSerde, MsgspecJsonSerde)
_NO_CLASSES: Final = Classes()
_EMPTY: Final = inspect.Parameter.empty


class TypedSerde(Serde[Any]):
    """A serde that goes by an annotation. None is no bytes at all, as for the SDK's own.

    Args:
        annotation: the type of the values; `Any` where it is not known.
        what: of what these are values, for messages.
        own: whether none but this program reads what it writes.

    Example:
        >>> serde = TypedSerde(dict[str, set[int]])
        >>> serde.deserialize(serde.serialize({"a": {1}}))
        {'a': {1}}
    """

    def __init__(self, annotation: Any = Any, what: str = "The value", *, own: bool = False) -> None:
        self._annotation = annotation
        self._what = what
        self._own = own
        self._made: Typed | None = None

    def serialize(self, obj: Any) -> bytes:
        """The value as JSON.

        Raises:
            TerminalError: it holds what would not come back; trying again would change nothing.
        """
        if obj is None:
            return b""
        try:
            return self._write(obj)
        except (NotEncodable, TypeError, ValueError) as error:
            raise TerminalError(f"{self._what} cannot be recorded: {error}") from error

    def deserialize(self, buf: bytes) -> Any:
        """The value, of what was written.

        Raises:
            TerminalError: it is none of that type.
        """
        if not buf:
            return None
        try:
            return self._read(bytes(buf))
        except ValueError as error:
            raise TerminalError(f"{self._what} is not as annotated ({self._annotation}): {error}", 400) from error

    def _typed(self) -> Typed:
        if self._made is None:
            self._made = typed(self._annotation, own=self._own)
        return self._made

    def _write(self, value: Any) -> bytes:
        return self._typed().write(value)

    def _read(self, raw: bytes) -> Any:
        return self._typed().read(raw)


class _StepSerde(TypedSerde):
    """The serde of a step without annotation: its value comes back as what it is."""

    def __init__(self, action: Callable[..., Any], name: str) -> None:
        super().__init__(Any, f"What step {name!r} returned", own=True)
        self._action = action

    def _typed(self) -> Typed:
        if self._made is None:
            self._made = Typed(Any, own=True, classes=classes_of(self._action, {}))
        return self._made

    def _write(self, value: Any) -> bytes:
        try:
            return encode(value, _NO_CLASSES)  # quick, and without looking into the code of the action
        except NotEncodable:
            return super()._write(value)

    def _read(self, raw: bytes) -> Any:
        return super()._read(raw) if has_objects(raw) else decode(raw)


# ------------------------------------------------------------ handlers


def typed_values(*services: Service | VirtualObject | Workflow) -> None:
    """Have the handlers of services read and write by their annotations, in an app of your own.

    `session.serve`, `restate_nb.testing` and the clients of `restate_nb.patterns` do so by themselves. What travels is
    plain JSON, so that handlers with the SDK's own serdes, and those in other languages, are called and answered as
    before.

    Args:
        services: Services, VirtualObjects and Workflows of restate-sdk.

    Example:
        >>> import restate
        >>> from dataclasses import dataclass
        >>> products = restate.Service("TypedProducts")
        >>> @dataclass
        ... class Product:
        ...     sku: str
        >>> @products.handler()
        ... async def find(ctx: restate.Context, skus: list[str]) -> list[Product]:
        ...     return [Product(sku) for sku in skus]
        >>> typed_values(products)
        >>> app = restate.app([products])
    """
    for service in services:
        for handler in service.handlers.values():
            with_typed_io(handler)
            managers = handler.context_managers or []
            if _typed_context not in managers:
                handler.context_managers = [_typed_context, *managers]


def with_typed_io(handler: Handler[Any, Any]) -> Handler[Any, Any]:
    """The handler, whose input and output go by its annotations from now on."""
    io, name = handler.handler_io, f"{handler.service_tag.name}/{handler.name}"
    if type(io.input_serde) in _DEFAULTS or type(io.output_serde) in _DEFAULTS:
        hints = parameter_annotations(handler.fn)
        parameters = list(inspect.signature(handler.fn).parameters)
        if type(io.input_serde) in _DEFAULTS:
            io.input_serde = TypedSerde(hints.get(parameters[-1], Any), f"The input of {name}")
        if type(io.output_serde) in _DEFAULTS:
            io.output_serde = TypedSerde(hints.get("return", Any), f"What {name} returned")
    return handler


@contextlib.asynccontextmanager
async def _typed_context() -> AsyncIterator[None]:
    """Around each handler of a typed service."""
    use_typed_values(current_context())
    yield


# ------------------------------------------------------------ contexts

_RETURNS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def use_typed_values(context: object) -> None:
    """Have a context read and write by annotations: steps, states, promises, awakeables, and calls of handlers."""
    assert isinstance(context, ServerInvocationContext)
    methods = _TypedMethods(context)
    for name in ("run", "run_typed", "get", "set", "promise", "awakeable", "resolve_awakeable", "attach_invocation"):
        vars(context)[name] = getattr(methods, name)
    for name in ("signal", "resolve_signal", "do_call"):
        if hasattr(type(context), name):  # the oldest versions have fewer
            vars(context)[name] = getattr(methods, name)


class _TypedMethods:
    """What takes the place of a context's methods: the same, with a typed serde for the default one."""

    def __init__(self, context: ServerInvocationContext) -> None:
        self._context: Any = context
        self._kind: Any = type(context)

    def run(self, name: str, action: Any, serde: Any = None, *args: Any, **kwargs: Any) -> Any:
        hint = kwargs.get("type_hint") if len(args) < 3 else args[2]
        used = step_serde(name, action, hint) if _is_default(serde) else serde
        return self._kind.run(self._context, name, action, used, *args, **kwargs)

    def run_typed(self, name: str, action: Any, options: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        options = RunOptions() if options is None else options
        if _is_default(options.serde):
            options = copy.copy(options)
            options.serde = step_serde(name, action, options.type_hint)
        return self._kind.run_typed(self._context, name, action, options, *args, **kwargs)

    def get(self, name: str, serde: Any = None, type_hint: Any = None, *args: Any, **kwargs: Any) -> Any:
        used = self._serde(serde, type_hint, f"State {name!r}", own=True)
        return self._kind.get(self._context, name, used, None, *args, **kwargs)

    def set(self, name: str, value: Any, serde: Any = None, *args: Any, **kwargs: Any) -> None:
        used = self._serde(serde, None, f"State {name!r}", own=True)
        self._kind.set(self._context, name, value, used, *args, **kwargs)

    def promise(self, name: str, serde: Any = None, type_hint: Any = None) -> Any:
        return self._kind.promise(self._context, name, self._serde(serde, type_hint, f"Promise {name!r}"))

    def awakeable(self, serde: Any = None, type_hint: Any = None) -> Any:
        return self._kind.awakeable(self._context, self._serde(serde, type_hint, "The awakeable"))

    def resolve_awakeable(self, name: str, value: Any, serde: Any = None) -> None:
        self._kind.resolve_awakeable(self._context, name, value, self._serde(serde, None, "The awakeable"))

    def attach_invocation(self, invocation_id: str, serde: Any = None, type_hint: Any = None) -> Any:
        used = self._serde(serde, type_hint, f"The result of {invocation_id}")
        return self._kind.attach_invocation(self._context, invocation_id, used)

    def signal(self, name: str, serde: Any = None, type_hint: Any = None) -> Any:
        return self._kind.signal(self._context, name, self._serde(serde, type_hint, f"Signal {name!r}"))

    def resolve_signal(self, invocation_id: str, name: str, value: Any, serde: Any = None) -> None:
        used = self._serde(serde, None, f"Signal {name!r}")
        self._kind.resolve_signal(self._context, invocation_id, name, value, used)

    def do_call(self, tpe: Any, *args: Any, **kwargs: Any) -> Any:
        with_typed_io(handler_from_callable(tpe))
        return self._kind.do_call(self._context, tpe, *args, **kwargs)

    @staticmethod
    def _serde(given: Any, hint: Any, what: str, *, own: bool = False) -> Any:
        return TypedSerde(Any if hint is None else hint, what, own=own) if _is_default(given) else given


def _is_default(serde: object) -> bool:
    return serde is None or type(serde) is DefaultSerde


def step_serde(name: str, action: Callable[..., Any], hint: Any = None) -> Serde[Any]:
    """The serde of a step, by the type that is given or annotated, else by what its action names."""
    if hint is None:
        hint = _returns(action)
    if hint is Any:
        return _StepSerde(action, name)
    return TypedSerde(hint, f"What step {name!r} returned", own=True)


def _returns(action: Any) -> Any:
    if not getattr(getattr(action, "func", action), "__annotations__", True):
        return Any  # a lambda
    try:
        found = _RETURNS.get(action, _EMPTY)
    except TypeError:  # it cannot be referred to weakly
        return parameter_annotations(action).get("return", Any)
    if found is _EMPTY:
        found = parameter_annotations(action).get("return", Any)
        with contextlib.suppress(TypeError):
            _RETURNS[action] = found
    return found
