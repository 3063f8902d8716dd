"""Proves that items and values that are too large for a journal lie in the job's own folder of the store, wherever they
run; that the same items attach, and leave nothing twice; and that a store which cannot be written or read says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from restate import Context

import restate_nb as rnb
from restate_nb.errors import InvalidInput, JobError, JobMismatch
from restate_nb.handle import item_folder
from restate_nb.handle.job import runner_of
from restate_nb.service.wire import Manifest
from restate_nb.session import session as session_module
from restate_nb.session.session import Session
from restate_nb.store.base import Place, Store, StoreUnavailable
from restate_nb.values.parts import LARGE_BYTES
from restate_nb.values.reference import is_reference
from tests.support import defined, eventually, submit

CALLS: list[Any] = []


def folders(session: Session) -> dict[str, int]:
    """The sizes of all folders in the session's store."""
    return {each.name: each.size for each in store_of(session).folders()}


def store_of(session: Session) -> Store:
    store = session.connection.store
    assert store is not None
    return store


def manifest_of(job: rnb.Job[Any]) -> Manifest:
    return runner_of(job).data.manifest


def arrays(count: int, start: int = 0) -> list[Any]:
    return [np.arange(at, at + 2_000) for at in range(start, start + count)]


def doubled(item: Any) -> Any:
    CALLS.append(int(item[0]))
    return item * 2


async def doubled_on_loop(item: Any) -> Any:
    return item * 2


async def doubled_durably(ctx: Context, item: Any) -> Any:
    factor = await ctx.run_typed("factor", lambda: 2)
    return item * factor


def first_two(item: Any, other: Any) -> Any:
    return np.concatenate([item, other])


def in_process(item: Any) -> Any:
    return item * 2


WAYS = {
    "thread": (doubled, {}),
    "loop": (doubled_on_loop, {}),
    "loop in threads": (doubled_on_loop, {"executor": "thread"}),
    "durable": (doubled_durably, {}),
    "process": (in_process, {"executor": "process", "concurrency": 1}),
}


@pytest.mark.parametrize("way", WAYS)
def test_items_and_values_in_the_store_come_back_wherever_they_run(any_session: Session, way: str) -> None:
    function, options = WAYS[way]
    items = [*arrays(3), np.arange(3)]
    job = submit(any_session, function, items, name=way, **options)
    frame = job.result(60)
    for value, item in zip(frame["value"], items, strict=True):
        np.testing.assert_array_equal(value, item * 2)
    for shown, item in zip(frame["item"], items, strict=True):
        np.testing.assert_array_equal(shown, item)
    data = runner_of(job).data
    assert [is_reference(raw) for raw in data.items.encoded] == [True, True, True, False]
    size = folders(any_session)[data.manifest.folder]
    assert 6 * items[0].nbytes < size < 7 * items[0].nbytes, "each once: items, and values"
    any_session.forget_handles()
    again = any_session.job(way).result(30)
    np.testing.assert_array_equal(again["value"].iloc[2], items[2] * 2)
    np.testing.assert_array_equal(again["item"].iloc[2], items[2])


def test_every_way_of_passing_items_reads_the_store(session: Session) -> None:
    pairs = [(np.zeros(2_000), np.ones(3)), (np.zeros(1), np.ones(2_000))]
    for executor in ("auto", "process"):
        values = rnb.starmap(first_two, pairs, session=session, show=False, executor=executor, concurrency=1).values()
        assert [len(each) for each in values] == [2_003, 2_001]
    frame = pd.DataFrame({"item": ["a" * LARGE_BYTES, "b"], "other": ["c", "d" * LARGE_BYTES]})
    job = submit(session, lambda item, other: other + item, frame)
    assert job.values() == [f"{row.other}{row.item}" for row in frame.itertuples()]
    table = rnb.fan_out({"a": lambda: np.zeros(2_000), "b": lambda: 1}, session=session, show=False)
    assert [np.size(value) for value in table.values()] == [2_000, 1]
    assert folders(session)[manifest_of(table).folder] > 16_000


def test_the_same_items_attach_and_their_second_copy_is_dropped_at_once(session: Session) -> None:
    job = submit(session, doubled, arrays(4), name="attached")
    job.result(30)
    before, folder = folders(session), manifest_of(job).folder
    CALLS.clear()
    for forgets in (False, True):  # by its handle, and as another process finds it
        if forgets:
            session.forget_handles()
        again = submit(session, doubled, arrays(4), name="attached")
        frame = again.result(30)
        assert not CALLS
        assert folders(session) == before
        assert manifest_of(again).folder == folder
        np.testing.assert_array_equal(frame["item"].iloc[3], arrays(4)[3])
    with pytest.raises(JobMismatch, match="4 other items"):
        submit(session, doubled, arrays(4, start=1), name="attached")
    assert folders(session) == before, "what a job of other items had written is gone"
    unnamed, other = (submit(session, doubled, arrays(4, start=start)) for start in (0, 1))
    assert unnamed.name != other.name, "other data are another job"


