"""Proves that a job goes into other programs whole: Parquet, Arrow, DuckDB and polars get every row with its type, what
is not there is said, tables that items returned are put below one another, and memory holds one batch at a time."""

from __future__ import annotations

import json
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

import restate_nb as rnb
from restate_nb.handle import exports
from restate_nb.handle.job import runner_of
from restate_nb.results import values
from restate_nb.session.session import Session
from tests.support import eventually, submit


@pytest.fixture(autouse=True)
def no_warning_is_missed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def told(path: Path) -> dict[str, Any]:
    """What a file tells of its job."""
    found: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[b"restate_nb"])
    return found


def small_batches(monkeypatch: pytest.MonkeyPatch, *, rows: int = 3, size: int = 4_000_000) -> None:
    monkeypatch.setattr(values, "BATCH_ROWS", rows)
    monkeypatch.setattr(values, "BATCH_BYTES", size)
    monkeypatch.setattr(exports, "BATCH_ROWS", rows)
    monkeypatch.setattr(exports, "BATCH_BYTES", size)


def frame_of(n: int) -> pd.DataFrame:
    return pd.DataFrame({"n": np.arange(n), "half": np.arange(n) / 2}, index=pd.Index(range(n), name="place"))


class Gated:
    """A function whose later items wait."""

    def __init__(self, first: int) -> None:
        self.gate = threading.Event()
        self.first = first

    def __call__(self, item: int) -> int:
        if item >= self.first:
            self.gate.wait(20)
        return item * 10


# ---------------------------------------------------------------- one row an item


def test_values_have_their_own_types_in_parquet(session: Session, tmp_path: Path, monkeypatch: Any) -> None:
    small_batches(monkeypatch)

    def work(n: int) -> dict[str, Any]:
        return {"n": n, "name": "x" * n, "vector": np.full(3, n, dtype=np.float32), "tags": ["a"] * n}

    job = submit(session, work, {f"k{n}": n for n in range(7)})
    frame = job.result(20)
    path = job.to_parquet(tmp_path / "a.parquet", compression="zstd")
    schema = pq.read_schema(path)
    assert str(schema.field("value").type) == (
        "struct<n: int64, name: string, vector: list<element: float>, tags: list<element: string>>"
    )
    back = pd.read_parquet(path)
    assert back.index.tolist() == frame.index.tolist()
    assert [each["n"] for each in back["value"]] == list(range(7))
    assert pq.ParquetFile(path).num_row_groups == 3
    assert told(path) == {
        "job": job.name, "generation": 1, "total": 7, "ok": 7, "failed": 0, "cancelled": 0, "unfinished": 0
    }  # fmt: skip


def test_duckdb_and_polars_read_a_job_as_it_is(session: Session) -> None:
    job = submit(session, lambda n: {"square": n * n}, pd.Series([2, 3], index=["a", "b"], name="n"))
    job.result(20)
    assert duckdb.sql("select index, item, value.square from job where status = 'ok'").fetchall() == [
        ("a", 2, 4),
        ("b", 3, 9),
    ]
    for frame in (pl.DataFrame(job), job.to_polars(), pl.from_arrow(job.to_arrow())):
        assert isinstance(frame, pl.DataFrame)
        assert frame.select("index", "item", pl.col("value").struct.field("square")).rows() == [
            ("a", 2, 4),
            ("b", 3, 9),
        ]
    assert pa.table(job)["item"].to_pylist() == [2, 3]


def test_what_is_more_than_is_read_at_once_is_streamed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    small_batches(monkeypatch)
    job = submit(session, lambda n: None if n % 2 else n / 2, range(8))
    job.result(20)
    whole = job.to_arrow()
    monkeypatch.setattr(exports, "READ_BYTES", -1)
    reader = pa.RecordBatchReader.from_stream(job)
    batches = list(reader)
    assert len(batches) == 3
    assert pa.Table.from_batches(batches).equals(whole)
    assert duckdb.sql("select sum(value) from job").fetchall() == [(6.0,)]


