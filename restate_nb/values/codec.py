"""Values to bytes and back, so that what a function gets and returns is the same before and after a crash.

JSON knows six types; a notebook knows more. What JSON has no word for is written as an object with the key `$rnb`
(`{"$rnb": "datetime", "v": "2026-01-31T12:00:00"}`), so that it comes back as what it was, whether or not the
function is annotated. What would come back as something else (a subclass of `str`, a `np.matrix`) is refused. Nothing
is pickled unless the user asks for it: decoding runs no code of the sender.

Where there is a store, a large value is one run of its JSON and its parts (`parts.py`), and what stands in a journal
for it is a reference (`reference.py`). All three can be decoded.

Values are written by `writing.py`, and read by `reading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values import leaves
from restate_nb.values.classes import Classes
from restate_nb.values.parts import (
    LARGE_BYTES,
    MARK,
    HasParts,
    check_size,
    encode_inline,
    encode_joined,
    encode_small,
    is_joined,
    join,
    split,
)
from restate_nb.values.pickles import as_pickle
from restate_nb.values.plain import AS_THEY_ARE, HIGHEST, LOWEST, is_plain_dict, is_plain_list
from restate_nb.values.reading import Reader, ReaderOfParts, reader_for
from restate_nb.values.reference import PREFIX, is_reference, reference_of
from restate_nb.values.writing import MAX_DEPTH, SHOWN, Shown, Writer, too_deep, writer_for

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TAG_BYTES: Final = b'"$rnb"'
_DOLLAR: Final = ord("$")  # a byte is looked for at a fraction of what bytes are

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The largest item or value, in bytes of JSON. restate-server retries a message over 32 MiB for ever, and a group or an
output may hold one value of this size beside as much again of others. `parts.MAX_JOINED_BYTES` is for those that lie in
a store."""

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder()
_decode = _decoder.decode


