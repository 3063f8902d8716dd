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
import inspect
import operator
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.reference import Reference
from restate_nb.values.tags import TAG, Read, Write, tagged

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
        parts: whether large values are written with parts, for a store.
        pickles: whether what has no other form is pickled, and what was pickled is read.
        load: gives a value that lies in the store, as `parts.join` made it; None where there is no store.
    """

    def __init__(self, kinds: Iterable[type] = (), *, plain: bool = False) -> None:
        self.plain = plain
        self.named: dict[str, type] = {}
        self.writer: Any = None  # the codec's own
        self.reader: Any = None
        self.given = False
        self.parts = False
        self.pickles = False
        self.load: Callable[[Reference], bytes] | None = None
        self._shapes: dict[type, Shape] = {}
        for kind in kinds:
            self.named[full_name(kind)] = kind

    def __bool__(self) -> bool:
        return bool(self.named)

    def __iter__(self) -> Iterator[type]:
        return iter(tuple(self.named.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (tuple(self), self.parts, self.pickles)  # what opens a store stays here, and the codec's

    def keep_in(self, load: Callable[[Reference], bytes] | None, *, parts: bool, pickles: bool = False) -> None:
        """Say where large values lie, before any is written or read.

        Args:
            load: gives a value of the store; None where there is none.
            parts: whether large values are written with parts, which only a store takes.
            pickles: whether what has no other form is pickled.
        """
        self.load, self.parts, self.pickles = load, parts, pickles
        self.writer = self.reader = None

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

    def shape_of(self, kind: type) -> Shape:
        """How objects of a class are kept."""
        shape = self._shapes.get(kind)
        if shape is None:
            shape = self._shapes[kind] = Shape(kind)
        return shape

    def shape_named(self, name: str) -> Shape | None:
        """The same, by the name of the class."""
        kind = self.named.get(name) or self.find(name)
        return None if kind is None else self._shapes.get(kind) or self.shape_of(kind)

    def shape_to_write(self, kind: type) -> Shape:
        """The same, of a class whose objects can be read back.

        Raises:
            NotEncodable: they cannot.
        """
        if not self.allows(kind):
            raise _unknown(kind)
        return self.shape_of(kind)

    def allows(self, kind: type) -> bool:
        """Whether objects of this class can be read back. By its name, since a class of a notebook is made anew in
        each worker process, and each time its cell runs."""
        name = full_name(kind)
        if name not in self.named:
            if self.find(name) is None:
                return False
            self.named[name] = kind
        return True


def _made_again(kinds: Iterable[type], parts: bool, pickles: bool) -> Classes:
    classes = Classes(kinds)
    classes.keep_in(None, parts=parts, pickles=pickles)
    return classes


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
    elif kind.__module__.partition(".")[0] in ("numpy", "pandas"):
        yield from _classes_in(_cells_of(value), seen)
    elif is_structured(kind) and not isinstance(value, enum.Enum):
        for each in _state(value, kind).values():
            yield from _classes_in(each, seen)
        if _is_model(kind):
            yield from _classes_in([value.__pydantic_extra__, value.__pydantic_private__], seen)  # type: ignore[attr-defined]


def _cells_of(value: Any) -> list[Any]:
    """The cells of a table, an index or an array that are objects."""
    names = {each.__name__ for each in type(value).__mro__}
    if "DataFrame" in names:
        objects = [place for place, dtype in enumerate(value.dtypes) if str(dtype) == "object"]
        return [value.index, value.columns, *(value.iloc[:, place] for place in objects)]
    inner = [value.index] if "Series" in names else []
    if names.isdisjoint(("Series", "Index", "ndarray")) or str(value.dtype) != "object":
        return inner
    return inner + (value.ravel().tolist() if "ndarray" in names else list(value))


# ---------------------------------------------------------------- what is known of a class

State = Callable[[Any], dict[str, Any] | None]
"""The fields of an object by name; None where it has other attributes than its fields, or lacks one."""


class Shape:
    """How objects of a class with fields are kept; looked up once.

    Attributes:
        kind: the class.
        name: its module and name.
        names: of its fields.
        is_known: whether it is a class with fields at all.
        is_struct: whether it is one of msgspec.
        write: writes such an object; `state_of` gives the fields of one that is written as nothing else, where that is
            simple, else it is None.
        in_dict: whether that is what is in their `__dict__`.
        is_plain_row: whether they are named tuples, and nothing else.
        fields: of named tuples.
    """

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.name = full_name(kind)
        self.is_known = is_structured(kind)
        self.is_struct = issubclass(kind, msgspec.Struct)
        self.names = _names(kind)
        self.write = _writer_of(kind, self.name)
        row = _is_namedtuple(kind) and not issubclass(kind, enum.Enum)
        self.fields = list(kind._fields) if _is_namedtuple(kind) else []  # type: ignore[attr-defined]
        self.is_plain_row = row and not kind.__dictoffset__ and kind.__iter__ is tuple.__iter__  # type: ignore[attr-defined]
        self.state_of: State | None = None
        if not (_is_model(kind) or issubclass(kind, (enum.Enum, *_BUILTINS))):
            self.state_of = _state_getter(kind, self.names)
        self.in_dict = self.state_of is not None and kind.__dictoffset__ != 0

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """The fields that every object of the class has had from its beginning."""
        return frozenset(_required(self.kind))

    @functools.cached_property
    def is_open(self) -> bool:
        """Whether its objects may have other attributes than its fields."""
        return "__dict__" in dir(self.kind)

    @functools.cached_property
    def is_made_as_told(self) -> bool:
        """Whether a msgspec Struct has the fields that it is made with, and no code of its own that changes them."""
        made: Any = type(self.kind).__call__
        return made is type(msgspec.Struct).__call__ and not hasattr(self.kind, "__post_init__")


_SLOT: Final = types.MemberDescriptorType
_BUILTINS: Final = (str, bytes, int, float, list, dict, set, frozenset, tuple, BaseException)


def _state_getter(kind: Any, names: tuple[str, ...]) -> State | None:
    if not all(name.isascii() for name in names) or TAG in names or not names:
        return None
    if kind.__getattribute__ is not object.__getattribute__:
        return None
    found = [inspect.getattr_static(kind, name, None) for name in names]
    if kind.__dictoffset__:
        if any(hasattr(type(each), "__set__") or hasattr(type(each), "__delete__") for each in found):
            return None  # properties, slots

        def of_dict(value: Any) -> dict[str, Any] | None:
            state: dict[str, Any] = value.__dict__
            return state if tuple(state) == names else None

        return of_dict
    if not all(type(each) is _SLOT for each in found):
        return None
    if issubclass(kind, msgspec.Struct):
        return _of_struct
    get = operator.attrgetter(*names)

    def of_slots(value: Any) -> dict[str, Any] | None:
        try:
            values = get(value)
        except AttributeError:
            return None
        if len(names) == 1:
            values = (values,)
        return None if msgspec.UnsetType in map(type, values) else dict(zip(names, values, strict=True))

    return of_slots


def _of_struct(value: Any) -> dict[str, Any] | None:
    try:
        state = msgspec.structs.asdict(value)
    except AttributeError:
        return None
    return None if msgspec.UnsetType in map(type, state.values()) else state


# ---------------------------------------------------------------- writing


def _writer_of(kind: type, name: str) -> Callable[[Any, Write], object]:
    """How an object of this class is written: as its class' name and its fields."""
    if issubclass(kind, enum.Flag):
        return lambda value, write: tagged("flag", write(int(value.value)), of=name)
    if issubclass(kind, enum.Enum):
        return lambda value, _: tagged("enum", value.name, of=name, **_for_readers(value.value))
    if _is_namedtuple(kind):
        return lambda value, write: _row(value, name, write)
    if _is_model(kind):
        cached = _cached_names(kind)
        return lambda value, write: _model(value, name, cached, write)
    if issubclass(kind, _BUILTINS):
        return _refused_mixture
    return lambda value, write: tagged("object", _fields(_state(value, kind), write), of=name)


