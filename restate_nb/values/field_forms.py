"""The forms of classes with fields: enums, dataclasses, TypedDicts, named tuples, msgspec Structs, pydantic models."""

# ruff: noqa: D102 - the methods are those of a form, or of a context, and do what these do

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import msgspec

from restate_nb.values.form import FormsOfAll, TypedForm
from restate_nb.values.tags import TAG


class EnumForm(TypedForm):
    """Enums, as their values."""

    def plain(self, value: Any) -> Any:
        return self.forms.any.write(value.value)

    def made(self, plain: Any) -> Any:
        kind: Any = self.kind
        if isinstance(plain, kind):
            return plain
        try:
            return kind(plain)
        except ValueError:
            return kind(tuple(plain)) if isinstance(plain, list) else msgspec.convert(plain, kind, strict=False)


class TaggedForm(TypedForm):
    """Classes with fields of other libraries."""

    def plain(self, value: Any) -> Any:
        return self.forms.tag(value)

    def made(self, plain: Any) -> Any:
        return plain


class TypedDictForm(TypedForm):
    """TypedDicts."""

    def __init__(self, forms: FormsOfAll, kind: type, hints: dict[str, Any]) -> None:
        super().__init__(forms, kind)
        self._hints = {name: forms.of(hint) for name, hint in hints.items()}
        required: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        # Where annotations are text, `NotRequired` is not seen when the class is made.
        self._needed = {name for name in required if typing.get_origin(hints.get(name)) is not typing.NotRequired}

    def fits(self, value: Any) -> bool:
        return isinstance(value, dict) and self._needed <= value.keys()

    def plain(self, value: Any) -> Any:
        if not all(type(key) is str for key in value) or TAG in value:
            return self.forms.any.write(value)
        form_of, other = self._hints.get, self.forms.any
        return {key: form_of(key, other).write(each) for key, each in value.items()}

    def made(self, plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise self.refused(plain)
        if missing := self._needed - plain.keys():
            raise ValueError(f"{self.kind.__name__} lacks {', '.join(sorted(missing))}")
        form_of, other = self._hints.get, self.forms.any
        return {key: form_of(key, other).read(each) for key, each in plain.items()}


class DataclassForm(TypedForm):
    """Dataclasses, made again by their `__init__`."""

    def __init__(self, forms: FormsOfAll, kind: Any, hints: dict[str, Any]) -> None:
        super().__init__(forms, kind)
        self._fields = {each.name: forms.of(hints.get(each.name, Any)) for each in dataclasses.fields(kind)}
        self._made_with = {each.name: each.init for each in dataclasses.fields(kind)}

    def plain(self, value: Any) -> Any:
        if type(value) is not self.kind:
            return self.forms.of(type(value)).write(value)
        return {name: form.write(getattr(value, name)) for name, form in self._fields.items()}

    def made(self, plain: Any) -> Any:
        if isinstance(plain, self.kind):
            return plain
        if not isinstance(plain, dict):
            raise self.refused(plain)
        found = {name: form.read(plain[name]) for name, form in self._fields.items() if name in plain}
        made = self.kind(**{name: each for name, each in found.items() if self._made_with[name]})
        for name, each in found.items():
            if not self._made_with[name]:
                object.__setattr__(made, name, each)
        return made


class NamedTupleForm(TypedForm):
    """Named tuples, as lists."""

    def __init__(self, forms: FormsOfAll, kind: Any, hints: dict[str, Any]) -> None:
        super().__init__(forms, kind)
        self._fields = [forms.of(hints.get(name, Any)) for name in kind._fields]

    def plain(self, value: Any) -> Any:
        kind: type = type(value)
        if kind is not self.kind:
            return self.forms.of(kind).write(value)
        return [form.write(each) for form, each in zip(self._fields, tuple(value), strict=True)]

    def made(self, plain: Any) -> Any:
        if isinstance(plain, self.kind):
            return plain
        if type(plain) is not list:
            raise self.refused(plain)
        return self.kind(*(form.read(each) for form, each in zip(self._fields, plain, strict=False)))


class StructForm(TypedForm):
    """msgspec's own classes, as msgspec writes them."""

    def __init__(self, forms: FormsOfAll, kind: type, annotation: Any) -> None:
        super().__init__(forms, kind)
        self._annotation = annotation

    def plain(self, value: Any) -> Any:
        return msgspec.to_builtins(value, enc_hook=self.forms.any.write, str_keys=True)

    def made(self, plain: Any) -> Any:
        if isinstance(plain, self.kind):
            return plain
        return msgspec.convert(
            plain,
            self._annotation,
            builtin_types=(),
            str_keys=True,
            dec_hook=lambda kind, each: self.forms.of(kind).read(each),
        )


class ModelForm(TypedForm):
    """Models of pydantic, as pydantic writes them."""

    def __init__(self, forms: FormsOfAll, kind: Any, annotation: Any) -> None:
        import pydantic  # noqa: PLC0415 - the class says that it is installed

        super().__init__(forms, kind)
        self._adapter = pydantic.TypeAdapter(annotation)
        self._is_model = hasattr(kind, "model_dump")
        self._by_alias = _reads_only_aliases(kind)

    def plain(self, value: Any) -> Any:
        if self._is_model:
            return value.model_dump(mode="json", by_alias=self._by_alias or None)
        return self._adapter.dump_python(value, mode="json")

    def made(self, plain: Any) -> Any:
        if isinstance(plain, self.kind):
            return plain
        raw = msgspec.json.encode(plain)
        try:
            return self._adapter.validate_json(raw)
        except ValueError:
            if not self._by_alias:
                raise
            return self._adapter.validate_json(raw, by_alias=False, by_name=True)  # a peer wrote names


def _reads_only_aliases(kind: Any) -> bool:
    """Whether a model is read by the aliases that it can be written by, and not by the names of its fields."""
    fields = getattr(kind, "model_fields", {}).values()
    config = getattr(kind, "model_config", {})
    if config.get("populate_by_name") or config.get("validate_by_name"):
        return False
    given = [each for each in fields if each.validation_alias is not None]
    return bool(given) and all(each.validation_alias == each.serialization_alias for each in given)
