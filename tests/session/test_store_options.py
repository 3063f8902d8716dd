"""Proves `store=` of `rnb.start` and `rnb.connect`, and `restate-nb worker --store`: values and items lie where that is
said, in a directory or a bucket, for whoever goes on with the job; what cannot be is said before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest

import restate_nb as rnb
from restate_nb.errors import InvalidInput
from restate_nb.server.handle import ServerHandle
from restate_nb.server.lifecycle import start_server
from restate_nb.session.session import Session
from restate_nb.store.local import LocalStore
from restate_nb.store.opening import parse_store
from tests.store.buckets import BUCKET, s3
from tests.support import eventually
from tests.workers.crew import Worker, free_port
from tests.workers.work import large, length

Connect = Callable[..., Session]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    """A restate-server on loopback ports, which the tests only connect to."""
    with start_server(tmp_path_factory.mktemp("cluster") / ".restate", listen="tcp") as handle:
        yield handle


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3(monkeypatch) as url:
        monkeypatch.setenv("BUCKET_AT", url)
        yield f"s3://{BUCKET}"


@pytest.fixture
def connect(cluster: ServerHandle, tmp_path: Path) -> Iterator[Connect]:
    with ExitStack() as sessions:

        def connect(name: str, **options: Any) -> Session:
            url = f"http://127.0.0.1:{free_port()}"
            session = rnb.connect(
                cluster.ingress.url,
                admin_url=cluster.admin.url,
                endpoint=url,
                identity_key=cluster.identity_key,
                name=name,
                **options,
            )
            sessions.callback(session.stop)
            return session

        yield connect


def objects() -> dict[str, int]:
    """Their names in the bucket, and their sizes."""
    client = boto3.client("s3", endpoint_url=os.environ["BUCKET_AT"], region_name="us-east-1")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}


def values(session: Session, name: str, count: int = 10, **options: Any) -> rnb.Job[Any]:
    job = rnb.map(large, range(count), name=name, session=session, show=False, **options)
    assert job.wait(60)
    return job


def test_a_session_of_its_own_server_keeps_values_in_the_directory_it_is_given(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    with rnb.start("given", data_dir=tmp_path / ".restate", store=shared) as session:
        job = values(session, "job")
        assert job.values() == list(map(large, range(10)))
        [folder] = (shared / "given").iterdir()
        assert sum(each.stat().st_size for each in folder.iterdir()) >= 1_000_000
        assert not (tmp_path / ".restate" / "values").exists()
        assert f", values in {shared}>" in repr(session)
        job.delete()
        eventually(lambda: not list((shared / "given").iterdir()))


def test_another_store_than_the_live_sessions_is_refused_and_the_same_one_is_not(tmp_path: Path) -> None:
    options: dict[str, Any] = {"data_dir": tmp_path / ".restate"}
    with rnb.start("live", store=tmp_path / "one", **options) as session:
        assert rnb.start("live", **options) is session
        assert rnb.start(store=str(tmp_path / "one")) is session
        with pytest.raises(InvalidInput, match=r"values in .*/one> is live, and it does not keep values in"):
            rnb.start("live", store=tmp_path / "two", **options)
    with rnb.start("live", **options), pytest.raises(InvalidInput, match=r"data in .*> is live"):
        rnb.start("live", store=tmp_path / "one", **options)


def test_a_store_that_cannot_be_is_said_before_a_server_starts_or_nothing_is_left(tmp_path: Path, bucket: str) -> None:
    data_dir = tmp_path / ".restate"
    with pytest.raises(InvalidInput, match="store= takes a directory"):
        rnb.start("none", data_dir=data_dir, store="http://somewhere/else")
    assert not data_dir.exists()
    with pytest.raises(InvalidInput, match="there is no such bucket"):
        rnb.start("none", data_dir=data_dir, store="s3://nowhere")
    with rnb.start("none", data_dir=data_dir, store=bucket) as session:
        assert values(session, "job", 2).values() == [large(0), large(1)]


def test_values_of_a_connected_session_lie_in_the_bucket_for_whoever_goes_on(connect: Connect, bucket: str) -> None:
    with connect("bucket", store=f"{bucket}/team/") as session:
        items = [large(number) for number in range(10)]
        given = rnb.map(length, items, name="given", session=session, show=False)
        assert given.values() == [100_000] * 10
        values(session, "made")
        assert all(each.startswith("team/bucket/") for each in objects())
        assert sum(objects().values()) >= 2_000_000
    with connect("bucket", store=f"{bucket}/team") as session:
        made = session.job("made")
        assert made.wait(30)
        assert made.values() == list(map(large, range(10)))
        session.job("given").delete()
        made.delete()
        eventually(lambda: objects() == {})


class Model:
    """What has no other form than its pickle."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_pickles_take_a_store_that_nobody_else_can_write_to(tmp_path: Path, bucket: str) -> None:
    """Unpickling runs code of whoever wrote it. Nothing has begun when it is refused."""

    def trained(number: int) -> Any:
        return Model(number)

    def asked(session: Session, **options: Any) -> rnb.Job[Any]:
        return rnb.map(trained, range(3), pickle=True, session=session, show=False, **options)

    private, open_to_all = tmp_path / "private", tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    for number, store in enumerate((None, private)):
        with Session("pickles", tmp_path / f"{number}", store=store and parse_store(store)) as session:
            assert [each.number for each in asked(session).values()] == [0, 1, 2]
            with pytest.raises(InvalidInput, match="pickle=True is for jobs that this process runs"):
                rnb.map("tests.workers.work:large", [1], pickle=True, session=session, show=False)
    for number, place in enumerate((open_to_all, bucket)):
        with Session("pickles", tmp_path / f"others {number}", store=parse_store(place)) as session:
            with pytest.raises(InvalidInput, match="pickle=True is for a store that nobody but you can write to"):
                asked(session)
            assert len(session.list_jobs()) == 0
    with Session("pickles", tmp_path / "tcp", listen="tcp") as session:
        with pytest.raises(InvalidInput, match=r"pickle=True is for a Restate of your own"):
            asked(session)
        assert len(session.list_jobs()) == 0


