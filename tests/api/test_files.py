"""Proves that patterns name the files that a shell would name, here and in buckets, each with what tells its change."""

from __future__ import annotations

import datetime as dt
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest

import restate_nb as rnb
from restate_nb.handle import listing
from restate_nb.session.session import Session
from tests.store.buckets import BUCKET, s3

NAMES = [
    "a.txt",
    "b.pdf",
    "in/c.pdf",
    "in/deep/d.pdf",
    "in/deep/e.txt",
    "in/[1].pdf",
    "x y/ä.pdf",
    ".hidden/f.pdf",
    "^.pdf",
]
PATTERNS = [
    *("*", "**", "**/*.pdf", "in/*.pdf", "in/**", "in/**/*.pdf", "*/*.pdf", "?.pdf", "**/[cd].pdf", "**/[!cd].pdf"),
    *(
        "in/[[]1].pdf",
        "**/deep/*",
        "nothing*",
        "**/*",
        "in/deep/*.*",
        "*.p?f",
        "**/ä*",
        "[^a].*",
        "in*/**/*.txt",
        "[",
        "[]",
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*patterns: Any) -> list[str]:
    return list(rnb.files(*patterns)["path"])


def test_a_row_has_what_tells_whether_the_file_has_changed(folder: Path) -> None:
    os.utime("a.txt", ns=(0, 1_700_000_000_123_456_789))
    frame = rnb.files("a.txt")
    assert frame.to_dict("records") == [
        {
            "path": "a.txt",
            "size": 5,
            "modified": pd.Timestamp("2023-11-14 22:13:20.123456", tz="UTC"),
            "etag": f"{1_700_000_000_123_456_789:x}-5",
        }
    ]
    assert str(frame["modified"].dtype) == "datetime64[us, UTC]"
    Path("a.txt").write_text("other")
    assert rnb.files("a.txt")["etag"][0] != frame["etag"][0]


def test_patterns_name_files_in_order_and_each_once(folder: Path) -> None:
    assert paths("**/*.pdf", "in/*") == ["^.pdf", "b.pdf", "in/[1].pdf", "in/c.pdf", "in/deep/d.pdf", "x y/ä.pdf"]
    assert paths(folder / "in" / "*.pdf") == [str(folder / "in" / name) for name in ("[1].pdf", "c.pdf")]
    assert paths(f"file://{folder}/x%20y/?.pdf") == [f"{folder}/x y/ä.pdf"]
    assert paths(".hidden/*") == [".hidden/f.pdf"]


def test_links_to_nothing_and_folders_are_no_files(folder: Path) -> None:
    Path("lost.txt").symlink_to("nowhere")
    Path("linked.txt").symlink_to("a.txt")
    Path("folder.txt").mkdir()
    assert paths("*.txt") == ["a.txt", "linked.txt"]


def test_a_name_that_is_no_unicode_is_a_path_too(folder: Path) -> None:
    Path("a.txt").rename(os.fsdecode(b"\xff.txt"))
    assert [os.fsencode(path) for path in paths("*.txt")] == [b"\xff.txt"]


def test_a_pattern_without_files_is_told_and_gives_no_items(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = rnb.files("dta/*.pdf")
    assert (len(frame), list(frame.columns)) == (0, ["path", "size", "modified", "etag"])
    assert capsys.readouterr().out == f"No file is named by 'dta/*.pdf' in {folder}.\n"


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ((), "at least one pattern"),
        (("in",), r"'in' is a folder\. Its files are 'in/\*'"),
        (("in/",), r"'in/' is a folder\. Its files are 'in/\*'"),
        (("missing.pdf",), r"There is no file 'missing\.pdf' in /"),
        (("",), r"text or a path.* not ''"),
        ((5,), r"text or a path.* not 5"),
        ((b"a",), r"text or a path.* not b'a'"),
        (("nosuch://bucket/a*",), r"takes the package fsspec|cannot be listed"),
        (("s3:///a*",), r"names no bucket"),
        (("s3://b*/a",), r"names no bucket"),
    ],
)
def test_what_names_no_file_is_refused(folder: Path, patterns: Any, says: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        rnb.files(*patterns)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_names_of_objects_are_matched_as_paths_are(folder: Path, pattern: str) -> None:
    shell = set(glob.glob(pattern, recursive=True, include_hidden=True))  # noqa: PTH207 - what it is compared with
    named = {name for name in NAMES if listing.fits(pattern.split("/"), name.split("/"))}
    assert named == {each for each in shell if Path(each).is_file()}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3(monkeypatch) as url:
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        for name in NAMES:
            client.put_object(Bucket=BUCKET, Key=f"data/{name}", Body=name.encode())
        yield client


def test_objects_of_a_bucket_are_files_with_its_etags(bucket: Any) -> None:
    frame = rnb.files(f"s3://{BUCKET}/data/in/**/*.pdf")
    assert list(frame["path"]) == [f"s3://{BUCKET}/data/in/{name}" for name in ("[1].pdf", "c.pdf", "deep/d.pdf")]
    about = bucket.head_object(Bucket=BUCKET, Key="data/in/c.pdf")
    row = frame.iloc[1]
    assert (row["size"], row["etag"]) == (8, about["ETag"].strip('"'))
    assert abs(row["modified"] - about["LastModified"]) < dt.timedelta(seconds=1)
    assert paths(f"s3://{BUCKET}/data/*.pdf") == [f"s3://{BUCKET}/data/{name}" for name in ("^.pdf", "b.pdf")]
    assert paths(f"s3://{BUCKET}/*/x y/*") == [f"s3://{BUCKET}/data/x y/ä.pdf"]
    assert paths(f"s3://{BUCKET}/data/a.txt") == [f"s3://{BUCKET}/data/a.txt"]
    bucket.put_object(Bucket=BUCKET, Key="data/in/c.pdf", Body=b"changed!")
    assert rnb.files(f"s3://{BUCKET}/data/in/c.pdf")["etag"][0] != row["etag"]


def test_a_bucket_says_what_is_not_there(bucket: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(rnb.InvalidInput, match=r"There is no file 's3://values/data/missing'"):
        rnb.files(f"s3://{BUCKET}/data/missing")
    with pytest.raises(
        rnb.InvalidInput, match=r"'s3://values/data/' is a folder\. Its files are 's3://values/data/\*'"
    ):
        rnb.files(f"s3://{BUCKET}/data/")
    with pytest.raises(rnb.InvalidInput, match=r"files of 's3://no-such/\*' cannot be listed"):
        rnb.files("s3://no-such/*")
    assert len(rnb.files(f"s3://{BUCKET}/nothing/*")) == 0
    assert "No file is named by 's3://values/nothing/*'.\n" in capsys.readouterr().out


def test_file_systems_of_fsspec_are_listed_where_it_is_installed() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/notes/a.txt": b"one", "/notes/in/b.txt": b"three", "/notes/c.pdf": b""})
    frame = rnb.files("memory://notes/**/*.txt")
    assert list(frame["path"]) == ["memory:///notes/a.txt", "memory:///notes/in/b.txt"]
    assert list(frame["size"]) == [3, 5]
    assert frame["modified"].notna().all()
    assert paths("memory://notes/c.pdf") == ["memory:///notes/c.pdf"]
    for pattern, says in (("memory://notes", "is a folder"), ("memory://notes/none", "There is no file")):
        with pytest.raises(rnb.InvalidInput, match=says):
            rnb.files(pattern)


def test_files_are_the_items_of_a_job(session: Session, folder: Path) -> None:
    job = rnb.map(lambda path, size, **_: (path, size), rnb.files("**/*.txt"), session=session, show=False)
    assert job.values() == [("a.txt", 5), ("in/deep/e.txt", 13)]
    by_path = rnb.map(lambda path: Path(path).read_text(), rnb.files("*.txt")["path"], session=session, show=False)
    assert by_path.values() == ["a.txt"]
