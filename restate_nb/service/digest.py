"""What a function is: a digest that tells whether its code changed.

It covers the function's own source, docstring included, and of what it names: functions and classes of the same module
or notebook, decorators and base classes among them, and globals, defaults and closed-over values that cannot change
(numbers, text, dates, tuples of them); of a `functools.partial` all bound arguments that could be items. It ignores
comments, formatting and line numbers, and is the same in every process and for every patch release of Python. It does
not see into imported modules, or into lists, dicts and other things that can change: `version=` is for them.
"""

from __future__ import annotations

import ast
import datetime as dt
import decimal
import enum
import functools
import hashlib
import inspect
import pathlib
import re
import textwrap
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from restate_nb.engine.codec import encode
from restate_nb.errors import NotEncodable

_SIMPLE = (
    type(None), bool, int, float, complex, str, bytes, enum.Enum, dt.date, dt.time, dt.timedelta, decimal.Decimal,
    uuid.UUID, pathlib.PurePath,
)  # fmt: skip


def code_of(functions: Sequence[Callable[..., Any]], version: str | int | None) -> str:
    """What stands for the code of a job: the version that the user gave it, or else the digest of its functions."""
    if version is not None:
        return f"version {version}"
    if len(functions) == 1:
        return code_digest(functions[0])
    digests = [code_digest(fn).encode() for fn in functions]
    return items_digest(map(len, digests), digests)


def code_digest(fn: Callable[..., Any]) -> str:
    """The digest of a callable, as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in _Walk().parts(fn):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def items_digest(sizes: Iterable[int], chunks: Iterable[bytes]) -> str:
    """The digest of encoded items, in order, as 16 hexadecimal digits.

    Args:
        sizes: how many bytes each item has.
        chunks: all of these bytes, in pieces of any size.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(",".join(map(str, sizes)).encode())
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


