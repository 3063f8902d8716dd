"""Proves that every kind of collection is read as a for loop reads it, or refused in words before anything starts."""

from __future__ import annotations

import array
import collections
import csv
import dataclasses
import datetime as dt
import io
import itertools
import os
import queue
import sqlite3
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import restate_nb as rnb
from restate_nb.engine.function import Function, Passing
from restate_nb.handle import reading
from restate_nb.handle.items import passing_of, read_items
from restate_nb.session.session import Session

FRAME = pd.DataFrame({"a": [1, 3], "b": [2, 4]})


def one(item: Any) -> Any:
    return item


def add(a: Any, b: Any) -> Any:
    return a + b


def got(items: Any, fn: Callable[..., Any] = one, passing: Passing | None = None) -> list[Any]:
    """What the function returns for each item."""
    target = Function(fn, passing or passing_of(items))
    read = read_items(items, target)
    call = target.caller()
    return [call(raw) for raw in read.encoded]


class Dataset:
    """As torch has them: no iterator, and no end but its length."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, at: int) -> int:
        return at * 10


class Both:
    """Can be read in both ways, as tqdm."""

    closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            yield from (1, 2)
        finally:
            self.closed = True

    def __aiter__(self) -> Any:
        raise AssertionError


def rows() -> Any:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    return database.execute("select 1 a, 2 b")


def test_rows_of_a_data_frame_are_named_tuples_dicts_or_arguments() -> None:
    assert got(FRAME.itertuples(), lambda row: row.a + row.b) == [3, 7]
    assert got(FRAME.itertuples(name="R"), lambda row: (row.Index, row[1])) == [(0, 1), (1, 3)]
    assert got(FRAME.itertuples(index=False), add, "args") == [3, 7]
    assert got(FRAME.to_dict("records"), lambda row: row["a"]) == [1, 3]
    assert got(FRAME, add) == [3, 7]
    assert got(FRAME.iterrows(), lambda label, row: (label, row.a + row["b"]), "args") == [(0, 3), (1, 7)]
    assert got(FRAME.to_numpy(), add, "args") == [3, 7]
    assert got(FRAME.to_records(index=False), add, "args") == [3, 7]
    assert got(zip(FRAME.a, FRAME.b, strict=True), add, "args") == [3, 7]


def test_rows_of_databases_are_spread_and_keep_their_names() -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    assert got(rows(), add, "args") == [3]
    assert got(map(dict, rows()), lambda row: row["a"]) == [1]
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        query = sqlalchemy.text("select 1 as a, 2 as b")
        assert got(connection.execute(query), lambda row: (row.a, row[1])) == [(1, 2)]
        assert got(connection.execute(query), add, "args") == [3]
        with pytest.raises(rnb.InvalidInput, match=r"Pass each row as a dict, map\(dict, rows\)"):
            got(connection.execute(query).mappings(), one)
        assert got(map(dict, connection.execute(query).mappings()), lambda row: row["b"]) == [2]


def test_a_named_tuple_needs_no_annotation() -> None:
    point = collections.namedtuple("point", "x y")
    assert got([point(1, 2)], lambda p: p.x + p.y) == [3]
    assert got([point(1, 2)], add, "args") == [3]


@pytest.mark.parametrize(
    ("items", "values"),
    [
        (enumerate("ab"), [(0, "a"), (1, "b")]),
        (zip([1], "x", strict=True), [(1, "x")]),
        ({"a": 1}.items(), [("a", 1)]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        (types.MappingProxyType({"a": 1}), [1]),
        (collections.Counter("aab"), [2, 1]),
        (map(abs, [-1]), [1]),
        (filter(None, [0, 2]), [2]),
        (collections.deque([1, 2]), [1, 2]),
        (array.array("i", [1, 2]), [1, 2]),
        (memoryview(b"ab"), [97, 98]),
        (range(3), [0, 1, 2]),
        (io.StringIO("a\nb"), ["a\n", "b"]),
        (csv.reader(["a,b"]), [["a", "b"]]),
        (csv.DictReader(["a,b", "1,2"]), [{"a": "1", "b": "2"}]),
        (itertools.repeat(1, 2), [1, 1]),
        (itertools.islice(itertools.count(), 2), [0, 1]),
        (Dataset(), [0, 10]),
        (np.arange(2), [0, 1]),
        (np.array([(1, 2)], dtype=[("a", int), ("b", int)]), [(1, 2)]),
        (np.array(["2026-01-01"], dtype="M8[ns]"), [np.datetime64("2026-01-01T00:00:00.000000000")]),
        (pd.Index([1, 2]), [1, 2]),
        (pd.MultiIndex.from_tuples([(1, 2)]), [(1, 2)]),
        (pd.date_range("2026", periods=1), [pd.Timestamp("2026")]),
        (pd.Categorical(["a", "b"]), ["a", "b"]),
        (pd.Series([1], index=["x"]).items(), [("x", 1)]),
        (iter([1]), [1]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_iterable_is_read_as_a_for_loop_reads_it(items: Any, values: list[Any]) -> None:
    assert got(items) == values


def test_columns_of_other_libraries_are_read() -> None:
    assert got(pl.Series([1, 2])) == got(pa.array([1, 2])) == got(pa.chunked_array([[1, 2]])) == [1, 2]
    assert got(pl.Series(["a", None])) == got(pa.array(["a", None])) == ["a", None]
    assert got(pl.Series([[1], [2, 3]])) == got(pa.array([[1], [2, 3]])) == [[1], [2, 3]]
    assert got(pl.Series([{"a": 1}]), lambda row: row["a"]) == got(pa.array([{"a": 1}]), lambda row: row["a"]) == [1]
    nanoseconds = pd.Timestamp("2026-01-01 00:00:00.000000001")
    assert got(pl.Series([nanoseconds.value]).cast(pl.Datetime("ns"))) == [nanoseconds]
    assert got(pa.array([nanoseconds.value], pa.timestamp("ns"))) == [nanoseconds]


def test_a_progress_bar_around_the_items_is_read_and_ends() -> None:
    both = Both()
    assert got(both) == [1, 2]
    assert both.closed
    tqdm = pytest.importorskip("tqdm")
    bar = tqdm.tqdm([1, object()], file=io.StringIO())
    with pytest.raises(rnb.InvalidInput, match="Item 1"):
        got(bar)
    assert bar.disable  # it is closed


async def later() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: "abc", r"one str.*\[item\]"),
        (lambda: b"abc", r"one bytes"),
        (lambda: np.array(3), r"array without dimensions.*\[item\]"),
        (lambda: np.float64(3), r"without dimensions|must be a list"),
        (lambda: {1, 2}, r"no order"),
        (lambda: frozenset([1]), r"no order"),
        (lambda: later(), r"async for item"),
        (lambda: later, r"must be a list"),
        (lambda: list, r"must be a list"),
        (lambda: None, r"must be a list"),
        (lambda: queue.Queue(), r"queue first, as a list"),
        (lambda: os.scandir("."), r"entry\.path"),
        (lambda: itertools.count(), r"never ends.*islice"),
        (lambda: itertools.cycle([1]), r"never ends"),
        (lambda: itertools.repeat(1), r"never ends"),
        (lambda: [*FRAME.iterrows(), (2, object())], r"Item 2"),
        (lambda: pl.LazyFrame({"a": [1]}), r"LazyFrame of polars.*items\.collect\(\)"),
        (lambda: pl.DataFrame({"a": [1]}).group_by("a"), r"another order each time.*maintain_order=True"),
        (lambda: pa.table({"a": [1]}).group_by("a"), r"TableGroupBy.*to_pandas\(\)\.groupby"),
        (lambda: rows(), r"map\(dict, rows\)"),
        (lambda: [io.StringIO()], r"Item 0"),
        (lambda: ["ok", threading.Lock()], r"Item 1"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(make: Any, says: str) -> None:
    items = make()
    with pytest.raises(rnb.InvalidInput, match=f"(?s){says}") as caught:
        got(items)
    print(caught.value)
    if type(items).__name__ == "ScandirIterator":
        items.close()


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (FRAME, r"itertuples\(index=False, name=None\)"),
        (pl.from_pandas(FRAME), r"map\(add, df\) passes its columns by name, rnb\.starmap\(add, df\.iter_rows\(\)\)"),
        (pa.table({"a": [1], "b": [2]}), r"items is a frame\. rnb\.map\(add, df\) passes its columns by name\.$"),
        ([FRAME], r"must be a tuple, a list or a dict; item 0 is "),
        ([1], r"For single arguments use rnb\.map"),
        (["ab"], r"item 0 is 'ab'"),
    ],
)
def test_starmap_says_how_to_pass_what_it_cannot_spread(items: Any, says: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        got(items, add, "args")


def test_dicts_for_several_parameters_are_sent_another_way() -> None:
    with pytest.raises(rnb.InvalidInput, match=r"fields of each item by name: rnb\.starmap\(add, items\)"):
        got([{"a": 1, "b": 2}], add)


def test_starmap_spreads_dicts_by_name() -> None:
    def price(amount: int, *, tax: float = 0.5, **others: Any) -> Any:
        return amount * (1 + tax), others

    items = [{"amount": 2}, {"tax": 1.0, "amount": 3}, {"amount": 1, "class": "a", "zip code": 5}]
    values = [(3.0, {}), (6.0, {}), (1.5, {"class": "a", "zip code": 5})]
    assert got(items, price, "args") == values
    assert got(iter(items), price, "args") == values
    assert got(tuple(map(types.MappingProxyType, items)), price, "args") == values
    assert got(map(collections.OrderedDict, items), price, "args") == values
    assert got({"x": items[0]}, price, "args") == values[:1]
    assert got([{"a": n, "b": n} for n in range(1000)], add, "args") == [2 * n for n in range(1000)]
    target = Function(price, "args")
    assert list(read_items(items, target).originals) == items
    assert target.options == "kwargs"


@dataclasses.dataclass
class Point:
    x: int


def test_fields_of_dicts_are_rebuilt_to_annotations() -> None:
    def moved(by: int, point: Point) -> int:
        return point.x + by

    assert got([{"point": {"x": 1}, "by": 2}, {"by": 3, "point": Point(1)}], moved, "args") == [3, 4]
    assert got([(2, {"x": 1})], moved, "args") == [3]
    with pytest.raises(rnb.InvalidInput, match=r"Item 1 does not fit parameter 'point' of moved"):
        got([{"by": 1, "point": {"x": 1}}, {"by": 1, "point": {"x": "one"}}], moved, "args")


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([{"a": 1, "b": 2}, (1, 2)], r"item 1 is \(1, 2\), and those before it are dicts"),
        ([(1, 2), (1, 2), {"a": 1, "b": 2}], r"item 2 is \{'a': 1, 'b': 2\}, and those before it are tuples"),
        ([{"a": 1, "b": 2}] * 99 + [None], r"item 99 is None, and those before it are dicts"),
        ([{"a": 1, "b": 2}, {"a": 1}], r"with item 1, \{'a': 1\}: missing a required argument: 'b'"),
        ([{"a": 1, "b": 2}, {"a": 1, "c": 3}], r"with item 1, .*: missing a required argument: 'b'"),
        ([{"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}], r"with item 1, .*unexpected keyword argument 'c'"),
        ([{"a": 1, 2: 3}], r"fields of item 0 by name, and 2 can be no argument's name"),
        ([{"a": 1, None: 3}], r"fields of item 0 by name, and None can be no argument's name"),
    ],
)
def test_dicts_that_do_not_fit_are_refused_by_position(items: Any, says: str) -> None:
    for each in (items, iter(items)):
        with pytest.raises(rnb.InvalidInput, match=says):
            got(each, add, "args")


def test_a_column_of_any_name_reaches_a_function_that_takes_all() -> None:
    names = ["zip code", "class", "ä", "", "1st", "$rnb", "self", "a/b", "\n"]
    frame = pd.DataFrame([list(range(len(names)))], columns=names)
    assert got(frame, lambda **row: row) == [dict(zip(names, range(len(names)), strict=True))]
    with pytest.raises(rnb.InvalidInput, match=r"'zip code' can be no parameter's name"):
        got(frame, add)
    odd = pd.DataFrame([[1]], columns=pd.Index(["a\udcff"], dtype=object))
    assert got(odd, lambda **row: row) == [{"a\udcff": 1}]


def labelled(*names: Any) -> pd.DataFrame:
    return pd.DataFrame([list(range(len(names)))], columns=pd.Index(list(names), dtype=object, tupleize_cols=False))


def test_numbers_and_dates_name_arguments_as_text() -> None:
    names = [0, np.int64(1), 2.5, True, dt.date(2026, 1, 1), pd.Timestamp("2026-01-02"), np.str_("a")]
    assert got(pd.DataFrame([[7, 8]]), lambda **row: row) == [{"0": 7, "1": 8}]
    assert list(got(labelled(*names), lambda **row: row)[0]) == [
        *("0", "1", "2.5", "True", "2026-01-01", "2026-01-02 00:00:00", "a")
    ]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((None,), r"column None cannot be one\. Rename"),
        ((float("nan"),), r"column nan cannot be one\. Rename"),
        ((b"a",), r"column b'a' cannot be one\. Rename"),
        ((("a", "b"),), r"column \('a', 'b'\) cannot be one\. .*'_'\.join"),
        (("a", "a"), r"column 'a' is there twice"),
        ((1, 1), r"column 1 is there twice"),
        (("b", 1, "1"), r"columns 1 and '1' would both be passed as '1'"),
    ],
)
def test_columns_that_cannot_name_arguments_are_refused(names: Any, says: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        got(labelled(*names), lambda **row: row)
    columns = pd.MultiIndex.from_tuples([("a", "x"), ("b", "y")])
    with pytest.raises(rnb.InvalidInput, match=r"\('a', 'x'\) cannot be one"):
        got(pd.DataFrame([[1, 2]], columns=columns), lambda **row: row)


def test_an_iterable_that_raises_says_where_and_nothing_is_started(session: Session) -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise OSError("disk gone")

    before = len(session.jobs)
    with pytest.raises(rnb.InvalidInput, match=r"after 5 of them, at position 5: OSError: disk gone") as caught:
        rnb.map(one, broken(), session=session, show=False)
    assert isinstance(caught.value.__cause__, OSError)
    assert len(session.jobs) == before


def test_a_generator_that_does_not_end_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def endless() -> Iterator[int]:
        yield from range(10)
        while "Reading the items: 10 by now" not in said():
            time.sleep(0.01)
        raise KeyboardInterrupt

    told: list[str] = []

    def said() -> str:
        told.append(capsys.readouterr().out)
        return "".join(told)

    with pytest.raises(KeyboardInterrupt), reading.Reading(endless(), first_report=0.02) as items:
        for _ in items:
            pass
    assert "Stopped while the items were read, after 10 of them. Nothing was started." in said()


def test_what_ends_for_sure_is_read_without_a_word_of_the_endless(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []

    def slow() -> Iterator[int]:
        while "Reading the items: 0 by now" not in "".join(told):
            told.append(capsys.readouterr().out)
            time.sleep(0.01)
        yield 1

    with reading.Reading(slow(), first_report=0.02, ends=True) as items:
        assert list(items) == [1]
    assert "never end" not in "".join(told)


def test_items_are_read_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ITEMS", 100)
    with pytest.raises(rnb.InvalidInput, match=r"more than 100 items.*itertools\.islice"):
        got(number for number in itertools.count())


def test_an_iterator_that_was_read_before_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = iter([1, 2])
    assert got(numbers) == [1, 2]
    assert got(numbers) == []
    assert "gave no items: if it was read before" in capsys.readouterr().out
    assert got([]) == []
    assert not capsys.readouterr().out


def test_paths_and_lines_are_items(session: Session, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one\ntwo\n")
    paths = rnb.map(lambda path: path.name, sorted(tmp_path.glob("*.txt")), session=session, show=False)
    assert paths.values() == ["a.txt", "b.txt"]
    assert rnb.map(lambda path: path.is_file(), tmp_path.rglob("*"), session=session, show=False).values() == [True] * 2
    with (tmp_path / "a.txt").open() as file:
        assert rnb.map(str.strip, file, session=session, show=False).values() == ["one", "two"]


def test_a_list_that_another_thread_empties_is_read_as_it_was() -> None:
    items = list(range(20_000))
    emptied = threading.Thread(target=items.clear)

    def fit(item: int) -> int:
        return item

    class Slow(Function):
        def takes(self, items: Sequence[Any], raws: Callable[[], Sequence[bytes]]) -> bool:
            if 100 in items:
                emptied.start()
                emptied.join()
            return super().takes(items, raws)

    assert list(read_items(items, Slow(fit)).originals) == list(range(20_000))
    assert not items


def test_operations_are_read_in_the_same_way(session: Session) -> None:
    def broken() -> Iterator[Callable[[], int]]:
        yield lambda: 1
        raise OSError("gone")

    with pytest.raises(rnb.InvalidInput, match=r"after 1 of them, at position 1: OSError: gone"):
        rnb.fan_out(broken(), session=session, show=False)
    with pytest.raises(rnb.InvalidInput, match="never ends"):
        rnb.fan_out(itertools.repeat(lambda: 1), session=session, show=False)
    operations = [lambda: 1, lambda: 2]
    job = rnb.fan_out((each for each in operations), session=session, show=False)
    operations.clear()
    assert job.values() == [1, 2]
