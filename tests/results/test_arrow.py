"""Proves that columns become columns of Arrow which hold every value as it was, whatever later batches bring: the type
widens while it can, and where there is none in common, the column becomes JSON text. What would be lost is refused."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import restate_nb as rnb
from restate_nb.results.arrow import MOST_FIELDS, Schema, Widened
from restate_nb.results.columns import typed_column
from restate_nb.values.codec import as_shown
from tests.values.test_any_value import Maker

UTC = dt.UTC
NANO = pd.Timestamp("2026-01-01 00:00:00.000000001")


@dataclass
class Point:
    x: int
    y: float


def table_of(*batches: list[Any]) -> tuple[pa.Table, int]:
    """The batches as one table, and how often it had to begin anew."""
    schema, again = Schema(), 0
    while True:
        try:
            schema.begin()
            tables = [schema.table({"v": pd.Series(typed_column(batch))}) for batch in batches]
            schema.end()
        except Widened:
            again += 1
        else:
            return pa.concat_tables(tables), again


JSON = pa.large_string()
WIDENED: dict[str, tuple[list[list[Any]], Any]] = {
    "nothing, then numbers": ([[None], [1, 2]], pa.int64()),
    "numbers, then fractions": ([[1, 2], [0.5]], pa.float64()),
    "numbers, then nothing": ([[1], [None]], pa.int64()),
    "large numbers, then fractions": ([[2**60 + 1], [0.5]], JSON),
    "fractions, then large numbers": ([[0.5], [2**60 + 1]], JSON),
    "numbers, then text": ([[1], ["a"]], JSON),
    "text, then bytes": ([["a"], [b"a"]], JSON),
    "numbers past 64 bits": ([[2**70], [1]], JSON),
    "a field that the first lack": (
        [[{"a": 1}], [{"b": "x", "a": 2}]],
        pa.struct({"b": pa.string(), "a": pa.int64()}),
    ),
    "a field of two types": ([[{"a": 1}], [{"a": "x"}]], JSON),
    "structs in lists": ([[[{"a": 1}]], [[{"a": 0.5}], []]], pa.list_(pa.struct({"a": pa.float64()}))),
    "objects, then nothing": ([[Point(1, 0.5)], [None]], pa.struct({"x": pa.int64(), "y": pa.float64()})),
    "arrays": ([[np.zeros(3, np.float32)], [np.ones(2, np.float32)]], pa.list_(pa.float32())),
    "arrays of two types": ([[np.zeros(3, np.int32)], [np.ones(2)]], pa.list_(pa.float64())),
    "images": ([[np.zeros((4, 5, 3), np.uint8)]], pa.list_(pa.list_(pa.list_(pa.uint8())))),
    "bytes": ([[b"a"], [None, b"\xff"]], pa.binary()),
    "times of two units": ([[dt.datetime(2026, 1, 1)], [NANO]], pa.timestamp("ns")),
    "times of two zones": (
        [[dt.datetime(2026, 1, 1, tzinfo=UTC)], [pd.Timestamp("2026-01-01", tz="Europe/Berlin")]],
        pa.timestamp("us", "UTC"),
    ),
    "dates": ([[dt.date(2026, 1, 1)], [None]], pa.date32()),
    "decimals": ([[decimal.Decimal("1.5")], [decimal.Decimal("100.25")]], pa.decimal128(5, 2)),
    "lists, then numbers": ([[[1]], [2]], JSON),
    "complex numbers": ([[1j]], JSON),
    "keys that are no text": ([[{1: 2}]], JSON),
    "nothing but empty dicts": ([[{}]], JSON),
    "text that is not Unicode": ([["\udcff"], ["a"]], JSON),
    "sets": ([[{1, 2}]], JSON),
}


@pytest.mark.parametrize("name", WIDENED)
def test_the_type_of_a_column_holds_the_values_of_all_batches(name: str, tmp_path: Path) -> None:
    batches, expected = WIDENED[name]
    table, again = table_of(*batches)
    assert again <= 2
    assert table.schema.field("v").type == expected
    pq.write_table(table, tmp_path / "v.parquet")
    got = pq.read_table(tmp_path / "v.parquet")["v"].to_pylist()
    given = [value for batch in batches for value in batch]
    assert [each is None for each in got] == [each is None for each in given]
    for value, cell in zip(given, got, strict=True):
        if value is not None:
            assert_same(value, cell, is_json=expected == JSON)


def assert_same(value: Any, cell: Any, *, is_json: bool) -> None:
    if is_json and type(value) is not str:
        assert cell == as_shown(value).decode()
    elif is_json:
        assert cell in (value, as_shown(value).decode())
    elif isinstance(value, np.ndarray):
        assert value.tolist() == cell
    elif isinstance(value, Point):
        assert cell == {"x": value.x, "y": value.y}
    elif isinstance(value, dict):
        assert {name: each for name, each in cell.items() if each is not None} == value
    elif isinstance(value, (pd.Timestamp, dt.datetime)):
        assert pd.Timestamp(cell) == pd.Timestamp(value)
    else:
        assert cell == value


def test_a_dict_by_some_key_becomes_no_struct_of_thousands_of_fields() -> None:
    batches = [[{f"word {n}": n}] for n in range(MOST_FIELDS + 1)]
    table, again = table_of(*batches)
    assert table.schema.field("v").type == JSON
    assert again == 1, "the types of all batches are found in one pass"
    assert [json.loads(each) for each in table["v"].to_pylist()] == [batch[0] for batch in batches]


@pytest.mark.parametrize("value", [pd.DataFrame({"a": [1]}), {"deep": [pd.Series([1])]}, pa.table({"a": [1]})])
def test_what_json_text_would_only_describe_is_refused_by_its_column(value: Any) -> None:
    with pytest.raises(
        rnb.InvalidInput, match=r"The column 'v' has a (pandas|pyarrow).*leave the column out: columns="
    ):
        table_of([1], [value])


def test_columns_that_come_later_stand_where_they_stood_and_are_empty_before() -> None:
    schema = Schema()
    one = {"a": pd.Series([1]), "z": pd.Series([2])}
    two = {"a": pd.Series([3]), "m": pd.Series([4]), "z": pd.Series([5])}
    schema.table(one)
    assert schema.table(two) is None
    with pytest.raises(Widened):
        schema.end()
    schema.begin()
    table = pa.concat_tables([schema.table(one), schema.table(two), schema.table(one)])
    assert table.to_pydict() == {"a": [1, 3, 1], "m": [None, 4, None], "z": [2, 5, 2]}
    assert schema.kinds["m"].dtype == "Int64"


def test_random_values_in_batches_are_written_and_read_back(tmp_path: Path) -> None:
    """Of all kinds that can be kept: no batch is refused, no row lost, and numbers and text are what they were."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, maker = random.Random(seed), Maker(seed)
    for number in range(60):
        leaf = rng.choice(maker.leaves) if number % 2 else None
        values = [maker.value(2, leaf) if rng.random() < 0.9 else None for _ in range(30)]
        cuts = sorted({0, 30, *(rng.randrange(31) for _ in range(3))})
        try:
            table, _ = table_of(*(values[a:b] for a, b in zip(cuts, cuts[1:], strict=False)))
        except rnb.InvalidInput as error:
            assert "is no cell of a table" in str(error)
            continue
        pq.write_table(table, tmp_path / "v.parquet")
        got = pq.read_table(tmp_path / "v.parquet")["v"].to_pylist()
        assert len(got) == 30
        is_json = table.schema.field("v").type == JSON
        for value, cell in zip(values, got, strict=True):
            if type(value) in (int, str, bool) or (type(value) is float and math.isfinite(value)):
                if is_json:
                    assert cell == value or cell == as_shown(value).decode()
                else:
                    assert cell == value
