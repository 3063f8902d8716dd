"""Proves that a spool gives back what was put into it, in memory and in its file, while others append."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from restate_nb.results import spool as module
from restate_nb.results.spool import Spool


@pytest.mark.parametrize("in_memory", [10, 1_000, 10**9], ids=["file at once", "file later", "no file"])
@pytest.mark.parametrize("seed", range(5))
def test_a_spool_gives_back_what_was_appended(monkeypatch: pytest.MonkeyPatch, in_memory: int, seed: int) -> None:
    print("seed", seed)
    monkeypatch.setattr(module, "TAIL_BYTES", 64)
    rng = random.Random(seed)
    raws = [rng.randbytes(rng.choice([0, 1, 7, 200])) for _ in range(200)]
    spool = Spool(in_memory=in_memory)
    for position, raw in enumerate(raws):
        assert spool.append(memoryview(raw)) == position
        assert spool[rng.randrange(position + 1)] in raws
    assert len(spool) == 200 and list(spool) == raws and spool[-1] == raws[-1] and spool[5:20:3] == raws[5:20:3]
    assert list(spool.sizes()) == [spool.size(each) for each in range(200)] == list(map(len, raws))
    assert b"".join(spool.chunks()) == b"".join(raws)
    for chosen in (rng.sample(range(200), 50), range(7, 150), range(150, 7, -3), range(0), [3]):
        assert spool.take(chosen) == [raws[each] for each in chosen]
        assert spool.lengths(chosen).tolist() == [len(raws[each]) for each in chosen]
        assert spool.size_of(chosen) == sum(len(raws[each]) for each in chosen)
    with pytest.raises(IndexError):
        spool[200]


@pytest.mark.parametrize("in_memory", [10, 1_000, 10**9], ids=["file at once", "file later", "no file"])
@pytest.mark.parametrize("seed", range(5))
def test_a_run_is_taken_as_if_one_by_one_also_past_four_gigabytes(
    monkeypatch: pytest.MonkeyPatch, in_memory: int, seed: int
) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    monkeypatch.setattr(module, "FOUR_GB", rng.choice([0, 100, 2**32 - 1]))
    spool, known = Spool(in_memory=in_memory), list[bytes]()
    for _ in range(20):
        raws = [rng.randbytes(rng.choice([0, 1, 7, 60])) for _ in range(rng.choice([0, 1, 30]))]
        spool.extend(memoryview(b"".join(raws)), np.cumsum([len(raw) for raw in raws], dtype=np.int64))
        known += raws
        if rng.random() < 0.5:
            spool.append(b"alone")
            known.append(b"alone")
    assert list(spool) == known
    assert spool.take(range(len(known))) == known


def test_an_empty_one_has_nothing() -> None:
    assert list(Spool()) == [] == list(Spool().chunks()) == Spool().take([])


def test_readers_see_whole_items_while_others_append(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_BYTES", 1_000)
    spool, over, wrong = Spool(in_memory=1_000), threading.Event(), list[bytes]()

    def read() -> None:
        while not over.is_set():
            known = len(spool)
            wrong.extend(raw for raw in spool[max(0, known - 50) : known] if raw != bytes([raw[0]]) * (raw[0] + 1))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(20_000):
        spool.append(bytes([number % 100]) * (number % 100 + 1))
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong and spool[12_345] == bytes([45]) * 46


def test_what_is_large_goes_to_a_file_that_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = psutil.Process().num_fds()
    spool = Spool([b"x" * 1_000] * 5_000, in_memory=1_000_000)
    assert psutil.Process().num_fds() == before + 1 and not list(tmp_path.iterdir())
    assert len(spool.tail) <= 1_000_000 + module.TAIL_BYTES
    assert spool[0] == spool[4_999] == b"x" * 1_000
    del spool
    assert psutil.Process().num_fds() == before


def test_without_room_for_a_file_memory_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(**_: Any) -> Any:
        asked.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    raws = [bytes([each]) * 100 for each in range(100)]
    spool = Spool(raws, in_memory=200)
    assert list(spool) == raws
    assert 1 < len(asked) < 10  # tried again, but not at each item


def test_a_spool_with_a_file_keeps_little_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_BYTES", 100)
    spool = Spool(in_memory=10_000)
    for number in range(3_000):
        spool.append(b"%04d" % number)
        assert len(spool.tail) <= (10_000 if spool.file is None else 100)
    assert spool.file is not None
    assert spool.take(range(3_000)) == [b"%04d" % number for number in range(3_000)]


def test_positions_count_from_both_ends() -> None:
    spool = Spool([b"a", b"b", b"c"])
    assert [spool[at] for at in range(-3, 3)] == [b"a", b"b", b"c"] * 2
    for outside in (-4, 3):
        with pytest.raises(IndexError):
            spool[outside]


def test_a_file_that_somebody_cut_is_told_of() -> None:
    spool = Spool([b"x" * 100] * 10, in_memory=500)
    assert spool.file is not None
    spool.file.truncate(50)
    with pytest.raises(OSError, match="cut short"):
        spool[0]


def test_values_read_one_by_one_come_in_order_and_few_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_BYTES", 1_000)
    raws = [bytes([each]) * (10 if each < 50 else 600) for each in range(100)]
    spool, taken = Spool(raws), list[int]()
    take = spool.take

    def watched(positions: Iterable[int]) -> list[bytes]:
        found = take(positions)
        taken.append(sum(map(len, found)))
        return found

    monkeypatch.setattr(spool, "take", watched)
    order = [*range(99, -1, -1), 7]
    assert list(spool.each(order)) == [raws[each] for each in order]
    assert max(taken) <= 1_000 + 600
    assert len(taken) < len(order)
    assert list(spool.each([])) == []


def test_sizes_are_told_at_any_positions() -> None:
    spool = Spool([b"a" * size for size in (3, 0, 5, 1, 7)])
    assert spool.lengths(range(5)).tolist() == [3, 0, 5, 1, 7]
    assert spool.lengths(range(1, 5, 2)).tolist() == [0, 1]
    assert spool.lengths([4, 0, 0]).tolist() == [7, 3, 3]
    assert spool.lengths([]).tolist() == []
    assert Spool().lengths(range(0)).tolist() == []
