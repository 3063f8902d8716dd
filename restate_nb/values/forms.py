"""What each type is as JSON: lists, mappings, alternatives, and the leaves of the standard library.

Classes with fields are in `field_forms.py`.

A form writes to what JSON has (dicts, lists, text, numbers), and reads back from it. It reads its own values as they
are, so that parts which are tagged, and revived by the codec, can be read again.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from restate_nb.errors import NotEncodable
from restate_nb.values.classes import Classes, is_structured
from restate_nb.values.codec import plain_of, revived
from restate_nb.values.field_forms import (
    DataclassForm,
    EnumForm,
    ModelForm,
    NamedTupleForm,
    StructForm,
    TaggedForm,
    TypedDictForm,
)
from restate_nb.values.form import Form, TypedForm
from restate_nb.values.plain import AS_THEY_ARE, HIGHEST, LOWEST, are_scalars
from restate_nb.values.tags import TAG, tagged

_NATIVE: Final = (dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal, bytes)
"""Leaves that have a text in JSON which every library reads."""

_SCALARS: Final = (str, int, float, bool, type(None))
_JSON_BASES: Final = (str, int, float, list, tuple, dict)
"""Classes whose subclasses `json.dumps` writes as these."""


class Forms:
    """The forms of annotations, made once each.

    Args:
        own: as in `Typed`.
        objects: whether objects come back where the annotation says nothing.
        classes: those that they may be of.
    """

    def __init__(self, *, own: bool, objects: bool, classes: Classes) -> None:
        self.own = own
        self.objects = objects
        self.classes = classes
        self.any = _Any(self)
        self._made: dict[Any, Form] = {}

    def of(self, annotation: Any) -> Form:
        """The form of an annotation."""
        try:
            found = self._made.get(annotation)
        except TypeError:
            return self._make(annotation)  # its metadata cannot be hashed
        if found is None:
            later = self._made[annotation] = _Later()  # a class may have itself in a field
            found = self._made[annotation] = later.form = self._make(annotation)
        return found

    def tag(self, value: Any) -> Any:
        """A value as the codec writes it, tagged."""
        return plain_of(value, self.classes)

    def _make(self, annotation: Any) -> Form:
        annotation = _bare(annotation)
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (typing.Union, types.UnionType):
            return _Union(self, [self.of(each) for each in arguments])
        kind = annotation if origin is None else origin
        if annotation is None or annotation is type(None):
            return _Scalar(self, type(None))
        if not isinstance(kind, type):
            return self.any  # Any, Literal, a variable
        if kind in _SCALARS:
            return _Scalar(self, kind)
        if typing.is_typeddict(kind):
            return TypedDictForm(self, kind, _hints(kind, annotation))
        if is_structured(kind):
            return self._structured(kind, annotation, arguments)
        if kind in _NATIVE:
            return _Native(self, kind)
        return self._container(kind, arguments)

    def _structured(self, kind: type, annotation: Any, arguments: tuple[Any, ...]) -> Form:
        if hasattr(kind, "__pydantic_validator__"):
            return ModelForm(self, kind, annotation)
        if issubclass(kind, msgspec.Struct):
            return StructForm(self, kind, annotation)
        if issubclass(kind, enum.Enum):
            return EnumForm(self, kind)
        if dataclasses.is_dataclass(kind):
            return DataclassForm(self, kind, _hints(kind, annotation))
        if issubclass(kind, tuple):
            return NamedTupleForm(self, kind, _hints(kind, annotation))
        return self.any if not self.own else TaggedForm(self, kind)

    def _container(self, kind: type, arguments: tuple[Any, ...]) -> Form:
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            places = () if arguments == ((),) else arguments
            return _Places(self, [self.of(each) for each in places])
        made = _LISTS.get(kind)
        if made is not None:
            return _List(self, kind, made, self.of(arguments[0]) if arguments else self.any)
        if kind in _MAPPINGS and kind is not collections.Counter:
            key, each = (self.of(one) for one in arguments) if len(arguments) == 2 else (self.any, self.any)
            if kind in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
                return _Mapping(self, key, each)
        return self.any


_LISTS: Final[dict[type, Callable[[list[Any]], Any]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.deque: collections.deque,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_MAPPINGS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping, collections.Counter)


def _bare(annotation: Any) -> Any:
    """The type itself, without what is said about it."""
    while True:
        origin = typing.get_origin(annotation)
        if type(annotation).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12
            annotation = annotation.__value__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeVar):
            annotation = annotation.__bound__ or Any
        elif isinstance(annotation, dataclasses.InitVar):
            annotation = annotation.type
        elif origin in _ABOUT:
            annotation = typing.get_args(annotation)[0]
        else:
            return annotation


_ABOUT: Final = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)


def _hints(kind: type, annotation: Any) -> dict[str, Any]:
    """The types of a class' fields; those of a generic one with what its variables stand for."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # a forward reference to something that is not there
        return {}
    variables = getattr(kind, "__parameters__", ())
    stands = dict(zip(variables, typing.get_args(annotation), strict=False))
    return {name: _filled(hint, stands) for name, hint in hints.items()} if stands else hints


