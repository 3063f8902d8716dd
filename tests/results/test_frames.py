"""Proves that frames fit pandas: any index survives, dtypes are right, inputs are joined and jobs compared by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import restate_nb as rnb
from restate_nb.api.accessor import RestateAccessor, register_for_polars
from restate_nb.session.session import Session
from tests.support import submit


def finished(session: Session, fn: Any, items: Any, **options: Any) -> rnb.Job[Any]:
    job = submit(session, fn, items, **options)
    job.result(20)
    return job


def same(item: Any) -> Any:
    return item


DAYS = pd.date_range("2026-01-01", periods=3, tz="Europe/Berlin")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2, 3], "int64"),
        ([1.5, 2, np.nan], "float64"),
        ([1, None, 3], "Int64"),
        ([True, False, True], "bool"),
        ([True, None, False], "boolean"),
        (["a", "b", None], "str"),
        ([[1], [2, 3], []], "object"),
        ([{"a": 1}, {"b": 2}, {}], "object"),
        ([None, None, None], "object"),
        (list(DAYS), "datetime64[us, Europe/Berlin]"),
        ([pd.Timedelta(1, "s")] * 3, "timedelta64[us]"),
        ([1, "a", 2.5], "object"),
    ],
    ids=str,
)
def test_values_have_the_dtype_that_fits(session: Session, values: list[Any], dtype: str) -> None:
    column = finished(session, same, values).frame()["value"]
    if dtype == "str":
        assert column.dtype == ("string" if pd.__version__.startswith("2.") else pd.Series(["a"]).dtype)
    elif dtype.startswith(("datetime64", "timedelta64")):
        assert column.dtype == pd.Series(values).dtype
    else:
        assert str(column.dtype) == dtype
    assert [None if _missing(each) else each for each in column] == [
        None if _missing(each) else each for each in values
    ]


def _missing(value: Any) -> bool:
    return value is None or (not isinstance(value, (list, dict)) and pd.isna(value))


INDEXES = [
    pd.Index(["x", "y", "z"], name="key"),
    pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["letter", "number"]),
    pd.Index([7, 7, 8]),
    DAYS,
    pd.CategoricalIndex(["u", "v", "u"]),
    pd.Index([1, 2, None], dtype="Int64"),
    pd.RangeIndex(10, 40, 10),
]


@pytest.mark.parametrize("index", INDEXES, ids=lambda index: type(index).__name__)
def test_any_index_survives_in_frame_attempts_and_join(session: Session, index: pd.Index[Any]) -> None:
    source = pd.DataFrame({"a": [1, 2, 3], "status": ["p", "q", "r"]}, index=index)

    def work(a: int, status: str) -> dict[str, Any]:
        return {"double": 2 * a, "a": a}

    job = finished(session, work, source)
    pd.testing.assert_index_equal(job.frame().index, index)
    pd.testing.assert_index_equal(job.attempts().index, index)
    joined = job.join()
    pd.testing.assert_index_equal(joined.index, index)
    pd.testing.assert_frame_equal(joined[["a", "status"]], source)
    assert joined["double"].tolist() == [2, 4, 6]
    assert joined["a_result"].tolist() == [1, 2, 3]
    assert joined["status_result"].tolist() == ["ok"] * 3


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", "b", "a"], dtype="category"),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1.5, np.nan, 2]),
        pd.Series(DAYS),
        pd.Series([True, None, False], dtype="boolean"),
        pd.Series(["a", None, "c"]),
        pd.Series([None, None, None], dtype=object),
    ],
    ids=lambda column: str(column.dtype),
)
def test_any_column_reaches_the_function_and_comes_back(session: Session, column: pd.Series[Any]) -> None:
    job = finished(session, same, column)
    back = job.frame()["value"]
    assert [None if _missing(each) else each for each in back] == [None if _missing(each) else each for each in column]
    assert isinstance(job.join(), pd.DataFrame)
    assert job.join().columns[0] == "item"


def test_an_empty_series_gives_an_empty_frame_with_its_index(session: Session) -> None:
    source = pd.Series([], index=pd.DatetimeIndex([], tz="UTC"), dtype=float)
    frame = finished(session, same, source).frame()
    assert len(frame) == 0
    pd.testing.assert_index_equal(frame.index, source.index)


def test_expanded_fields_have_their_own_dtypes_and_never_hide_columns(session: Session) -> None:
    def work(item: int) -> Any:
        if item == 2:
            raise ValueError
        return {"count": item, "name": f"n{item}", "status": "inner"} if item else 5

    frame = finished(session, work, range(4)).frame(expand=True)
    assert frame["count"].tolist() == [pd.NA, 1, pd.NA, 3]
    assert str(frame["count"].dtype) == "Int64"
    assert frame["value_status"].tolist()[1] == "inner"
    assert frame["status"].tolist() == ["ok", "ok", "error", "ok"]
    assert frame["value"].tolist()[0] == 5


def test_the_accessor_maps_rows_and_values(session: Session) -> None:
    cities = pd.DataFrame({"city": ["Bonn", "Ulm"]}, index=["b", "u"])
    accessor = RestateAccessor(cities)
    assert isinstance(cities.restate, RestateAccessor)  # type: ignore[attr-defined]
    assert accessor.map(lambda city: city.upper(), session=session, show=False).values() == ["BONN", "ULM"]
    assert cities["city"].restate.map(len, session=session, show=False).values() == [4, 3]  # type: ignore[attr-defined]


def test_the_accessor_maps_frames_and_columns_of_polars(session: Session) -> None:
    register_for_polars()
    register_for_polars()  # as a second start does: polars would warn of what is there already
    cities: Any = pl.DataFrame({"city": ["Bonn", "Ulm"], "size": [1, None]})
    assert cities.restate.map(lambda city, size: (city, size), session=session, show=False).values() == [
        ("Bonn", 1),
        ("Ulm", None),
    ]
    assert cities["city"].restate.map(len, session=session, show=False).values() == [4, 3]


def test_the_accessor_takes_columns_of_every_dtype_and_name(session: Session) -> None:
    frame: Any = pd.DataFrame({0: pd.array([1, None], dtype="Int64"), "kind": pd.Categorical(["a", "b"])}, index=[7, 7])
    frame["text"] = pd.array(["x", None], dtype=pd.ArrowDtype(pa.string()))
    job = frame.restate.map(lambda **row: row, session=session, show=False)
    assert job.values()[0] == {"0": 1, "kind": "a", "text": "x"}
    assert list(map(repr, job.values()[1].values())) == list(map(repr, frame.to_dict("records")[1].values()))
    assert job.frame().index.tolist() == [7, 7]


def test_two_jobs_are_compared_by_label(session: Session) -> None:
    def before(item: int) -> int:
        if item in (3, 4):
            raise ValueError
        return item

    def after(item: int) -> int:
        if item in (2, 4):
            raise ValueError
        return item * 10 if item == 1 else item

    one = finished(session, before, {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6})
    other = finished(session, after, {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "g": 7})
    compared = rnb.compare(one, other)
    assert compared["change"].to_dict() == {
        "a": "changed",
        "b": "newly failed",
        "c": "fixed",
        "d": "still failing",
        "e": "same",
        "f": "only a",
        "g": "only b",
    }
    assert compared.loc["e", "speedup"] > 0
    twice = finished(session, before, pd.Series([1, 1, 2], index=[0, 0, 0]))
    assert rnb.compare(twice, twice)["change"].tolist() == ["same"] * 3
