"""A handler that is deployed in Restate, as the function of a job: how items become its input, and answers values."""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import hashlib
import inspect
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Final, get_type_hints

import msgspec
from restate import TerminalError
from restate.handler import Handler, handler_from_callable
from restate.serde import DefaultSerde, JsonSerde, MsgspecJsonSerde, PydanticJsonSerde

from restate_nb.engine.attempt import ItemCall
from restate_nb.engine.function import Function, not_here
from restate_nb.errors import InvalidInput
from restate_nb.formatting import short_repr
from restate_nb.patterns.clients import ObjectClient, ServiceClient, WorkflowClient, handler_function
from restate_nb.patterns.typed_values import TypedSerde
from restate_nb.policy import NO_RETRY, Retry
from restate_nb.server.http import WHO_ANSWERS, BadAnswer
from restate_nb.server.ingress import Reply
from restate_nb.values.classes import Classes
from restate_nb.values.codec import Instead, decode, encode
from restate_nb.values.structure import Rebuild, rebuilder

_JSON_SERDES: Final = (DefaultSerde, JsonSerde, PydanticJsonSerde, MsgspecJsonSerde, TypedSerde)
_CLIENTS: Final = (ServiceClient, ObjectClient, WorkflowClient)
_SHOWN: Final = 80  # characters


class DeployedHandler(Function):
    """A handler, by a client that has its name, or by the SDK's handler function.

    Attributes:
        service: the service's name.
        handler: the handler's name.
        kind: `service`, `object` or `workflow`.
        keys: of the objects or workflows, one an item; None for a service.
        content_type: of the input; None for JSON.

    Raises:
        InvalidInput: it is neither.
    """

    deployed = True

    def __init__(self, callee: Any) -> None:
        handler = _handler(callee)
        tag, io = handler.service_tag, handler.handler_io
        name = f"{tag.name}/{handler.name}"
        absent = not_here(InvalidInput, f"{name} runs where it is deployed.")
        super().__init__(absent, version=name, classes=Classes(plain=True))  # the name stands for its code
        self.name, self.is_async = name, True
        self.service, self.handler, self.kind = tag.name, handler.name, tag.kind
        self.keys: list[str] | None = None
        self._takes_input = handler.arity > 1
        self._input_serde = None if isinstance(io.input_serde, _JSON_SERDES) else io.input_serde
        self._output_serde = None if isinstance(io.output_serde, _JSON_SERDES) else io.output_serde
        self._typed_output = io.output_serde if isinstance(io.output_serde, TypedSerde) else None
        self.content_type = None if self._input_serde is None else _content_type(io.accept)
        takes, gives = _annotations(callee, handler)
        self._rebuild_input = None if takes is None else rebuilder(takes)
        self._rebuild_value: Rebuild | None = None if gives is None else rebuilder(gives)
        self._call: Callable[[Any], Any] = self.fn

    def bind(self, call: Callable[[Any], Any]) -> None:
        """Set what a pool calls for an item."""
        self._call = call

    def item_call(self, retry: Retry = NO_RETRY) -> ItemCall:
        """What a pool runs; retries are up to it."""
        return ItemCall(self._call, "loop", contextvars.copy_context())

    @property
    def is_elsewhere(self) -> bool:
        """Its code is where it is deployed."""
        return True

    @property
    def options(self) -> str:
        """Which handler, and the keys: others make it another job."""
        return self.name if self.keys is None else f"{self.name}, keys {_digest(self.keys)}"

    # ------------------------------------------------------------ inputs

    def key(self, position: int) -> str | None:
        """The key of an item's object or workflow; None for a service."""
        return None if self.keys is None else self.keys[position]

    def body(self, item: Any) -> bytes:
        """An item as the handler's input; None is no input at all, as the SDK has it.

        Raises:
            InvalidInput: the handler takes no input, or not this one.
        """
        if not self._takes_input:
            if item is not None:
                raise InvalidInput(f"{self.name} takes no input, so every item must be None")
            return b""
        if self._input_serde is not None:
            try:
                return bytes(self._input_serde.serialize(item))
            except Exception as error:  # whatever the user's serde raises
                raise InvalidInput(f"{type(error).__name__}: {error}") from None
        if item is None:
            return b""
        try:
            raw = msgspec.json.encode(_finite(item), enc_hook=_plain)
            if self._rebuild_input is not None:
                self._rebuild_input(msgspec.json.decode(raw))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(str(error)) from None
        return raw

    def set_keys(self, key: Any, items: Sequence[Any]) -> None:
        """Settle the keys.

        Args:
            key: a function of the item, the name of a column or field, or one key an item.
            items: the inputs.

        Raises:
            InvalidInput: a key is missing, is none, or there are too few or too many.
        """
        if self.kind == "service":
            if key is not None:
                raise InvalidInput(f"{self.name} is a handler of a service, which has no keys: leave out key=.")
            return
        if key is None:
            raise InvalidInput(
                f"{self.name} is a handler of {'an object' if self.kind == 'object' else 'a workflow'}: it needs a key "
                "for each item, as a function, key=lambda item: item['id'], a column, key='id', or a list of keys."
            )
        if isinstance(key, str):
            found = [_field(item, key, position) for position, item in enumerate(items)]
        elif callable(key):
            found = [key(item) for item in items]
        else:
            found = list(key)
        if len(found) != len(items):
            raise InvalidInput(f"key= has {len(found):,} keys for {len(items):,} items. Pass one an item.")
        self.keys = [_checked(each, position) for position, each in enumerate(found)]

    # ------------------------------------------------------------ answers

    def recorded(self, reply: Reply) -> msgspec.Raw:
        """What is kept of an answer.

        Raises:
            BadAnswer: it is not what the handler returns.
        """
        body = reply.body
        if self._output_serde is not None:
            return msgspec.Raw(encode(body))
        if not body:
            return msgspec.Raw(b"null")
        try:
            msgspec.json.decode(body)
        except (ValueError, RecursionError):
            kind = reply.content_type or "no content type"
            raise BadAnswer(
                f"{self.name} gave what is no JSON: {kind[:_SHOWN]}, {len(body):,} bytes, "
                f"{body[:_SHOWN].decode(errors='replace')!r}. For other content pass the handler function itself, "
                f"which knows its serde. {WHO_ANSWERS}"
            ) from None
        return msgspec.Raw(body)

    def value_column(
        self, raws: Sequence[bytes], positions: Sequence[int], instead: Instead | None = None
    ) -> list[Any]:
        """Many recorded values as `value` gives them one by one; see `Function.value_column`."""
        column = []
        for raw, position in zip(raws, positions, strict=True):
            try:
                column.append(self.value(raw, position))
            except Exception as error:  # a serde of the user's own may do anything
                if instead is None:
                    raise
                column.append(instead(error, raw))
        return column

    def value(self, raw: bytes | msgspec.Raw, position: int = 0) -> Any:
        """What the handler returned, as its annotation has it; plain data where it does not fit that."""
        if self._output_serde is not None:
            return self._output_serde.deserialize(decode(raw))
        if self._typed_output is not None:
            with contextlib.suppress(TerminalError):
                return self._typed_output.deserialize(bytes(raw))
        value = msgspec.json.decode(raw)
        if self._rebuild_value is not None:
            try:
                return self._rebuild_value(value)
            except (ValueError, TypeError):
                return value
        return value

    def caller(self) -> Callable[[bytes], Any]:
        """There is no function to call here."""
        raise InvalidInput(f"{self.name} runs where it is deployed: call it with rnb.start().call(handler, input).")


