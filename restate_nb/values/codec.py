"""Values to JSON and back, so that what a function gets and returns is the same before and after a crash.

JSON knows six types; a notebook knows more. What JSON has no word for is written as an object with the key `$rnb`
(`{"$rnb": "datetime", "v": "2026-01-31T12:00:00"}`), so that it comes back as what it was, whether or not the
function is annotated. What would come back as something else (a subclass of `str`, a `np.matrix`) is refused. Nothing
is pickled: decoding runs no code of the sender.

Leaves are written by `leaves.py` and `arrays.py`; objects with fields (dataclasses, enums, pydantic models) by
`classes.py`, and only such of classes that the function is known to use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import isfinite
from typing import Any, Final

import msgspec

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values import arrays, leaves
from restate_nb.values.classes import KINDS, Classes, Shape, fields_shown, is_structured, read_fields
from restate_nb.values.plain import (
    AS_THEY_ARE,
    FEW,
    HIGHEST,
    HOLDERS,
    KEYS,
    LOWEST,
    are_scalars,
    is_plain_dict,
    is_plain_list,
)
from restate_nb.values.tags import TAG, Read, Write, tagged

_TAG_BYTES: Final = b'"$rnb"'
_DOLLAR: Final = ord("$")  # a byte is looked for at a fraction of what bytes are

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The largest item or value, in bytes of JSON. restate-server retries a message over 32 MiB for ever, and a group or an
output may hold one value of this size beside as much again of others."""

MAX_DEPTH: Final = 200
"""How many lists and objects of JSON may lie in one another. Readers of JSON fail at depths of their own, some by a
crash; what is written is within the reach of all of them, whatever the recursion limit is."""

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder()
_decode = _decoder.decode


def encode(value: Any, classes: Classes | None = None) -> bytes:
    """Write a value as JSON.

    Args:
        value: what is to be kept.
        classes: those that can be read back, see `Classes`; None for any.

    Raises:
        NotEncodable: the value holds something that would not come back as it was, or is larger than
            `MAX_VALUE_BYTES`.
    """
    kind = type(value)
    try:
        if (kind is int and LOWEST <= value <= HIGHEST) or (kind is float and value - value == 0):  # it is finite
            return _encode(value)
        if (
            kind in AS_THEY_ARE
            or (kind is dict and is_plain_dict(value, MAX_DEPTH))
            or (kind is list and is_plain_list(value, MAX_DEPTH))
        ):
            raw = _encode(value)
        elif kind is tuple and is_plain_list(value, MAX_DEPTH - 1):
            raw = b'{"$rnb":"tuple","v":%b}' % _encode(value)
        else:
            raw = _encode(writer_for(classes).whole(value))
    except UnicodeEncodeError:
        raw = _encoded_in_any_text(Writer, value, classes)
    except RecursionError:
        raise _too_deep() from None
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
        try:
            return _encode(_SHOWN.whole(value))
        except UnicodeEncodeError:
            return _encoded_in_any_text(_Shown, value, None)
        except RecursionError:
            raise _too_deep() from None
    except NotEncodable:  # nested too deeply
        return _encode(leaves.shown_text(leaves.repr_of(value)))


def _encoded_in_any_text(writer: type[Writer], value: object, classes: Classes | None) -> bytes:
    """The value as JSON, where some text in it is not Unicode."""
    try:
        return _encode(writer(classes, True).whole(value))
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError as error:
        raise NotEncodable(f"A name in it is not valid Unicode text: {error}. Rename it.") from None


def writer_for(classes: Classes | None) -> Writer:
    """What writes values with objects of these classes."""
    if classes is None:
        return _OF_ANY_CLASS
    if classes.writer is None:
        classes.writer = Writer(classes, False)
    writer: Writer = classes.writer
    return writer


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
    if type(raw) is not bytes:
        raw = bytes(raw)
    try:
        value = _decode(raw)
        return _reader_for(classes).whole(value, raw) if _DOLLAR in raw and raw.find(_TAG_BYTES) >= 0 else value
    except RecursionError:
        raise _read_too_deep() from None


def _read_too_deep() -> ValueError:
    return ValueError("Not a value that restate_nb wrote: it is nested too deeply.")


