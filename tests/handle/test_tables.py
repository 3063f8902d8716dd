"""Proves that frames of polars, of Arrow and of all that speak its interface are read by row as those of pandas are:
each row by the names of the columns, with Python's own values, none of them changed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing.parametric import dataframes

import restate_nb as rnb
from restate_nb.engine.function import Function
from restate_nb.handle.items import Items, passing_of, read_items
from restate_nb.session.session import Session

COLUMNS = {"city": ["Bonn", None, "Rome"], "n": [1, 2, None]}
ROWS = [{"city": "Bonn", "n": 1}, {"city": None, "n": 2}, {"city": "Rome", "n": None}]


def as_row(**row: Any) -> dict[str, Any]:
    return row


def read(items: Any, fn: Callable[..., Any] = as_row) -> Items:
    return read_items(items, Function(fn, passing_of(items)))


def rows_of(items: Any) -> list[Any]:
    """What the function is called with."""
    target = Function(as_row, passing_of(items))
    return list(map(target.caller(), read_items(items, target).encoded))


class Stream:
    """All that is known of it is Arrow's interface."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self) -> Any:  # nor can it be asked for another schema
        return self.table.__arrow_c_stream__()


def narwhals(frame: Any) -> Any:
    return pytest.importorskip("narwhals").from_native(frame)


def dataset(tmp_path: Any) -> Any:
    pq.write_table(pa.table(COLUMNS), tmp_path / "1.parquet")
    return ds.dataset(tmp_path)


