"""Values to JSON and back, so that what a function gets and returns is the same before and after a crash.

JSON knows six types; a notebook knows more. What JSON has no word for is written as an object with the key `$rnb`
(`{"$rnb": "datetime", "v": "2026-01-31T12:00:00"}`), so that it comes back as what it was, whether or not the
function is annotated. What would come back as something else (a subclass of `str`, a `np.matrix`) is refused. Nothing
is pickled: decoding runs no code of the sender.

Leaves are written by `leaves.py` and `arrays.py`; objects with fields (dataclasses, enums, pydantic models) by
`objects.py`, and only such of classes that the function is known to use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from restate_nb.engine import arrays, leaves, objects
from restate_nb.engine.objects import Classes
from restate_nb.engine.tags import TAG, Read, Write, tagged
from restate_nb.errors import NotEncodable, NotReadable

_TAG_BYTES = b'"$rnb"'

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The largest item or value, in bytes of JSON. restate-server retries a message over 32 MiB for ever, and a group or an
output may hold one value of this size beside as much again of others."""

MAX_DEPTH: Final = 200
"""How many lists and objects of JSON may lie in one another. Readers of JSON fail at depths of their own, some by a
crash; what is written is within the reach of all of them, whatever the recursion limit is."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
_AS_THEY_ARE = frozenset({str, bool, type(None)})
_KEYS = frozenset({str})
_INTS = frozenset({int})
_FLOATS = frozenset({float})
_MIXED = frozenset({object})
_FEW = 8  # below it, looking at each costs less than looking for one kind


def encode(value: object, classes: Classes | None = None) -> bytes:
    """Write a value as JSON.

    Args:
        value: what is to be kept.
        classes: those that can be read back, see `Classes`; None for any.

    Raises:
        NotEncodable: the value holds something that would not come back as it was, or is larger than
            `MAX_VALUE_BYTES`.
    """
    kind = type(value)
    if kind is int and -(2**63) <= value < 2**63:  # type: ignore[operator]
        return _encoder.encode(value)
    if kind in _AS_THEY_ARE:
        try:
            raw = _encoder.encode(value)
        except UnicodeEncodeError:
            raw = _encoded(Writer, value, classes)
    else:
        raw = _encoded(Writer, value, classes)
    if len(raw) > MAX_VALUE_BYTES:
        raise NotEncodable(
            f"The value takes {len(raw) / 1e6:,.1f} MB as JSON, and {MAX_VALUE_BYTES / 1e6:,.1f} MB can be kept. "
            "Write it to a file or an object store, and return the path."
        )
    return raw


def as_shown(value: object) -> bytes:
    """The value as JSON for people and other programs: objects as their fields, enums as their values, what has no
    form of JSON as its `repr`. It does not come back as what it was. Never raises."""
    try:
        return _encoded(_Shown, value, None)
    except NotEncodable:  # nested too deeply
        return _encoder.encode(leaves.shown_text(leaves.repr_of(value)))


def _encoded(writer: type[Writer], value: object, classes: Classes | None) -> bytes:
    try:
        usual = _WRITERS.get(writer) if classes is None else classes.writer
        if usual is None:
            usual = writer(classes, False)
            if classes is not None:
                classes.writer = usual
        return _encoder.encode(usual.plain(value, MAX_DEPTH))
    except UnicodeEncodeError:
        pass
    except RecursionError:
        raise _too_deep() from None
    try:
        return _encoder.encode(writer(classes, True).plain(value, MAX_DEPTH))
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError as error:
        raise NotEncodable(f"A name in it is not valid Unicode text: {error}. Rename it.") from None


_WRITERS: Final[dict[type[Writer], Writer]] = {}


def _too_deep() -> NotEncodable:
    return NotEncodable(
        f"The value is nested too deeply, or contains itself: {MAX_DEPTH} levels can be kept. Return plain, flat data."
    )


def decode(raw: bytes | msgspec.Raw, classes: Classes | None = None) -> Any:
    """Read back what `encode` wrote.

    Args:
        raw: what it wrote.
        classes: those that objects with fields may be of.

    Raises:
        NotReadable: it holds an object of a class that is not among `classes`, or needs a package that is not there.
        ValueError: it is not what `encode` writes. (NotReadable is a ValueError, too.)
    """
    try:
        value = _decoder.decode(raw)
    except RecursionError:
        raise _read_too_deep() from None
    return _revived(value, classes) if _TAG_BYTES in bytes(raw) else value


def _read_too_deep() -> ValueError:
    return ValueError("Not a value that restate_nb wrote: it is nested too deeply.")


Instead = Callable[[Exception, bytes], Any]
"""What stands for a value that cannot be read back, given why not and its bytes."""


def decode_column(values: Sequence[bytes], classes: Classes | None = None, instead: Instead | None = None) -> list[Any]:
    """Read back many values that `encode` wrote, at a fraction of what `decode` takes for each.

    Args:
        values: what it wrote.
        classes: as in `decode`.
        instead: what stands for those that cannot be read back; without it, the first such raises.

    Raises:
        NotReadable: as in `decode`, and only without `instead`.
        ValueError: as in `decode`, and only without `instead`.
    """
    column: list[Any] = []
    for some in in_parts(values):
        column += _part_of_column(some, classes, instead)
    return column


def in_parts(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Values in parts of some MB: so much is copied at one time."""
    start = 0
    while start < len(values):
        end, size = min(start + _AT_ONCE, len(values)), 0
        some = values[start:end]
        if sum(map(len, some)) > _AT_ONCE_BYTES:
            for count, each in enumerate(some, 1):
                size += len(each)
                if size > _AT_ONCE_BYTES:
                    some = some[:count]
                    break
        yield some
        start += len(some)