def test_only_the_columns_that_are_asked_for_are_read(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(session, lambda n: np.zeros(10_000), range(3))
    job.result(20)
    monkeypatch.setattr(runner_of(job).data.function.classes, "load", None)  # nothing can be read
    table = job.to_arrow(columns=["status", "item"])
    assert table.to_pydict() == {"item": [0, 1, 2], "status": ["ok"] * 3}
    with pytest.raises(rnb.InvalidInput, match=r"has no column 'valeu'. It has item, value, status"):
        job.to_arrow(columns=["valeu"])


def test_fields_become_columns_where_that_is_asked_for(session: Session, monkeypatch: Any) -> None:
    small_batches(monkeypatch)
    job = submit(session, lambda n: {"a": n} | ({"late": "x"} if n > 4 else {}), range(6))
    job.result(20)
    table = job.to_arrow(expand=True)
    assert table.schema.names[:4] == ["item", "a", "late", "status"]
    assert table["late"].to_pylist() == [None] * 5 + ["x"]


# ---------------------------------------------------------------- while it runs


def test_what_has_not_ended_is_a_row_and_is_said(session: Session, tmp_path: Path) -> None:
    gated = Gated(2)
    job = submit(session, gated, range(5))
    eventually(lambda: job.counts["ok"] == 2)
    with pytest.warns(UserWarning, match=r"3 of 5 items have not ended by now. job.wait\(\) waits for them"):
        path = job.to_parquet(tmp_path / "a.parquet")
    assert told(path)["unfinished"] == 3
    assert pd.read_parquet(path)["value"].tolist()[:2] == [0, 10]
    assert set(pd.read_parquet(path)["status"][2:]) <= {"pending", "running"}
    with pytest.warns(UserWarning, match="3 of 5"):
        assert pl.DataFrame(job).height == 5
    with pytest.warns(UserWarning, match="3 of 5"):
        job.to_csv(tmp_path / "a.csv")
    gated.gate.set()
    job.result(20)
    job.to_parquet(path)
    assert told(path)["unfinished"] == 0


def test_a_followed_job_is_written_as_it_runs_and_is_there_at_its_end(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_batches(monkeypatch)
    gated = Gated(6)
    job = submit(session, gated, range(10))
    path, written = tmp_path / "a.parquet", []
    write = pq.ParquetWriter.write_table
    monkeypatch.setattr(
        pq.ParquetWriter, "write_table", lambda *args, **options: (written.append(args), write(*args, **options))
    )
    following = threading.Thread(target=lambda: job.to_parquet(path, follow=True))
    following.start()
    try:
        eventually(lambda: len(written) == 2)
        assert [each.suffix for each in tmp_path.iterdir()] == [".part"]
    finally:
        gated.gate.set()
        following.join(20)
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]
    assert told(path)["ok"] == 10
    assert_frame_equal(pd.read_parquet(path), pd.read_parquet(job.to_parquet(tmp_path / "b.parquet")))


def test_whoever_follows_a_job_that_stands_still_is_told(session: Session, tmp_path: Path) -> None:
    job = submit(session, lambda n: object() if n == 1 else n, range(3), concurrency=1)
    with pytest.raises(rnb.JobError, match="is paused: what item"):
        job.to_parquet(tmp_path / "a.parquet", follow=True)
    assert [*tmp_path.iterdir()] == []


def test_ctrl_c_leaves_no_file_and_the_one_that_was_there(session: Session, tmp_path: Path, monkeypatch: Any) -> None:
    small_batches(monkeypatch)
    job = submit(session, lambda n: n, range(9))
    job.result(20)
    path = job.to_parquet(tmp_path / "a.parquet")
    before, written = path.read_bytes(), 0

    def write(self: Any, *args: Any, **options: Any) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write)
    with pytest.raises(KeyboardInterrupt):
        job.to_parquet(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.parquet"]
    assert path.read_bytes() == before


# ---------------------------------------------------------------- values that are tables


LABELS = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", None)], names=["letter", None])


def test_concat_has_the_label_of_the_item_in_front(session: Session) -> None:
    job = submit(session, frame_of, pd.Series([2, 0, 3], index=LABELS))
    both = job.concat()
    assert list(both.index.names) == ["letter", None, "place"]
    assert both["n"].tolist() == [0, 1, 0, 1, 2]
    assert both.index.get_level_values("letter").tolist() == ["a", "a", "b", "b", "b"]
    expected = pd.concat([frame_of(2), frame_of(3)], keys=["x", "y"])
    assert_frame_equal(both.reset_index(drop=True), expected.reset_index(drop=True))
    single = submit(session, frame_of, {"x": 2, "y": 3}).concat()
    assert_frame_equal(single, pd.concat([frame_of(2), frame_of(3)], keys=["x", "y"]))


def test_concat_of_series_is_a_series(session: Session) -> None:
    job = submit(session, lambda n: pd.Series([n, n + 1], name="q"), {"x": 1, "y": 5})
    expected = pd.concat([pd.Series([1, 2], name="q"), pd.Series([5, 6], name="q")], keys=["x", "y"])
    assert_series_equal(job.concat(), expected)


def test_concat_leaves_out_what_failed_and_says_how_much(session: Session) -> None:
    def work(n: int) -> pd.DataFrame | None:
        if n == 1:
            raise ValueError("no table")
        return None if n == 2 else frame_of(n)

    job = submit(session, work, range(5))
    with pytest.warns(UserWarning, match="1 item of 5 failed or cancelled, and left out; 1 value None, and left out"):
        assert job.concat().index.get_level_values(0).tolist() == [3, 3, 3, 4, 4, 4, 4]
    with pytest.warns(UserWarning, match="1 item failed or cancelled, and left out; 1 value None"):
        assert job.to_arrow().num_rows == 7


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "each a int: job.frame"),
        (pl.DataFrame({"a": [1]}), r"each a polars DataFrame: job.to_polars\(\)"),
        ({"a": 1}, "each a dict"),
    ],
)
def test_concat_says_what_the_values_are(session: Session, value: Any, message: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=message):
        submit(session, lambda n: value, range(2)).concat()
    with pytest.raises(rnb.InvalidInput, match=r"of several kinds, such as a (pandas DataFrame|.*) and a"):
        submit(session, lambda n: frame_of(1) if n else value, range(2)).concat()