KINDS: dict[str, Callable[[Any], Any]] = {
    "polars": lambda _: pl.DataFrame(COLUMNS),
    "polars in chunks": lambda _: pl.concat([pl.DataFrame(COLUMNS)[:1], pl.DataFrame(COLUMNS)[1:]], rechunk=False),
    "Table": lambda _: pa.table(COLUMNS),
    "Table in chunks": lambda _: pa.concat_tables([pa.table(COLUMNS).slice(0, 2), pa.table(COLUMNS).slice(2)]),
    "RecordBatch": lambda _: pa.record_batch(COLUMNS),
    "RecordBatchReader": lambda _: pa.table(COLUMNS).to_reader(),
    "Dataset": dataset,
    "Scanner": lambda path: dataset(path).scanner(),
    "DuckDB": lambda _: duckdb.from_arrow(pa.table(COLUMNS)),
    "narwhals": lambda _: narwhals(pl.DataFrame(COLUMNS)),
    "narwhals over Arrow": lambda _: narwhals(pa.table(COLUMNS)),
    "a stream": lambda _: Stream(pa.table(COLUMNS)),
    "pandas on Arrow": lambda _: (
        pa.table(COLUMNS).to_pandas(types_mapper=pd.ArrowDtype).astype(object).replace({pd.NA: None})
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_passed_by_name_with_none_for_what_is_missing(kind: str, tmp_path: Any) -> None:
    items = KINDS[kind](tmp_path)
    assert passing_of(items) == "kwargs"
    taken = read(items)
    assert list(taken.originals) == ROWS
    assert [type(row["n"]) for row in taken.originals] == [int, int, type(None)]
    assert taken.index().equals(pd.RangeIndex(3))
    assert taken.columns == ["city", "n"]
    assert read(KINDS[kind](tmp_path)).encoded[:] == read(pl.DataFrame(COLUMNS)).encoded[:]


NANOSECONDS = 1_700_000_000_000_000_001
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
MOMENT = dt.datetime(2026, 1, 31, 12, 30, 0, 5)

CELLS: list[tuple[Any, Any]] = [
    (pa.array([1, -(2**63), None]), [1, -(2**63), None]),
    (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
    (pa.array([1.5, None, float("inf")]), [1.5, None, float("inf")]),
    (pa.array(np.array([0.5], np.float16)), [0.5]),
    (pa.array([np.float16(0.5), None], pa.float16()), [0.5, None]),
    (pa.array([0.1], pa.float32()), [float(np.float32(0.1))]),
    (pa.array([True, None]), [True, None]),
    (pa.array([None, None]), [None, None]),
    (pa.array(["a", "", "ä" * 20]), ["a", "", "ä" * 20]),
    (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    (pa.array([b"\0a", None]), [b"\0a", None]),
    (pa.array([dt.date(2026, 1, 31)]), [dt.date(2026, 1, 31)]),
    (pa.array([MOMENT, None]), [MOMENT, None]),
    (pa.array([MOMENT.replace(tzinfo=BERLIN)]), [MOMENT.replace(tzinfo=BERLIN)]),
    (pa.array([dt.time(1, 2, 3, 4)], pa.time64("ns")), [dt.time(1, 2, 3, 4)]),
    (pa.array([[dt.time(1, 2, 3, 4)]], pa.list_(pa.time64("ns"))), [[dt.time(1, 2, 3, 4)]]),
    (pa.array([dt.timedelta(days=1, microseconds=1)]), [dt.timedelta(days=1, microseconds=1)]),
    (pa.array([NANOSECONDS], pa.timestamp("ns")), [pd.Timestamp(NANOSECONDS)]),
    (pa.array([NANOSECONDS], pa.timestamp("ns", "UTC")), [pd.Timestamp(NANOSECONDS, tz="UTC")]),
    (pa.array([1001], pa.duration("ns")), [pd.Timedelta(1001)]),
    (pa.array([[NANOSECONDS]], pa.list_(pa.timestamp("ns"))), [[pd.Timestamp(NANOSECONDS)]]),
    (pa.array([decimal.Decimal("1.50")]), [decimal.Decimal("1.50")]),
    (pa.array([[1, None], None, []]), [[1, None], None, []]),
    (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), [[1, 2]]),
    (pa.array([{"a": 1, "b": [{"c": "x"}]}, None]), [{"a": 1, "b": [{"c": "x"}]}, None]),
]


@pytest.mark.parametrize(("column", "values"), CELLS, ids=lambda each: str(getattr(each, "type", "")) or None)
def test_cells_are_the_objects_of_python_that_hold_all_of_them(column: Any, values: list[Any]) -> None:
    table = pa.table({"a": column})
    for items in (table, pl.from_arrow(table), Stream(table)):
        found = [row["a"] for row in rows_of(items)]
        assert found == values
        assert list(map(type, found)) == list(map(type, values))


def test_what_only_arrow_or_polars_has_is_read_too() -> None:
    identifier = uuid.UUID(int=5)
    table = pa.table(
        {"m": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "u": pa.array([identifier.bytes], pa.uuid())}
    )
    assert rows_of(table) == [{"m": [("a", 1)], "u": identifier}]
    frame = pl.DataFrame(
        {
            "big": pl.Series([2**100], dtype=pl.Int128),
            "object": pl.Series([complex(1, 2)], dtype=pl.Object),
            "enum": pl.Series(["x"], dtype=pl.Enum(["x", "y"])),
            "array": pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)),
        }
    )
    assert rows_of(frame) == [{"big": 2**100, "object": complex(1, 2), "enum": "x", "array": [1, 2]}]


def test_times_of_zones_are_the_same_moments_in_every_library() -> None:
    """Also before there were zones, where libraries differ, and where an hour comes twice."""
    for zone, seconds in (("America/Nassau", -2_500_000_000), ("Europe/Berlin", 1_792_891_800)):
        moments = [dt.datetime.fromtimestamp(at, dt.UTC) for at in (seconds, seconds + 3600)]
        table = pa.table({"at": pa.array(moments, pa.timestamp("us", zone))})
        for items in (table, pl.from_arrow(table), pl.from_arrow(table).cast(pl.Datetime("ms", zone))):  # type: ignore[union-attr]
            assert [row["at"].astimezone(dt.UTC) for row in rows_of(items)] == moments


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.array([2**31 - 1], pa.date32()),
        pa.array([1001], pa.time64("ns")),
        pa.array([{"t": 1001}], pa.struct([("t", pa.time64("ns"))])),
        pa.array([[(1, 1001)]], pa.map_(pa.int64(), pa.time64("ns"))),
        pa.array([[1001]], pa.list_(pa.time64("ns"), 1)),
    ],
    ids=lambda each: str(each.type),
)
def test_what_python_has_nothing_for_is_refused_by_the_name_of_its_column(column: Any) -> None:
    table = pa.table({"ok": [1], "when": column})
    for items in (table, table.to_reader(), *([] if pa.types.is_map(column.type) else [pl.from_arrow(table)])):
        with pytest.raises(rnb.InvalidInput, match=r"column 'when' holds what Python has nothing for.*Cast it"):
            read(items)
    with pytest.raises(rnb.InvalidInput, match=r"^The column holds what Python has nothing for"):
        read(column, lambda value: value)