def _row(value: Any, name: str, write: Write) -> object:
    kind = type(value)
    if getattr(value, "__dict__", None):
        raise NotEncodable(f"A {kind.__name__} with attributes besides its fields cannot be kept.")
    return tagged("namedtuple", [write(each) for each in tuple(value)], of=name, fields=list(kind._fields))


def _refused_mixture(value: object, _: Write) -> object:
    kind = type(value)
    base = next(each.__name__ for each in kind.__mro__ if each.__module__ == "builtins")
    raise NotEncodable(f"A {kind.__name__} is a {base} with fields, and cannot be kept as both. Return either.")


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


def _cached_names(kind: type) -> frozenset[str]:
    """What cached properties keep."""
    return frozenset(
        name
        for each in kind.__mro__
        for name, member in list(vars(each).items())
        if isinstance(member, functools.cached_property)
    )


def _model(value: Any, name: str, cached: frozenset[str], write: Write) -> object:
    more: dict[str, object] = {"set": sorted(value.__pydantic_fields_set__)}
    if value.__pydantic_extra__:
        more["extra"] = _fields(value.__pydantic_extra__, write)
    if value.__pydantic_private__:
        more["private"] = _fields(value.__pydantic_private__, write)
    state = vars(value)
    if not cached.isdisjoint(state):
        state = {key: each for key, each in state.items() if key not in cached}
    return tagged("model", _fields(state, write), of=name, **more)


