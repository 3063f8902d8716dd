"""A value as one run of bytes: its JSON, and beside it what JSON would hold as text a third longer.

Arrays, tables, images and other binary leaves are *parts*; the JSON names them by number. Such a run begins with a byte
that neither JSON nor MessagePack begins with. It never stands in a journal: it is on its way to the store, or comes
from there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import msgspec

from restate_nb.errors import NotEncodable
from restate_nb.values.tags import TAG

if TYPE_CHECKING:
    from typing_extensions import Buffer

MARK: Final = 0xC1
"""The first byte; MessagePack has none of that kind, and JSON neither."""

VERSION: Final = 1
"""Of the run; `tests/data` keeps a sample of each."""

_HEAD: Final = struct.Struct("<BBxxI")  # mark, version, how many runs follow: the JSON and its parts
_ALIGNED: Final = 64  # where a part begins: what Arrow and vector instructions want

PART_BYTES: Final = 2048
"""A binary leaf of so many bytes is a part, where values may have parts; a smaller one is base64 in the JSON."""

LARGE_BYTES: Final = 4096
"""JSON of so many bytes is written as such a run even without parts, so that it goes to the store."""


MAX_JOINED_BYTES: Final = 1024 * 1024 * 1024
"""The largest run: a value is written and read as one, in memory."""


class Part:
    """A binary leaf that is large: where values have parts it is one, else base64 in the JSON.

    Attributes:
        data: its bytes, not copied.
    """

    __slots__ = ("data",)

    def __init__(self, data: Buffer) -> None:
        self.data = memoryview(data).cast("B")


class HasParts(Exception):
    """What is to be written as JSON has a large binary leaf."""


def binary(data: Buffer) -> object:
    """A binary leaf, as it stands in what is to be written: every one comes this way."""
    if type(data) is bytes and len(data) < PART_BYTES:
        return data
    view = memoryview(data)
    if view.nbytes >= PART_BYTES:
        return Part(view)
    return view.tobytes()


def _refuse_parts(leaf: object) -> object:
    if type(leaf) is Part:
        raise HasParts
    raise TypeError(f"{type(leaf).__name__} is no value")


def _inline(leaf: object) -> object:
    if type(leaf) is Part:
        return leaf.data
    raise TypeError(f"{type(leaf).__name__} is no value")


_small: Final = msgspec.json.Encoder(enc_hook=_refuse_parts)
_all_inline: Final = msgspec.json.Encoder(enc_hook=_inline)

encode_small, encode_small_lines = _small.encode, _small.encode_lines
"""Write what is JSON's own or tagged as JSON; raise `HasParts` where a large binary leaf is in it."""

encode_inline, encode_inline_lines = _all_inline.encode, _all_inline.encode_lines
"""The same, with large binary leaves as base64."""


def encode_joined(tree: Any) -> bytes:
    """The same, with large binary leaves as parts.

    Raises:
        NotEncodable: it is larger than `MAX_JOINED_BYTES`.
    """
    parts: list[memoryview] = []

    def hook(leaf: object) -> object:
        data = _inline(leaf)
        assert isinstance(data, memoryview)
        parts.append(data)
        return {TAG: "part", "v": len(parts) - 1}

    document = msgspec.json.Encoder(enc_hook=hook).encode(tree)
    check_size(len(document) + sum(map(len, parts)))
    return join(document, parts)


def check_size(size: int) -> None:
    """See that a run of so many bytes may be.

    Raises:
        NotEncodable: it is larger than `MAX_JOINED_BYTES`.
    """
    if size > MAX_JOINED_BYTES:
        raise NotEncodable(
            f"The value takes {size / 1e9:,.1f} GB, and {MAX_JOINED_BYTES / 1e9:,.1f} GB can be kept as one. "
            "Write it to a file or an object store, and return the path; or return parts of it from several items."
        )


def join(document: bytes, parts: Sequence[Buffer]) -> bytes:
    """One run of a value's JSON and its parts, each of which is copied once."""
    runs = [memoryview(document), *(memoryview(each).cast("B") for each in parts)]
    lengths = [len(each) for each in runs]
    head = _HEAD.pack(MARK, VERSION, len(runs)) + struct.pack(f"<{len(runs)}Q", *lengths)
    pieces: list[Buffer] = []
    for run in (memoryview(head), *runs):
        pieces += (run, bytes(-len(run) % _ALIGNED))
    return b"".join(pieces)


def is_joined(raw: Buffer) -> bool:
    """Whether these bytes are what `join` gives, and no JSON."""
    return (raw if type(raw) is bytes else memoryview(raw))[:1] == b"\xc1"


def split(raw: Buffer) -> tuple[memoryview, list[memoryview]]:
    """The JSON of a value and its parts, without copying them.

    Raises:
        ValueError: it is nothing that `join` gave.
    """
    view = memoryview(raw).cast("B")
    try:
        mark, version, count = _HEAD.unpack_from(view)
        if mark != MARK or not count:
            raise ValueError("it is no value with parts")
        if version > VERSION:
            raise ValueError(f"it was written by a newer restate_nb (format {version})")
        lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    except struct.error:
        raise ValueError("a value ends early") from None
    sizes = [_HEAD.size + 8 * count, *lengths]
    starts = [0, *accumulate(size + -size % _ALIGNED for size in sizes)]
    if starts[-1] != len(view):
        raise ValueError("a value ends early, or has more at its end")
    runs = [view[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    return runs[1], runs[2:]