def test_frames_without_rows_or_without_columns_are_read() -> None:
    for empty in (pl.DataFrame({"a": []}), pa.table({"a": pa.array([], pa.int64())}), pd.DataFrame({"a": []})):
        assert (rows_of(empty), read(empty).columns) == ([], ["a"])
    assert rows_of(pa.table({"a": [1, 2]}).select([])) == [{}, {}]
    assert rows_of(pd.DataFrame(index=["x", "y", "z"])) == [{}, {}, {}]
    assert rows_of(pl.DataFrame()) == rows_of(pa.table({})) == rows_of(pd.DataFrame()) == []


def test_names_of_columns_are_those_of_arguments_in_every_library() -> None:
    table = pa.table({"zip code": [1], "class": [2]})
    for items in (table, pl.from_arrow(table), table.to_reader()):
        assert rows_of(items) == [{"zip code": 1, "class": 2}]
    with pytest.raises(rnb.InvalidInput, match="column 'a' is there twice"):
        read(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))
    with pytest.raises(rnb.InvalidInput, match=r"with the columns \(zip code, class\).*missing"):
        read(table, lambda street: street)
    with pytest.raises(rnb.InvalidInput, match=r"ChunkedStream, has no columns\. .*chunked_array"):
        read(ChunkedStream())