def test_the_file_of_tables_is_their_concat(session: Session, tmp_path: Path, monkeypatch: Any) -> None:
    small_batches(monkeypatch)
    job = submit(session, frame_of, pd.Series(range(1, 9), index=pd.Index(list("abcdefgh"), name="who")))
    both = job.concat()
    path = job.to_parquet(tmp_path / "a.parquet")
    assert_frame_equal(pd.read_parquet(path), both)
    assert pq.read_schema(path).names == ["who", "place", "n", "half"]
    assert duckdb.sql("select who, sum(n) from job group by who order by who").fetchall()[:3] == [
        ("a", 0), ("b", 1), ("c", 3)
    ]  # fmt: skip


def test_tables_of_polars_and_pyarrow_are_put_together(session: Session) -> None:
    for made in (pl.DataFrame, pa.table):
        job = submit(session, lambda n, made=made: made({"n": [*range(n)], "t": ["x"] * n}), {"a": 2, "b": 0, "c": 1})
        job.result(20)
        assert job.to_polars().rows() == [("a", 0, "x"), ("a", 1, "x"), ("c", 0, "x")]
        assert duckdb.sql("select count(*) from job").fetchall() == [(3,)]


def test_tables_and_other_values_together_are_refused(session: Session, tmp_path: Path) -> None:
    job = submit(session, lambda n: frame_of(n) if n else 0, range(3))
    job.result(20)
    with pytest.raises(rnb.InvalidInput, match=r"each a pandas DataFrame.*that of item 0 is of the class int"):
        job.to_parquet(tmp_path / "a.parquet")
    assert job.to_arrow(columns=["item", "status"]).num_rows == 3
    with pytest.raises(rnb.InvalidInput, match=r"'value' has a pandas DataFrame.*job.concat\(\)"):
        job.to_csv(tmp_path / "a.csv")


def test_two_columns_of_one_name_are_refused(session: Session) -> None:
    job = submit(session, lambda n: pd.DataFrame([[1, 2]], columns=["a", "a"]), range(2))
    assert job.concat().shape == (2, 2)
    with pytest.raises(rnb.InvalidInput, match=r"two columns 'a'.*Rename one"):
        job.to_arrow()


def test_items_that_are_tables_are_left_out_and_that_is_said(session: Session) -> None:
    job = submit(session, lambda table: int(table["n"].sum()), [frame_of(2), frame_of(3)])
    job.result(20)
    with pytest.warns(UserWarning, match="the column item is left out, since items are no cells of a table"):
        table = job.to_arrow()
    assert table["value"].to_pylist() == [1, 3]
    assert "item" not in table.schema.names


# ---------------------------------------------------------------- values in the store


