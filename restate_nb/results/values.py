"""The recorded values of a job: which of them lie in the store, and reading as many at once as fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from restate_nb.results.ledger import Ledger
from restate_nb.store.stored import Stored
from restate_nb.values.codec import Instead
from restate_nb.values.reference import is_reference, reference_of

READ_BYTES: Final = 1_000_000_000
"""So much of the store a frame reads by itself; where there is more, it holds `Stored` handles."""

BATCH_BYTES: Final = 32 * 1024 * 1024
"""So much is read at once where values pass by one batch after the other."""

BATCH_ROWS: Final = 50_000
"""So many items a batch has at most."""

ValuesOf = Callable[[Sequence[bytes], Sequence[int], Instead | None], list[Any]]
"""Decodes recorded values, given their positions, and what stands for those that cannot be read."""


class Batch(NamedTuple):
    """Items that follow one another: where they begin and end, which of them have a value, and these, encoded."""

    begin: int
    end: int
    positions: list[int]
    raws: list[bytes]


def size_of(raw: bytes) -> int:
    """How many bytes an encoded value takes when it has been read."""
    return reference_of(raw).size if is_reference(raw) else len(raw)


def with_handles(values_of: ValuesOf, value_of: Callable[[bytes, int], Any]) -> ValuesOf:
    """`values_of` that reads nothing from the store, and gives a `Stored` for what lies there.

    Args:
        values_of: reads many.
        value_of: reads one; for the handles.
    """

    def read(raws: Sequence[bytes], positions: Sequence[int], instead: Instead | None) -> list[Any]:
        stored = [is_reference(raw) for raw in raws]
        if True not in stored:
            return values_of(raws, positions, instead)
        places = [place for place, each in enumerate(stored) if not each]
        inline = values_of([raws[place] for place in places], [positions[place] for place in places], instead)
        column: list[Any] = [
            Stored(raw, position, value_of) if each else None
            for raw, position, each in zip(raws, positions, stored, strict=True)
        ]
        for place, value in zip(places, inline, strict=True):
            column[place] = value
        return column

    return read


def batches(ledger: Ledger, went_well: Any, begin: int = 0) -> Iterator[Batch]:
    """The items of a job from one on, in their order: as many at once as have together no more than `BATCH_BYTES`.

    Args:
        ledger: what is recorded.
        went_well: which items have a value, as truth values of numpy; its end is the end.
        begin: the first item.
    """
    total, positions, raws, taken = len(went_well), list[int](), list[bytes](), 0
    upto = begin
    while upto < total:
        some = upto + np.flatnonzero(went_well[upto : upto + BATCH_ROWS])
        upto = min(upto + BATCH_ROWS, total)
        at = 0
        for part in ledger.raws_in_parts(some):
            for position, raw in zip(some[at : at + len(part)].tolist(), part, strict=True):
                size = size_of(raw)
                if positions and taken + size > BATCH_BYTES:
                    yield Batch(begin, position, positions, raws)
                    begin, positions, raws, taken = position, [], [], 0
                positions.append(position)
                raws.append(raw)
                taken += size
            at += len(part)
        yield Batch(begin, upto, positions, raws)
        begin, positions, raws, taken = upto, [], [], 0
