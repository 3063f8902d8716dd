"""Objects with fields: dataclasses, enums, named tuples, msgspec Structs, attrs classes and pydantic models.

They are written as their fields and the name of their class. The name is no address: nothing is imported by it. When
such an object is read, its class is looked for among those that the function is known to use (see `Classes`), and its
fields are set as they were: no `__init__`, no validator and no `__post_init__` runs a second time.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from restate_nb.engine.tags import TAG, Read, Write, tagged
from restate_nb.errors import NotEncodable, NotReadable

KINDS: Final = frozenset({"object", "model", "enum", "flag", "namedtuple"})

_MISSING: Final = object()
_NOT_STATE: Final = frozenset({"__orig_class__"})  # which typing sets on what a generic class makes


def full_name(kind: type) -> str:
    """A class' module and name."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_structured(kind: object) -> bool:
    """Whether objects of this class are written as their fields."""
    return isinstance(kind, type) and (
        issubclass(kind, (enum.Enum, msgspec.Struct))
        or dataclasses.is_dataclass(kind)
        or _is_namedtuple(kind)
        or _is_model(kind)
        or hasattr(kind, "__attrs_attrs__")
    )


def _is_namedtuple(kind: type) -> bool:
    return issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple)


def _is_model(kind: type) -> bool:
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_dump")


