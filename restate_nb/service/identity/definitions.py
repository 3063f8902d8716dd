"""What functions and classes are made of: defaults, closed-over values, members and annotations."""

from __future__ import annotations

import enum
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

from restate_nb.service.identity.content import ATOMS, has_c_state, sorted_items
from restate_nb.service.identity.owners import is_a

TELLING_MEMBERS: Final = frozenset({
    "__slots__", "__match_args__", "__dataclass_fields__", "__dataclass_params__", "__struct_defaults__",
    "__struct_fields__", "__struct_encode_fields__", "__struct_config__", "__attrs_attrs__", "__pydantic_fields__",
    "__pydantic_decorators__", "__pydantic_computed_fields__", "__doc__",
})  # fmt: skip
"""The members with such names that say something of a class; all others are Python's own bookkeeping."""

_NAME: Final = re.compile(r"[^\W\d]\w*")
SLOTS: Final = (types.MemberDescriptorType, types.GetSetDescriptorType)
_EMPTY: Final = "an empty cell"


def cell_value(cell: types.CellType) -> Any:
    """What a closed-over variable is bound to."""
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def module_of(value: Any) -> str | None:
    """The name of the module in which a function of any kind was defined."""
    while is_a(value, functools.partial):
        value = value.func
    if is_a(value, types.MethodType):
        value = value.__func__
    if is_a(value, types.FunctionType):
        return typing.cast("str | None", value.__globals__.get("__name__", value.__module__))
    if is_a(value, type):
        return typing.cast("str", type.__getattribute__(value, "__module__"))
    wrapped = inspect.getattr_static(value, "__wrapped__", None)
    return wrapped.__module__ if is_a(wrapped, types.FunctionType) else type(value).__module__


def is_fixed(value: Any) -> bool:
    """Whether a value can never change."""
    if type(value) in (tuple, frozenset):
        return all(map(is_fixed, value))
    return type(value) in ATOMS


def members_of_metaclass(kind: type) -> dict[str, Any]:
    """What a metaclass made in C keeps of a class, such as the defaults of msgspec's."""
    found, metaclass = {}, typing.cast("Any", type(kind))
    for meta in metaclass.__mro__:
        for name, member in vars(meta).items() if meta not in (type, object) else ():
            if name in TELLING_MEMBERS and isinstance(member, SLOTS):
                found[name] = member.__get__(kind)
    return found


def dataclass_member(member: str, value: Any) -> Any:
    """What the fields and options of a dataclass say, in a form that is the same on all Python versions."""
    names = DATACLASS_MEMBERS[member]
    if member == "__dataclass_params__":
        return [getattr(value, name) for name in names]
    return {field.name: [getattr(field, name) for name in names] for field in value.values()}


DATACLASS_MEMBERS: Final = {
    "__dataclass_fields__": ("default", "default_factory", "init", "repr", "hash", "compare", "metadata", "kw_only"),
    "__dataclass_params__": ("init", "repr", "eq", "order", "unsafe_hash", "frozen"),
}


def is_plain_object(kind: type) -> bool:
    """Whether all that instances hold are attributes."""
    return not has_c_state(kind) and not issubclass(kind, enum.Enum)


def is_single_dispatch(fn: types.FunctionType) -> bool:
    """Whether it is a function of `functools.singledispatch`."""
    return fn.__code__.co_qualname == "singledispatch.<locals>.wrapper" and hasattr(fn, "registry")


def is_generated(fn: types.FunctionType) -> bool:
    """Whether a function was made from a text, as those of dataclasses are; cells of IPython are not."""
    return fn.__code__.co_filename.startswith("<") and not fn.__code__.co_filename.startswith("<ipython")


def defaults_of(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The parameters of a function that have a default, and what it is."""
    names, values = fn.__code__.co_varnames[: fn.__code__.co_argcount], fn.__defaults__ or ()
    yield from zip(names[len(names) - len(values) :], values, strict=False)
    yield from sorted_items(fn.__kwdefaults__ or {})


def functions_of(member: Any) -> Iterator[types.FunctionType]:
    """The functions behind a member of a class: a method, or those of a property."""
    parts: list[Any]
    if isinstance(member, property):
        parts = [member.fget, member.fset, member.fdel]
    elif isinstance(member, (types.FunctionType, staticmethod, classmethod, functools.cached_property)):
        parts = [getattr(member, "__func__", None) or getattr(member, "func", None) or member]
    else:
        parts = []
    yield from (part for part in parts if isinstance(part, types.FunctionType))


def annotations_of(thing: Any) -> dict[str, Any]:
    """The annotations of a function or class; on Python 3.14 names in them need not be there yet."""
    try:
        if sys.version_info >= (3, 14):
            import annotationlib  # noqa: PLC0415 - there is none before

            return dict(annotationlib.get_annotations(thing, format=annotationlib.Format.FORWARDREF))
        return inspect.get_annotations(thing)
    except Exception:  # an annotation may be any expression
        return {}


def annotated_classes(thing: Any) -> Iterator[tuple[str, type]]:
    """The classes that annotations name, which items and values are rebuilt to."""
    names: Mapping[str, Any] = getattr(thing, "__globals__", None) or vars(sys.modules.get(thing.__module__) or object)
    for annotation in annotations_of(thing).values():
        yield from ((kind.__qualname__, kind) for kind in _types_in(annotation, names))


def _types_in(annotation: Any, names: Mapping[str, Any]) -> Iterator[type]:
    text = getattr(annotation, "__forward_arg__", annotation)
    if isinstance(text, str):
        for name in _NAME.findall(text):
            if isinstance(names.get(name), type):
                yield names[name]
    elif isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    else:
        for each in typing.get_args(annotation):
            yield from _types_in(each, names)