class _Walk:
    """Walks a function and what it names, each thing once."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}  # the things too: else another could get the id of one
        self._module = ""  # of the function that is walked

    def parts(self, thing: Any) -> Iterator[bytes]:
        if id(thing) in self._seen:
            yield b"as number %d" % self._seen[id(thing)][0]
            return
        self._seen[id(thing)] = len(self._seen), thing
        if isinstance(thing, functools.partial):
            yield from self.parts(thing.func)
            for name, value in (*enumerate(thing.args), *sorted(thing.keywords.items())):
                yield str(name).encode()
                yield from self._bound(value)
        elif isinstance(thing, types.MethodType):
            yield from self.parts(thing.__func__)
            yield from self.parts(thing.__self__)
        elif isinstance(thing, types.FunctionType):
            yield from self._function(thing)
        elif isinstance(thing, type):
            yield from self._class(thing)
        elif isinstance(thing, types.BuiltinFunctionType):
            yield thing.__qualname__.encode()
            yield from self._named("self", thing.__self__)  # a module, or what a method is bound to
        else:  # a callable object: its class, and what it holds
            yield from self.parts(type(thing))
            yield from self._values(tuple(sorted(getattr(thing, "__dict__", {}).items())))

    def _function(self, fn: types.FunctionType) -> Iterator[bytes]:
        inner = inspect.unwrap(fn)
        if inner is not fn and isinstance(inner, types.FunctionType):
            yield from self._function(inner)
        before, self._module = self._module, fn.__module__
        own = fn.__globals__.get("__name__") == fn.__module__
        # else it is the wrapper of an imported decorator, which takes the name of the module that it decorates in
        yield _source(fn.__code__) if own else fn.__code__.co_name.encode()
        yield from self._values(fn.__defaults__)
        yield from self._values(tuple(sorted((fn.__kwdefaults__ or {}).items())))
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
            try:
                yield from self._named(name, cell.cell_contents)
            except ValueError:
                yield b"empty cell"
        for name in sorted(_names(fn.__code__)) if own else ():
            if name in fn.__globals__:
                yield from self._named(name, fn.__globals__[name])
        for name, annotation in sorted(inspect.get_annotations(fn).items()) if own else ():
            for kind in _types_in(annotation, fn.__globals__):
                yield from self._named(name, kind)
        self._module = before

    def _class(self, kind: type) -> Iterator[bytes]:
        yield kind.__qualname__.encode()
        for base in kind.__bases__:
            yield from self._named("base", base)
        for name, annotation in sorted(vars(kind).get("__annotations__", {}).items()):
            yield f"{name}: {annotation if isinstance(annotation, str) else _type_text(annotation)}".encode()
        for name, member in sorted(vars(kind).items()):
            found = False
            for part in _functions_of(member):
                if part.__module__ == kind.__module__:
                    found = True
                    yield name.encode()
                    yield from self._function(part)
            if not found and not name.startswith("__"):
                yield name.encode()
                yield from self._values(member)

    def _named(self, name: str, value: Any) -> Iterator[bytes]:
        yield name.encode()
        if isinstance(value, types.ModuleType):
            yield value.__name__.encode()
        elif isinstance(value, (types.FunctionType, type)):
            if value.__module__ == self._module:
                yield from self.parts(value)
            else:
                yield f"{value.__module__}.{value.__qualname__}".encode()
        else:
            yield from self._values(value)

    def _bound(self, value: Any) -> Iterator[bytes]:
        """An argument that was bound to the function: like an item by what it is, where it has a JSON form."""
        try:
            yield encode(value)
        except NotEncodable:
            yield from self._values(value)

    def _values(self, value: Any) -> Iterator[bytes]:
        """Values that cannot change by what they are, others by their type.

        A list that items append to, a client, a model: were they counted by content, the job would not be found again.
        """
        wrapped = inspect.getattr_static(value, "__wrapped__", None)  # as functools.cache keeps it
        if isinstance(value, (types.FunctionType, functools.partial, types.MethodType)):
            yield from self.parts(value)
        elif isinstance(wrapped, types.FunctionType) and wrapped.__module__ == self._module:
            yield type(value).__qualname__.encode()
            yield from self.parts(wrapped)
        elif isinstance(value, tuple):
            yield f"tuple of {len(value)}".encode()
            for each in value:
                yield from self._values(each)
        elif isinstance(value, frozenset):
            yield f"set of {len(value)}".encode()
            yield from sorted(b"\0".join(self._values(each)) for each in value)
        elif isinstance(value, _SIMPLE):
            yield encode(value)
        else:
            yield from self._named("object of", type(value))


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _functions_of(member: Any) -> Iterator[types.FunctionType]:
    """The functions behind a member of a class: a method, or those of a property."""
    if isinstance(member, property):
        parts = [member.fget, member.fset, member.fdel]
    else:
        parts = [getattr(member, "__func__", None) or getattr(member, "func", None) or member]
    yield from (part for part in parts if isinstance(part, types.FunctionType))


def _types_in(annotation: Any, names: dict[str, Any]) -> Iterator[type]:
    """The classes of an annotation, which its items and values are rebuilt to."""
    if isinstance(annotation, str):
        for name in _NAME.findall(annotation):
            if isinstance(names.get(name), type):
                yield names[name]
    elif isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    else:
        for each in typing.get_args(annotation):
            yield from _types_in(each, names)


_NAME = re.compile(r"[^\W\d]\w*")


def _type_text(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _source(code: types.CodeType) -> bytes:
    """The function's syntax tree as text; the bytecode where there is no source, or for a lambda, whose source is the
    whole line that it stands in."""
    if code.co_name != "<lambda>":
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
        except (OSError, TypeError, SyntaxError):
            return _bytecode(code)
        body = tree.body[0]
        if isinstance(body, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body.name = ""  # the same code under another name is the same code
        return _dump(body).encode()
    return _bytecode(code)


def _dump(node: Any) -> str:
    """Like ast.dump, with one text on all Python versions: fields that are empty or None are left out."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields)
        inside = ",".join(f"{name}={_dump(value)}" for name, value in fields if value not in (None, []))
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return "[" + ",".join(map(_dump, node)) + "]"
    return repr(node)


def _bytecode(code: types.CodeType) -> bytes:
    constants = (_constant(each) for each in code.co_consts)
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _SHAPE
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return b"\0".join([code.co_code, repr((counts, names)).encode(), *constants])


_SHAPE = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_COROUTINE | inspect.CO_GENERATOR


def _constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return _bytecode(value)
    if isinstance(value, frozenset):
        return b"set" + b"\0".join(sorted(map(_constant, value)))
    if isinstance(value, tuple):
        return b"tuple" + b"\0".join(map(_constant, value))
    return repr(value).encode()
