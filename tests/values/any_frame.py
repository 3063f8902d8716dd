"""Random DataFrames, Series and indexes of every kind that pandas has, odd ones too; seeded."""

from __future__ import annotations

import datetime as dt
import decimal
import random
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tests.engine.any_value import CLASSES, Point

ZONES = [
    dt.UTC,
    zoneinfo.ZoneInfo("Europe/Berlin"),
    zoneinfo.ZoneInfo("America/St_Johns"),
    dt.timezone(dt.timedelta(hours=5, minutes=45)),
    dt.timezone(dt.timedelta(hours=-3), "BRT"),
]
UNITS = ["s", "ms", "us", "ns"]
NUMBERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">i4", ">f8", "c8", "c16", "g"]
NULLABLE = ["Int8", "Int16", "Int32", "Int64", "UInt8", "UInt64", "Float32", "Float64"]
ARROW = [
    pa.int32(),
    pa.float32(),
    pa.bool_(),
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.date32(),
    pa.timestamp("us", "Europe/Berlin"),
    pa.duration("ms"),
    pa.decimal128(12, 3),
    pa.list_(pa.int8()),
    pa.struct([("a", pa.int8()), ("b", pa.string())]),
    pa.dictionary(pa.int8(), pa.string()),
    pa.null(),
]
TEXTS = ["", "a", "Bonn", "ß", "日本", "a\nb", "\0", "x" * 50, "NaN", "None", "1"]
MISSING = [None, np.nan, pd.NA, pd.NaT]