def calling(fn: Callable[[Any], Any], classes: Classes | None) -> Callable[[bytes], Any]:
    """What calls a function with the value that is read from bytes: `fn(decode(raw, classes))`, at less cost."""

    def call(raw: bytes) -> Any:
        try:
            value = _decode(raw)
        except RecursionError:
            raise _read_too_deep() from None
        if type(raw) is not bytes or (_DOLLAR in raw and raw.find(_TAG_BYTES) >= 0):
            value = decode(raw, classes)
        return fn(value)

    return call


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
        return [_one_of_column(raw, classes, instead) for raw in values]
    if _TAG_BYTES in lines:
        reader = _reader_for(classes)
        for place, raw in enumerate(values):
            if _DOLLAR in raw and raw.find(_TAG_BYTES) >= 0:
                try:
                    column[place] = _revived(reader, column[place], raw)
                except Exception as error:  # a class of the user's own may do anything when it is made again
                    if instead is None:
                        raise
                    column[place] = instead(error, raw)
    return column


def _revived(reader: _Reader, value: Any, raw: bytes) -> Any:
    try:
        return reader.whole(value, raw)
    except RecursionError:
        raise _read_too_deep() from None


def _one_of_column(raw: bytes, classes: Classes | None, instead: Instead | None) -> Any:
    if instead is None:
        return decode(raw, classes)
    try:
        return decode(raw, classes)
    except Exception as error:  # as above
        return instead(error, raw)


def has_objects(raw: bytes | msgspec.Raw) -> bool:
    """Whether a value may hold objects that carry their class; what holds none may be an earlier version's."""
    raw = bytes(raw)
    return _DOLLAR in raw and _OBJECT.search(raw) is not None


_OBJECT = re.compile(rb'"\$rnb":"(?:object|model|enum|flag|namedtuple|scalar)"')


# ---------------------------------------------------------------- writing

Way = Callable[[Any, int], Any]
"""Writes a value of one class as JSON's own types, all else tagged; given how many levels may still follow."""


