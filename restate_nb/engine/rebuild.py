"""Rebuild what JSON flattened: dataclasses, Structs, pydantic models, Enums and numpy types, from annotations.

The codec brings most values back as what they were. Only objects with fields lose their class, since a class cannot
be looked up from data safely; the function's annotations name it.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

Rebuild = Callable[[Any], Any]
"""Takes what `codec.decode` gave, returns the annotated type. Raises ValueError or TypeError when it does not fit."""

_NATIVE_LEAVES = ("numpy", "pandas")


def rebuilder(annotation: Any) -> Rebuild | None:
    """How to turn decoded values into `annotation`, or None where they are right as they are."""
    classes = set(_classes(annotation))
    if any(hasattr(each, "__pydantic_validator__") for each in classes):
        return _with_pydantic(annotation)
    if any(_is_structured(each) for each in classes):
        return lambda value: msgspec.convert(value, annotation, dec_hook=_leaf)
    return None


def parameter_annotations(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's parameters and of its `return`, as far as they can be resolved."""
    target = inspect.unwrap(fn)
    while hasattr(target, "func"):  # functools.partial
        target = inspect.unwrap(target.func)
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target).__call__
    if inspect.isclass(target):
        target = target.__init__
    try:
        return typing.get_type_hints(target)
    except Exception:  # a forward reference to something that is not there: then nothing is known of the types
        return {}


def _classes(annotation: Any) -> typing.Iterator[type]:
    if type(annotation).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12
        annotation = annotation.__value__
    origin = typing.get_origin(annotation)
    if origin is None:
        if isinstance(annotation, type):
            yield annotation
            if typing.is_typeddict(annotation):
                for each in typing.get_type_hints(annotation).values():
                    yield from _classes(each)
        return
    if isinstance(origin, type) and origin is not types.UnionType:
        yield origin
    for argument in typing.get_args(annotation):
        if not isinstance(argument, (str, int, bytes)) and argument is not Ellipsis:
            yield from _classes(argument)


def _is_structured(kind: type) -> bool:
    if dataclasses.is_dataclass(kind) or issubclass(kind, (msgspec.Struct, enum.Enum)):
        return True
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return True
    return kind.__module__.partition(".")[0] in _NATIVE_LEAVES and kind.__name__ not in ("DataFrame", "Series")


def _with_pydantic(annotation: Any) -> Rebuild:
    import pydantic  # noqa: PLC0415 - the user's annotation says that it is installed

    return pydantic.TypeAdapter(annotation).validate_python


def _leaf(kind: Any, value: Any) -> Any:
    """A type that msgspec does not know: one of numpy or pandas."""
    kind = typing.get_origin(kind) or kind
    if isinstance(value, kind):
        return value
    if kind.__module__.partition(".")[0] not in _NATIVE_LEAVES:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    if kind.__name__ == "ndarray":
        import numpy as np  # noqa: PLC0415 - the annotation says that it is loaded

        return np.asarray(value)
    return kind(value)
