"""What code says, and which names it uses: of the code that is loaded, not of the file that it came from.

The digest is that of the syntax tree, where the source at hand compiles to the very code that is loaded; it is the same
on all Python versions, and comments and formatting do not count. Where it does not (the file was edited and not
reloaded, or there is none), it is that of the bytecode. A code object's digest is settled when it is first asked for.
"""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import hashlib
import inspect
import linecache
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_SHAPE: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_COROUTINE | inspect.CO_GENERATOR
_FUTURES: Final = functools.reduce(
    lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0
)
_SOURCES: Final = 16
"""Files whose syntax trees are kept."""


def hashed(*parts: bytes | memoryview) -> bytes:
    """The digest of these parts, each set apart from the next."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


_digests: dict[int, tuple[weakref.ref[types.CodeType], bytes]] = {}
"""By the code object's id. Code objects are equal whose functions differ in annotations, which are no part of them."""


def digest_of_code(code: types.CodeType) -> bytes:
    """The digest of a code object, as it was when this was first asked."""
    key = id(code)
    kept = _digests.get(key)
    if kept is not None and kept[0]() is code:
        return kept[1]
    digest = _from_source(code) or hashed(b"bytecode", bytecode(code))
    _digests[key] = weakref.ref(code, lambda _: _digests.pop(key, None)), digest
    return digest


# ---------------------------------------------------------------- syntax trees


@dataclass(frozen=True, slots=True)
class _Source:
    """The functions of a file: their code and their trees, by qualified name."""

    functions: dict[str, list[tuple[types.CodeType, ast.AST]]]


def _from_source(code: types.CodeType) -> bytes | None:
    if code.co_name == "<lambda>":  # its lines may hold others
        return None
    texts = []
    for attempt in range(2):
        if attempt:
            linecache.checkcache(code.co_filename)
        text = "".join(linecache.getlines(code.co_filename))
        if text and text not in texts:
            texts.append(text)
            node = _node_of(code, text)
            if node is not None:
                return hashed(b"source", _dump(node).encode("utf-8", "surrogatepass"))
    return None


def _node_of(code: types.CodeType, text: str) -> ast.AST | None:
    wanted = bytecode(code)
    named = _source(text, code.co_flags & _FUTURES).functions.get(code.co_qualname, ())
    found = [(other, node) for other, node in named if bytecode(other) == wanted]
    here = [node for other, node in found if other.co_firstlineno == code.co_firstlineno]
    if not here and len({_dump(node) for _, node in found}) > 1:
        return None  # the lines have moved, and which of them it is cannot be told
    return next(iter(here or [node for _, node in found]), None)


