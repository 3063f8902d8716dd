"""The table of a keyed job in the store: what is written comes back, in few parts, and what is damaged is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from restate_nb.engine.keeping import store_plain
from restate_nb.results.key_table import (
    DIGEST_BYTES,
    KeptItems,
    KeyTable,
    digests_of,
    listed,
    read_selection,
    write_selection,
)
from restate_nb.store.base import NotStored, StoreConfig
from restate_nb.store.local import LocalStore
from restate_nb.values.parts import join

FOLDER = "folder"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(StoreConfig(str(tmp_path), private=True))
    yield store
    store.close()


def encoded(count: int, start: int = 0) -> list[bytes]:
    return [json.dumps({"id": n, "text": "x" * (n % 50)}).encode() for n in range(start, start + count)]


def grown(table: KeyTable, raws: list[bytes]) -> KeyTable:
    start = len(table)
    keys = digests_of([b"%d" % n for n in range(start, start + len(raws))])
    return table.extended(FOLDER, keys, digests_of(raws), iter([raws]))


def test_a_table_that_grew_many_times_has_few_parts_and_is_read_as_it_was(store: LocalStore) -> None:
    table, raws = KeyTable.empty(store), list[bytes]()
    for count in [100, *range(1, 60)]:
        more = encoded(count, len(raws))
        raws += more
        table = grown(table, more)
    assert len(table.parts) <= 8
    again = KeyTable.read(store, table.references)
    assert np.array_equal(again.keys, digests_of([b"%d" % n for n in range(len(raws))]))
    assert np.array_equal(again.items, digests_of(raws))
    items = KeptItems(again)
    assert len(items) == len(raws)
    assert [items[n] for n in range(len(raws))] == raws
    assert items.take([1500, 3, 3, 7]) == [raws[n] for n in (1500, 3, 3, 7)]
    assert items.lengths(range(5, 50)).tolist() == [len(raw) for raw in raws[5:50]]
    assert items.size_of([2, 900]) == len(raws[2]) + len(raws[900])


def test_items_of_many_blocks_are_read_block_by_block(store: LocalStore) -> None:
    raws = [b'"%07d%s"' % (n, b"y" * 100_000) for n in range(300)]
    table = KeyTable.empty(store).extended(FOLDER, digests_of(raws), digests_of(raws), ([raw] for raw in raws))
    items = KeptItems(table)
    assert len(table.blocks) > 6
    assert [raw for part in items.in_parts(np.arange(300)) for raw in part] == raws
    assert items.take([299, 0, 150]) == [raws[299], raws[0], raws[150]]


@pytest.mark.parametrize("long", [0, 1])
def test_digests_tell_apart_what_differs_and_depend_on_nothing_beside(long: int) -> None:
    raws = [b"1", b"10", b'"1"', b"0" * DIGEST_BYTES, b"0" * (DIGEST_BYTES - 1), *([b"0" * 17, b"1" * 99] * long)]
    assert len(set(listed(digests_of(raws)))) == len(raws)
    assert [listed(digests_of([raw]))[0] for raw in raws] == listed(digests_of(raws))


@pytest.mark.parametrize("positions", [[0, 1, 2, 3], [3, 3, 0, 9, 9], []])
def test_a_selection_is_read_as_it_was_written(store: LocalStore, positions: list[int]) -> None:
    reference = write_selection(store, FOLDER, np.array(positions, dtype=np.int64))
    assert bool(reference) is (positions not in ([0, 1, 2, 3], []))
    assert read_selection(store, reference, len(positions), 10).tolist() == positions


def test_a_selection_of_other_rows_is_refused(store: LocalStore) -> None:
    reference = write_selection(store, FOLDER, np.array([3, 1], dtype=np.int64))
    for rows, total in ((1, 10), (3, 10), (2, 3)):
        with pytest.raises(ValueError, match="positions"):
            read_selection(store, reference, rows, total)
    (broken,) = store_plain(store, FOLDER, [b"\x01nothing"], "rows")
    with pytest.raises(ValueError, match="decompressing"):
        read_selection(store, broken, 1, 1)


def test_what_is_no_table_of_this_version_is_refused(store: LocalStore) -> None:
    column = b"\0" * DIGEST_BYTES
    for head, columns, why in (
        ({"version": 2, "first": 0, "blocks": []}, [b"", b"", b""], "the format 2"),
        ({"version": 1, "first": 7, "blocks": []}, [b"", b"", b""], "begins at 7"),
        ({"version": 1, "first": 0, "blocks": [[1, "x"]]}, [column, column, b""], "one length"),
    ):
        (reference,) = store_plain(store, FOLDER, [join(json.dumps(head).encode(), columns)], "keys")
        with pytest.raises(ValueError, match=why):
            KeyTable.read(store, [reference])


def test_a_table_whose_folder_is_gone_is_told(store: LocalStore) -> None:
    table = grown(KeyTable.empty(store), encoded(3))
    store.drop(FOLDER)
    with pytest.raises(NotStored):
        KeyTable.read(store, table.references)
    with pytest.raises(NotStored):
        KeptItems(table).take([0])
