"""Which classes a function's items and values may be of, by its annotations and code, and how plain data become these.

The codec brings values back as what they were, objects with fields too, where their class is one that the function
names: in an annotation, or in its code. An item that is plain data where a class is annotated is made one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from restate_nb.values.classes import Classes, is_structured

Rebuild = Callable[[Any], Any]
"""Takes what `codec.decode` gave, returns the annotated type. Raises ValueError or TypeError when it does not fit."""

_NATIVE_LEAVES = ("numpy", "pandas")


def rebuilder(annotation: Any) -> Rebuild | None:
    """How to turn decoded values into `annotation`, or None where they are right as they are."""
    classes = set(_classes(annotation))
    own = tuple(each for each in classes if is_structured(each))
    if any(hasattr(each, "__pydantic_validator__") for each in classes):
        convert = _with_pydantic(annotation)
    elif own or any(_is_native(each) for each in classes):
        convert = functools.partial(msgspec.convert, type=annotation, dec_hook=_leaf)
    else:
        return None
    # An object of the class is what it is: its validators have run when it was made.
    return lambda value: value if isinstance(value, own) else convert(value)


def classes_in(annotation: Any) -> list[type]:
    """The classes with fields of an annotation, and of the fields of these."""
    found: dict[type, None] = {}
    _add_all(annotation, found)
    return list(found)


def classes_of(fn: Callable[..., Any], hints: typing.Mapping[str, Any]) -> Classes:
    """The classes with fields that a function names: in its annotations, in its code, in that of functions of its own
    module that it calls, and in the fields of such classes.

    Args:
        fn: the function.
        hints: its annotations, as `parameter_annotations` gives them.
    """
    found: dict[type, None] = {}
    for annotation in hints.values():
        _add_all(annotation, found)
    seen: set[int] = set()
    waiting: list[Any] = [fn]
    while waiting and len(seen) < _MANY:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, functools.partial):
            waiting += [thing.func, *(each for each in thing.args if inspect.isroutine(each))]
        elif isinstance(thing, types.MethodType):
            waiting += [thing.__func__, type(thing.__self__)]
        elif isinstance(thing, types.FunctionType):
            waiting += _named_by(thing, found)
        elif isinstance(thing, type):
            _add_all(thing, found)
        elif callable(thing):
            waiting.append(type(thing).__call__)
    return Classes(found)


_MANY = 1_000


def _named_by(fn: types.FunctionType, found: dict[type, None]) -> list[Any]:
    """What a function refers to: functions of its module, to be looked into; classes are added to `found`."""
    names = _names(fn.__code__)
    values = [fn.__globals__[name] for name in names if name in fn.__globals__]
    for cell in fn.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty still
            values.append(cell.cell_contents)
    inner = inspect.unwrap(fn)
    functions: list[Any] = [] if inner is fn else [inner]
    for annotation in _annotations(fn).values():
        if not isinstance(annotation, str):
            _add_all(annotation, found)
    holders: set[int] = set()
    while values:
        value = values.pop()
        if isinstance(value, (types.ModuleType, type)):
            if isinstance(value, type):
                _add_all(value, found)
            if id(value) not in holders:  # models.Point, Outer.Inner
                holders.add(id(value))
                values += [member for name, member in list(vars(value).items()) if name in names]
        elif isinstance(value, functools.partial) or (
            isinstance(value, (types.FunctionType, types.MethodType)) and value.__module__ == fn.__module__
        ):
            functions.append(value)
        elif is_structured(type(value)):
            _add_all(type(value), found)
    return functions


def _annotations(thing: Any) -> dict[str, Any]:
    """As they are written, resolved or not."""
    try:
        return inspect.get_annotations(thing)
    except Exception:  # from Python 3.14 on they are evaluated when they are asked for
        return {}


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _add_all(annotation: Any, found: dict[type, None]) -> None:
    """The classes with fields of an annotation, and those of their fields."""
    try:
        kinds = list(_classes(annotation))
    except Exception:  # whatever an annotation is that typing does not know
        return
    for kind in kinds:
        if is_structured(kind) and kind not in found:
            found[kind] = None
            try:
                fields = typing.get_type_hints(kind)
            except Exception:  # a forward reference to something that is not there
                fields = _annotations(kind)
            for each in fields.values():
                _add_all(each, found)


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
    except Exception:  # a forward reference to something that is not there, or is local to a function
        return _one_by_one(target)


def _one_by_one(fn: Any) -> dict[str, Any]:
    """Those annotations that can be resolved."""
    found: dict[str, Any] = {}
    code = getattr(fn, "__code__", None)
    local = {}
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(fn, "__closure__", None) or (), strict=False):
        with contextlib.suppress(ValueError):  # it is empty still
            local[name] = cell.cell_contents
    for name, annotation in _annotations(fn).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(Exception):
            found |= typing.get_type_hints(holder, getattr(fn, "__globals__", {}), local)
    return found


def _classes(annotation: Any) -> typing.Iterator[type]:
    if type(annotation).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12
        annotation = annotation.__value__
    if isinstance(annotation, typing.NewType):
        yield from _classes(annotation.__supertype__)
        return
    if isinstance(annotation, typing.TypeVar):
        for each in (annotation.__bound__, *annotation.__constraints__):
            yield from _classes(each)
        return
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        yield from (type(each) for each in typing.get_args(annotation) if not isinstance(each, (str, int, bytes)))
        return
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


def _is_native(kind: type) -> bool:
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