def _filled(hint: Any, stands: Mapping[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return stands.get(hint, hint)
    inner = getattr(hint, "__parameters__", ())
    return hint[tuple(stands.get(each, each) for each in inner)] if inner and not isinstance(hint, type) else hint


class _Later:
    """Stands for a form that is being made."""

    form: Form

    def fits(self, value: Any) -> bool:
        return self.form.fits(value)

    def write(self, value: Any) -> Any:
        return self.form.write(value)

    def read(self, plain: Any) -> Any:
        return self.form.read(plain)


class _Any:
    """Values of which the annotation says nothing."""

    def __init__(self, forms: Forms) -> None:
        self.forms = forms

    def fits(self, value: Any) -> bool:
        return True

    def write(self, value: Any) -> Any:
        kind = type(value)
        if (
            kind in AS_THEY_ARE
            or (kind is int and LOWEST <= value <= HIGHEST)
            or (kind is float and value - value == 0)
        ):
            return value
        if kind is list:
            return value if are_scalars(value) else [self.write(each) for each in value]
        if kind is dict:
            return self._of_dict(value)
        if is_structured(kind):
            return self._of_structured(value, kind)
        if self.forms.own:
            return self._own(value, kind)
        if kind is tuple:
            return [self.write(each) for each in value]
        return self._tagged(value)

    def _of_dict(self, value: dict[Any, Any]) -> Any:
        if TAG in value or not all(type(key) is str for key in value):
            if not self.forms.own and TAG not in value and all(type(key) in _SCALARS for key in value):
                return {json_key(key): self.write(each) for key, each in value.items()}
            return tagged("dict", [[self.forms.tag(key), self.write(each)] for key, each in value.items()])
        return {key: self.write(each) for key, each in value.items()}

    def _of_structured(self, value: Any, kind: type) -> Any:
        if self.forms.objects:
            return self._tagged(value)
        if issubclass(kind, enum.Enum):
            return self.write(value.value)
        form = self.forms.of(kind)
        return self.forms.tag(value) if form is self else form.write(value)

    def _own(self, value: Any, kind: type) -> Any:
        if kind is tuple:
            return tagged("tuple", [self.write(each) for each in value])
        return self._tagged(value)

    def _tagged(self, value: Any) -> Any:
        try:
            return self.forms.tag(value)
        except NotEncodable:
            if isinstance(value, _JSON_BASES):
                return self._as_base(value)
            raise

    def _as_base(self, value: Any) -> Any:
        """What `json.dumps` makes of a subclass of one of JSON's own types."""
        base: Any = next(each for each in _JSON_BASES if isinstance(value, each))
        return self.write(base(value))

    def read(self, plain: Any) -> Any:
        return revived(plain, self.forms.classes) if type(plain) in (dict, list) else plain


def json_key(key: Any) -> str:
    """A key as `json.dumps` writes it."""
    return key if type(key) is str else msgspec.json.encode(key).decode()


class _Scalar(TypedForm):
    """JSON's own; checked no further, as the SDK does not."""

    def fits(self, value: Any) -> bool:
        return type(value) is self.kind or (self.kind is float and type(value) is int)

    def plain(self, value: Any) -> Any:
        return self.forms.any.write(value)

    def made(self, plain: Any) -> Any:
        return float(plain) if self.kind is float and type(plain) is int else plain


class _Native(TypedForm):
    """Leaves with a text that every library reads."""

    def fits(self, value: Any) -> bool:
        return type(value) is self.kind

    def plain(self, value: Any) -> Any:
        return msgspec.to_builtins(value)

    def made(self, plain: Any) -> Any:
        return plain if isinstance(plain, self.kind) else msgspec.convert(plain, self.kind, strict=False)


class _List(TypedForm):
    def __init__(self, forms: Forms, kind: type, make: Callable[[list[Any]], Any], each: Form) -> None:
        super().__init__(forms, kind)
        self._make = make
        self._each = each

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind) and not isinstance(value, (str, bytes, Mapping))

    def plain(self, value: Any) -> Any:
        write = self._each.write
        if not isinstance(value, (list, tuple, set, frozenset, collections.deque)):
            return self.forms.any.write(value)  # an array of numpy
        return [write(each) for each in value]

    def made(self, plain: Any) -> Any:
        if type(plain) is not list:
            if isinstance(plain, self.kind) and not isinstance(plain, (str, dict)):
                return plain
            raise self.refused(plain)
        read = self._each.read
        return self._make([read(each) for each in plain])


class _Places(TypedForm):
    """Tuples with a type for each place."""

    def __init__(self, forms: Forms, places: list[Form]) -> None:
        super().__init__(forms, tuple)
        self._places = places

    def fits(self, value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == len(self._places)

    def plain(self, value: Any) -> Any:
        return [form.write(each) for form, each in zip(self._places, value, strict=True)]

    def made(self, plain: Any) -> Any:
        if type(plain) is tuple:
            return plain
        if type(plain) is not list or len(plain) != len(self._places):
            raise self.refused(plain)
        return tuple(form.read(each) for form, each in zip(self._places, plain, strict=True))


class _Mapping(TypedForm):
    def __init__(self, forms: Forms, key: Form, each: Form) -> None:
        super().__init__(forms, dict)
        self._key = key
        self._each = each

    def plain(self, value: Any) -> Any:
        keys = [self._key.write(key) for key in value]
        if not self._keeps(keys) or TAG in keys:
            return tagged("dict", [[self.forms.tag(key), self._each.write(each)] for key, each in value.items()])
        return {json_key(key): self._each.write(each) for key, each in zip(keys, value.values(), strict=True)}

    def _keeps(self, keys: list[Any]) -> bool:
        """Whether keys come back from the texts that JSON has for them."""
        if all(type(key) is str for key in keys):
            return True
        return self._key is not self.forms.any and all(type(key) in (int, float) for key in keys)

    def made(self, plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise self.refused(plain)
        return {self._key_of(key): self._each.read(each) for key, each in plain.items()}

    def _key_of(self, key: Any) -> Any:
        number = isinstance(self._key, _Scalar) and self._key.kind in (int, float)
        return msgspec.convert(key, self._key.kind, strict=False) if number else self._key.read(key)  # type: ignore[attr-defined]


class _Union:
    """Alternatives: the first that the value fits; tagged, if it would be read as another."""

    def __init__(self, forms: Forms, alternatives: list[Form]) -> None:
        self.forms = forms
        self._optional = any(isinstance(each, _Scalar) and each.kind is type(None) for each in alternatives)
        others = [each for each in alternatives if not (isinstance(each, _Scalar) and each.kind is type(None))]
        # JSON's own come first: a text is a text, unless it is said to be more.
        self._scalars = [each for each in others if isinstance(each, _Scalar)]
        self._others = [each for each in others if not isinstance(each, _Scalar)]
        self._only = others[0] if len(others) == 1 else None

    def fits(self, value: Any) -> bool:
        return value is None if self._optional and value is None else any(e.fits(value) for e in self._alternatives())

    def _alternatives(self) -> list[Form]:
        return [*self._scalars, *self._others]

    def write(self, value: Any) -> Any:
        if value is None:
            return None
        if self._only is not None:
            return self._only.write(value)
        fitting = [each for each in self._alternatives() if each.fits(value)]
        exact = [each for each in fitting if getattr(each, "kind", None) is type(value)]
        form = (exact or fitting or [self.forms.any])[0]
        plain = form.write(value)
        if isinstance(form, _Scalar) and type(plain) in _SCALARS:
            return plain
        return plain if self._comes_back(plain, value) else self._tagged(value, plain)

    def _comes_back(self, plain: Any, value: Any) -> bool:
        try:
            back = self.read(plain)
            return type(back) is type(value) and bool(back == value)
        except Exception:  # the user's own comparison, or validators: then it cannot be told
            return False

    def _tagged(self, value: Any, plain: Any) -> Any:
        try:
            return self.forms.tag(value)
        except NotEncodable:
            return plain

    def read(self, plain: Any) -> Any:
        if type(plain) is dict and TAG in plain:
            return revived(plain, self.forms.classes)
        if plain is None:
            return None
        if self._only is not None:
            return self._only.read(plain)
        for scalar in self._scalars:
            if scalar.fits(plain):
                return scalar.read(plain)
        return self._first_that_reads(plain)

    def _first_that_reads(self, plain: Any) -> Any:
        error: Exception | None = None
        found: list[Any] = []
        for form in self._others:
            try:
                value = form.read(plain)
                if form.write(value) == plain:
                    return value
                found.append(value)
            except Exception as why:  # this alternative's own reason; the next may take it
                error = why
        if found:
            return found[0]
        if self._scalars and not isinstance(plain, (dict, list)):
            return plain
        raise ValueError(f"{str(plain)[:80]!r} is none of the types that are annotated: {error}")
