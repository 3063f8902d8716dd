"""Proves what may be said as `store=`, what it means, and that what is missing is said in words before any job: a
bucket, credentials, a package, an address that nobody answers at."""

from __future__ import annotations

import builtins
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from restate_nb.errors import InvalidInput
from restate_nb.store import object_store
from restate_nb.store.base import NotStored, Place, StoreConfig, StoreUnavailable
from restate_nb.store.opening import open_store, parse_store, probe, session_store
from tests.store.buckets import BUCKET, s3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3(monkeypatch):
        yield f"s3://{BUCKET}"


def test_a_directory_is_absolute_whatever_the_way_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    here = StoreConfig(str(tmp_path / "a b"), private=True, shared=True)
    for said in ("a b", Path("a b"), "~/a b", str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        assert parse_store(said) == here


def test_a_directory_that_others_can_write_is_not_private(tmp_path: Path) -> None:
    assert parse_store(tmp_path / "new").private
    tmp_path.chmod(0o755)
    assert parse_store(tmp_path).private
    tmp_path.chmod(0o770)
    assert not parse_store(tmp_path).private
    tmp_path.chmod(0o700)


def test_a_bucket_is_never_private() -> None:
    for said in ("s3://bucket/pre/fix/", "gs://bucket", "az://container/prefix"):
        assert parse_store(said) == StoreConfig(said.rstrip("/"), private=False, shared=True)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (5, "A int cannot be sent to them"),
        (object_store, "A module cannot be sent"),
        (None, "A NoneType cannot"),
        ("", "'' is neither"),
        ("  ", "is neither"),
        (b"bytes", "A bytes cannot be sent"),
        ("http://bucket/prefix", "'http://bucket/prefix' is neither"),
        ("s3://", "'s3://' is neither"),
        ("s3://bucket/prefix?region=x", "is neither"),
        ("file://elsewhere/dir", "is neither"),
        ("s3://key:secret@bucket", "holds no credentials"),
    ],
)
def test_what_cannot_be_a_store_is_refused_with_what_could(said: object, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        parse_store(said)
    assert str(refused.value).startswith("store=")
    assert "secret@" not in str(refused.value)
    with pytest.raises(InvalidInput, match=r"^--store "):
        parse_store(said, "--store")


def test_sessions_have_places_of_their_own_where_case_does_not_count_too() -> None:
    whole = StoreConfig("s3://bucket", private=False)
    places = [session_store(whole, each).url for each in ("main", "Main", "MAIN", "main-2")]
    assert places[0] == "s3://bucket/main"
    assert len({each.lower() for each in places}) == 4


def told_at_opening(url: str) -> str:
    with pytest.raises(InvalidInput) as refused:
        probe(open_store(session_store(parse_store(url), "tests")))
    return str(refused.value)


def test_a_bucket_that_is_not_there_is_said(bucket: str) -> None:
    told = told_at_opening("s3://nowhere/prefix")
    where = "s3://nowhere/prefix/tests"
    cannot = f"Values cannot be kept in {where}. The store {where} cannot be written"
    assert told.startswith(f"{cannot}: there is no such bucket (")
    assert told.endswith("404 Not Found: The specified bucket does not exist).")
    probe(open_store(parse_store(bucket)))


def test_missing_credentials_are_said_and_where_they_come_from(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    assert "no credentials were found. They come from the environment: AWS_ACCESS_KEY_ID" in told_at_opening(bucket)
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    assert "no credentials were found" in told_at_opening("az://container/prefix")


def test_an_address_without_encryption_is_refused_until_that_is_allowed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert "its address is no https://, which AWS_ALLOW_HTTP=true allows" in told_at_opening(bucket)


def test_nobody_at_the_address_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(object_store._RETRIES, "max_retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in told_at_opening(bucket)


def test_a_server_that_is_away_makes_a_store_wait_and_not_fail(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(object_store._RETRIES, "max_retries", 0)
    there = open_store(parse_store(bucket))
    [place] = there.append("job", [b"x"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = open_store(parse_store(bucket))
    calls: list[Callable[[], Any]] = [
        lambda: away.append("job", [b"x"]),
        lambda: away.read("job", place, 1),
        lambda: away.drop("job"),
        lambda: list(away.folders()),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            call()
    assert there.read("job", place, 1) == b"x"


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "obstore":
            raise ImportError(name)
        return real(name, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidInput, match=r"s3://bucket needs .* obstore: pip install 'restate-nb\[objects\]'"):
        open_store(parse_store("s3://bucket"))


def test_a_fork_is_told_that_it_cannot_use_a_bucket(bucket: str) -> None:
    """obstore's threads are not in it: it would wait for them for ever."""
    store = open_store(parse_store(bucket))
    [place] = store.append("job", [b"x"])
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            store.read("job", place, 1)
        except InvalidInput as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert "was forked from one that has used the store s3://values" in told.read()
    os.waitpid(child, 0)


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(InvalidInput, match=r"The store .*/file/tests cannot be made: "):
        open_store(StoreConfig(f"{tmp_path}/file/tests", private=True))
    with pytest.raises(InvalidInput, match=r"Values cannot be kept in .*/file/tests\. The store .* cannot be written"):
        probe(open_store(StoreConfig(f"{tmp_path}/file/tests", private=False)))


def test_a_store_that_is_opened_for_reading_alone_makes_nothing_but_its_directory(tmp_path: Path) -> None:
    store = open_store(session_store(parse_store(tmp_path / "values"), "tests"))
    with pytest.raises(NotStored):
        store.read("job", Place("0", 0), 1)
    assert [each.relative_to(tmp_path) for each in (tmp_path / "values").rglob("*")] == [Path("values/tests")]
    assert stat.S_IMODE((tmp_path / "values").stat().st_mode) == 0o700
