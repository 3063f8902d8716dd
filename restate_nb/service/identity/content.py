"""The digest of data by content, within bounds: of plain values, containers, library values and objects by their state.

It looks at state without running the user's code: no `__eq__`, `__hash__`, `__repr__`, property or `__reduce__` of
theirs. Addresses and the order of sets never get into a digest.
"""

from __future__ import annotations

import enum
import functools
import marshal
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from restate_nb.service.identity.code import hashed
from restate_nb.service.identity.owners import is_a, is_users_class, qualified

NODES: Final = 200_000
"""The most values that one identity looks at, one by one; a list of plain numbers or texts is one."""

DEPTH: Final = 50
"""The most containers inside of each other."""

BYTES: Final = 256 * 1024 * 1024
"""The most bytes that one identity hashes. Of an array that does not fit a sample is hashed, besides its shape."""

_SMALL: Final = 65_536  # bytes that are hashed however much was
_LONG: Final = 1_000_000  # characters
_CHUNK: Final = 10_000
_EVERY: Final = 100

ATOMS: Final = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})

_LIVE: Final = frozenset({
    "_thread", "threading", "asyncio", "concurrent", "multiprocessing", "queue", "_queue", "socket", "_socket", "ssl",
    "_ssl", "select", "selectors", "subprocess", "sqlite3", "http", "urllib", "mmap", "tempfile", "weakref", "_weakref",
    "_ctypes", "ctypes", "contextlib", "sched", "signal", "tkinter", "_asyncio", "IPython", "ipykernel",
    "aiohttp", "zmq", "tqdm", "_io",
})  # fmt: skip
"""Modules whose objects are something that goes on, and no data."""

_QUIET: Final = frozenset({"logging", "_contextvars", "restate", "restate_nb"})
"""Modules whose objects have no part in a result: their types and names count."""


_RUNNING: Final = (
    types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.FrameType, types.TracebackType,
)  # fmt: skip
CACHED: Final = type(functools.lru_cache(lambda: None))
_DESCRIPTORS: Final = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip
_CODE: Final = (
    types.FunctionType, type, types.ModuleType, functools.partial, functools.partialmethod, types.MethodType,
    types.BuiltinFunctionType, types.MethodWrapperType, *_DESCRIPTORS, property, staticmethod, classmethod,
    functools.cached_property, CACHED, types.CodeType, types.GenericAlias, types.UnionType,
)  # fmt: skip


class Codes(Protocol):
    """What is to be done with code that data hold."""

    def met(self, thing: types.FunctionType | type) -> bytes:
        """Look into a function or class later; return what stands for it."""
        ...

    def unseen(self, value: object, why: str) -> None:
        """Note that a value could not be seen, where the walk is now."""

    def unseen_count(self) -> int:
        """How much could not be seen by now."""
        ...

    def forget_unseen(self, count: int) -> None:
        """Drop all but the first so many: they belong to something that is named as a whole."""


class NotSeen(Exception):
    """A value has no state that could be read."""


Read = Callable[["Contents", Any], bytes]
"""Reads values of a type."""

Reader = Callable[["Contents", Any], "bytes | None"]
"""Reads values of a library; None for those that it does not know."""