def test_a_digest_is_of_what_items_hold_and_not_of_where_they_lie(session: Session) -> None:
    first = submit(session, doubled, arrays(3), name="here").result(30)
    assert len(first) == 3
    manifests = [manifest_of(session.job("here"))]
    submit(session, doubled, iter(arrays(3)), name="there").result(30)
    manifests.append(manifest_of(session.job("there")))
    assert manifests[0].items == manifests[1].items
    assert manifests[0].folder != manifests[1].folder


def test_a_job_that_lost_the_list_of_its_items_is_given_them_anew(session: Session) -> None:
    job = submit(session, doubled, arrays(3), name="list lost")
    job.result(30)
    folder = manifest_of(job).folder
    session.forget_handles()
    items = item_folder.ItemFolder(store_of(session))
    references = items.write([bytes(each) for each in stored(session, job)])
    items.placed = "none"
    from restate_nb.results.spool import Spool

    there = items.same_in(folder, "not a reference", Spool(references))
    assert all(f'"folder":"{folder}"'.encode() in raw for raw in there)
    items.drop()


def stored(session: Session, job: rnb.Job[Any]) -> list[bytes]:
    """The items of a job as they lie in the store."""
    data = runner_of(job).data
    load = data.function.classes.load
    assert load is not None
    from restate_nb.values.reference import reference_of

    return [load(reference_of(raw)) for raw in data.items.encoded]


def test_items_are_written_while_they_are_read(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_folder, "AT_ONCE_BYTES", 50_000)
    sizes = []

    def given() -> Any:
        for item in arrays(10):
            sizes.append(sum(folders(session).values()))
            yield item

    before = sum(folders(session).values())
    assert submit(session, doubled, given(), name="one by one").result(30)["status"].eq("ok").all()
    assert sizes[0] == before
    assert sizes[9] - before > 100_000


def test_items_that_cannot_be_written_are_refused_before_anything_is_started(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, folder: str, runs: Sequence[Any]) -> list[Place]:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(type(store_of(session)), "append", full)
    before = folders(session)
    with pytest.raises(InvalidInput, match=r"The disk is full\. Nothing was started"):
        submit(session, doubled, arrays(2), name="refused")
    assert folders(session) == before
    with pytest.raises(InvalidInput, match="has no job 'refused'"):
        session.job("refused")


def test_a_store_that_is_full_holds_the_job_up_and_it_says_so_and_goes_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, is_full = type(store_of(session)), [False]
    append = store.append

    def perhaps_full(self: Store, folder: str, runs: Sequence[Any]) -> list[Place]:
        if is_full[0]:
            raise StoreUnavailable("The disk of the store is full.")
        return append(self, folder, runs)

    monkeypatch.setattr(store, "append", perhaps_full)
    for way in ("thread", "durable", "process"):
        is_full[0] = True
        function, options = WAYS[way]
        job = submit(session, _made_of(function, way), range(5), name=f"full {way}", **options)
        eventually(lambda job=job: "The disk of the store is full." in str(job.diagnose()), shows=job.diagnose)
        assert "is kept in memory" in str(job.diagnose())
        assert job.counts["ok"] == 0
        job.pause()
        job.resume()
        is_full[0] = False
        values = job.values()
        assert [len(value) for value in values] == [2_000] * 5
        assert "disk" not in str(job.diagnose())


def _made_of(function: Any, way: str) -> Any:
    if way == "durable":

        async def durable(ctx: Context, item: int) -> Any:
            return await function(ctx, np.arange(2_000))

        return durable
    return lambda item: function(np.arange(2_000))