def fields_shown(value: Any, write: Write) -> tuple[object] | None:
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


def read_fields(written: dict[str, Any], read: Read, classes: Classes | None) -> Any:
    """What `written` gave.

    Raises:
        NotReadable: its class is not among `classes`, or has other fields by now.
    """
    name, tag = written["of"], written[TAG]
    shape = None if classes is None else classes.shape_named(name)
    if tag == "namedtuple":
        values = read(written["v"])
        if shape is None or not _is_namedtuple(shape.kind) or shape.fields != written["fields"]:
            return tuple.__new__(look_alike(name, tuple(written["fields"])), values)
        return tuple.__new__(shape.kind, values)
    if shape is None and classes is not None and classes.plain:
        return written.get("is", written["v"]) if tag in ("enum", "flag") else read(written["v"])
    if shape is None or not shape.is_known:
        short = name.rpartition("<locals>.")[2].removeprefix("__main__.")
        raise NotReadable(
            f"It is a {short}, and no class of that name is known here. Run the cell that defines and maps the "
            f"function, and have the function name {short.rpartition('.')[2]} in an annotation."
        )
    kind: Any = shape.kind
    try:
        if tag == "object":
            state = read(written["v"])
        elif tag == "enum":
            return kind[written["v"]]
        elif tag == "flag":
            return kind(read(written["v"]))
        else:
            return _as_model(kind, read(written["v"]), written, read)
    except (KeyError, ValueError) as error:
        if isinstance(error, NotReadable):
            raise
        raise NotReadable(f"{kind.__qualname__} has no {written['v']!r} any more: it was changed since.") from None
    return _as_object(shape, state)


@functools.lru_cache(maxsize=256)
def look_alike(name: str, fields: tuple[str, ...]) -> type:
    """A class of named tuples with these fields, in place of one that is not known here, or of rows that are none."""
    short = name.rpartition(".")[2]
    return collections.namedtuple(short if short.isidentifier() else "Row", fields, rename=True)


def _as_object(shape: Shape, state: dict[str, Any]) -> Any:
    kind, fields = shape.kind, shape.names
    complete = tuple(state) == fields
    if not complete:
        state = {**_defaults(kind, state), **state}
        lacking = [name for name in fields if name not in state and name in shape.required]
        unknown = [] if shape.is_open else [name for name in state if name not in fields]
        if lacking or unknown:
            raise NotReadable(f"{kind.__qualname__} has other fields by now: {(lacking + unknown)[0]!r}.")
    if shape.is_struct:
        try:
            struct = kind(**state)  # the only way to have one: its __post_init__ runs, and what it set is set back
        except Exception as error:
            raise NotReadable(f"{kind.__qualname__} cannot be made again: {type(error).__name__}: {error}.") from error
        if not shape.is_made_as_told:
            for name, each in state.items():
                msgspec.structs.force_setattr(struct, name, each)
        return struct
    value: Any = object.__new__(kind)
    if complete and shape.in_dict:
        value.__dict__.update(state)
        return value
    put = object.__setattr__
    for name, each in state.items():
        put(value, name, each)
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
