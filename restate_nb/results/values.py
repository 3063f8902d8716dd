"""The recorded values of a job: which of them lie in the store, and reading as many at once as fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from restate_nb.results.ledger import Ledger
from restate_nb.store.stored import Stored
from restate_nb.values.codec import Instead
from restate_nb.values.reference import is_reference

READ_BYTES: Final = 1_000_000_000
"""So much of the store a frame reads by itself; where there is more, it holds `Stored` handles."""

BATCH_BYTES: Final = 16 * 1024 * 1024
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


def batches(ledger: Ledger, went_well: Any, begin: int = 0, beside: Any = 0) -> Iterator[Batch]:
    """The items of a job from one on, in their order: as many at once as have together no more than `BATCH_BYTES`.

    Args:
        ledger: what is recorded.
        went_well: which items have a value, as truth values of numpy; its end is the end.
        begin: the first item.
        beside: how many bytes each item has beside its value, as a column of numpy; or the same for all.
    """
    while begin < len(went_well):
        there = begin + np.flatnonzero(went_well[begin : begin + BATCH_ROWS])
        sizes = np.zeros(min(BATCH_ROWS, len(went_well) - begin), dtype=np.int64)
        sizes[there - begin] = ledger.value_sizes(there)
        sizes += beside if np.ndim(beside) == 0 else beside[begin : begin + len(sizes)]
        ends = np.cumsum(sizes)
        at = 0
        while at < len(sizes):
            upto = max(int(np.searchsorted(ends, ends[at] - sizes[at] + BATCH_BYTES, side="right")), at + 1)
            some = there[(there >= begin + at) & (there < begin + upto)]
            yield Batch(begin + at, begin + upto, some.tolist(), [*ledger.raws(some.tolist())])
            at = upto
        begin += len(sizes)