_AT_ONCE: Final = 10_000
_AT_ONCE_BYTES: Final = 4 * 1024 * 1024


def _part_of_column(values: Sequence[bytes], classes: Classes | None, instead: Instead | None) -> list[Any]:
    lines = b"\n".join(values)
    try:
        column = _decoder.decode_lines(lines)
    except (ValueError, RecursionError):
        column = []
    if len(column) != len(values) or lines.count(b"\n") != len(values) - 1:
        return [_read(decode, raw, raw, classes, instead) for raw in values]
    if _TAG_BYTES in lines:
        for place, raw in enumerate(values):
            if _TAG_BYTES in raw:
                column[place] = _read(_revived, column[place], raw, classes, instead)
    return column


def _read(
    way: Callable[[Any, Classes | None], Any], of: Any, raw: bytes, classes: Classes | None, instead: Instead | None
) -> Any:
    try:
        return way(of, classes)
    except Exception as error:  # a class of the user's own may do anything when it is made again
        if instead is None:
            raise
        return instead(error, raw)


def _revived(value: Any, classes: Classes | None) -> Any:
    """What was written, of what JSON made of it."""
    try:
        return _Reader(classes).revive(value)
    except RecursionError:
        raise _read_too_deep() from None


def has_objects(raw: bytes | msgspec.Raw) -> bool:
    """Whether a value may hold objects that carry their class; what holds none may be an earlier version's."""
    return _OBJECT.search(bytes(raw)) is not None


_OBJECT = re.compile(rb'"\$rnb":"(?:object|model|enum|flag|namedtuple|scalar)"')


# ---------------------------------------------------------------- writing