def test_a_cancelled_job_with_a_full_store_ends_once_there_is_room(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, is_full = type(store_of(session)), [True]
    append = store.append

    def perhaps_full(self: Store, folder: str, runs: Sequence[Any]) -> list[Place]:
        if is_full[0]:
            raise StoreUnavailable("The disk of the store is full.")
        return append(self, folder, runs)

    monkeypatch.setattr(store, "append", perhaps_full)
    job = submit(session, lambda item: np.zeros(2_000), range(3), name="cancelled", concurrency=1)
    eventually(lambda: "full" in str(job.diagnose()))
    has_room = threading.Timer(0.5, is_full.__setitem__, (0, False))
    has_room.start()
    job.cancel()  # which waits, for some time, until all is recorded
    has_room.join()
    counts = job.result(30)["status"].value_counts().to_dict()
    assert counts.get("ok", 0) + counts.get("cancelled", 0) == 3


def test_a_store_without_its_segments_tells_what_is_missing_and_shows_the_rest(tmp_path: Path) -> None:
    data_dir = tmp_path / ".restate"
    with Session("torn", data_dir) as session:
        submit(session, lambda item: np.zeros(2_000 if item else 2), range(2), name="torn").result(30)
    (segment,) = data_dir.rglob("*.seg")
    segment.write_bytes(segment.read_bytes()[:1_000])  # as a copy may have it that was taken while it ran
    with Session("torn", data_dir) as session:
        job = session.job("torn")
        frame = job.result(30)
        assert frame["status"].tolist() == ["ok", "ok"]
        assert len(frame["value"].iloc[0]) == 2
        assert "not readable" in repr(frame["value"].iloc[1])
        with pytest.raises(JobError, match="item 1"):
            job.values()


def test_what_cannot_be_kept_without_a_store_is_kept_with_one(session: Session) -> None:
    large = "x" * (17 * 1024 * 1024)
    assert submit(session, lambda item: large, [1], name="17 MiB").values() == [large]
    assert submit(session, len, [large], name="17 MiB given").values() == [len(large)]


MODEL = """
    class Model:
        def __init__(self, size):
            self.size = size

    def train(size) -> Model:
        return Model(size)

    def size_of(model):
        return model.size
"""


@pytest.mark.parametrize("executor", ["auto", "process"])
def test_pickles_are_written_and_read_only_where_that_is_asked_for(session: Session, executor: str) -> None:
    space = defined(MODEL)
    options: Any = {"executor": executor, "concurrency": 1}
    with pytest.raises(InvalidInput, match="pickle=True"):
        submit(session, space["train"], [1], **options)
    job = submit(session, space["train"], [1, 2], name=f"models {executor}", pickle=True, **options)
    models = job.values()
    assert [model.size for model in models] == [1, 2]
    assert manifest_of(job).pickled
    given = submit(session, space["size_of"], models, name=f"given {executor}", pickle=True, **options)
    assert given.values() == [1, 2]
    session.forget_handles()
    read = session.job(f"models {executor}").result(30)
    assert "pickle=True" in repr(read["value"].iloc[0])
    session.forget_handles()
    assert [model.size for model in session.job(f"models {executor}", pickle=True).values()] == [1, 2]


def test_pickles_are_refused_on_workers_and_where_others_can_write(session: Session, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="for jobs that this process runs"):
        rnb.map("tests.workers.work:even", [1], session=session, show=False, pickle=True)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    from restate_nb.store.opening import parse_store

    with Session("shared", tmp_path / ".restate", store=parse_store(str(shared))) as other:
        assert submit(other, doubled, arrays(1)).values()[0][1] == 2
        with pytest.raises(InvalidInput, match="others can write to"):
            submit(other, len, ["a"], pickle=True)
        with pytest.raises(InvalidInput, match="others can write to"):
            other.job("any", pickle=True)


def test_a_job_that_was_begun_without_a_store_is_attached_to_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a version before there were stores: its large items are in the journal, and so its values stay."""
    data_dir = tmp_path / ".restate"
    with monkeypatch.context() as without:
        without.setattr(session_module, "_open_store", lambda *_: None)
        older = Session("before", data_dir)
    with older as session:
        for name in ("named", None):
            job = submit(session, doubled, arrays(3), name=name)
            job.result(30)
            assert not manifest_of(job).folder
            assert not any(map(is_reference, runner_of(job).data.items.encoded))
    CALLS.clear()
    with Session("before", data_dir) as session:
        for name in ("named", None):
            job = submit(session, doubled, arrays(3), name=name)
            np.testing.assert_array_equal(job.values()[2], arrays(3)[2] * 2)
            assert not manifest_of(job).folder
            assert not CALLS, "nothing ran again"
        assert not folders(session)
        other = submit(session, doubled, arrays(3, start=1))
        assert len(other.values()) == 3
        assert manifest_of(other).folder
        job = submit(session, doubled, arrays(3), name="named", fresh=True)
        assert len(job.values()) == 3
        assert manifest_of(job).folder, "what begins anew goes to the store"


def test_items_of_a_job_that_cannot_begin_leave_nothing(session: Session) -> None:
    before = folders(session)
    with pytest.raises(InvalidInput):
        submit(session, doubled, arrays(2), name="no\nname")
    with pytest.raises(InvalidInput, match=r"does not fit|cannot be sent"):
        submit(session, doubled, [*arrays(2), object()])
    assert folders(session) == before