def _digest(keys: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps(keys).encode(), digest_size=8).hexdigest()


def _handler(callee: Any) -> Handler[Any, Any]:
    try:
        if isinstance(callee, _CLIENTS):
            return handler_from_callable(handler_function(callee))
        return handler_from_callable(callee)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"{callee!r} is no Restate handler. Pass a handler function of the SDK, or name one: "
            'rnb.invoke(ServiceClient("Inventory", "Get"), inputs), with the clients of restate_nb.patterns.'
        ) from None


def _annotations(callee: Any, handler: Handler[Any, Any]) -> tuple[Any, Any]:
    """The types of input and output, as far as they are known."""
    if isinstance(callee, _CLIENTS):
        callee = handler_function(callee)
    try:
        hints = get_type_hints(getattr(callee, "__wrapped__", callee))
    except Exception:  # a forward reference to something that is not there: then nothing is known of the types
        return None, None
    last = list(inspect.signature(callee).parameters)[-1:] if handler.arity > 1 else []
    return (hints.get(last[0]) if last else None), hints.get("return")


def _content_type(accept: str) -> str:
    return "application/octet-stream" if "*" in accept else accept


def _field(item: Any, name: str, position: int) -> Any:
    try:
        return item[name] if isinstance(item, dict) else getattr(item, name)
    except (KeyError, AttributeError):
        raise InvalidInput(
            f"key={name!r} names a column of a DataFrame or a field of each item, and item {position}, "
            f"{short_repr(item)}, has none of that name."
        ) from None


def _checked(key: Any, position: int) -> str:
    if isinstance(key, str) and key:
        return key
    if not isinstance(key, str) and hasattr(key, "item"):  # a number of numpy
        key = key.item()
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise InvalidInput(f"The key of item {position} is {short_repr(key)}. A key is text, not empty, or a whole number.")


def _finite(item: Any) -> Any:
    if isinstance(item, float) and not math.isfinite(item):
        raise ValueError(f"{item} has no JSON form; pass None for what is missing")
    return item


def _plain(value: Any) -> Any:
    """What msgspec does not know, as JSON that other languages read."""
    module = type(value).__module__.partition(".")[0]
    if module == "pandas" and type(value).__name__ in ("NAType", "NaTType"):  # before dates: NaT says it is one
        return None
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, (dt.datetime, dt.date)):  # such as a Timestamp of pandas
        return value.isoformat()
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if module == "numpy":
        return value.tolist()
    raise TypeError(f"a {type(value).__qualname__} has no JSON form; pass plain data: numbers, text, lists, dicts")
