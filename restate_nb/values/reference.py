"""What stands in a journal for a value or an item that lies in the store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from restate_nb.values.tags import TAG

if TYPE_CHECKING:
    from typing_extensions import Buffer

PREFIX: Final = b'{"%b":"stored",' % TAG.encode()
"""How each reference begins; no other value does."""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z][0-9a-z-]{0,63}$")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a value lies, and what is known of it without reading it.

    Attributes:
        folder: the job's own in the store.
        segment: in that folder.
        at: where in the segment it begins, in bytes.
        size: how many bytes it has.
        sum: of its content, in hexadecimal: see `sum_of`.
        what: its kind, for people: `DataFrame, 100 x 3`.
    """

    folder: _Name
    segment: _Name
    at: _Count
    size: _Count
    sum: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    what: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reference).decode


def sum_of(content: Buffer) -> str:
    """The checksum of a value's bytes: 128 bits of BLAKE2b, so that it tells contents apart, too."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def encode_reference(reference: Reference) -> bytes:
    """Write a reference, as a value of JSON."""
    return PREFIX + b'"v":%b}' % _encode(reference)


def is_reference(raw: bytes) -> bool:
    """Whether an encoded value is a reference."""
    return raw.startswith(PREFIX)


def reference_of(raw: bytes) -> Reference:
    """Read a reference.

    Raises:
        ValueError: it is none that this version can read.
    """
    if not is_reference(raw):
        raise ValueError("it is no reference to the store")
    return _decode(raw[len(PREFIX) + 4 : -1])


def content_of(raw: bytes) -> bytes:
    """What counts of an encoded item when items are compared: of one in the store its content, and not its place."""
    return reference_of(raw).sum.encode() if is_reference(raw) else raw


def reference_from(written: Any) -> Reference:
    """The reference in a decoded tag.

    Raises:
        ValueError: it is none that this version can read.
    """
    return msgspec.convert(written, Reference)