class Contents:
    """Digests of data.

    Args:
        codes: what to do with code.
        exact: how values of exactly these types are read.
        bases: what instances hold besides their attributes, by the class that holds it, whatever class is derived from
            it; the first that fits.
        readers: of libraries.
    """

    def __init__(
        self, codes: Codes, exact: Mapping[type, Read], bases: Sequence[tuple[type, Read]], readers: Sequence[Reader]
    ) -> None:
        self.codes = codes
        self._exact = exact
        self._bases = bases
        self._readers = readers
        self.nodes = NODES
        self.bytes = BYTES
        self._known: dict[int, tuple[Any, bytes]] = {}  # the values too, so that their ids stay theirs
        self._open: dict[int, int] = {}  # how deep those stand that are being read
        self._lowest: list[int] = []  # for each open one, how far up its inside refers

    # ------------------------------------------------------------ the way in

    def of(self, value: Any) -> bytes:
        """The digest of a value by content."""
        if type(value) in ATOMS:
            if type(value) in (str, bytes) and len(value) > _LONG:
                raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
                return hashed(type(value).__name__.encode(), self.raw(value, memoryview(raw)))
            return hashed(b"atom", marshal.dumps(value, 2))
        key = id(value)
        known = self._known.get(key)
        if known is not None:
            return known[1]
        if key in self._open:
            self._lowest[-1] = min(self._lowest[-1], self._open[key])
            return hashed(b"above", str(len(self._open) - self._open[key]).encode())
        if self.nodes <= 0:
            self.codes.unseen(value, f"there are more than {NODES:,} values")
            return hashed(b"too many", qualified(type(value)).encode())
        if len(self._open) >= DEPTH:
            self.codes.unseen(value, f"it is nested more than {DEPTH} deep")
            return hashed(b"too deep", qualified(type(value)).encode())
        self.nodes -= 1
        depth = len(self._open)
        self._open[key] = depth
        self._lowest.append(depth)
        try:
            digest = self._read(value)
        finally:
            del self._open[key]
            lowest = self._lowest.pop()
            if self._lowest:
                self._lowest[-1] = min(self._lowest[-1], lowest)
        if lowest >= depth:  # else it refers to what is around it, and is another thing elsewhere
            self._known[key] = value, digest
        return digest

    def each(self, values: Iterable[Any]) -> bytes:
        """The digest of values in their order."""
        listed = list(values)
        kinds = set(map(type, listed))
        if kinds <= ATOMS:
            return self._atoms(listed)
        if self.nodes <= 0 and listed:
            self.codes.unseen(listed, f"there are more than {NODES:,} values")
            return hashed(b"too many", str(len(listed)).encode(), self.of(listed[0]))
        return hashed(b"each", *map(self.of, listed))

    def _atoms(self, listed: list[Any]) -> bytes:
        """The digest of plain values, chunk by chunk; of a part of each chunk, where there is no more room."""
        parts, sampled = [], False
        for start in range(0, len(listed), _CHUNK):
            chunk = listed[start : start + _CHUNK]
            if self.bytes <= 0:
                chunk, sampled = chunk[::_EVERY], True
            raw = marshal.dumps(chunk, 2)
            self.bytes -= len(raw) if start or len(listed) > _CHUNK else 0
            parts.append(hashed(raw))
        if sampled:
            self.codes.unseen(
                listed, f"only a sample of its {len(listed):,} values: {BYTES / 1e6:,.0f} MB are the most"
            )
        return hashed(b"atoms", str(len(listed)).encode(), *parts)

    def step_for(self, value: Any, size: int) -> int:
        """Of a table of so many bytes, each how manieth row is hashed; it is noted if that is not every one."""
        if size <= self.bytes:
            return 1
        self.codes.unseen(value, f"only a sample of its {size / 1e6:,.0f} MB: {BYTES / 1e6:,.0f} MB are the most")
        return max(2, size // max(self.bytes, BYTES // 16))

    def items(self, pairs: Iterable[tuple[Any, Any]]) -> bytes:
        """The digest of pairs in their order."""
        listed = list(pairs)
        return hashed(b"items", self.each(key for key, _ in listed), self.each(value for _, value in listed))

    def raw(self, value: Any, data: memoryview) -> bytes:
        """The digest of bytes; of a sample, where they are more than there is room for.

        Args:
            value: whose bytes they are, for the report.
            data: contiguous.
        """
        data = data.cast("B") if data.nbytes else memoryview(b"")
        if data.nbytes <= max(self.bytes, _SMALL):
            self.bytes -= data.nbytes
            return hashed(b"raw", data)
        self.codes.unseen(
            value, f"only a sample of its {data.nbytes / 1e6:,.0f} MB: {BYTES / 1e6:,.0f} MB are the most"
        )
        return hashed(b"sample", str(data.nbytes).encode(), *_sample(data))

    # ------------------------------------------------------------ by what it is

    def _read(self, value: Any) -> bytes:
        kind = type(value)
        try:
            if (read := self._exact.get(kind)) is not None:
                return read(self, value)
            for reader in self._readers:
                found = reader(self, value)
                if found is not None:
                    return found
            if is_a(value, _CODE):
                return self._code(value)
            if is_a(value, _RUNNING):
                raise NotSeen("it is used up as it is read")
            if is_a(value, enum.Enum):
                return hashed(b"member", self._class(kind), value._name_.encode(), self.of(value._value_))
            if (root := kind.__module__.partition(".")[0]) in _LIVE and not is_users_class(kind):
                return self._opaque(value, "it is no data, but something that goes on")
            if root in _QUIET:
                return hashed(b"quiet", qualified(kind).encode(), str(getattr(value, "name", "")).encode())
            return self._object(value)
        except NotSeen as error:
            return self._opaque(value, str(error))
        except RecursionError:
            return self._opaque(value, "it is nested too deeply")
        except Exception as error:  # whatever a class does when it is looked at
            return self._opaque(value, f"looking at it raises {type(error).__name__}")

    def _opaque(self, value: Any, why: str) -> bytes:
        self.codes.unseen(value, why)
        return hashed(b"opaque", self._class(type(value)))

    def _class(self, kind: type) -> bytes:
        return self.codes.met(kind) if is_users_class(kind) else qualified(kind).encode()

    def _code(self, value: Any) -> bytes:
        if is_a(value, (types.FunctionType, type)):
            return hashed(b"code", self.codes.met(value))
        if is_a(value, types.ModuleType):
            return hashed(b"module", value.__name__.encode())
        if is_a(value, functools.partial):
            return hashed(
                b"partial", self.of(value.func), self.each(value.args), self.items(sorted_items(value.keywords))
            )
        if is_a(value, functools.partialmethod):
            return hashed(
                b"partial", self.of(value.func), self.each(value.args), self.items(sorted_items(value.keywords))
            )
        if is_a(value, types.MethodType):
            return hashed(b"method", self.of(value.__func__), self.of(value.__self__))
        if is_a(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            inner = value.__self__
            of = inner.__name__.encode() if is_a(inner, (types.ModuleType, type)) else self.of(inner)
            return hashed(b"builtin", value.__qualname__.encode(), of)
        if is_a(value, _DESCRIPTORS):
            return hashed(b"descriptor", qualified(value.__objclass__).encode(), value.__name__.encode())
        if is_a(value, property):
            return hashed(b"property", *(self.of(each) for each in (value.fget, value.fset, value.fdel)))
        if is_a(value, (staticmethod, classmethod)):
            return hashed(type(value).__name__.encode(), self.of(value.__func__))
        if is_a(value, functools.cached_property):
            return hashed(b"cached property", self.of(value.func))
        if is_a(value, CACHED):
            options = sorted_items(value.cache_parameters())
            return hashed(b"cached", self.of(value.__wrapped__), self.items(options))
        if is_a(value, types.CodeType):
            return hashed(b"code object", value.co_code, repr(value.co_names).encode())
        return hashed(b"type", type_text(value).encode())

    # ------------------------------------------------------------ objects

    def _object(self, value: Any) -> bytes:
        kind = type(value)
        if is_users_class(kind):
            return hashed(b"object", self._class(kind), *self._state(value))
        before = self.codes.unseen_count()
        wrapped = []
        state = list(self._state(value))
        for name in ("__wrapped__", "py_func"):  # the user's function behind what a library made of it
            inner = attribute(value, name)
            if is_a(inner, types.FunctionType):
                wrapped.append(self.of(inner))
        if self.codes.unseen_count() == before:
            return hashed(b"object", qualified(kind).encode(), *state)
        self.codes.forget_unseen(before)  # a client, a model on a device: in part it would say too little
        self.codes.unseen(value, "it holds what cannot be seen, such as a connection or a lock")
        return hashed(b"opaque", qualified(kind).encode(), *wrapped)

    def _state(self, value: Any) -> Iterator[bytes]:
        found = False
        for base, read in self._bases:
            if is_a(value, base):
                yield read(self, value)
                found = True
                break
        members = list(attributes_of(value))
        if members:
            yield self.items(members)
        kind: Any = type(value)
        if not found and has_c_state(kind):
            try:
                yield self._reduced(value)
            except NotSeen:
                if not members:
                    raise

    def _reduced(self, value: Any) -> bytes:
        """The state of an object of a C class, as it would be pickled."""
        kind = type(value)
        for name in ("__reduce_ex__", "__reduce__", "__getstate__"):
            if isinstance(getattr(kind, name, None), types.FunctionType) and is_users_class(kind):
                raise NotSeen("it has a state that only its own code can read")
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            raise NotSeen("it has no state that can be read") from None
        if isinstance(reduced, str):
            return hashed(b"global", reduced.encode())
        parts = [list(part) if isinstance(part, Iterator) else part for part in reduced]
        return self.each(parts)


def sorted_items(mapping: Any) -> list[tuple[Any, Any]]:
    """The items of a mapping by their keys' text."""
    return sorted(mapping.items(), key=lambda item: str(item[0]))


def attribute(value: Any, name: str) -> Any:
    """An attribute that stands in the object itself; None where there is none."""
    return _dict_of(value).get(name)


def _dict_of(value: Any) -> dict[str, Any]:
    """The `__dict__` of an object, as Python keeps it; empty where it has none, or its class makes one up."""
    for kind in type(value).__mro__:
        descriptor = vars(kind).get("__dict__")
        if descriptor is not None:
            found = descriptor.__get__(value) if isinstance(descriptor, _DICTS) else None
            return found if isinstance(found, dict) else {}
    return {}


_DICTS: Final = (types.GetSetDescriptorType, types.MemberDescriptorType)


@functools.lru_cache(maxsize=4096)
def has_c_state(kind: Any) -> bool:
    """Whether instances hold something that is made in C, besides their attributes."""
    if kind.__flags__ & _NOT_MADE_BY_CALLS and kind is not type(None):
        return True
    return any("__new__" in vars(base) and not _is_python(vars(base)["__new__"]) for base in kind.__mro__[:-1])


_NOT_MADE_BY_CALLS: Final = 1 << 7  # such as generators


def _is_python(new: Any) -> bool:
    return isinstance(new, (types.FunctionType, staticmethod))


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds in its `__dict__` and its slots, by name, without asking its class."""
    found = dict(_dict_of(value))
    for kind in type(value).__mro__:
        for name, member in list(vars(kind).items()):
            if isinstance(member, types.MemberDescriptorType):
                try:
                    found.setdefault(name, member.__get__(value))
                except AttributeError:
                    continue
    yield from sorted(((str(name), inner) for name, inner in found.items() if not _is_machinery(name)), key=_first)


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _is_machinery(name: Any) -> bool:
    return name in _MACHINERY or (isinstance(name, str) and name.startswith("__") and name.endswith("offset__"))


_MACHINERY: Final = frozenset(
    {"__weakref__", "__dict__", "__msgspec_cache__", "__slotnames__", "_abc_impl", "__orig_class__"}
)

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


def type_text(value: Any) -> str:
    """A type, or what stands for one in an annotation, as text."""
    return qualified(value) if is_a(value, type) else _ADDRESS.sub("", str(value))


def _sample(data: memoryview, blocks: int = 256, size: int = 65_536) -> Iterator[memoryview]:
    """Blocks that are spread over the whole, the first and the last among them."""
    last = data.nbytes - size
    for number in range(blocks):
        start = last * number // (blocks - 1)
        yield data[start : start + size]