@functools.lru_cache(maxsize=_SOURCES)
def _source(text: str, flags: int) -> _Source:
    flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        tree = compile(text, "<source>", "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        codes = compile(text, "<source>", "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return _Source({})
    by_place = {(each.co_qualname, each.co_firstlineno): each for each in _codes_in(codes)}
    functions: dict[str, list[tuple[types.CodeType, ast.AST]]] = {}
    for name, node in _functions_in(tree, ""):
        decorators = node.decorator_list
        code = by_place.get((name, decorators[0].lineno if decorators else node.lineno))
        if code is not None:
            functions.setdefault(name, []).append((code, node))
    return _Source(functions)


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_in(constant)


def _functions_in(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + child.name, child
            yield from _functions_in(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions_in(child, f"{prefix}{child.name}.")
        else:
            yield from _functions_in(child, prefix)


def _dump(node: Any, *, top: bool = True) -> str:
    """Like ast.dump, with one text on all Python versions: fields that are empty or None are left out. The name of the
    function itself is, too: the same code under another name is the same code."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if not (top and name == "name"))
        inside = ",".join(f"{name}={_dump(value, top=False)}" for name, value in fields if value not in (None, []))
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return "[" + ",".join(_dump(each, top=False) for each in node) + "]"
    return repr(node)


def digest_of_text(text: str) -> bytes:
    """The digest of a file of source, comments and formatting left out."""
    try:
        return hashed(b"module", _dump(ast.parse(text)).encode("utf-8", "surrogatepass"))
    except (SyntaxError, ValueError, RecursionError):
        return hashed(b"text", text.encode("utf-8", "surrogatepass"))


# ---------------------------------------------------------------- bytecode


def bytecode(code: types.CodeType) -> bytes:
    """What a code object does, without where it stands."""
    constants = (_constant(each) for each in code.co_consts)
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _SHAPE
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return b"\0".join([code.co_code, code.co_exceptiontable, repr((counts, names)).encode(), *constants])


def _constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return bytecode(value)
    if isinstance(value, frozenset):
        return b"set" + b"\0".join(sorted(map(_constant, value)))
    if isinstance(value, tuple):
        return b"tuple" + b"\0".join(map(_constant, value))
    return repr(value).encode("utf-8", "backslashreplace")


# ---------------------------------------------------------------- names


@dataclass(frozen=True, slots=True)
class Import:
    """An import inside of a function.

    Attributes:
        module: as it is written there.
        level: how many dots stand before it.
        names: what is taken from it; empty for the module itself.
    """

    module: str
    level: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Uses:
    """The names that code uses.

    Attributes:
        globals: what it reads, with the attributes that follow: `("np", "random", "normal")`.
        stores: globals that it binds.
        nonlocals: closed-over names that it binds.
        imports: what it imports when it runs.
    """

    globals: tuple[tuple[str, ...], ...]
    stores: frozenset[str]
    nonlocals: frozenset[str]
    imports: tuple[Import, ...]


_uses: weakref.WeakKeyDictionary[types.CodeType, Uses] = weakref.WeakKeyDictionary()

_LOADS: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTES: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_STORES: Final = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_BETWEEN: Final = frozenset({"PUSH_NULL", "NOP", "CACHE", "PRECALL", "EXTENDED_ARG"})
_CONSTANTS: Final = frozenset({"LOAD_CONST", "LOAD_SMALL_INT"})


def uses_of(code: types.CodeType) -> Uses:
    """The names that code uses, those of the functions inside of it included."""
    found = _uses.get(code)
    if found is None:
        found = _uses[code] = _read_uses(code)
    return found


def _read_uses(code: types.CodeType) -> Uses:
    chains: dict[tuple[str, ...], None] = {}
    stores: set[str] = set()
    nonlocals: set[str] = set()
    imports: dict[Import, None] = {}
    chain: list[str] = []
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if chain and name in _ATTRIBUTES:
            chain.append(value)
            continue
        if name in _BETWEEN:
            continue
        if chain:
            chains[tuple(chain)] = None
            chain = []
        if name in _LOADS:
            chain = [value]
        elif name in _STORES:
            stores.add(value)
        elif name == "STORE_DEREF":
            nonlocals.add(value)
        elif name in _CONSTANTS:
            constants = [*constants[-1:], value]
        elif name == "IMPORT_NAME":
            level, names = constants if len(constants) == 2 else (0, None)
            imports[Import(value, level if isinstance(level, int) else 0, tuple(names or ()))] = None
    for inner in _codes_directly_in(code):
        uses = uses_of(inner)
        chains |= dict.fromkeys(uses.globals)
        imports |= dict.fromkeys(uses.imports)
        stores |= uses.stores
        nonlocals |= uses.nonlocals
    return Uses(tuple(sorted(chains)), frozenset(stores), frozenset(nonlocals & set(code.co_freevars)), tuple(imports))


def _codes_directly_in(code: types.CodeType) -> Iterator[types.CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, types.CodeType))


def imports_in(text: str) -> Iterator[Import]:
    """All imports of a module, given its source; none where that is no Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, 0, ())
        elif isinstance(node, ast.ImportFrom):
            yield Import(node.module or "", node.level, tuple(alias.name for alias in node.names))