def encode(value: Any, classes: Classes | None = None) -> bytes:
    """Write a value: as JSON, or, where `classes.parts` is set and it is large, as one run of JSON and parts.

    Args:
        value: what is to be kept.
        classes: those that can be read back, see `Classes`; None for any.

    Raises:
        NotEncodable: the value holds something that would not come back as it was, or is larger than
            `MAX_VALUE_BYTES`, or `MAX_JOINED_BYTES` with parts.
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
            raw = _encode_slowly(value, classes)
    except (UnicodeEncodeError, RecursionError):
        raw = _encode_slowly(value, classes)
    return raw if len(raw) < LARGE_BYTES else _large(raw, classes)


def _encode_slowly(value: Any, classes: Classes | None) -> bytes:
    """A value that is not plain."""
    try:
        try:
            return _bytes_of(writer_for(classes).whole(value), classes)
        except UnicodeEncodeError:
            return _encoded_in_any_text(Writer, value, classes)
        except RecursionError:
            raise too_deep() from None
    except NotEncodable:  # nested too deeply, a name that is no text; each object by itself has been tried
        if classes is None or not classes.pickles:
            raise
        return _bytes_of(as_pickle(value), classes)


def _bytes_of(tree: Any, classes: Classes | None) -> bytes:
    """The bytes of what a writer gave."""
    try:
        return encode_small(tree)
    except HasParts:
        return encode_inline(tree) if classes is None or not classes.parts else encode_joined(tree)


def _large(raw: bytes, classes: Classes | None) -> bytes:
    """The bytes of a large value as they are kept."""
    if raw[0] == MARK:
        return raw
    if classes is not None and classes.parts:
        check_size(len(raw))
        return join(raw, ())
    if len(raw) > MAX_VALUE_BYTES:
        raise NotEncodable(
            f"The value takes {len(raw) / 1e6:,.1f} MB as JSON, and {MAX_VALUE_BYTES / 1e6:,.1f} MB can be kept "
            "without a store. rnb.start() has one for jobs of its own process; store= of rnb.start or rnb.connect says "
            "where one is for workers, or for a Restate elsewhere. Or write it to a file, and return the path."
        )
    return raw


def as_shown(value: object) -> bytes:
    """The value as JSON for people and other programs: objects as their fields, enums as their values, what has no
    form of JSON as its `repr`. It does not come back as what it was. Never raises."""
    try:
        try:
            return encode_inline(SHOWN.whole(value))
        except UnicodeEncodeError:
            return _encoded_in_any_text(Shown, value, None)
        except RecursionError:
            raise too_deep() from None
    except NotEncodable:  # nested too deeply
        return _encode(leaves.shown_text(leaves.repr_of(value)))


def _encoded_in_any_text(writer: type[Writer], value: object, classes: Classes | None) -> bytes:
    """The value as JSON, where some text in it is not Unicode."""
    try:
        return _bytes_of(writer(classes, True).whole(value), classes)
    except RecursionError:
        raise too_deep() from None
    except UnicodeEncodeError as error:
        raise NotEncodable(f"A name in it is not valid Unicode text: {error}. Rename it.") from None


Rebuild = Callable[[Any], Any]
"""What plain data become where a class is annotated."""


def decode(raw: bytes | msgspec.Raw, classes: Classes | None = None, rebuild: Rebuild | None = None) -> Any:
    """Read back what `encode` wrote, or what a reference to it names.

    Args:
        raw: what it wrote.
        classes: those that objects with fields may be of.
        rebuild: called with a value that holds no objects, see `has_objects`.

    Raises:
        NotReadable: it holds an object of a class that is not among `classes`, or needs a package that is not there;
            or it lies in a store that is not there.
        ValueError: it is not what `encode` writes. (NotReadable is a ValueError, too.)
    """
    if type(raw) is not bytes:
        raw = bytes(raw)
    try:
        value = _decode(raw)
        if _DOLLAR in raw and raw.find(_TAG_BYTES) >= 0:
            if raw.startswith(PREFIX):
                return _loaded(raw, classes, rebuild)
            value = reader_for(classes).whole(value, raw)
    except RecursionError:
        raise _read_too_deep() from None
    except msgspec.DecodeError:
        if not is_joined(raw):
            raise
        return _decode_joined(raw, classes, rebuild)
    return value if rebuild is None or has_objects(raw) else rebuild(value)


def _decode_joined(raw: Buffer, classes: Classes | None, rebuild: Rebuild | None) -> Any:
    """The value of a run of JSON and parts."""
    view, parts = split(raw)
    document = bytes(view)
    try:
        value = _decode(document)
        if _DOLLAR in document and document.find(_TAG_BYTES) >= 0:
            value = ReaderOfParts(classes, parts).revive(value)
    except RecursionError:
        raise _read_too_deep() from None
    return value if rebuild is None or has_objects(document) else rebuild(value)


def _loaded(raw: bytes, classes: Classes | None, rebuild: Rebuild | None) -> Any:
    """The value that a reference names."""
    reference = reference_of(raw)
    if classes is None or classes.load is None:
        raise NotReadable(
            f"It lies in a store ({reference.what or 'a value'}, {reference.size:,} bytes), and none is open here. "
            "Give the one it was written to: rnb.start(store=...), rnb.connect(..., store=...), or restate-nb worker "
            "--store."
        )
    return _decode_joined(classes.load(reference), classes, rebuild)


def _read_too_deep() -> ValueError:
    return ValueError("Not a value that restate_nb wrote: it is nested too deeply.")


def calling(fn: Callable[[Any], Any], classes: Classes | None) -> Callable[[bytes], Any]:
    """What calls a function with the value that is read from bytes: `fn(decode(raw, classes))`, at less cost."""

    def call(raw: bytes) -> Any:
        try:
            value = _decode(raw)
        except RecursionError:
            raise _read_too_deep() from None
        except msgspec.DecodeError:
            value = decode(raw, classes)
        else:
            if type(raw) is not bytes or (_DOLLAR in raw and raw.find(_TAG_BYTES) >= 0):
                value = decode(raw, classes)
        return fn(value)

    return call


Instead = Callable[[Exception, bytes], Any]
"""What stands for a value that cannot be read back, given why not and its bytes."""


def decode_column(
    values: Sequence[bytes],
    classes: Classes | None = None,
    instead: Instead | None = None,
    rebuild: Rebuild | None = None,
) -> list[Any]:
    """Read back many values that `encode` wrote, at a fraction of what `decode` takes for each.

    Args:
        values: what it wrote.
        classes: as in `decode`.
        instead: what stands for those that cannot be read back; without it, the first such raises.
        rebuild: as in `decode`.

    Raises:
        NotReadable: as in `decode`, and only without `instead`.
        ValueError: as in `decode`, and only without `instead`.
    """
    column: list[Any] = []
    for some in in_parts(values):
        column += _part_of_column(some, classes, instead, rebuild)
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


def _part_of_column(
    values: Sequence[bytes], classes: Classes | None, instead: Instead | None, rebuild: Rebuild | None
) -> list[Any]:
    if len(values) == 1 or is_joined(values[0]):
        return [_one_of_column(raw, classes, instead, rebuild) for raw in values]
    lines = b"\n".join(values)
    try:
        column = _decoder.decode_lines(lines)
    except (ValueError, RecursionError):
        column = []
    if len(column) != len(values) or lines.count(b"\n") != len(values) - 1:
        return [_one_of_column(raw, classes, instead, rebuild) for raw in values]
    tags = _TAG_BYTES in lines
    if not tags and rebuild is None:
        return column
    reader = reader_for(classes)
    for place, raw in enumerate(values):
        tagged = tags and _DOLLAR in raw and raw.find(_TAG_BYTES) >= 0
        if not tagged and rebuild is None:
            continue
        try:
            if not tagged:
                assert rebuild is not None
                column[place] = rebuild(column[place])
            elif raw.startswith(PREFIX):
                column[place] = _loaded(raw, classes, rebuild)
            else:
                column[place] = _revived(reader, column[place], raw, rebuild)
        except Exception as error:  # a class of the user's own may do anything when it is made again
            if instead is None:
                raise
            column[place] = instead(error, raw)
    return column


def _revived(reader: Reader, value: Any, raw: bytes, rebuild: Rebuild | None) -> Any:
    try:
        value = reader.whole(value, raw)
    except RecursionError:
        raise _read_too_deep() from None
    return value if rebuild is None or has_objects(raw) else rebuild(value)


def _one_of_column(raw: bytes, classes: Classes | None, instead: Instead | None, rebuild: Rebuild | None) -> Any:
    if instead is None:
        return decode(raw, classes, rebuild)
    try:
        return decode(raw, classes, rebuild)
    except Exception as error:  # as above
        return instead(error, raw)


def has_objects(raw: bytes | msgspec.Raw) -> bool:
    """Whether a value may hold objects that carry their class; what holds none may be an earlier version's. Of a
    reference that is not known: `decode` knows it when it has read the value."""
    raw = bytes(raw)
    if is_joined(raw):
        raw = bytes(split(raw)[0])
    return _DOLLAR in raw and (_OBJECT.search(raw) is not None or is_reference(raw))


_OBJECT = re.compile(rb'"\$rnb":"(?:object|model|enum|flag|namedtuple|scalar|pickle)"')


def plain_of(value: Any, classes: Classes | None = None) -> Any:
    """A value as JSON's own types, all else tagged: what `encode` writes.

    Raises:
        NotEncodable: as in `encode`.
    """
    return writer_for(classes).plain(value, MAX_DEPTH)


def revived(plain: Any, classes: Classes | None = None) -> Any:
    """The value of what JSON made of `plain_of`.

    Raises:
        NotReadable: as in `decode`.
        ValueError: as in `decode`.
    """
    return reader_for(classes).revive(plain)
