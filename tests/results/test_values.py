"""Proves how recorded values are read: what lies in the store is counted without reading it, handles take the place of
it, and batches follow one another without a gap, none larger than memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restate_nb.engine.record import OK, Attempt
from restate_nb.results import values
from restate_nb.results.ledger import Ledger
from restate_nb.results.values import batches, with_handles
from restate_nb.store.stored import Stored
from restate_nb.values.reference import Reference, encode_reference, is_reference, reference_of, sum_of


def reference(size: int) -> bytes:
    return encode_reference(Reference("f", "s", 0, size, sum_of(b"%d" % size), "bytes"))


def ledger_of(raws: Sequence[bytes | None]) -> Ledger:
    """A ledger in which those items that have a value have ended."""
    ledger = Ledger(len(raws))
    attempts = [Attempt(place, 1, OK, 1.0, 1.0, raw) for place, raw in enumerate(raws) if raw is not None]
    ledger.apply(0, attempts, 0)
    return ledger


def size_of(raw: bytes) -> int:
    return reference_of(raw).size if is_reference(raw) else len(raw)


def read(raws: Sequence[bytes], positions: Sequence[int], instead: Any) -> list[Any]:
    return [(position, msgspec.json.decode(raw)) for raw, position in zip(raws, positions, strict=True)]


def test_bytes_in_the_store_are_counted_by_the_references_alone() -> None:
    ledger = ledger_of([b"1", reference(10), None, reference(500), b'"%b"' % (b"x" * 10_000)])
    assert ledger.stored_bytes(np.array([0, 1, 3, 4])) == 510
    assert ledger.stored_bytes(np.array([0, 4])) == 0
    assert ledger.stored_bytes(np.array([], dtype=np.int64)) == 0


def test_handles_stand_for_what_is_stored_and_nothing_of_it_is_read() -> None:
    seen = []

    def value_of(raw: bytes, position: int) -> str:
        seen.append(position)
        return "loaded"

    column = with_handles(read, value_of)([b"1", reference(10), b"3"], [5, 6, 7], None)
    assert column[0::2] == [(5, 1), (7, 3)]
    assert isinstance(column[1], Stored)
    assert seen == []
    assert column[1].load() == "loaded"
    assert seen == [6]


sizes = st.lists(st.none() | st.integers(1, 30) | st.integers(200, 2000), max_size=60)


@given(sizes, st.integers(0, 5))
def test_batches_have_every_item_once_and_are_no_larger_than_they_may_be(sizes: list[int | None], begin: int) -> None:
    raws = [None if each is None else b"1" * each if each < 100 else reference(each) for each in sizes]
    ledger = ledger_of(raws)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(values, "BATCH_BYTES", 3000)
        patched.setattr(values, "BATCH_ROWS", 7)
        found = list(batches(ledger, np.array([raw is not None for raw in raws], dtype=bool), begin))
    assert [each.begin for each in found] == [begin, *(each.end for each in found[:-1])][: len(found)]
    assert not found or found[-1].end == len(raws)
    assert all(each.end > each.begin for each in found)
    got = {place: raw for each in found for place, raw in zip(each.positions, each.raws, strict=True)}
    assert got == {place: raw for place, raw in enumerate(raws) if raw is not None and place >= begin}
    for each in found:
        assert len(each.positions) <= 1 or sum(map(size_of, each.raws)) <= 3000
        assert all(each.begin <= place < each.end for place in each.positions)
