"""Columns of numbers as they travel: little-endian, each as narrow as its largest number allows."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from operator import gt
from typing import Final, TypeVar

_CODES: Final = {array(code).itemsize: code for code in "BHIQ"}
_LARGEST: Final = 2**63 - 1
T = TypeVar("T", int, float)

SMALLEST_SECONDS: Final = -9.2e9
LARGEST_SECONDS: Final = 9.2e9
"""What pandas can show as a time, in seconds since 1970."""


def counts(numbers: Iterable[int], largest: int) -> array[int]:
    """A column of whole numbers from 0.

    Args:
        numbers: what it holds.
        largest: none of them is larger.
    """
    return array(_CODES[_width(largest)], numbers)


def _width(largest: int) -> int:
    if largest < 2**16:
        return 1 if largest < 2**8 else 2
    return 4 if largest < 2**32 else 8


def pack(column: array[T]) -> bytes:
    """A column as bytes."""
    return _native(column[:]).tobytes() if sys.byteorder == "big" else column.tobytes()


def unpack_counts(raw: bytes, count: int) -> array[int]:
    """The column of so many whole numbers that `pack` wrote.

    Raises:
        ValueError: it has not as many, or they are too large.
    """
    width, rest = divmod(len(raw), count or 1)
    if rest or (width not in _CODES if count else raw):
        raise ValueError(f"{len(raw)} bytes are no column of {count} numbers")
    column: array[int] = _native(array(_CODES[width if count else 1], raw))
    if width == 8 and max(column) > _LARGEST:
        raise ValueError("a number is too large")
    return column


def unpack_seconds(raw: bytes) -> array[float]:
    """The column of times or spans of time, in seconds, that `pack` wrote.

    Raises:
        ValueError: it is none, or a number is none that pandas can show as a time.
    """
    if len(raw) % 8:
        raise ValueError(f"{len(raw)} bytes are no column of times")
    column: array[float] = _native(array("d", raw))
    fine = math.isfinite(sum(column))  # else one of them is not, which `min` and `max` may overlook
    if not fine or min(column, default=0.0) < SMALLEST_SECONDS or max(column, default=0.0) > LARGEST_SECONDS:
        raise ValueError("a time is none that can be shown")
    return column


def unpack_ends(raw: bytes, count: int, size: int) -> array[int]:
    """The column of where so many byte strings end in a run of them.

    Args:
        raw: what `pack` wrote.
        count: how many there are.
        size: how long the run is.

    Raises:
        ValueError: they do not fit the run.
    """
    ends = unpack_counts(raw, count)
    if (ends[-1] if count else 0) != size or any(map(gt, ends, ends[1:])):
        raise ValueError("the ends of byte strings do not fit them")
    return ends


def _native(column: array[T]) -> array[T]:
    if sys.byteorder == "big":
        column.byteswap()
    return column


def each(run: bytes, ends: Sequence[int]) -> list[bytes]:
    """The byte strings of a run of them."""
    starts = [0, *ends]
    return [run[start:end] for start, end in zip(starts, ends)]  # noqa: B905 - there is one start more
