"""Which annotations name what can never be kept: a job over such a function would be paid for in vain."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import io
import types
import typing
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from restate_nb.errors import NotEncodable
from restate_nb.values import formats
from restate_nb.values.classes import is_structured
from restate_nb.values.codec import encode

_READ_ONCE: Final = (collections.abc.Iterator, collections.abc.AsyncIterator)
_AWAITED: Final = (collections.abc.Awaitable, collections.abc.Coroutine)
_CONTAINERS: Final = ("builtins", "collections", "collections.abc")
"""Where generic classes are defined whose parameters say what is in them."""

_SUBCLASSES: Final = 100  # more are not looked at


def why_unkeepable(annotation: Any, *, pickles: bool = False) -> str | None:
    """Why no value of this type can be kept; None where one can, or where that is not certain.

    Args:
        annotation: the type.
        pickles: whether what has no other form is pickled.

    Example:
        >>> why_unkeepable(list[int]), why_unkeepable(collections.abc.Iterator[int])
        (None, 'An iterator can be read only once. Turn it into a list.')
    """
    return None if pickles else _why(annotation, ())


def _why(annotation: Any, inside: tuple[Any, ...]) -> str | None:
    if annotation in inside:
        return None  # a class that has itself as a field
    if type(annotation).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12
        return _why(annotation.__value__, inside)
    if isinstance(annotation, typing.NewType):
        return _why(annotation.__supertype__, inside)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _why(arguments[0], inside)
    if origin in (typing.Union, types.UnionType):
        return _of_all([_why(each, inside) for each in arguments if each is not type(None)])
    if origin is not None and not isinstance(origin, type):
        return None  # Literal and such
    kind = annotation if origin is None else origin
    if not isinstance(kind, type):
        return None
    if origin is not None and issubclass(kind, _AWAITED) and not issubclass(kind, collections.abc.Generator):
        return _why(arguments[-1], inside) if arguments else None
    if origin in (type, collections.abc.Callable):
        return None
    why = _of_class(kind, (*inside, annotation))
    if why is None and origin is not None and kind.__module__ in _CONTAINERS:
        why = next(filter(None, (_why(each, (*inside, annotation)) for each in arguments)), None)
    return why


def _of_all(reasons: list[str | None]) -> str | None:
    """The first, if all alternatives have one."""
    return reasons[0] if reasons and all(reasons) else None


def _of_class(kind: type, inside: tuple[Any, ...]) -> str | None:
    if issubclass(kind, _READ_ONCE) and not issubclass(kind, io.IOBase):
        return "An iterator can be read only once. Turn it into a list."
    fields = list(_fields(kind))
    if fields:
        return next(filter(None, (_why(each, inside) for each in fields)), None)
    return _why_refused(kind)


def _fields(kind: type) -> Iterator[Any]:
    """The types of a class's fields, those that may be None or anything left out."""
    if not (
        dataclasses.is_dataclass(kind)
        or issubclass(kind, msgspec.Struct)
        or typing.is_typeddict(kind)
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    ):
        return
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # a forward reference to something that is not there
        return
    for name, hint in hints.items():
        if typing.get_origin(hint) is typing.ClassVar or type(None) in typing.get_args(hint):
            continue
        if name not in getattr(kind, "__optional_keys__", ()):
            yield hint


def _why_refused(kind: type) -> str | None:
    """What the codec says of an object of that class, and of those of its subclasses, if it refuses all of them."""
    if kind in (object, Any) or inspect.isabstract(kind) or getattr(kind, "_is_protocol", False):
        return None
    why = _refusal(kind)
    for subclass in _subclasses(kind):
        if why is None or _refusal(subclass) is None:
            return None
    return why


def _refusal(kind: type) -> str | None:
    if formats.writer_of(kind) is not None:  # of native code, of which none can be made to try
        return None
    if issubclass(kind, io.IOBase):
        return f"An object of class {kind.__module__}.{kind.__qualname__} cannot be kept."
    if hasattr(kind, "__del__") or kind.__module__ == "builtins":
        return None
    if is_structured(kind):
        return None  # what they have as fields is looked at by itself, where it can be
    try:
        blank = object.__new__(kind)  # the codec asks for nothing but the class of what it does not know
        encode(blank)
    except NotEncodable as error:
        return str(error) if kind.__qualname__ in str(error) else None
    except Exception:  # it cannot be made so, or the codec knows it, and misses what is in it
        return None
    return None


def _subclasses(kind: type) -> list[type]:
    found: list[type] = []
    waiting = [kind]
    while waiting and len(found) < _SUBCLASSES:
        try:
            below: list[type] = type.__subclasses__(waiting.pop())
        except TypeError:
            continue
        found += below
        waiting += below
    return found