class AnyFrame:
    """Makes frames; each call gives another."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)

    # ------------------------------------------------------------ cells

    def cell(self) -> Any:
        rng = self.rng
        makers: list[Callable[[], Any]] = [
            lambda: rng.choice(MISSING),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice([0, 1, -5, 2**70, True, 1.5, float("inf"), 1j]),
            lambda: self.numbers.choice(np.array([1, 2], dtype=rng.choice(["i1", "f4", "u8"]))),
            lambda: pd.Timestamp(rng.randrange(10**18), tz=rng.choice([None, *ZONES[:3]])),
            lambda: pd.Timedelta(rng.randrange(10**15)),
            lambda: pd.Period("2026-01", "M"),
            lambda: pd.Interval(0, rng.randrange(1, 5)),
            lambda: dt.date(2026, 1, rng.randrange(1, 28)),
            lambda: decimal.Decimal(rng.randrange(1000)) / 100,
            lambda: uuid.UUID(int=rng.getrandbits(128)),
            lambda: rng.choice([[1, "a"], (1, 2), {"a": [None]}, {1, 2}, b"\0x", Point(1, "p")]),
            lambda: "\udcff",
        ]
        return rng.choice(makers)()

    def label(self) -> Any:
        rng = self.rng
        return rng.choice([rng.choice(TEXTS), rng.randrange(5), 1.5, None, ("a", 1), pd.Timestamp("2026"), True])

    def name(self) -> Any:
        return self.rng.choice([None, None, "name", 0, ("a", 1), pd.Timestamp("2026-01-01")])

    # ------------------------------------------------------------ columns

    def column(self, size: int) -> Any:
        """An array of numpy or pandas."""
        rng = self.rng
        makers: list[Callable[[int], Any]] = [
            self.numpy, self.numpy, self.booleans, self.times, self.zoned, self.deltas, self.nullable, self.text,
            self.text, self.category, self.period, self.interval, self.sparse, self.arrow, self.objects, self.objects,
            self.words,
        ]  # fmt: skip
        return rng.choice(makers)(size)

    def numpy(self, size: int) -> Any:
        dtype = np.dtype(self.rng.choice(NUMBERS))
        values = self.numbers.integers(0, 100, size)
        array = values.astype(dtype)
        if dtype.kind in "fc" and size:
            array[self.rng.randrange(size)] = self.rng.choice([np.nan, np.inf, -0.0])
        return array

    def booleans(self, size: int) -> Any:
        return self.numbers.random(size) < 0.5

    def _stamps(self, size: int, kind: str) -> Any:
        unit = self.rng.choice(UNITS)
        array = self.numbers.integers(-(10**9), 10**9, size).astype(f"{kind}8[{unit}]")
        if size and self.rng.random() < 0.5:
            array[self.rng.randrange(size)] = np.array("NaT", dtype=array.dtype)
        return array

    def times(self, size: int) -> Any:
        return self._stamps(size, "M")

    def deltas(self, size: int) -> Any:
        return self._stamps(size, "m")

    def zoned(self, size: int) -> Any:
        zone = self.rng.choice(ZONES)
        return pd.DatetimeIndex(self.times(size)).tz_localize("UTC").tz_convert(zone).array

    def nullable(self, size: int) -> Any:
        dtype = self.rng.choice([*NULLABLE, "boolean"])
        if self.rng.random() < 0.2:
            return pd.arrays.FloatingArray(
                np.where(self.booleans(size), np.nan, self.numbers.random(size)), self.booleans(size)
            )
        cells = [self.rng.choice([0, 1, pd.NA]) for _ in range(size)]
        return pd.array(
            [bool(each) if dtype == "boolean" and each is not pd.NA else each for each in cells], dtype=dtype
        )

    def text(self, size: int) -> Any:
        dtype = self.rng.choice(["string", "string[python]", "string[pyarrow]", "str"])
        return pd.array([self.rng.choice([*TEXTS, None]) for _ in range(size)], dtype=dtype)

    def words(self, size: int) -> Any:
        cells: list[Any] = [self.rng.choice(TEXTS) for _ in range(size)]
        if size and self.rng.random() < 0.5:
            cells[0] = self.rng.choice([None, "\ud800", np.nan])
        return np.array([*cells, None], dtype=object)[:-1]

    def category(self, size: int) -> Any:
        categories = pd.unique(pd.Series(self.simple(self.rng.randrange(1, 5)))).copy()
        index = pd.Index(categories).dropna()
        codes = [self.rng.randrange(-1, len(index)) for _ in range(size)]
        dtype = pd.CategoricalDtype(index, ordered=self.rng.random() < 0.5)
        return pd.Categorical.from_codes(codes, dtype=dtype)

    def simple(self, size: int) -> Any:
        return self.rng.choice([self.times, self.text, self.booleans, self.zoned, self.deltas])(size)

    def period(self, size: int) -> Any:
        freq = self.rng.choice(["D", "M", "2Q-NOV", "Y", "h", "W-SUN", "3min"])
        return pd.arrays.PeriodArray(self.numbers.integers(0, 500, size), dtype=pd.PeriodDtype(freq))

    def interval(self, size: int) -> Any:
        breaks = self.rng.choice(
            [
                np.arange(size + 1),
                np.linspace(0, 1, size + 1),
                pd.date_range("2026", periods=size + 1, tz=self.rng.choice([None, "Europe/Berlin"])),
                pd.timedelta_range("1s", periods=size + 1),
            ]
        )
        made = pd.arrays.IntervalArray.from_breaks(breaks, closed=self.rng.choice(["left", "right", "both", "neither"]))
        return made.take(self.numbers.permutation(size))

    def sparse(self, size: int) -> Any:
        fill, dtype = self.rng.choice([(0, "i8"), (np.nan, "f8"), (0.0, "f4"), (False, "bool"), (1, "i4")])
        dense = np.where(self.numbers.random(size) < 0.5, fill, 1).astype(dtype)
        return pd.arrays.SparseArray(dense, fill_value=fill, kind=self.rng.choice(["integer", "block"]))

    def arrow(self, size: int) -> Any:
        kind = self.rng.choice(ARROW)
        samples: dict[str, list[Any]] = {
            "bool": [True, False], "binary": [b"", b"\xff"], "date32[day]": [dt.date(2026, 1, 1)],
            "decimal128(12, 3)": [decimal.Decimal("1.250")], "list<item: int8>": [[], [1, None]],
            "struct<a: int8, b: string>": [{"a": 1, "b": None}, {"a": None, "b": "x"}], "null": [None],
        }  # fmt: skip
        words = "string" in str(kind) and "struct" not in str(kind)
        cells = samples.get(str(kind), TEXTS if words else [0, 1, 2])
        content = [self.rng.choice([*cells, None]) for _ in range(size)]
        plain = pa.array(content, pa.string()).dictionary_encode() if "dictionary" in str(kind) else None
        column = plain.cast(kind) if plain is not None else pa.array(content, kind)
        chunks = [column[: size // 2], column[size // 2 :]] if size > 1 and self.rng.random() < 0.5 else [column]
        return pd.arrays.ArrowExtensionArray(pa.chunked_array(chunks, kind))

    def objects(self, size: int) -> Any:
        array = np.empty(size, dtype=object)
        for place in range(size):
            array[place] = self.cell()
        return array

    # ------------------------------------------------------------ indexes, frames

    def index(self, size: int) -> Any:
        rng = self.rng
        kind = rng.random()
        if kind < 0.25:
            return pd.RangeIndex(rng.randrange(3), rng.randrange(3) + size * 2 + 5, 2, name=self.name())[:size]
        if kind < 0.4:
            return self._regular(size)
        if kind < 0.6:
            return self._multi(size)
        array = self.column(size)
        if kind < 0.7 or array.dtype == object:
            array = self.labels(size)  # which can be hashed
        dtype = object if array.dtype == object else None
        if array.dtype in (np.float16, np.longdouble) or getattr(array.dtype, "byteorder", "=") == ">":
            array = array.astype("f8")  # no index has it
        return pd.Index(array, dtype=dtype, name=self.name())

    def labels(self, size: int) -> Any:
        array = np.empty(size, dtype=object)
        for place in range(size):
            array[place] = self.label()
        return array

    def _regular(self, size: int) -> Any:
        rng = self.rng
        made: Any = rng.choice(
            [
                lambda: pd.date_range("2026-03-28", periods=size, freq=rng.choice(["h", "D", "MS"])),
                lambda: pd.date_range("2026-03-28", periods=size, freq="h", tz="Europe/Berlin"),
                lambda: pd.timedelta_range("1s", periods=size, freq=rng.choice(["s", "2h"])),
                lambda: pd.period_range("2026", periods=size, freq="M"),
            ]
        )()
        return made.rename(self.name())

    def _multi(self, size: int) -> Any:
        count = self.rng.randrange(1, 4)
        levels = [self._level(size) for _ in range(count)]
        return pd.MultiIndex.from_arrays(levels, names=[self.name() for _ in range(count)])

    def _level(self, size: int) -> Any:
        makers = [self.times, self.zoned, self.text, self.category, self.booleans, self.period, self.nullable]
        return pd.Index(self.rng.choice(makers)(size))

    def series(self) -> pd.Series[Any]:
        size = self.rng.choice([0, 1, 2, 5, 20])
        array = self.column(size)
        dtype = object if array.dtype == object else None
        return self._dressed(pd.Series(array, index=self.index(size), dtype=dtype, name=self.name()))

    def frame(self) -> pd.DataFrame:
        rng = self.rng
        rows, width = rng.choice([0, 1, 2, 5, 20, 200]), rng.choice([0, 1, 2, 3, 6])
        columns: dict[int, Any] = {}
        for place in range(width):
            array = self.column(rows)
            columns[place] = pd.Series(array, dtype=object) if array.dtype == object else array
        frame = pd.DataFrame(columns, index=range(rows))
        frame.index = self.index(rows)
        if rng.random() < 0.8:
            frame.columns = self.index(width)
        return self._dressed(frame)

    def _dressed(self, data: Any) -> Any:
        rng = self.rng
        if rng.random() < 0.2:
            data.attrs = rng.choice([{"unit": "kg"}, {"a": np.arange(3)}, {1: {"b": (1, None)}}])
        try:
            unique = all(each.is_unique for each in data.axes)
        except TypeError:  # labels that cannot be hashed
            unique = False
        if unique and rng.random() < 0.1:
            data.flags.allows_duplicate_labels = False
        return data


def classes() -> list[type]:
    """Of the objects that cells may be."""
    return list(CLASSES)
