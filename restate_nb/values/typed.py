"""Values as JSON by their annotation, both ways, so that what is annotated comes back as what it was.

The annotation says what is written: `list[Model]` is a list of objects, a `datetime` its text, as any peer reads and
writes it that knows no more than JSON. Where it says nothing (`Any`, or none), the value does: what is JSON's own and
what has fields is plain, and what JSON has no word for is tagged as the codec does (`{"$rnb": "datetime", ...}`), which
only restate_nb reads. Alternatives that plain JSON cannot tell apart are tagged as well.

`forms.py` has what each type is.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Final

import msgspec

from restate_nb.errors import NotEncodable
from restate_nb.values.classes import Classes
from restate_nb.values.forms import Forms
from restate_nb.values.structure import classes_in

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class Typed:
    """How values of one type are written and read.

    Args:
        annotation: the type; `Any` where it is not known.
        own: whether none but this program reads what it writes: then tuples and such, too, come back as what they were
            where the annotation says nothing.
        classes: those of the objects that come back, too, where the annotation says nothing; without it they are
            written as their fields, and are plain data when they are read.

    Example:
        >>> Typed(list[int | None]).write([1, None])
        b'[1,null]'
        >>> Typed(tuple[int, str]).read(Typed(tuple[int, str]).write((1, "a")))
        (1, 'a')
    """

    def __init__(self, annotation: Any = Any, *, own: bool = False, classes: Classes | None = None) -> None:
        known = Classes(classes_in(annotation)) if classes is None else classes
        forms = Forms(own=own, objects=classes is not None, classes=known)
        self._form = forms.of(annotation)

    def write(self, value: Any) -> bytes:
        """The value as JSON.

        Raises:
            NotEncodable: it holds what would not come back.
        """
        try:
            plain = self._form.write(value)
            try:
                return _encode(plain)
            except UnicodeEncodeError:  # half of a pair of surrogates
                return json.dumps(plain).encode()
        except RecursionError:
            raise NotEncodable("The value is nested too deeply, or contains itself. Pass plain, flat data.") from None

    def read(self, raw: bytes) -> Any:
        """The value that was written, by this or by a peer that wrote JSON.

        Raises:
            ValueError: it is no such value.
        """
        try:
            try:
                plain = _decode(raw)
            except msgspec.DecodeError:
                plain = json.loads(raw)  # it knows NaN and half of a pair of surrogates, which peers may write
            return self._form.read(plain)
        except RecursionError:
            raise ValueError("It is nested too deeply.") from None
        except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=1024)
def _typed(annotation: Any, own: bool) -> Typed:
    return Typed(annotation, own=own)


def typed(annotation: Any, *, own: bool = False) -> Typed:
    """The `Typed` of an annotation; made once where it can be looked up."""
    try:
        return _typed(annotation, own)
    except TypeError:  # an annotation with metadata that cannot be hashed
        return Typed(annotation, own=own)
