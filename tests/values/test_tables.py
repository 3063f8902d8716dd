"""Proves that tables and columns of pyarrow and polars come back equal, with types, schema and metadata, inline and
with parts; or are refused in words. The long form: `pytest -m soak tests/values`; `RNB_FRAMES_SEED` repeats a run."""

from __future__ import annotations

import datetime as dt
import decimal
import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.classes import Classes
from restate_nb.values.codec import as_shown, decode, encode
from restate_nb.values.keepable import why_unkeepable
from restate_nb.values.parts import is_joined
from restate_nb.values.what import what_of

SEED = int(os.environ.get("RNB_FRAMES_SEED", "17"))


def in_both_ways(value: Any) -> list[Any]:
    """What comes back of a value: of JSON alone, and with parts."""
    parts = Classes()
    parts.keep_in(None, parts=True)
    return [decode(encode(value, classes), classes) for classes in (None, parts)]


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, (pa.Table, pa.RecordBatch)):
        one.validate(full=True)
        return bool(one.schema.equals(other.schema, check_metadata=True)) and _same_cells(one, other)
    if isinstance(one, (pa.Array, pa.ChunkedArray)):
        return one.type == other.type and _same_cells(one, other)
    if isinstance(one, pl.DataFrame):
        return one.schema == other.schema and one.shape == other.shape and repr(one.rows()) == repr(other.rows())
    return bool(one.dtype == other.dtype and one.name == other.name and repr(one.to_list()) == repr(other.to_list()))


def _same_cells(one: Any, other: Any) -> bool:
    return len(one) == len(other) and repr(one.to_pylist()) == repr(other.to_pylist())  # NaN is NaN there


# ---------------------------------------------------------------- pyarrow

TABLE = pa.table(
    {
        "a": [1, 2, None],
        "s": ["x", None, "z"],
        "d": pa.array(["x", "y", "x"]).dictionary_encode(),
        "l": [[1], [], None],
    }
).replace_schema_metadata({"unit": "kg"})
DICTIONARY = pa.array(["a", "b", "a"]).dictionary_encode()
ARROW: dict[str, Any] = {
    "a table": TABLE,
    "two chunks": pa.concat_tables([TABLE, TABLE]),
    "a slice": TABLE.slice(1, 1),
    "no rows": TABLE.slice(0, 0),
    "no columns": pa.table({}),
    "columns twice": pa.table([[1], [2]], names=["a", "a"]),
    "of pandas": pa.Table.from_pandas(pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="i"))),
    "a field with metadata": pa.table([[1]], schema=pa.schema([pa.field("a", pa.int8(), False, {"k": "v"})])),
    "a batch": TABLE.to_batches()[0],
    "a batch of no rows": pa.RecordBatch.from_pylist([], schema=TABLE.schema),
    "a column": TABLE["s"],
    "chunks with dictionaries of their own": pa.chunked_array([DICTIONARY, pa.array(["c"]).dictionary_encode()]),
    "no chunks": pa.chunked_array([], pa.int8()),
    "an array": TABLE["a"].chunk(0),
    "an empty array": pa.array([], pa.list_(pa.float32())),
    "a sliced array": pa.array([1, 2, 3])[1:],
    "a dictionary": DICTIONARY[1:],
    "a union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    "runs": pa.RunEndEncodedArray.from_arrays([2, 5], ["a", "b"]),
    "views": pa.array(["a" * 50, "b"], pa.string_view()),
    "halves": pa.array(np.array([1.5, np.nan], dtype=np.float16)),
    "decimals": pa.array([decimal.Decimal("1.50")], pa.decimal256(50, 2)),
    "times": pa.array([dt.datetime(2026, 1, 1)], pa.timestamp("ns", "Europe/Berlin")),
    "a map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
    "an extension": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"1" * 16], pa.binary(16))),
    "one of pandas": pa.array(pd.Series(pd.period_range("2026", periods=2, freq="M"))),
    "nothing": pa.nulls(3),
    "a large one": pa.table({"a": np.arange(10_000), "t": ["x" * 10] * 10_000}),
}


@pytest.mark.parametrize("name", ARROW)
def test_what_pyarrow_made_comes_back(name: str) -> None:
    for back in in_both_ways(ARROW[name]):
        assert same(ARROW[name], back)
    for back in in_both_ways({"a": [ARROW[name], 1]}):
        assert same(ARROW[name], back["a"][0])