def test_frames_past_the_bound_hold_handles_and_say_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(session, lambda n: np.full(10_000, n, dtype=np.float64), range(3))
    frame = job.result(20)
    assert [each[0] for each in frame["value"]] == [0, 1, 2]
    lazy = job.frame(lazy=True)["value"]
    assert [repr(each) for each in lazy] == ["<Stored ndarray float64, 10000, 80 kB>"] * 3
    assert [each.load()[0] for each in job.values(lazy=True)] == [0, 1, 2]
    monkeypatch.setattr(values, "READ_BYTES", 200_000)
    with pytest.warns(UserWarning, match=r"in the store takes 241 kB, and up to 200 kB are read at once.*iter_values"):
        assert all(isinstance(each, rnb.Stored) for each in job.frame()["value"])
    assert [each[0] for each in job.frame(lazy=False)["value"]] == [0, 1, 2]
    assert [each[0] for each in job.values()] == [0, 1, 2]
    monkeypatch.setattr(exports, "READ_BYTES", 200_000)
    with pytest.raises(rnb.InvalidInput, match=r"values take 241 kB in the store.*to_parquet"):
        job.to_csv("never.csv")


def test_items_in_the_store_are_handles_where_that_is_asked_for(session: Session) -> None:
    job = submit(session, lambda array: int(array[0]), [np.full(10_000, n) for n in range(3)])
    assert [each.load()[0] for each in job.result(20, lazy=True)["item"]] == [0, 1, 2]
    assert [each[0] for each in job.frame()["item"]] == [0, 1, 2]
    assert job.frame(lazy=True)["value"].tolist() == [0, 1, 2]


def test_jobs_are_compared_by_the_content_of_stored_values(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    one = submit(session, lambda n: np.zeros(10_000), range(2), name="one")
    two = submit(session, lambda n: np.full(10_000, float(n)), range(2), name="two")
    one.wait(20)
    two.wait(20)
    assert rnb.compare(one, two)["change"].tolist() == ["same", "changed"]
    monkeypatch.setattr(values, "READ_BYTES", 0)
    with pytest.warns(UserWarning, match="are read at once"):
        assert rnb.compare(one, two)["change"].tolist() == ["same", "changed"]


def test_a_handle_on_a_value_of_a_deleted_job_says_that_it_is_gone(session: Session) -> None:
    job = submit(session, lambda n: np.zeros(10_000), range(1))
    job.result(20)
    handle = job.values(lazy=True)[0]
    assert handle.load().shape == (10_000,)
    job.delete()
    runner_of(job).data.record.connection.store.drop(runner_of(job).data.manifest.folder)  # type: ignore[union-attr]
    with pytest.raises(rnb.NotReadable, match=r"item 0 \(ndarray float64, 10000, 80 kB\) is no longer in the store"):
        handle.load()


def test_values_are_iterated_over_while_the_job_runs(session: Session) -> None:
    gated = Gated(2)
    job = submit(session, gated, range(4))
    found = job.iter_values()
    assert [next(found), next(found)] == [0, 10]
    gated.gate.set()
    assert [*found] == [20, 30]
    assert [*job.iter_values()] == job.values()


def test_iterating_ends_as_soon_as_an_item_has_failed(session: Session) -> None:
    gate = threading.Event()

    def work(n: int) -> int:
        if n == 2:
            raise ValueError("no")
        if n == 0:
            gate.wait(20)
        return n

    job = submit(session, work, range(3))
    try:
        with pytest.raises(rnb.JobError, match=r"1 of 3 items have no value.*ValueError: no"):
            next(job.iter_values())
        assert not job.done()
    finally:
        gate.set()


def test_memory_holds_one_batch_of_a_job_that_is_larger(session: Session, tmp_path: Path, monkeypatch: Any) -> None:
    small_batches(monkeypatch, rows=1000, size=2_000_000)
    job = submit(session, lambda n: np.full(62_500, n, dtype=np.float64), range(80))  # 40 MB
    job.wait(60)
    tracemalloc.start()
    try:
        assert sum(value[0] for value in job.iter_values()) == sum(range(80))
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
        tracemalloc.reset_peak()
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        path = job.to_parquet(tmp_path / "a.parquet", compression="none")
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
        assert pool.bytes_allocated() - before < 1_000_000
    finally:
        tracemalloc.stop()
    assert pq.ParquetFile(path).num_row_groups >= 20
