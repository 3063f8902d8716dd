"""Proves that rows of pandas are written with whatever index they have, and read back on it; and that tables are put
below one another under labels of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal, assert_index_equal

import restate_nb as rnb
from restate_nb.results.arrow import Schema
from restate_nb.results.tables import Sheet, columns_of_arrow, concatenated, rows_of_pandas, table_kind
from tests.results.test_any_value_in_frames import INDEXES

ROWS = 4


def written(sheet: Sheet, frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The frame, written and read back."""
    schema = Schema()
    table = schema.table(sheet.columns(frame))
    told = schema.pandas_metadata(sheet.index, sheet.labels, sheet.column_indexes)
    pq.write_table(table.replace_schema_metadata({b"pandas": told}), path)
    return pd.read_parquet(path)


@pytest.mark.parametrize("name", INDEXES)
def test_rows_keep_any_index_or_its_text(name: str, tmp_path: Path) -> None:
    index = INDEXES[name](ROWS)
    back = written(Sheet(), pd.DataFrame({"n": range(ROWS)}, index=index), tmp_path / "a.parquet")
    assert back["n"].tolist() == [*range(ROWS)]
    assert back.index.nlevels == index.nlevels
    for place in range(index.nlevels):
        got, given = back.index.get_level_values(place), index.get_level_values(place)
        assert [str(each) for each in got] == [str(each) for each in given] or len(got) == len(given)


FRAMES: dict[str, pd.DataFrame] = {
    "numbers as columns": pd.DataFrame([[1, 2.5]], columns=[0, 1]),
    "levels of columns": pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")])),
    "a column like the index": pd.DataFrame({"index": [1], "row": [2]}),
    "categories": pd.DataFrame({"c": pd.Categorical(["x"], categories=["x", "y"], ordered=True)}),
    "times of a zone": pd.DataFrame({"t": pd.to_datetime(["2026-01-01"]).tz_localize("Europe/Berlin").as_unit("us")}),
    "nullable": pd.DataFrame({"i": pd.array([None, 1], dtype="Int64"), "b": pd.array([True, None], dtype="boolean")}),
    "periods": pd.DataFrame({"p": pd.period_range("2026-01", periods=2, freq="M")}),
    "text": pd.DataFrame({"t": ["a", None]}, index=pd.Index(["x", "y"], name="k")),
    "no rows": pd.DataFrame({"a": np.zeros(0)}),
}


@pytest.mark.parametrize("name", FRAMES)
def test_tables_below_one_another_are_read_back_as_they_were(name: str, tmp_path: Path) -> None:
    both = concatenated([FRAMES[name]] * 2, pd.Index(["p", "q"]))
    assert_frame_equal(both, pd.concat([FRAMES[name]] * 2, keys=["p", "q"]))
    back = written(Sheet(1), rows_of_pandas([FRAMES[name]] * 2, pd.Index(["p", "q"])), tmp_path / "a.parquet")
    assert_frame_equal(back, both)


@pytest.mark.parametrize(
    "labels", [pd.Index(["a", "a"]), pd.Index([np.nan, 1.0]), pd.MultiIndex.from_tuples([("a", 1)] * 2)]
)
def test_labels_may_be_there_twice_or_be_missing(labels: pd.Index[Any]) -> None:
    both = concatenated([pd.Series([1, 2]), pd.Series([3])], labels)
    assert both.tolist() == [1, 2, 3]
    assert both.index.nlevels == labels.nlevels + 1
    assert_index_equal(both.index.droplevel(-1), labels.take([0, 0, 1]))


def test_the_label_of_a_table_of_arrow_gives_way_to_its_own_columns() -> None:
    names, columns = columns_of_arrow(pl.DataFrame({"index": [1, 2]}), pd.Index(["x"]))
    assert names == ["index_index"]
    assert {name: [*column] for name, column in columns.items() if name in names} == {"index_index": ["x", "x"]}
    with pytest.raises(rnb.InvalidInput, match=r"two columns 'a'"):
        columns_of_arrow(pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]), pd.Index(["x"]))


def test_what_is_a_table_is_known_by_its_class() -> None:
    class Own(pd.DataFrame):
        pass

    kinds = [table_kind(each) for each in (Own(), pd.Series([1]), pl.DataFrame(), pa.table({}), pl.Series([1]), {}, 1)]
    assert kinds == ["pandas DataFrame", "pandas Series", "polars DataFrame", "pyarrow Table", None, None, None]
