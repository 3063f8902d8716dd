"""What a function is: a digest that tells whether its code changed.

It covers the function's own source, and of what it names: functions and classes of the same module or notebook, and
globals, defaults and closed-over values that cannot change (numbers, text, dates, tuples of them). It ignores comments,
formatting and line numbers, and is the same in every process and for every patch release of Python. It does not see
into imported modules, or into lists, dicts and other things that can change.
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
import textwrap
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from restate_nb.engine.codec import encode

_SIMPLE = (
    type(None), bool, int, float, complex, str, bytes, enum.Enum, dt.date, dt.time, dt.timedelta, decimal.Decimal,
    uuid.UUID, pathlib.PurePath,
)  # fmt: skip


def code_digest(fn: Callable[..., Any]) -> str:
    """The digest of a callable, as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in _Walk().parts(fn):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def items_digest(encoded: list[bytes]) -> str:
    """The digest of encoded items, in order, as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(",".join(str(len(each)) for each in encoded).encode())
    digest.update(b"".join(encoded))
    return digest.hexdigest()


class _Walk:
    """Walks a function and what it names, each thing once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def parts(self, thing: Any) -> Iterator[bytes]:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, functools.partial):
            yield from self.parts(thing.func)
            yield from self._values((thing.args, tuple(sorted(thing.keywords.items()))))
        elif isinstance(thing, types.MethodType):
            yield from self.parts(thing.__func__)
            yield from self.parts(thing.__self__)
        elif isinstance(thing, types.FunctionType):
            yield from self._function(thing)
        elif isinstance(thing, type):
            yield from self._class(thing)
        elif isinstance(thing, types.BuiltinFunctionType):
            yield thing.__qualname__.encode()
            yield from self._named("self", thing.__self__, "")  # a module, or what a method is bound to
        else:  # a callable object: its class, and what it holds
            yield from self.parts(type(thing))
            yield from self._values(tuple(sorted(getattr(thing, "__dict__", {}).items())))

    def _function(self, fn: types.FunctionType) -> Iterator[bytes]:
        inner = inspect.unwrap(fn)
        if inner is not fn and isinstance(inner, types.FunctionType):
            yield from self._function(inner)
        yield _source(fn, fn.__code__)
        yield from self._values(fn.__defaults__)
        yield from self._values(tuple(sorted((fn.__kwdefaults__ or {}).items())))
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
            try:
                yield from self._named(name, cell.cell_contents, fn.__module__)
            except ValueError:
                yield b"empty cell"
        for name in sorted(_names(fn.__code__)):
            if name in fn.__globals__:
                yield from self._named(name, fn.__globals__[name], fn.__module__)

    def _class(self, kind: type) -> Iterator[bytes]:
        yield kind.__qualname__.encode()
        for name, member in sorted(vars(kind).items()):
            member = getattr(member, "__func__", member)  # noqa: PLW2901 - static and class methods
            if isinstance(member, types.FunctionType) and member.__module__ == kind.__module__:
                yield from self._function(member)
            elif not name.startswith("__"):
                yield name.encode()
                yield from self._values(member)

    def _named(self, name: str, value: Any, module: str) -> Iterator[bytes]:
        yield name.encode()
        if isinstance(value, types.ModuleType):
            yield value.__name__.encode()
        elif isinstance(value, (types.FunctionType, type)):
            if value.__module__ == module:
                yield from self.parts(value)
            else:
                yield f"{value.__module__}.{value.__qualname__}".encode()
        elif isinstance(value, (functools.partial, types.MethodType)):
            yield from self.parts(value)
        else:
            yield from self._values(value)

    def _values(self, value: Any) -> Iterator[bytes]:
        """Values that cannot change by what they are, others by their type.

        A list that items append to, a client, a model: were they counted by content, the job would not be found again.
        """
        if isinstance(value, (types.FunctionType, functools.partial, types.MethodType)):
            yield from self.parts(value)
        elif isinstance(value, tuple):
            yield f"tuple of {len(value)}".encode()
            for each in value:
                yield from self._values(each)
        elif isinstance(value, frozenset):
            yield repr(sorted(map(repr, value))).encode()
        elif isinstance(value, _SIMPLE):
            yield encode(value)
        else:
            yield type(value).__qualname__.encode()


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _source(fn: types.FunctionType, code: types.CodeType) -> bytes:
    """The function's syntax tree as text; the bytecode where there is no source, or for a lambda, whose source is the
    whole line that it stands in."""
    if code.co_name != "<lambda>":
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
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
    return b"\0".join([code.co_code, repr((code.co_names, code.co_varnames)).encode(), *constants])


def _constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return _bytecode(value)
    if isinstance(value, frozenset):
        return repr(sorted(map(repr, value))).encode()
    return repr(value).encode()
