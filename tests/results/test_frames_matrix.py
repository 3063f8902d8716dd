"""Proves the job's frame against pandas' own testing helpers, over every kind of input: what went in comes out, on its
own index, with the dtype it had; while the job runs, in files, and joined to the input."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_index_equal, assert_series_equal

import restate_nb as rnb
from restate_nb.results.frame import ATTEMPT_COLUMNS, COLUMNS
from restate_nb.session.session import Session

TEXT = "string" if pd.__version__.startswith("2.") else "str"  # pandas 3 has a dtype for text of its own
DAYS = pd.DatetimeIndex(["2026-01-01", "2026-01-02", "2026-01-03"], tz="Europe/Berlin").as_unit("us")
MULTI = pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["letter", "number"])

INPUTS: dict[str, Callable[[], Iterable[Any]]] = {
    "list": lambda: [3, 1, 2],
    "texts": lambda: ["x", "y", "z"],
    "texts and None": lambda: ["x", None, "z"],
    "generator": lambda: (number * 1.5 for number in range(3)),
    "range": lambda: range(10, 40, 10),
    "tuple of dates": lambda: (dt.date(2026, 1, 1), dt.date(2026, 1, 2)),
    "numpy": lambda: np.array([1.0, np.nan, 3.0]),
    "dict": lambda: {"a": 1, "b": 2},
    "dict of tuples": lambda: {("a", 1): 1, ("b", 2): 2},
    "empty": list,
    "empty dict": dict,
    "None and ints": lambda: [1, None, 3],
    "NaN and floats": lambda: [1.0, math.nan, 3.0],
    "truth and None": lambda: [True, None, False],
    "mixed": lambda: [1, "a", 2.5, None],
    "lists": lambda: [[1], [], [2, 3]],
    "Series": lambda: pd.Series([1, 2, 3], index=["x", "y", "z"], name="number"),
    "Series, MultiIndex": lambda: pd.Series([1.5, 2.5, 3.5], index=MULTI),
    "Series, label twice": lambda: pd.Series(["p", "q", "r"], index=[7, 7, 8], dtype=TEXT),
    "Series, times as index": lambda: pd.Series([1, 2, 3], index=DAYS),
    "Series of times": lambda: pd.Series(DAYS),
    "Series of naive times": lambda: pd.Series(DAYS.tz_localize(None)),
    "Series of durations": lambda: pd.Series(pd.to_timedelta([1, 2, None], unit="s").as_unit("us")),
    "Series, categories": lambda: pd.Series(["a", "b", "a"], dtype="category"),
    "Series, nullable ints": lambda: pd.Series([1, None, 3], dtype="Int64"),
    "Series, nullable floats": lambda: pd.Series([1.5, None, 3], dtype="Float64"),
    "Series, nullable truth": lambda: pd.Series([True, None, False], dtype="boolean"),
    "Series, small ints": lambda: pd.Series([1, 2, 3], dtype="int8"),
    "Series, empty": lambda: pd.Series([], index=DAYS[:0], dtype="float64"),
}
VALUE_DTYPES = {  # of what the function returned; where it is not that of the input
    "texts": TEXT,
    "texts and None": TEXT,
    "Series, categories": TEXT,
    "Series, small ints": "int64",
    "Series, empty": "object",
}
if pd.__version__.startswith("2."):  # which makes nanoseconds of all times
    VALUE_DTYPES |= {
        "Series of times": "datetime64[ns, Europe/Berlin]",
        "Series of naive times": "datetime64[ns]",
        "Series of durations": "timedelta64[ns]",
    }


def same(item: Any) -> Any:
    return item


def mapped(session: Session, fn: Callable[..., Any], items: Any, **options: Any) -> rnb.Job[Any]:
    job = rnb.map(fn, items, session=session, show=False, **options)
    job.result(20)
    return job


def oracle(items: Iterable[Any]) -> pd.Series[Any]:
    """The input as pandas has it."""
    if isinstance(items, pd.Series):
        return items.rename("item")
    index = None
    if isinstance(items, dict):
        index, items = pd.Index(list(items)), items.values()
    values = list(items)
    kinds = {type(value) for value in values} - {type(None)}
    dtype = None
    if kinds == {str}:
        dtype = TEXT
    elif None in values and kinds in ({int}, {bool}):
        dtype = "Int64" if kinds == {int} else "boolean"
    elif not values or kinds & {list}:
        dtype = "object"
    return pd.Series(values, index=index, name="item", dtype=dtype)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("name", INPUTS)
def test_what_went_in_comes_out_on_its_own_index_with_its_dtype(session: Session, name: str) -> None:
    job = mapped(session, same, INPUTS[name]())
    frame, expected = job.frame(), oracle(INPUTS[name]())
    assert list(frame.columns) == COLUMNS
    assert_series_equal(frame["item"], expected)
    values = expected.rename("value")
    if name in VALUE_DTYPES:
        values = values.astype(VALUE_DTYPES[name])
    assert_series_equal(frame["value"], values)
    assert_frame_equal(
        frame[["status", "error_type", "error", "attempts"]],
        pd.DataFrame(
            {
                "status": pd.Categorical(
                    ["ok"] * len(frame), categories=["pending", "running", "ok", "error", "timeout", "cancelled"]
                ),
                "error_type": pd.array([None] * len(frame), dtype="string"),
                "error": pd.array([None] * len(frame), dtype="string"),
                "attempts": np.ones(len(frame), dtype="int64"),
            },
            index=expected.index,
        ),
    )
    for column in ("queued_s", "run_s"):
        assert frame[column].dtype == "float64"
        assert (frame[column] >= 0).all()
    for column in ("started_at", "finished_at"):
        assert frame[column].dtype == pd.DatetimeTZDtype("us", "UTC")
    assert (frame["finished_at"] >= frame["started_at"]).all()


@pytest.mark.parametrize("name", INPUTS)
def test_attempts_and_errors_are_on_the_same_index(session: Session, name: str) -> None:
    def fails(item: Any) -> Any:
        raise ValueError("no")

    job = mapped(session, fails, INPUTS[name]())
    attempts, expected = job.attempts(), oracle(INPUTS[name]())
    assert list(attempts.columns) == ATTEMPT_COLUMNS
    assert_index_equal(attempts.index, expected.index)
    assert attempts["position"].tolist() == list(range(len(expected)))
    assert set(attempts["error_type"]) <= {"ValueError"}
    assert job.frame()["value"].isna().all()
    errors = job.errors()
    assert errors["count"].tolist() == ([len(expected)] if len(expected) else [])
    for column in ("first_at", "last_at"):
        assert errors[column].dtype == pd.DatetimeTZDtype("us", "UTC")


@pytest.mark.parametrize("index", [None, MULTI, pd.Index([7, 7, 8], name="n"), DAYS, pd.CategoricalIndex(list("aba"))])
def test_a_data_frame_comes_back_with_the_results_beside_it(session: Session, index: pd.Index[Any] | None) -> None:
    source = pd.DataFrame(
        {
            "day": DAYS,
            "kind": pd.Categorical(["a", "b", "a"]),
            "count": pd.array([1, None, 3], dtype="Int64"),
            "rate": [1.5, np.nan, 2.5],
            "text": ["p", None, "r"],
        },
        index=index,
    )

    def work(day: Any, kind: str, count: int | None, rate: float, text: str | None) -> dict[str, Any]:
        return {"next_day": day + dt.timedelta(days=1), "upper": kind.upper(), "count": count}

    job = mapped(session, work, source)
    joined = job.join()
    assert_frame_equal(joined[list(source.columns)], source)
    expected = pd.DataFrame(
        {
            "next_day": pd.Series(DAYS + pd.Timedelta(1, "D"), index=source.index),
            "upper": pd.Series(["A", "B", "A"], index=source.index, dtype=TEXT),
            "count_result": pd.Series(pd.array([1, None, 3], dtype="Int64"), index=source.index),
        }
    )
    assert_frame_equal(joined[list(expected.columns)], expected)
    assert_index_equal(job.frame().index, source.index)


def test_a_frame_of_a_job_that_runs_is_a_part_of_the_last_one(session: Session) -> None:
    held: list[int] = []

    async def work(item: int) -> int:
        while item >= 3 and not held:
            await asyncio.sleep(0.01)
        return item * 10

    job = rnb.map(work, pd.Series(range(6), index=list("abcdef")), concurrency=2, session=session, show=False)
    while job.counts["ok"] < 3 or job.counts["running"] < 2:
        pass
    part = job.frame()
    held.append(1)
    whole = job.result(20)
    assert part["status"].tolist() == ["ok"] * 3 + ["running"] * 2 + ["pending"]
    assert str(part["value"].dtype) == "Int64"
    assert str(whole["value"].dtype) == "int64"
    assert_frame_equal(part.iloc[:3].astype({"value": "int64"}), whole.iloc[:3])
    assert part.iloc[3:][["value", "run_s", "finished_at"]].isna().all(axis=None)
    assert part["item"].tolist() == whole["item"].tolist()


@pytest.mark.parametrize("name", INPUTS)
def test_files_have_every_row_and_can_be_read_back(session: Session, name: str, tmp_path: Path) -> None:
    job = mapped(session, same, INPUTS[name]())
    frame = job.frame()
    back = pd.read_parquet(job.to_parquet(tmp_path / "job.parquet"))
    assert_index_equal(back.index, frame.index, exact="equiv")
    for column in ("status", "attempts", "run_s", "started_at", "finished_at"):
        read = back[column].astype(frame[column].dtype)
        assert_series_equal(read, frame[column], check_index=False, check_freq=False)
    assert len(pd.read_csv(job.to_csv(tmp_path / "job.csv"))) == len(frame)
    records = json.loads(job.to_json(tmp_path / "job.json").read_text())
    assert [record["status"] for record in records] == frame["status"].tolist()
    lines = job.to_json(tmp_path / "job.jsonl", lines=True).read_text().splitlines()
    assert [json.loads(line) for line in lines if line] == records
    if len(frame):
        assert set(COLUMNS) < set(records[0]), "and the index"


def test_json_keeps_nested_values_and_names_the_index(session: Session, tmp_path: Path) -> None:
    def work(item: int) -> Any:
        return {"square": item * item, "days": [DAYS[0].to_pydatetime()]} if item else None

    source = pd.Series([0, 2, 3], index=MULTI.set_names(["item", None]))
    records = json.loads(mapped(session, work, source).to_json(tmp_path / "job.json").read_text())
    assert [list(record)[:3] for record in records] == [["item_index", "index_1", "item"]] * 3
    assert [record["item_index"] for record in records] == ["a", "a", "b"]
    assert [record["value"] and record["value"]["square"] for record in records] == [None, 4, 9]
    assert records[0]["started_at"].startswith("20")
    assert records[0]["error"] is None
