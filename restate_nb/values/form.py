"""What a form is, and what those of annotated values share."""

# ruff: noqa: D102 - the methods are those of a form, or of a context, and do what these do

from __future__ import annotations

from typing import Any, Protocol

from restate_nb.values.classes import Classes
from restate_nb.values.codec import revived
from restate_nb.values.tags import TAG


class Form(Protocol):
    """How values of one type are written and read."""

    def fits(self, value: Any) -> bool:
        """Whether the value is of this type, as far as a look at it tells."""
        ...

    def write(self, value: Any) -> Any:
        """The value as JSON's own types."""
        ...

    def read(self, plain: Any) -> Any:
        """The value, of what JSON made of it."""
        ...


class FormsOfAll(Protocol):
    """The forms of all annotations, as a form sees them."""

    classes: Classes

    @property
    def any(self) -> Form:
        """The form of values of which the annotation says nothing."""
        ...

    def of(self, annotation: Any) -> Form:
        """The form of an annotation."""
        ...

    def tag(self, value: Any) -> Any:
        """A value as the codec writes it, tagged."""
        ...


class TypedForm:
    """What the forms of annotated values share: what does not fit is written as what it is."""

    def __init__(self, forms: FormsOfAll, kind: type) -> None:
        self.forms = forms
        self.kind = kind

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def write(self, value: Any) -> Any:
        return self.plain(value) if self.fits(value) else self.forms.any.write(value)

    def read(self, plain: Any) -> Any:
        if type(plain) is dict and TAG in plain:
            plain = revived(plain, self.forms.classes)
        return None if plain is None else self.made(plain)

    def plain(self, value: Any) -> Any:
        raise NotImplementedError

    def made(self, plain: Any) -> Any:
        raise NotImplementedError

    def refused(self, plain: Any) -> ValueError:
        return ValueError(f"{str(plain)[:80]!r} is no {self.kind.__name__}")