def test_without_a_store_values_of_a_connected_session_stay_in_restate(connect: Connect) -> None:
    with connect("without") as session:
        assert session.connection.store is None
        assert values(session, "job").values() == list(map(large, range(10)))


def test_a_connected_session_with_another_store_is_another_one(cluster: ServerHandle, tmp_path: Path) -> None:
    with rnb.connect(cluster.ingress.url, name="other", store=tmp_path / "one") as session:
        assert rnb.connect(cluster.ingress.url, name="other", store=tmp_path / "one") is session
        for store in (None, tmp_path / "two"):
            with pytest.raises(InvalidInput, match=rf"values in {tmp_path}/one> is live"):
                rnb.connect(cluster.ingress.url, name="other", store=store)


def test_each_cluster_sweeps_only_its_own_of_a_store_that_both_have(
    connect: Connect, tmp_path: Path, data_dir: Path
) -> None:
    """Two people give the same place, and call their sessions alike: neither Restate names what the other's has."""
    store = tmp_path / "store"
    with connect("same", store=store) as there:
        values(there, "there")
        owner = there.connection.store.owner if there.connection.store else ""
    assert len(owner) == 12
    with Session("same", data_dir, store=parse_store(store)) as here:
        values(here, "here")
        known = here.connection.store
        assert known is not None
        assert known.owner not in ("", owner)
        orphans = [f"{each}-orphan" for each in ("0" * 12, owner, known.owner)]
    everything = {each.name for each in (store / "same").iterdir()}
    writer = LocalStore(known.config)
    for each in orphans:
        writer.append(each, [b"x"])
    writer.close()
    make_old(store)
    with Session("same", data_dir, store=parse_store(store)) as here:
        eventually(lambda: names(store) == everything | set(orphans[:2]))
        assert values(here, "here").values() == list(map(large, range(10)))
    with connect("same", store=store) as there:
        eventually(lambda: names(store) == everything | set(orphans[:1]))
        assert values(there, "there").values() == list(map(large, range(10)))


def names(store: Path) -> set[str]:
    return {each.name for each in (store / "same").iterdir()}


def make_old(store: Path) -> None:
    for each in (store / "same").rglob("*"):
        os.utime(each, (0, 0))


@pytest.fixture
def worker(cluster: ServerHandle, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(session: str, *more: str) -> Worker:
        options = ("--admin", cluster.admin.url, "--identity-key", cluster.identity_key, *more)
        started.append(Worker(tmp_path / f"worker-{len(started)}.log", session, free_port(), *options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def test_workers_take_items_from_the_bucket_and_put_values_there(
    connect: Connect, worker: Callable[..., Worker], bucket: str
) -> None:
    with connect("crew", store=bucket) as session:
        assert f"values in {bucket}/crew" in worker("crew", "--store", bucket).said
        made = rnb.map("tests.workers.work:large", range(10), name="made", session=session, show=False)
        assert made.values() == list(map(large, range(10)))
        items = [large(number) for number in range(10)]
        given = rnb.map("tests.workers.work:length", items, name="given", session=session, show=False)
        assert given.values() == [100_000] * 10
        assert sum(objects().values()) >= 2_000_000
        made.delete()
        given.delete()
        eventually(lambda: objects() == {})


def test_a_worker_without_the_store_of_an_item_fails_it_and_names_the_option(
    connect: Connect, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    with connect("bare", store=tmp_path / "store") as session:
        worker("bare")
        job = rnb.map("tests.workers.work:length", [large(1)], name="job", session=session, show=False)
        assert job.wait(60)
        assert "--store" in str(job.frame()["error"].iloc[0])


def test_a_worker_whose_store_cannot_be_says_so_and_ends(
    cluster: ServerHandle, worker: Callable[..., Worker], bucket: str
) -> None:
    with pytest.raises(AssertionError, match=r"restate-nb: Values cannot be kept in s3://nowhere/crew.*no such bucket"):
        worker("crew", "--store", "s3://nowhere")
    with pytest.raises(AssertionError, match="restate-nb: --store takes a directory"):
        worker("crew", "--store", "ftp://nowhere")
