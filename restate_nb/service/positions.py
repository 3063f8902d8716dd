"""Which of a job's items, written compactly: a bit each, compressed.

A million items take at most 170 kB, and a few kB where those that failed lie together. As numbers, some rounds of many
items would outgrow what Restate moves in one message.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from typing import Final

_BITS: Final = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def pack(positions: Iterable[int], total: int) -> str:
    """Write positions among `total` items. Their order is not kept.

    Raises:
        IndexError: there is no such item.

    Example:
        >>> unpack(pack([7, 2], 10), 10)
        [2, 7]
    """
    bits = bytearray(-(-total // 8))
    for position in positions:
        if not 0 <= position < total:
            raise IndexError(f"there are {total} items, and none at {position}")
        bits[position >> 3] |= 1 << (position & 7)
    return base64.b64encode(zlib.compress(bytes(bits).rstrip(b"\0"))).decode()


def unpack(packed: str, total: int) -> list[int]:
    """The positions, ascending.

    Raises:
        ValueError: it was not written by `pack` for so many items.
    """
    bits = _bits(packed, total)
    return [8 * at + bit for at, byte in enumerate(bits) for bit in _BITS[byte]]


def check(packed: str, total: int) -> None:
    """Raise the ValueError of `unpack`, without the work."""
    _bits(packed, total)


def _bits(packed: str, total: int) -> bytes:
    longest = -(-total // 8)
    try:
        reading = zlib.decompressobj()
        bits = reading.decompress(base64.b64decode(packed, validate=True), longest + 1)  # never more, whatever it says
    except (ValueError, zlib.error) as error:
        raise ValueError(f"these are no positions ({error})") from None
    if not reading.eof or len(bits) > longest or (len(bits) == longest and total % 8 and bits[-1] >> total % 8):
        raise ValueError(f"these are no positions among {total} items")
    return bits