class Classes:
    """The classes that a function's items and values may be of, by name; with each its subclasses.

    Attributes:
        plain: where the function is not known, objects are read as plain data: their fields, an enum's value.
        given: whether some of them are known from items alone, and not from the function.
    """

    def __init__(self, kinds: Iterable[type] = (), *, plain: bool = False) -> None:
        self.plain = plain
        self.named: dict[str, type] = {}
        self.writer: Any = None  # the codec's own
        self.given = False
        for kind in kinds:
            self.named[full_name(kind)] = kind

    def __bool__(self) -> bool:
        return bool(self.named)

    def __iter__(self) -> Iterator[type]:
        return iter(tuple(self.named.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Classes, (tuple(self),)  # what the codec keeps there stays here

    def add_of(self, item: object) -> None:
        """Know the classes of an item that was passed here."""
        for kind in _classes_in(item, set()):
            name = full_name(kind)
            if self.find(name) is not kind:
                self.named[name] = kind
                self.given = True

    def find(self, name: str) -> type | None:
        """The class of that name."""
        found = self.named.get(name)
        if found is None:
            for kind in self.named.values():
                found = next((each for each in _below(kind) if full_name(each) == name), None)
                if found is not None:
                    break
        return found

    def allows(self, kind: type) -> bool:
        """Whether objects of this class can be read back. By its name, since a class of a notebook is made anew in
        each worker process, and each time its cell runs."""
        name = full_name(kind)
        if name not in self.named:
            if self.find(name) is None:
                return False
            self.named[name] = kind
        return True


def _below(kind: type) -> Iterator[type]:
    if type(kind) is type or not issubclass(kind, type):
        below: list[type] = kind.__subclasses__()
        for each in below:
            yield each
            yield from _below(each)


def _classes_in(value: object, seen: set[int]) -> Iterator[type]:
    kind = type(value)
    if is_structured(kind):
        yield kind
    if isinstance(value, (str, bytes, int, float)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        for pair in list(value.items()):
            for each in pair:
                yield from _classes_in(each, seen)
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        for each in list(value):
            yield from _classes_in(each, seen)
    elif is_structured(kind) and not isinstance(value, enum.Enum):
        for each in _state(value, kind).values():
            yield from _classes_in(each, seen)
        if _is_model(kind):
            yield from _classes_in([value.__pydantic_extra__, value.__pydantic_private__], seen)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- writing


def written(value: Any, kind: type, write: Write, classes: Classes | None) -> object | None:
    """The object as its class' name and its fields; None when it is none with fields.

    Raises:
        NotEncodable: its class is not among `classes`.
    """
    if not is_structured(kind):
        return None
    if classes is not None and not classes.allows(kind):
        raise _unknown(kind)
    name = full_name(kind)
    if isinstance(value, enum.Enum):
        if isinstance(value, enum.Flag):
            return tagged("flag", write(int(value.value)), of=name)
        return tagged("enum", value.name, of=name, **_for_readers(value.value))
    if _is_namedtuple(kind):
        if getattr(value, "__dict__", None):
            raise NotEncodable(f"A {kind.__name__} with attributes besides its fields cannot be kept.")
        return tagged("namedtuple", [write(each) for each in tuple(value)], of=name, fields=list(kind._fields))  # type: ignore[attr-defined]
    if _is_model(kind):
        return _model(value, name, write)
    if isinstance(value, (str, bytes, int, float, list, dict, set, frozenset, tuple, BaseException)):
        base = next(each.__name__ for each in kind.__mro__ if each.__module__ == "builtins")
        raise NotEncodable(f"A {kind.__name__} is a {base} with fields, and cannot be kept as both. Return either.")
    return tagged("object", _fields(_state(value, kind), write), of=name)


def _unknown(kind: type) -> NotEncodable:
    named = kind.__qualname__.rpartition("<locals>.")[2]
    return NotEncodable(
        f"The function does not name the class {named}, so a {named} could not be read back as one. Annotate it: "
        f"`def function(...) -> {named}:` (or -> list[{named}], ...), or use plain data, such as its fields in a dict."
    )


def _for_readers(value: object) -> dict[str, object]:
    """What stands beside an enum's name, for those who read the journal: its value, where that is plain."""
    if isinstance(value, str):
        return {"is": value.encode("utf-8", "backslashreplace").decode()}
    if type(value) in (bool, int, float) and -(2**63) <= value < 2**63:  # type: ignore[operator]
        return {"is": value}
    return {}


def _fields(state: Mapping[Any, Any], write: Write) -> object:
    """By name; tagged where a name is none of JSON's keys."""
    if all(type(name) is str and name.isascii() for name in state) and TAG not in state:
        return {name: write(each) for name, each in state.items()}
    return tagged("dict", [[write(name), write(each)] for name, each in state.items()])


def _state(value: Any, kind: type) -> dict[str, Any]:
    """An object's attributes by name: its fields, and what else was set on it."""
    state: dict[str, Any] = {}
    for name in _names(kind):
        found = getattr(value, name, _MISSING)
        if found is not _MISSING and found is not msgspec.UNSET:
            state[name] = found
    own: dict[str, Any] = getattr(value, "__dict__", {})
    for name, each in list(own.items()):
        if name not in state and name not in _NOT_STATE and not _is_cached(kind, name):
            state[name] = each
    return state


def _names(kind: type) -> tuple[str, ...]:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(each.name for each in kind.__attrs_attrs__)
    if dataclasses.is_dataclass(kind):
        return tuple(each.name for each in dataclasses.fields(kind))
    return ()


def _is_cached(kind: type, name: str) -> bool:
    """Whether it is what a cached property keeps, which can be had again."""
    return any(isinstance(vars(each).get(name), functools.cached_property) for each in kind.__mro__)


def _model(value: Any, name: str, write: Write) -> object:
    more: dict[str, object] = {"set": sorted(value.__pydantic_fields_set__)}
    if value.__pydantic_extra__:
        more["extra"] = _fields(value.__pydantic_extra__, write)
    if value.__pydantic_private__:
        more["private"] = _fields(value.__pydantic_private__, write)
    state = {key: each for key, each in vars(value).items() if not _is_cached(type(value), key)}
    return tagged("model", _fields(state, write), of=name, **more)


def shown(value: Any, write: Write) -> tuple[object] | None:
    """How an object with fields is shown elsewhere: its fields, or an enum's value. None when it is none."""
    kind: Any = type(value)
    if kind.__module__ == "pydantic.types" and kind.__name__.startswith("Secret"):
        return (str(value),)
    if kind.__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufcUS" and not value.ndim:
        plain = value.item()
        return (write(plain),) if type(plain).__module__ == "builtins" else (str(plain),)
    if not is_structured(kind):
        return None
    if isinstance(value, enum.Enum):
        return (write(value.value),)
    if _is_namedtuple(kind):
        return (write(dict(zip(kind._fields, value, strict=False))),)
    if _is_model(kind):
        return (write({**_state(value, kind), **(value.__pydantic_extra__ or {})}),)
    return (write(_state(value, kind)),)


# ---------------------------------------------------------------- reading


def read(written: dict[str, Any], read: Read, classes: Classes | None) -> Any:
    """What `written` gave.

    Raises:
        NotReadable: its class is not among `classes`, or has other fields by now.
    """
    name = written["of"]
    kind = None if classes is None else classes.find(name)
    tag = written[TAG]
    if tag == "namedtuple":
        values = [read(each) for each in written["v"]]
        if kind is None or not _is_namedtuple(kind) or list(kind._fields) != written["fields"]:  # type: ignore[attr-defined]
            kind = look_alike(name, tuple(written["fields"]))
        return tuple.__new__(kind, values)
    if kind is None and classes is not None and classes.plain:
        return written.get("is", written["v"]) if tag in ("enum", "flag") else read(written["v"])
    if kind is None or not is_structured(kind):
        short = name.rpartition("<locals>.")[2].removeprefix("__main__.")
        raise NotReadable(
            f"It is a {short}, and no class of that name is known here. Run the cell that defines and maps the "
            f"function, and have the function name {short.rpartition('.')[2]} in an annotation."
        )
    try:
        if tag == "enum":
            return kind[written["v"]]  # type: ignore[index]
        if tag == "flag":
            return kind(read(written["v"]))
        state = read(written["v"])
        if tag == "model":
            return _as_model(kind, state, written, read)
    except (KeyError, ValueError) as error:
        if isinstance(error, NotReadable):
            raise
        raise NotReadable(f"{kind.__qualname__} has no {written['v']!r} any more: it was changed since.") from None
    return _as_object(kind, state)


@functools.lru_cache(maxsize=256)
def look_alike(name: str, fields: tuple[str, ...]) -> type:
    """A class of named tuples with these fields, in place of one that is not known here, or of rows that are none."""
    short = name.rpartition(".")[2]
    return collections.namedtuple(short if short.isidentifier() else "Row", fields, rename=True)


def _as_object(kind: type, state: dict[str, Any]) -> Any:
    fields = _names(kind)
    state = {**_defaults(kind, state), **state}
    lacking = [name for name in fields if name not in state and name in _required(kind)]
    unknown = [] if "__dict__" in dir(kind) else [name for name in state if name not in fields]
    if lacking or unknown:
        raise NotReadable(f"{kind.__qualname__} has other fields by now: {(lacking + unknown)[0]!r}.")
    if issubclass(kind, msgspec.Struct):
        try:
            struct = kind(**state)  # the only way to have one: its __post_init__ runs, and what it set is set back
        except Exception as error:
            raise NotReadable(f"{kind.__qualname__} cannot be made again: {type(error).__name__}: {error}.") from error
        for name, each in state.items():
            msgspec.structs.force_setattr(struct, name, each)
        return struct
    value: Any = object.__new__(kind)
    for name, each in state.items():
        object.__setattr__(value, name, each)
    return value


def _defaults(kind: type, state: Mapping[str, Any]) -> dict[str, Any]:
    """Of fields that the class did not have when the object was written."""
    found: dict[str, Any] = {}
    if dataclasses.is_dataclass(kind):
        for each in dataclasses.fields(kind):
            if each.init and each.name not in state:
                if each.default is not dataclasses.MISSING:
                    found[each.name] = each.default
                elif each.default_factory is not dataclasses.MISSING:
                    found[each.name] = each.default_factory()
    return found


def _required(kind: type) -> set[str]:
    """The fields that every object of the class has had from its beginning."""
    if issubclass(kind, msgspec.Struct):
        return {each.name for each in msgspec.structs.fields(kind) if each.required}
    if hasattr(kind, "__attrs_attrs__"):
        return {each.name for each in kind.__attrs_attrs__ if each.init}
    return {each.name for each in dataclasses.fields(kind) if each.init}  # type: ignore[arg-type]


def _as_model(kind: Any, state: dict[str, Any], written: dict[str, Any], read: Read) -> Any:
    for name, field in kind.model_fields.items():
        if name not in state and not field.is_required():  # the class did not have it when the object was written
            state[name] = field.get_default(call_default_factory=True, validated_data=state)
    gone = [name for name in state if name not in kind.model_fields and name in written["set"]]
    if gone:
        raise NotReadable(f"{kind.__qualname__} has other fields by now: {gone[0]!r} is gone.")
    value = kind.__new__(kind)
    object.__setattr__(value, "__dict__", state)
    object.__setattr__(value, "__pydantic_fields_set__", set(written["set"]))
    extra = read(written["extra"]) if "extra" in written else None
    if extra is None and kind.model_config.get("extra") == "allow":
        extra = {}
    object.__setattr__(value, "__pydantic_extra__", extra)
    private = read(written["private"]) if "private" in written else None
    if private is None and kind.__private_attributes__:
        private = {}
    object.__setattr__(value, "__pydantic_private__", private)
    return value