class Writer:
    """Writes values. `room` is how many levels may still follow."""

    __slots__ = ("_ways", "classes", "surrogates")

    def __init__(self, classes: Classes | None, surrogates: bool) -> None:
        self.classes = classes
        self.surrogates = surrogates
        self._ways: dict[type, Way] = {**_LEAVES, list: self._list, dict: self._dict, tuple: self._tuple}
        if surrogates:
            self._ways[str] = lambda value, _: self.text(value)

    def whole(self, value: Any) -> Any:
        """A value that is not plain as JSON's own types, all else tagged."""
        kind = type(value)
        if kind is list:
            return self.elements(value, MAX_DEPTH)
        if kind is dict:
            return self._items(value, MAX_DEPTH)
        if kind is tuple:
            return {TAG: "tuple", "v": self.elements(value, MAX_DEPTH - 1)}
        return self.plain(value, MAX_DEPTH)

    def plain(self, value: Any, room: int) -> Any:
        """The value as JSON's own types, all else tagged."""
        kind = type(value)
        way = self._ways.get(kind)
        return self._of_other(value, kind, room) if way is None else way(value, room)

    def text(self, value: str) -> object:
        """Text, where some of it is not Unicode."""
        return leaves.text(value)

    def _tuple(self, value: tuple[Any, ...], room: int) -> Any:
        return {TAG: "tuple", "v": self._list(value, room - 1)}

    def _list(self, value: list[Any] | tuple[Any, ...], room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        return value if not self.surrogates and are_scalars(value) else self.elements(value, room)

    def elements(self, value: list[Any] | tuple[Any, ...], room: int) -> Any:
        """The elements of a list or tuple, where not all of them are plain."""
        plain, room = self.plain, room - 1
        if self.surrogates:
            return [plain(each, room) for each in value]
        if len(value) > FEW:
            kinds = set(map(type, value))
            if kinds == _TUPLES and room > 1 and are_scalars([*chain.from_iterable(value)]):
                return [{TAG: "tuple", "v": each} for each in value]
            way = self._ways.get(*kinds) if len(kinds) == 1 else None
            if way is not None:
                return [way(each, room) for each in value]
        return [each if type(each) in AS_THEY_ARE else plain(each, room) for each in value]

    def _dict(self, value: dict[Any, Any], room: int) -> Any:
        if room <= 0:
            raise _too_deep()
        flat = not self.surrogates and KEYS.issuperset(map(type, value)) and TAG not in value
        return value if flat and are_scalars(value.values()) else self._items(value, room)

    def _items(self, value: dict[Any, Any], room: int) -> Any:
        plain = self.plain
        if KEYS.issuperset(map(type, value)) and TAG not in value:
            if not self.surrogates:
                room -= 1
                return {key: each if type(each) in AS_THEY_ARE else plain(each, room) for key, each in value.items()}
            if all(type(leaves.text(key)) is str for key in value):
                return {key: plain(each, room - 1) for key, each in value.items()}
        if room <= 3:
            raise _too_deep()
        room -= 3
        return tagged("dict", [[plain(key, room), plain(each, room)] for key, each in value.items()])

    def _of_other(self, value: Any, kind: type, room: int) -> object:
        if room <= 2:
            raise _too_deep()
        return self.other(value, kind, room)

    def other(self, value: Any, kind: type, room: int) -> object:
        """Containers but lists and dicts, numpy, pandas, and objects with fields."""
        way = self.way_to(kind)
        if way is None:
            raise leaves.refusal(value, kind)
        if self.classes is not None or not is_structured(kind):  # else it would be kept for ever
            self._ways[kind] = way
        return way(value, room)

    def way_to(self, kind: type) -> Way | None:
        """How objects of this class are written; None where they cannot be.

        Raises:
            NotEncodable: they could not be read back.
        """
        container = leaves.CONTAINERS.get(kind)
        if container is not None:
            return self._within(container)
        if is_structured(kind):
            return self._of_class(Shape(kind) if self.classes is None else self.classes.shape_to_write(kind))
        write = leaves.rare(kind) or arrays.writer_of(kind)
        return None if write is None else self._within(write)

    def _within(self, write: Callable[[Any, Write], object | None]) -> Way:
        def way(value: Any, room: int) -> object:
            if room <= 2:
                raise _too_deep()
            found = write(value, lambda inner: self.plain(inner, room - 2))
            if found is None:
                raise leaves.refusal(value, type(value))
            return found

        return way

    def _of_class(self, shape: Shape) -> Way:
        whole, state_of, name = self._within(shape.write), shape.state_of, shape.name
        if shape.is_plain_row:
            return self._of_rows(shape)
        if state_of is None:
            return whole

        def way(value: Any, room: int) -> object:
            state = state_of(value)
            if state is None or room <= 2:
                return whole(value, room)
            if self.surrogates or not are_scalars(state.values()):
                plain, room = self.plain, room - 2
                state = {key: plain(each, room) for key, each in state.items()}
            return {TAG: "object", "v": state, "of": name}

        return way

    def _of_rows(self, shape: Shape) -> Way:
        name, fields = shape.name, shape.fields

        def way(value: Any, room: int) -> object:
            if room <= 2:
                raise _too_deep()
            if self.surrogates or not are_scalars(value):
                plain, room = self.plain, room - 2
                value = [plain(each, room) for each in value]
            return {TAG: "namedtuple", "v": value, "of": name, "fields": fields}

        return way


def _int(value: int, _: int) -> object:
    return value if LOWEST <= value <= HIGHEST else tagged("int", hex(value))


def _float(value: float, _: int) -> object:
    return value if isfinite(value) else tagged("float", str(value))


def _leaf(write: Callable[[Any], object]) -> Way:
    return lambda value, _: write(value)


_TUPLES: Final = frozenset({tuple})
_LEAVES: Final[dict[type, Way]] = {
    **{kind: _leaf(write) for kind, write in leaves.WRITERS.items()},
    **{each: _leaf(lambda value: value) for each in (str, bool, type(None))},
    int: _int,
    float: _float,
}


class _Shown(Writer):
    """Writes what is shown elsewhere, and not read back."""

    __slots__ = ()

    def text(self, value: str) -> object:
        return leaves.shown_text(value)

    def _items(self, value: dict[Any, Any], room: int) -> Any:
        if self.surrogates:
            value = {leaves.shown_text(key) if type(key) is str else key: each for key, each in value.items()}
        return super()._items(value, room)

    def other(self, value: Any, kind: type, room: int) -> object:
        shown = fields_shown(value, lambda inner: self.plain(inner, room - 2))
        if shown is not None:
            return shown[0]
        try:
            way = self.way_to(kind)
            if way is None:
                raise leaves.refusal(value, kind)
            return way(value, room)
        except NotEncodable as error:
            if str(error) == str(_too_deep()):
                raise
            return leaves.shown_text(leaves.repr_of(value))


_OF_ANY_CLASS: Final = Writer(None, False)
_SHOWN: Final = _Shown(None, False)


def plain_of(value: Any, classes: Classes | None = None) -> Any:
    """A value as JSON's own types, all else tagged: what `encode` writes.

    Raises:
        NotEncodable: as in `encode`.
    """
    return writer_for(classes).plain(value, MAX_DEPTH)


# ---------------------------------------------------------------- reading


def revived(plain: Any, classes: Classes | None = None) -> Any:
    """The value of what JSON made of `plain_of`.

    Raises:
        NotReadable: as in `decode`.
        ValueError: as in `decode`.
    """
    return _reader_for(classes).revive(plain)


_READERS: dict[str, Callable[[dict[str, Any], Read], Any]] = {**leaves.READERS, **arrays.READERS}


class _Reader:
    __slots__ = ("_classes",)

    def __init__(self, classes: Classes | None) -> None:
        self._classes = classes

    def whole(self, value: Any, raw: bytes) -> Any:
        """What was written, of what JSON made of it. `raw` has a tag in it."""
        if raw.count(b"$") == 1 and type(value) is dict:  # so that there is nothing to look for within it
            tag = value.get(TAG)
            if tag is not None:
                return self._tagged(value, tag, _as_it_is)
        return self.revive(value)

    def revive(self, value: Any) -> Any:
        """The same, of a value that may lie within another."""
        kind = type(value)
        if kind is list:
            return self._elements(value)
        if kind is not dict:
            return value
        tag = value.get(TAG)
        if tag is not None:
            return self._tagged(value, tag, self.revive)
        if HOLDERS.isdisjoint(map(type, value.values())):
            return value
        revive = self.revive
        return {key: revive(each) if type(each) in HOLDERS else each for key, each in value.items()}

    def _tagged(self, value: dict[str, Any], tag: Any, read: Read) -> Any:
        try:
            if tag == "tuple":
                content = value["v"]
                return tuple(read(content) if type(content) is list else map(read, content))
            if tag in KINDS:
                return read_fields(value, read, self._classes)
            return _READERS[tag](value, read)
        except ImportError as error:
            raise NotReadable(f"It needs a package that is not here: {error}.") from error
        except (LookupError, TypeError, AttributeError, ArithmeticError, OSError, re.error) as error:
            # OSError: a zone's name
            raise ValueError(f"Not a value that restate_nb wrote: {str(value)[:200]}") from error

    def _elements(self, value: list[Any]) -> list[Any]:
        kinds = set(map(type, value))
        if HOLDERS.isdisjoint(kinds):
            return value
        revive = self.revive
        if kinds == _DICTS and {each.get(TAG) == "tuple" for each in value} == {True}:
            contents = [each.get("v") for each in value]
            if set(map(type, contents)) == _LISTS and HOLDERS.isdisjoint(map(type, chain.from_iterable(contents))):
                return list(map(tuple, contents))
        return [revive(each) if type(each) in HOLDERS else each for each in value]


def _as_it_is(value: Any) -> Any:
    return value


_DICTS: Final = frozenset({dict})
_LISTS: Final = frozenset({list})
_READER_OF_NONE: Final = _Reader(None)


def _reader_for(classes: Classes | None) -> _Reader:
    if classes is None:
        return _READER_OF_NONE
    if classes.reader is None:
        classes.reader = _Reader(classes)
    reader: _Reader = classes.reader
    return reader
