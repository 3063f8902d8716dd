"""Walks functions and what they name, and tells what they are: the code that is loaded, and data by content.

Functions, classes and modules of the user count by what they say, as deep as they name each other; installed packages
by their names. What code names, closes over and holds is data, and counts by content. Parts have the names by which
the user knows them, so that it can be told which of them is another one today.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from restate_nb.service.identity.arrays import read_numpy, read_pandas, read_tables
from restate_nb.service.identity.code import Import, digest_of_code, digest_of_text, hashed, imports_in, uses_of
from restate_nb.service.identity.content import (
    ATOMS,
    CACHED,
    Contents,
    attributes_of,
    sorted_items,
    type_text,
)
from restate_nb.service.identity.definitions import (
    DATACLASS_MEMBERS,
    SLOTS,
    TELLING_MEMBERS,
    annotated_classes,
    annotations_of,
    cell_value,
    dataclass_member,
    defaults_of,
    functions_of,
    is_fixed,
    is_generated,
    is_plain_object,
    is_single_dispatch,
    members_of_metaclass,
    module_of,
)
from restate_nb.service.identity.owners import (
    file_of_module,
    is_a,
    is_users_class,
    is_users_function,
    is_users_module,
    qualified,
)
from restate_nb.service.identity.report import Identity, Kind, Part, Unseen
from restate_nb.service.identity.standard import BASES, TYPES

PARTS: Final = 2_000
"""The most parts that are told apart; what is met after them counts within the part that holds it."""

CHILDREN: Final = 32
"""The most keys of a dict, and attributes of an object, that are parts of their own."""

LEVELS: Final = 3
"""How deep dicts and objects are taken apart. What is inside of them counts all the same."""

_GENERATED: Final = frozenset({"__dataclass_fields__", "__attrs_attrs__", "_fields", "__struct_fields__"})


def identity_of(functions: Mapping[str, Callable[..., Any]]) -> Identity:
    """What these functions are now, by content.

    Args:
        functions: by the name that each is known by.
    """
    walk = _Walk(next(iter(functions.values()), None))
    for name, fn in functions.items():
        walk.root(name, fn)
    return walk.end()


@dataclass(frozen=True, slots=True)
class _Hook:
    """What data hang on.

    Attributes:
        kind: of the data.
        root: the name that they hang on.
        owner: what that name is bound to; that of functions and classes is themselves.
    """

    kind: Kind
    root: str
    owner: Any


class _Walk:
    """One walk: `Codes` for what data hold."""

    def __init__(self, first: Any) -> None:
        self._home = module_of(first)
        self._parts: dict[str, Part] = {}
        self._unseen: list[Unseen] = []
        self._bindings: dict[str, Any] = {}
        self._assigned: set[str] = set()
        self._met: dict[int, tuple[str, Any]] = {}  # functions, classes and modules; themselves, to keep their ids
        self._tokens: dict[int, bytes] = {}
        self._code: deque[Callable[[], None]] = deque()
        self._data: deque[Callable[[], None]] = deque()
        self._contents = Contents(self, TYPES, BASES, (read_numpy, read_pandas, read_tables))
        self._titles: set[str] = set()
        self._path = self._root = self._under = ""
        self._through_data = False

    def end(self) -> Identity:
        """Follow everything that was met, code first: then it is known what data alone lead to."""
        while self._code or self._data:
            queue = self._code or self._data
            try:
                queue.popleft()()
            except Exception as error:  # whatever a class does when it is looked at
                self._unseen.append(Unseen(self._path or "?", "?", f"looking at it raises {type(error).__name__}"))
        return Identity(self._parts, tuple(dict.fromkeys(self._unseen)), self._bindings, frozenset(self._assigned))

    # ------------------------------------------------------------ Codes

    def met(self, thing: types.FunctionType | type) -> bytes:
        if isinstance(thing, type):
            if not is_users_class(thing):
                return qualified(thing).encode()
            if id(thing) not in self._met:
                self._later(lambda: self._reached(thing))
            return hashed(b"class", qualified(thing).encode())
        token = self._tokens.get(id(thing))
        if token is None:
            self._tokens[id(thing)] = hashed(b"function above")
            token = self._tokens[id(thing)] = self._token(thing)
            if id(thing) not in self._met:
                self._met[id(thing)] = ("", thing)
                self._later(lambda: self._follow_names(thing))
        return token

    def unseen(self, value: object, why: str) -> None:
        self._unseen.append(Unseen(self._path, type(value).__qualname__, why))

    def unseen_count(self) -> int:
        return len(self._unseen)

    def forget_unseen(self, count: int) -> None:
        del self._unseen[count:]

    def _later(self, step: Callable[[], None]) -> None:
        path, root = self._path, self._root
        if not path:
            self._code.append(step)
            return

        def through_data() -> None:
            self._through_data, self._under = True, root
            step()
            self._through_data = False

        self._data.append(through_data)

    def _reached(self, kind: type) -> None:
        module, name = kind.__module__, kind.__qualname__
        plain, title = self._plain_title(module, name), self._title(module, name)
        if plain not in self._titles and title not in self._titles:
            self._titles.add(title)
            self._class(title, kind)

    def _token(self, fn: types.FunctionType) -> bytes:
        """What stands for a function that data hold: its own code, and what it holds itself."""
        own = digest_of_code(fn.__code__) if is_users_function(fn) else qualified(fn).encode()
        held = [*(fn.__defaults__ or ()), *(value for _, value in sorted_items(fn.__kwdefaults__ or {}))]
        for cell in fn.__closure__ or ():
            held.append(cell_value(cell))
        return hashed(own, self._contents.each(held))

    # ------------------------------------------------------------ parts

    def _add(self, name: str, kind: Kind, digest: bytes, *, root: str = "", may_vary: bool = False) -> None:
        number, free = 1, name
        while free in self._parts:
            number += 1
            free = f"{name} #{number}"
        self._parts[free] = Part(free, kind, digest.hex(), root or name, may_vary or self._through_data)

    def _plain_title(self, module: str | None, name: str) -> str:
        return name if module == self._home or module is None else f"{module}.{name}"

    def _title(self, module: str | None, name: str) -> str:
        title = self._plain_title(module, name)
        return f"{self._under}:{title}" if self._through_data else title

    def root(self, name: str, value: Any) -> None:
        """Begin with a function of the job."""
        named = is_a(value, (types.FunctionType, type, types.MethodType, functools.partial, CACHED))
        title = name if named else f"{name}()"
        self._named(title, value, _Hook("held", title, value))

    def _named(self, name: str, value: Any, hook: _Hook, level: int = 0) -> None:
        """Something that has a name.

        Args:
            name: of the part.
            value: what it is.
            hook: what it hangs on.
            level: how deep it stands in dicts and objects.
        """
        try:
            self._any(name, value, hook, level)
        except Exception as error:  # whatever a class does when it is looked at
            kind = type.__getattribute__(type(value), "__qualname__")
            self._unseen.append(Unseen(name, kind, f"looking at it raises {type(error).__name__}"))
            self._add(name, hook.kind, hashed(b"opaque", kind.encode()), root=hook.root, may_vary=True)

    def _any(self, name: str, value: Any, hook: _Hook, level: int) -> None:
        if is_a(value, types.FunctionType):
            self._function(name, value)
        elif is_a(value, type):
            self._class(name, value)
        elif is_a(value, functools.partial):
            self._partial(name, value, hook, level)
        elif is_a(value, types.MethodType):
            self._named(name, value.__func__, hook, level)
            self._named(f"{name}.self", value.__self__, _Hook(hook.kind, f"{name}.self", value.__self__), level)
        elif is_a(value, CACHED) and is_a(value.__wrapped__, types.FunctionType):
            self._function(name, value.__wrapped__)
            self._datum(f"{name} (cache)", sorted_items(value.cache_parameters()), _Hook("data", hook.root, hook.owner))
        else:
            children = self._children(value, level)
            if children is None:
                self._datum(name, value, hook)
            else:
                self._take_apart(name, value, children, hook, level)

    def _datum(self, name: str, value: Any, hook: _Hook) -> None:
        before = self._path, self._root
        self._path, self._root = name, hook.root
        try:
            digest = self._contents.of(value)
        finally:
            self._path, self._root = before
        self._bindings[hook.root] = hook.owner
        own_name = hook.root == name and name not in self._assigned
        fixed = hook.kind == "data" and own_name and is_fixed(value)
        self._add(name, hook.kind, digest, root=hook.root, may_vary=not fixed)

    def _partial(self, name: str, value: functools.partial[Any], hook: _Hook, level: int) -> None:
        self._named(name, value.func, hook, level)
        kind: Kind = "bound" if hook.kind == "held" else hook.kind
        for place, bound in (*enumerate(value.args), *sorted_items(value.keywords)):
            part = f"{name}({place})" if isinstance(place, int) else f"{name}({place}=)"
            self._named(part, bound, _Hook(kind, part, bound), level + 1)

    def _children(self, value: Any, level: int) -> list[tuple[str, Any]] | None:
        """The things in a dict or an object that are parts of their own, with what is put after its name."""
        if level >= LEVELS or len(self._parts) >= PARTS:
            return None
        if type(value) is dict:
            if 0 < len(value) <= CHILDREN and all(type(key) is str for key in value):
                return [(f"[{key!r}]", inner) for key, inner in list(value.items())]
            return None
        if type(value) is types.SimpleNamespace or (is_users_class(type(value)) and is_plain_object(type(value))):
            found = list(attributes_of(value))
            return [(f".{key}", inner) for key, inner in found] if len(found) <= CHILDREN else None
        return None

    def _take_apart(self, name: str, value: Any, children: list[tuple[str, Any]], hook: _Hook, level: int) -> None:
        root = hook.root
        self._bindings[root] = hook.owner
        before = self._path, self._root
        if name != root or root in self._assigned:  # else its class is named by the code as good as itself
            self._path, self._root = name, root
        head = self.met(type(value))
        self._path, self._root = before
        self._add(name, hook.kind, hashed(head, *(key.encode() for key, _ in children)), root=root, may_vary=True)
        for key, inner in children:
            if is_a(inner, (types.FunctionType, type, types.MethodType, functools.partial)):
                self._datum(name + key, inner, hook)  # as data: which of them it is may vary
            else:
                self._named(name + key, inner, hook, level + 1)

    # ------------------------------------------------------------ functions

    def _function(self, name: str, fn: types.FunctionType) -> None:
        if is_single_dispatch(fn):
            self._dispatcher(name, fn)
            return
        users = is_users_function(fn)
        own = digest_of_code(fn.__code__) if users else qualified(fn).encode()
        known = self._met[id(fn)][0] if id(fn) in self._met else ""
        if known.endswith(" "):
            if known != f"{name} ":
                self._add(name, "code", hashed(b"same", own))
            return
        self._met[id(fn)] = f"{name} ", fn
        plain = self._held(name, fn, own_attributes=users)
        installed = self._names(fn) if users else []
        self._add(name, "code", hashed(own, *plain, b"names", *installed))

    def _held(self, name: str, fn: types.FunctionType, *, own_attributes: bool) -> list[bytes]:
        """What a function holds: parts of their own, but for plain defaults, whose digests are returned."""
        hook, plain = _Hook("data", f"def {name}", fn), []
        for parameter, value in defaults_of(fn):
            if type(value) in ATOMS:
                plain.append(hashed(parameter.encode(), self._contents.of(value)))
            else:
                self._named(f"{name}({parameter}=)", value, hook)
        nonlocals = uses_of(fn.__code__).nonlocals
        cells = dict(zip(fn.__code__.co_freevars, map(cell_value, fn.__closure__ or ()), strict=False))
        for variable, value in cells.items():
            if variable in nonlocals:
                self._assigned.add(hook.root)
            if value is not fn:
                self._named(f"{name}.{variable}", value, hook)
        for attribute, value in sorted_items(fn.__dict__) if own_attributes else ():
            if not attribute.startswith("__"):
                self._named(f"{name}.{attribute}", value, hook)
        wrapped = fn.__dict__.get("__wrapped__")
        if callable(wrapped) and not any(value is wrapped for value in cells.values()):
            self._named(f"{name}.__wrapped__", wrapped, hook)
        return plain

    def _dispatcher(self, name: str, fn: types.FunctionType) -> None:
        """A function of `functools.singledispatch`: those that it chooses from."""
        self._met[id(fn)] = f"{name} ", fn
        registry: Mapping[type, Any] = fn.registry  # type: ignore[attr-defined]
        for kind, inner in sorted(registry.items(), key=lambda item: qualified(item[0])):
            self._named(
                name if kind is object else f"{name}[{kind.__qualname__}]", inner, _Hook("data", f"def {name}", fn)
            )
        self._add(f"{name} (dispatch)", "code", hashed(*sorted(qualified(kind).encode() for kind in registry)))

    def _follow_names(self, fn: types.FunctionType) -> None:
        self._names(fn)

    def _names(self, fn: types.FunctionType) -> list[bytes]:
        """Follow what a function names, later; returns what stands for what is installed."""
        space, uses = fn.__globals__, uses_of(fn.__code__)
        module = space.get("__name__", fn.__module__)
        self._assigned |= {self._title(module, name) for name in uses.stores}
        installed = []
        for chain in uses.globals:
            if chain[0] in space:
                installed += self._global(module, space, chain)
            elif not hasattr(builtins, chain[0]):
                installed.append(f"no {chain[0]}".encode())
        for each in uses.imports:
            self._import(each, space)
        for name, kind in annotated_classes(fn):
            if is_users_class(kind):
                self._soon(module, name, kind)
        return installed

    def _global(self, module: str, space: Mapping[str, Any], chain: Sequence[str]) -> list[bytes]:
        value, rest, name = space[chain[0]], list(chain[1:]), chain[0]
        while is_a(value, types.ModuleType):
            if not is_users_module(value.__name__):
                return [hashed(".".join(chain).encode(), value.__name__.encode())]
            if not rest or rest[0] not in vars(value):
                self._whole(value)
                return [hashed(".".join(chain).encode(), value.__name__.encode())]
            module, name = value.__name__, rest.pop(0)
            value = vars(value)[name]
        if (is_a(value, types.FunctionType) and not is_users_function(value) and value.__closure__ is None) or (
            is_a(value, type) and not is_users_class(value)
        ):
            return [hashed(name.encode(), qualified(value).encode())]
        self._soon(module, name, value)
        return []

    def _soon(self, module: str | None, name: str, value: Any) -> None:
        """Follow a global, once."""
        plain, title = self._plain_title(module, name), self._title(module, name)
        if plain in self._titles or title in self._titles:
            return
        self._titles.add(title)
        through, under = self._through_data, self._under

        def follow() -> None:
            before = self._through_data, self._under
            self._through_data, self._under = through, under
            self._named(title, value, _Hook("data", title, value))
            self._through_data, self._under = before

        code = is_a(value, (types.FunctionType, type, types.MethodType, functools.partial, CACHED))
        (self._code if code and not through else self._data).append(follow)

    def _import(self, asked: Import, space: Mapping[str, Any]) -> None:
        """A module of the user that a function imports when it runs: by its file, whether it is loaded or not yet."""
        package = space.get("__package__") or ""
        try:
            name = importlib.util.resolve_name("." * asked.level + asked.module, package)
        except ImportError:
            return
        inner = [f"{name}.{each}" for each in asked.names]
        for module in (name, *inner):
            self._file_of(module)

    def _file_of(self, module: str) -> None:
        key = f"import {module}"
        if key in self._titles:
            return
        self._titles.add(key)
        path = file_of_module(module)
        if path is None:
            return
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return
        self._add(f"{key}", "code", digest_of_text(text))
        for each in imports_in(text):
            package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
            self._import(each, {"__package__": package})

    def _whole(self, module: types.ModuleType) -> None:
        """All that a module of the user defines: it is used in a way that does not say which part of it."""
        if id(module) in self._met:
            return
        self._met[id(module)] = module.__name__, module
        for name, value in sorted(vars(module).items()):
            if name.startswith("__") or is_a(value, types.ModuleType):
                continue
            if getattr(value, "__module__", module.__name__) == module.__name__:
                self._soon(module.__name__, name, value)

    # ------------------------------------------------------------ classes

    def _class(self, name: str, kind: type) -> None:
        if not is_users_class(kind):
            self._add(name, "code", hashed(b"installed", qualified(kind).encode()))
            return
        if id(kind) in self._met:
            if self._met[id(kind)][0] != name:
                self._add(name, "code", hashed(b"same", qualified(kind).encode()))
            return
        self._met[id(kind)] = name, kind
        own = [qualified(kind).encode()]
        for base in (*kind.__bases__, type(kind)):
            own.append(qualified(base).encode())
            if is_users_class(base):
                self._soon(base.__module__, base.__qualname__, base)
        own += [f"{field}: {type_text(each)}".encode() for field, each in sorted(annotations_of(kind).items())]
        for title, each in annotated_classes(kind):
            if is_users_class(each):
                self._soon(kind.__module__, title, each)
        for member, value in sorted({**members_of_metaclass(kind), **vars(kind)}.items()):
            own += self._member(name, kind, member, value)
        self._add(name, "code", hashed(*own))

    def _member(self, name: str, kind: type, member: str, value: Any) -> list[bytes]:
        """What stands for a member of a class in the class itself; data are parts of their own."""
        functions = list(functions_of(value))
        if functions:
            found = [member.encode(), type(value).__name__.encode()]
            for fn in functions:
                if not (is_generated(getattr(fn, "__wrapped__", fn)) and _GENERATED & set(vars(kind))):
                    found += self._method(name, kind, member, fn)
            return found
        if member == "__struct_config__":  # of msgspec; it shows nothing but its text
            return [member.encode(), type_text(value).encode()]
        if member == "__doc__" and "__dataclass_fields__" in vars(kind) and str(value).startswith(kind.__name__ + "("):
            return []  # it was made of the fields
        if member in DATACLASS_MEMBERS:  # by name: later versions of Python have more
            value = dataclass_member(member, value)
        if member in TELLING_MEMBERS:
            return [member.encode(), self._by_value(name, member, value)]
        if member.startswith("__") or member == "_abc_impl" or is_a(value, SLOTS):
            return []
        if is_a(value, type) and is_users_class(value):
            self._class(f"{name}.{member}", value)
        else:
            self._named(f"{name}.{member}", value, _Hook("data", f"class {name}", kind), 1)
        return [member.encode()]

    def _by_value(self, name: str, member: str, value: Any) -> bytes:
        self._path, self._root = f"{name}.{member}", name
        try:
            return self._contents.of(value)
        finally:
            self._path = self._root = ""

    def _method(self, name: str, kind: type, member: str, fn: types.FunctionType) -> Iterator[bytes]:
        if id(fn) in self._met:
            yield qualified(fn).encode()
            return
        self._met[id(fn)] = "", fn
        users = is_users_function(fn)
        yield digest_of_code(fn.__code__) if users else qualified(fn).encode()
        for parameter, value in defaults_of(fn):
            if type(value) in ATOMS:
                yield hashed(parameter.encode(), self._contents.of(value))
            else:
                self._named(f"{name}.{member}({parameter}=)", value, _Hook("data", f"class {name}", kind))
        for variable, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
            inner = cell_value(cell)
            if variable != "__class__" and inner is not kind:
                self._named(f"{name}.{member}.{variable}", inner, _Hook("data", f"class {name}", kind))
        if users:
            yield from self._names(fn)