class ChunkedStream:
    """Gives numbers, and no columns."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.chunked_array([[1, 2]]).__arrow_c_stream__(requested_schema)


@dataclasses.dataclass
class Point:
    x: int


def test_an_annotation_rebuilds_the_cells_of_every_library() -> None:
    def across(point: Point) -> int:
        return point.x

    table = pa.table({"point": [{"x": 1}, {"x": 2}]})
    for items in (table, pl.from_arrow(table), table.to_reader(), table.to_pandas()):
        target = Function(across, "kwargs")
        assert list(map(target.caller(), read_items(items, target).encoded)) == [1, 2]
    with pytest.raises(rnb.InvalidInput, match=r"Item 0 does not fit parameter 'point' of across"):
        read(pa.table({"point": [{"x": "one"}]}), across)


def test_a_column_that_no_way_leads_to_is_refused_by_its_name() -> None:
    """Of times of day in a struct with numbers that Arrow has not."""
    kind = pl.Struct({"big": pl.Int128, "at": pl.Time})
    with pytest.raises(rnb.InvalidInput, match="column 'odd' holds what Python has nothing for"):
        read(pl.DataFrame({"odd": pl.Series([{"big": 1, "at": dt.time(1)}], dtype=kind)}))


def test_an_item_that_cannot_be_kept_is_told_by_its_position() -> None:
    frame = pl.DataFrame({"a": pl.Series([1, object()], dtype=pl.Object)})
    with pytest.raises(rnb.InvalidInput, match=r"Item 1, .*cannot be sent"):
        read(frame)


def test_a_stream_is_read_batch_by_batch() -> None:
    alive: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(50):
            yield pa.record_batch({"n": list(range(number * 1000, number * 1000 + 1000)), "text": ["x" * 100] * 1000})
            alive.append(pa.total_allocated_bytes())

    before = pa.total_allocated_bytes()
    reader = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int64(), "text": pa.string()}), batches())
    taken = read(reader)
    assert [row["n"] for row in taken.originals] == list(range(50_000))
    assert max(alive) - before < 1_000_000  # of 5.5 MB


def test_a_stream_that_breaks_says_after_how_many_rows() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"n": [1, 2, 3]})
        raise OSError("disk gone")

    reader = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int64()}), batches())
    with pytest.raises(rnb.InvalidInput, match=r"after 3 of them, at position 3: OSError: .*disk gone"):
        read(reader)


def test_a_stream_that_was_read_before_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    reader = pa.table(COLUMNS).to_reader()
    assert rows_of(reader) == ROWS
    assert rows_of(reader) == []
    assert "The RecordBatchReader gave no items: if it was read before" in capsys.readouterr().out
    assert rows_of(duckdb.sql("select 1 as n where false")) == []
    assert not capsys.readouterr().out


def test_a_query_that_fails_is_refused_with_its_error() -> None:
    with pytest.raises(rnb.InvalidInput, match=r"cannot be read: \w+: .*no such thing") as caught:
        read(duckdb.sql("select error('no such thing') as n"))
    assert isinstance(caught.value.__cause__, duckdb.Error)


def test_the_values_of_a_job_are_items_though_it_is_a_table_too(session: Session) -> None:
    job = rnb.map(lambda n: n * 2, [1, 2], session=session, show=False)
    assert hasattr(job, "__arrow_c_stream__")
    assert passing_of(job) == "value"
    assert rnb.map(lambda n: n + 1, job, session=session, show=False).values() == [3, 5]


def test_rows_of_a_query_are_items_and_join_has_its_columns(session: Session) -> None:
    query = duckdb.sql("select range as n, 'x' || range as text from range(3)")
    job = rnb.map(lambda n, text: f"{text}!" * n, query, session=session, show=False)
    assert job.values() == ["", "x1!", "x2!x2!"]
    assert job.frame()["item"].tolist() == [{"n": n, "text": f"x{n}"} for n in range(3)]
    joined = job.join()
    assert joined[["n", "text", "value"]].to_dict("list") == {
        "n": [0, 1, 2],
        "text": ["x0", "x1", "x2"],
        "value": ["", "x1!", "x2!x2!"],
    }
    assert str(joined["n"].dtype) == "int64"
    again = rnb.map(lambda n, text: f"{text}!" * n, query, session=session, show=False)
    assert again.attached == 3


def test_join_has_the_exact_cells_of_a_frame_of_polars(session: Session) -> None:
    frame = pl.DataFrame({"id": [2**60 + 1, None], "value": ["a", "b"]})
    joined = rnb.map(lambda id, value: value, frame, session=session, show=False).join()
    assert joined["id"].tolist() == [2**60 + 1, pd.NA]
    assert list(joined.columns[:3]) == ["id", "value", "value_result"]
    assert pl.from_pandas(joined)["id"].to_list() == [2**60 + 1, None]


def test_another_library_with_the_same_rows_is_the_same_job(session: Session) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})

    def run(items: Any) -> rnb.Job[Any]:
        return rnb.map(lambda a, b: b * a, items, session=session, show=False)

    first = run(frame)
    first.result()
    assert run(pl.from_pandas(frame)).attached == run(pa.Table.from_pandas(frame)).attached == 2
    assert run(pl.from_pandas(frame).with_columns(a=pl.col("a") + 1)).attached == 0


def test_batches_take_frames_of_every_library(session: Session) -> None:
    job = rnb.batch(lambda a: a + 1, pl.DataFrame({"a": [1, 2, 3]}), batch_size=2, session=session, show=False)
    assert job.values() == [2, 3, 4]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=dataframes(max_cols=4, max_size=6, allow_null=True, excluded_dtypes=[pl.Object, pl.Int128, pl.UInt128]))
def test_rows_of_any_frame_are_the_same_through_arrow(frame: pl.DataFrame) -> None:
    assert read(frame).encoded[:] == read(frame.to_arrow()).encoded[:]
