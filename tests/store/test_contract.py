"""Proves that every store keeps what `Store` promises: a directory, and a bucket of a real S3-compatible server (that
of moto, which this file starts)."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from restate_nb.store.base import NotStored, Place, Store
from restate_nb.store.opening import open_store, parse_store, probe, session_store
from tests.store.buckets import BUCKET, s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment, s3(environment):
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["directory", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "store")
    bucket: str = request.getfixturevalue("bucket")
    return f"{bucket}/{tmp_path.name}"


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    store = open_store(session_store(parse_store(address), "tests"))
    store.owner = "0123"
    yield store
    store.close()


def again(store: Store) -> Store:
    """The same store as another process opens it."""
    return open_store(store.config)


def test_runs_are_given_back_as_they_were_by_whoever_opens_the_store(store: Store) -> None:
    runs = [b"first", bytearray(b"second"), memoryview(b"the third one")[4:9], b"", b"last"]
    places = store.append("job", runs)
    for reader in (store, again(store)):
        found = [reader.read("job", place, len(run)) for place, run in zip(places, runs, strict=True)]
        assert found == [b"first", b"second", b"third", b"", b"last"]
        assert all(type(each) is bytes for each in found)


def test_many_runs_are_read_at_once_in_the_order_that_is_asked_for(store: Store) -> None:
    runs = [bytes([number]) * number for number in range(50)]
    first, second = store.append("job", runs), store.append("job", runs)
    asked = [(place, number) for number, place in enumerate(first + second)]
    asked = [(place, number % 50) for place, number in asked]
    random.Random(3).shuffle(asked)
    assert store.read_many("job", asked) == [runs[number] for _, number in asked]
    assert store.read_many("job", []) == []


def test_random_runs_of_many_sizes_come_back_whatever_the_order(store: Store) -> None:
    for seed in range(15):
        chance = random.Random(seed)
        kept: list[tuple[str, Place, bytes]] = []
        for _ in range(chance.randrange(1, 6)):
            folder = chance.choice(["one", "two", "three-3"])
            sizes = [chance.choice([0, 1, 7, 4096, 70_000]) for _ in range(chance.randrange(0, 40))]
            runs = [chance.randbytes(size) for size in sizes]
            kept += [(folder, *pair) for pair in zip(store.append(folder, runs), runs, strict=True)]
        chance.shuffle(kept)
        for folder, place, run in kept:
            assert store.read(folder, place, len(run)) == run


def test_runs_of_more_than_one_portion_are_whole(store: Store) -> None:
    large = random.Random(0).randbytes(1 << 20) * 40  # 40 MiB
    places = store.append("job", [b"before", large, b"after"])
    assert store.read("job", places[1], len(large)) == large
    assert store.read("job", places[2], 5) == b"after"


def test_threads_append_and_read_at_once_and_nothing_is_mixed_up(store: Store) -> None:
    def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(15):
            folder = f"job-{chance.randrange(3)}"
            runs = [chance.randbytes(chance.randrange(3_000)) for _ in range(8)]
            places = store.append(folder, runs)
            assert store.read_many(folder, [(place, len(run)) for place, run in zip(places, runs, strict=True)]) == runs
            kept.append((folder, places[turn % 8], runs[turn % 8]))

    kept: list[tuple[str, Place, bytes]] = []
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(16)))
    assert len({(folder, place.segment, place.at) for folder, place, run in kept if run}) >= 200
    assert all(store.read(folder, place, len(run)) == run for folder, place, run in kept)


def test_a_place_that_is_not_there_is_named(store: Store) -> None:
    [place] = store.append("job", [b"0123456789"])
    for folder, wrong, size in (
        ("job", Place("0" * 32, 0), 5),
        ("another", place, 5),
        ("job", place._replace(at=8), 5),
        ("job", place._replace(at=2**60), 5),
        ("job", place, 2**50),
    ):
        for read in (lambda *at: store.read(*at), lambda folder, *run: store.read_many(folder, [run])):
            with pytest.raises(NotStored, match=wrong.segment):
                read(folder, wrong, size)
    assert store.read("job", place, 10) == b"0123456789"


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", "/etc", "A", "-", "a" * 65, "a\n", "a\0"])
def test_names_that_would_lead_elsewhere_are_refused(store: Store, name: str) -> None:
    """A folder's name comes from a manifest, and a segment's from a reference: both from whoever writes to Restate."""
    [place] = store.append("job", [b"kept"])
    for attempt in (
        lambda: store.append(name, [b"x"]),
        lambda: store.read(name, place, 1),
        lambda: store.read("job", Place(name, 0), 1),
        lambda: store.read_many("job", [(Place(name, 0), 1)]),
        lambda: store.drop(name),
        lambda: store.in_use(name),
    ):
        with pytest.raises(NotStored, match="is no name in a store"):
            attempt()
    assert store.read("job", place, 4) == b"kept"
    assert [each.name for each in store.folders()] == ["job"]


def test_a_folder_that_is_dropped_is_gone_and_others_stay(store: Store) -> None:
    [gone], [kept] = store.append("job", [b"a"]), store.append("job-2", [b"b"])
    again(store).append("job", [b"more"])
    store.drop("job")
    store.drop("job")
    store.drop("never-there")
    assert [each.name for each in store.folders()] == ["job-2"]
    for reader in (store, again(store)):
        with pytest.raises(NotStored):
            reader.read("job", gone, 1)
        assert reader.read("job-2", kept, 1) == b"b"


def test_a_folder_can_be_written_to_after_it_was_dropped_here_or_elsewhere(store: Store) -> None:
    for dropper in (store, again(store)):
        store.append("job", [b"a"])
        dropper.drop("job")
        [place] = store.append("job", [b"anew"])
        assert again(store).read("job", place, 4) == b"anew"


def test_folders_tells_names_sizes_and_when_they_were_written_to(store: Store) -> None:
    assert list(store.folders()) == []
    begin = time.time() - 2  # S3 tells whole seconds
    store.append("small", [b"x" * 10])
    for _ in range(3):
        store.append("large", [b"x" * 1_000, b"y"])
    found = {each.name: each for each in store.folders()}
    assert {name: each.size for name, each in found.items()} == {"small": 10, "large": 3_003}
    assert all(begin <= each.written <= time.time() + 2 for each in found.values())


def test_folders_are_listed_while_others_drop_and_write_them(store: Store) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            store.append("comes-and-goes", [b"x"])
            store.drop("comes-and-goes")

    store.append("stays", [b"x"])
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            assert "stays" in {each.name for each in store.folders()}
    finally:
        stop.set()
        thread.join()


def test_what_comes_after_close_opens_the_store_again(store: Store) -> None:
    [place] = store.append("job", [b"a"])
    store.close()
    assert store.read("job", place, 1) == b"a"
    [other] = store.append("job", [b"b"])
    assert store.read("job", other, 1) == b"b"


def test_folders_of_a_session_begin_with_its_owner_and_are_never_the_same(store: Store) -> None:
    names = {store.new_folder() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("0123-") for name in names)
    [place] = store.append(name := names.pop(), [b"a"])
    assert store.read(name, place, 1) == b"a"


def test_a_probe_leaves_nothing(store: Store) -> None:
    probe(store)
    assert list(store.folders()) == []