class Writer:
    """Writes one value. `room` is how many levels may still follow."""

    __slots__ = ("classes", "surrogates")

    def __init__(self, classes: Classes | None, surrogates: bool) -> None:
        self.classes = classes
        self.surrogates = surrogates

    def plain(self, value: Any, room: int) -> Any:
        """The value as JSON's own types, all else tagged."""
        kind = type(value)
        if kind in _AS_THEY_ARE:
            return self.text(value) if kind is str and self.surrogates else value
        if kind is int:
            return value if -(2**63) <= value < 2**64 else tagged("int", hex(value))
        if kind is float:
            return value if math.isfinite(value) else tagged("float", str(value))
        if kind is list:
            return self._list(value, room)
        if kind is dict:
            return self._dict(value, room)
        if kind is tuple:
            return tagged("tuple", self._list(value, room - 1))
        leaf = leaves.WRITERS.get(kind)
        if leaf is not None:
            return leaf(value)
        if room <= 2:
            raise _too_deep()
        return self.other(value, kind, lambda inner: self.plain(inner, room - 2))

    def text(self, value: str) -> object:
        """Text, where some of it is not Unicode."""
        return leaves.text(value)

    def _list(self, value: list[Any] | tuple[Any, ...], room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        kinds = set(map(type, value)) if len(value) > _FEW else _MIXED
        if kinds <= _AS_THEY_ARE:
            if not self.surrogates:
                return value
        elif kinds == _FLOATS:
            if all(map(math.isfinite, value)):
                return value
        elif kinds == _INTS and min(value) >= -(2**63) and max(value) < 2**64:
            return value
        plain, room = self.plain, room - 1
        if self.surrogates:
            return [plain(each, room) for each in value]
        return [each if type(each) in _AS_THEY_ARE else plain(each, room) for each in value]

    def _dict(self, value: dict[Any, Any], room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        plain = self.plain
        if _KEYS.issuperset(map(type, value)) and TAG not in value:
            if not self.surrogates:
                room -= 1
                return {key: each if type(each) in _AS_THEY_ARE else plain(each, room) for key, each in value.items()}
            if all(type(leaves.text(key)) is str for key in value):
                return {key: plain(each, room - 1) for key, each in value.items()}
        if room <= 3:
            raise _too_deep()
        room -= 3
        return tagged("dict", [[plain(key, room), plain(each, room)] for key, each in value.items()])

    def other(self, value: Any, kind: type, write: Write) -> object:
        """Containers but lists and dicts, numpy, pandas, and objects with fields."""
        container = leaves.CONTAINERS.get(kind)
        if container is not None:
            return container(value, write)
        for writer in (objects.written, leaves.rare, arrays.written):
            found = writer(value, kind, write, self.classes)
            if found is not None:
                return found
        raise leaves.refusal(value, kind)


class _Shown(Writer):
    """Writes what is shown elsewhere, and not read back."""

    __slots__ = ()

    def text(self, value: str) -> object:
        return leaves.shown_text(value)

    def _dict(self, value: dict[Any, Any], room: int) -> Any:
        if self.surrogates:
            value = {leaves.shown_text(key) if type(key) is str else key: each for key, each in value.items()}
        return super()._dict(value, room)

    def other(self, value: Any, kind: type, write: Write) -> object:
        shown = objects.shown(value, write)
        if shown is not None:
            return shown[0]
        try:
            return super().other(value, kind, write)
        except NotEncodable as error:
            if str(error) == str(_too_deep()):
                raise
            return leaves.shown_text(leaves.repr_of(value))


_WRITERS.update({Writer: Writer(None, False), _Shown: _Shown(None, False)})

# ---------------------------------------------------------------- reading

_READERS: dict[str, Callable[[dict[str, Any], Read], Any]] = {**leaves.READERS, **arrays.READERS}


class _Reader:
    __slots__ = ("_classes",)

    def __init__(self, classes: Classes | None) -> None:
        self._classes = classes

    def revive(self, value: Any) -> Any:
        if type(value) is list:
            return [self.revive(each) for each in value]
        if type(value) is dict:
            kind = value.get(TAG)
            if kind is None:
                return {key: self.revive(each) for key, each in value.items()}
            try:
                if kind in objects.KINDS:
                    return objects.read(value, self.revive, self._classes)
                return _READERS[kind](value, self.revive)
            except ImportError as error:
                raise NotReadable(f"It needs a package that is not here: {error}.") from error
            except (LookupError, TypeError, AttributeError, ArithmeticError, OSError, re.error) as error:
                # OSError: a zone's name
                raise ValueError(f"Not a value that restate_nb wrote: {str(value)[:200]}") from error
        return value