def test_a_type_that_another_package_registers_is_not_taken_for_its_storage() -> None:
    program = """
import pyarrow as pa, sys
from restate_nb.values.codec import encode, decode
from restate_nb.errors import NotReadable
class Own(pa.ExtensionType):
    def __init__(self): super().__init__(pa.int8(), "tests.own")
    def __arrow_ext_serialize__(self): return b""
    @classmethod
    def __arrow_ext_deserialize__(cls, storage, raw): return cls()
pa.register_extension_type(Own())
array = pa.ExtensionArray.from_storage(Own(), pa.array([1], pa.int8()))
raw = encode(array)
assert decode(raw).type == Own()
pa.unregister_extension_type("tests.own")
try:
    decode(raw)
except NotReadable as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "registered by another package" in told.stdout and "tests.own" in told.stdout


# ---------------------------------------------------------------- polars

FRAME = pl.DataFrame(
    {
        "a": [1, None],
        "c": pl.Series(["x", "y"], dtype=pl.Categorical),
        "e": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y", "z"])),
        "n": pl.Series([None, None]),
        "l": [[1], [2, 3]],
        "s": [{"a": 1, "b": "x"}, {"a": 2, "b": None}],
        "when": pl.Series([dt.datetime(2026, 1, 1)] * 2).dt.replace_time_zone("Europe/Berlin"),
        "dec": pl.Series([decimal.Decimal("1.5"), None], dtype=pl.Decimal(20, 3)),
        "time": [dt.time(1, 2, 3, 4), None],
        "long": [dt.timedelta(1), None],
        "raw": [b"\xff", None],
        "fixed": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
        "words": pl.Series([["x"], ["y"]], dtype=pl.List(pl.Categorical)),
    }
)
POLARS: dict[str, Any] = {
    "a frame": FRAME,
    "no rows": FRAME[:0],
    "nothing": pl.DataFrame(),
    "chunks": pl.concat([FRAME, FRAME], rechunk=False),
    "a name that is empty": pl.Series("", [1]),
    "no structure": pl.Series("x", [[], [[1]]], dtype=pl.List(pl.List(pl.Int8))),
    "a large one": pl.DataFrame({"a": range(10_000), "t": ["x" * 20] * 10_000}),
    **{f"column {name}": FRAME[name] for name in FRAME.columns},
}


@pytest.mark.parametrize("name", POLARS)
def test_what_polars_made_comes_back(name: str) -> None:
    for back in in_both_ways(POLARS[name]):
        assert same(POLARS[name], back)


KINDS: list[Any] = [
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64),
    *(pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Time, pl.Null, pl.Categorical, pl.Enum(["a", "b"])),
    *(pl.Datetime("ms"), pl.Datetime("us", "UTC"), pl.Datetime("ns", "Asia/Tokyo"), pl.Duration("ms")),
    pl.Decimal(10, 2),
]
CELLS: dict[Any, list[Any]] = {
    pl.Boolean: [True, False], pl.String: ["", "a", "日本", "x" * 30], pl.Binary: [b"", b"\xff"], pl.Null: [None],
    pl.Date: [dt.date(2026, 1, 1), dt.date(1, 1, 1)], pl.Time: [dt.time(0), dt.time(23, 59, 59, 999999)],
    pl.Categorical: ["a", "b", "c"], pl.Enum: ["a", "b"], pl.Datetime: [dt.datetime(2026, 3, 29, 2, 30)],
    pl.Duration: [dt.timedelta(days=1, milliseconds=5)], pl.Decimal: [decimal.Decimal("1.25")],
    pl.Float32: [0.5, float("nan"), float("inf")], pl.Float64: [0.1, float("nan"), -0.0],
}  # fmt: skip


def random_column(rng: random.Random, size: int) -> pl.Series:
    kind = rng.choice(KINDS)
    cells = [rng.choice([*CELLS.get(kind.base_type(), [0, 1, 100]), None]) for _ in range(size)]
    if isinstance(kind, pl.Datetime) and kind.time_zone:
        return pl.Series(cells, dtype=pl.Datetime(kind.time_unit)).dt.replace_time_zone(
            kind.time_zone, ambiguous="earliest", non_existent="null"
        )
    match rng.randrange(6):
        case 0:
            return pl.Series([[each] * rng.randrange(3) for each in cells], dtype=pl.List(kind))
        case 1:
            return pl.DataFrame({"x": pl.Series(cells, dtype=kind), "y": range(size)}).to_struct("s")
    return pl.Series(cells, dtype=kind)


def come_back_or_are_refused(seed: int, count: int) -> None:
    print(f"RNB_FRAMES_SEED={seed}")
    rng, seen = random.Random(seed), Counter[str]()
    for number in range(count):
        size = rng.choice([0, 1, 3, 50])
        columns = [random_column(rng, size).alias(f"c{place}") for place in range(rng.randrange(5))]
        for value in (pl.DataFrame(columns), pl.DataFrame(columns).to_arrow(), *columns[:1]):
            try:
                backs = in_both_ways(value)
            except NotEncodable as refused:
                seen[f"refused: {str(refused)[:60]}"] += 1
                continue
            assert all(same(value, back) for back in backs), f"RNB_FRAMES_SEED={seed}, value {number}: {value}"
            seen["kept"] += 1
    print(dict(seen))
    assert seen["kept"] > 0.95 * seen.total()


def test_random_tables_come_back_or_are_refused() -> None:
    come_back_or_are_refused(SEED, 100)


@pytest.mark.soak
def test_2_000_random_tables_come_back_or_are_refused() -> None:
    come_back_or_are_refused(SEED + 1, 2_000)


# ---------------------------------------------------------------- what is refused, and how all are called


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (pl.LazyFrame({"a": [1]}), r"Collect it first: value\.collect\(\)"),
        (pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}), "Python's objects"),
        (pl.Series("o", [object()], dtype=pl.Object), "Python's objects"),
        (pa.schema([("a", pa.int8())]), "plain data"),
        (type("Own", (pl.DataFrame,), {})({"a": [1]}), r"plain DataFrame.*polars\.DataFrame\(value\)"),
    ],
    ids=["lazy", "objects", "objects alone", "a schema", "a subclass"],
)
def test_a_table_that_would_not_come_back_equal_is_refused_in_words(value: Any, says: str) -> None:
    with pytest.raises(NotEncodable, match=says):
        encode(value)


def test_whole_numbers_of_128_bits_come_back_or_are_refused() -> None:
    if not hasattr(pl, "Int128"):
        return  # an older polars has none
    value = pl.DataFrame({"a": pl.Series([2**100], dtype=pl.Int128)})
    try:
        raw = encode(value)
    except NotEncodable as refused:
        assert "polars.DataFrame cannot be kept" in str(refused)
    else:
        assert same(value, decode(raw))


def test_annotations_of_tables_are_keepable_and_lazy_ones_are_not() -> None:
    for kind in (pl.DataFrame, pl.Series, pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray, list[pl.DataFrame]):
        assert why_unkeepable(kind) is None
    lazy = why_unkeepable(pl.LazyFrame)
    assert lazy is not None and "collect" in lazy
    assert why_unkeepable(pl.LazyFrame, pickles=True) is None


def test_tables_have_parts_and_say_what_they_are() -> None:
    parts = Classes()
    parts.keep_in(None, parts=True)
    words = {
        "pyarrow.Table, 3 x 4": TABLE,
        "pyarrow.RecordBatch, 3 x 4": TABLE.to_batches()[0],
        "pyarrow.Array, 3": TABLE["a"].chunk(0),
        "pyarrow.ChunkedArray, 3": TABLE["a"],
        "polars.DataFrame, 2 x 13": FRAME,
        "polars.Series, 2": FRAME["a"],
    }
    for said, value in words.items():
        assert what_of(encode(value)) == said
    for large in (ARROW["a large one"], POLARS["a large one"]):
        raw = encode(large, parts)
        assert is_joined(raw) and what_of(raw).endswith(
            "Table, 10000 x 2" if large is not POLARS["a large one"] else "10000 x 2"
        )
    assert msgspec.json.decode(as_shown(TABLE)) == "Table, 3 x 4: a, s, d, l"
    assert msgspec.json.decode(as_shown(FRAME["a"])) == "Series, 2 values"


def test_a_table_of_a_newer_format_says_so() -> None:
    for value in (TABLE, FRAME, FRAME["a"], TABLE["a"]):
        with pytest.raises(NotReadable, match="newer restate_nb"):
            decode(encode(value).replace(b'"format":1', b'"format":9'))


def test_what_needs_a_package_that_is_not_here_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    raws = {"polars": encode(FRAME["a"]), "pyarrow": encode(TABLE), "pandas": encode(pd.Series([1]))}
    for package, raw in raws.items():
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)  # type: ignore[arg-type]
            with pytest.raises(NotReadable, match=f"needs a package that is not here: .*{package}"):
                decode(raw)


def test_equal_frames_of_polars_are_written_alike_in_however_many_chunks() -> None:
    """A job is found again by its items."""
    chunks = pl.concat([FRAME[:1], FRAME[1:]], rechunk=False)
    assert encode(chunks) == encode(FRAME) and encode(chunks["a"]) == encode(FRAME["a"])
