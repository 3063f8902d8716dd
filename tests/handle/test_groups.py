"""Proves that the groups of a groupby are items one by one: each a frame with the rows that it had, in the order of the
groupby, their keys being the index of the job."""

from __future__ import annotations

import datetime as dt
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal, assert_index_equal, assert_series_equal

import restate_nb as rnb
from restate_nb.engine.function import Function
from restate_nb.handle.groups import Groups
from restate_nb.handle.items import read_items
from restate_nb.handle.sources import source_of
from restate_nb.session.session import Session

FRAME = pd.DataFrame(
    {
        "k": ["b", "a", "b", None, "a"],
        "j": [1, 1, 2, 2, 1],
        "c": pd.Categorical(["x", "y", "x", "x", "y"], categories=["x", "y", "z"]),
        "at": pd.date_range("2026", periods=5, freq="12h"),
        "v": range(5),
    },
    index=[5, 5, 7, 8, 9],
)

GROUPBYS: dict[str, Callable[[], Any]] = {
    "a column": lambda: FRAME.groupby("k"),
    "a list of one": lambda: FRAME.groupby(["k"]),
    "two columns": lambda: FRAME.groupby(["k", "j"]),
    "as they come": lambda: FRAME.groupby("k", sort=False),
    "with what is missing": lambda: FRAME.groupby("k", dropna=False),
    "two with what is missing": lambda: FRAME.groupby(["k", "j"], dropna=False),
    "all categories": lambda: FRAME.groupby("c", observed=False),
    "observed categories": lambda: FRAME.groupby("c", observed=True),
    "all pairs of categories": lambda: FRAME.groupby(["k", "c"], observed=False),
    "no index": lambda: FRAME.groupby("k", as_index=False),
    "no index of two": lambda: FRAME.groupby(["j", "k"], as_index=False),
    "a function": lambda: FRAME.groupby(lambda label: label % 2),
    "a level": lambda: FRAME.groupby(level=0),
    "a Series": lambda: FRAME.groupby(FRAME["v"] > 2),
    "a Grouper": lambda: FRAME.groupby(pd.Grouper(key="at", freq="D")),
    "intervals": lambda: FRAME.groupby(pd.cut(FRAME["v"], [0, 2, 5]), observed=False),
    "some columns": lambda: FRAME.groupby("k")[["v", "j"]],
    "one column": lambda: FRAME.groupby("k")["v"],
    "a resampling": lambda: FRAME.set_index("at").resample("D"),
    "a resampled column": lambda: FRAME.set_index("at")["v"].resample("D"),
    "no rows": lambda: FRAME[:0].groupby(["k", "j"]),
}


def read(groupby: Any, **options: Any) -> tuple[list[Any], Any]:
    source = source_of(groupby, **options)
    return list(source.items), source.index()


@pytest.mark.parametrize("kind", GROUPBYS)
def test_each_group_is_an_item_and_its_key_the_label(kind: str) -> None:
    items, index = read(GROUPBYS[kind]())
    expected = list(iter(GROUPBYS[kind]()))  # its own len() fails in pandas 2.2
    assert len(items) == len(index) == len(expected)
    for item, (_, group) in zip(items, expected, strict=True):
        (assert_series_equal if isinstance(group, pd.Series) else assert_frame_equal)(item, group)
    sizes = GROUPBYS[kind]().size()
    if isinstance(sizes, pd.DataFrame):
        sizes = sizes.set_index(list(sizes.columns[:-1]))
    assert list(index.names) == list(sizes.index.names)
    if len(sizes) == len(expected):  # pandas 2 counts pairs of categories that it gives no group of
        assert_index_equal(index, sizes.index)
    else:
        assert index.tolist() == [key for key, _ in expected]


def test_labels_are_the_keys_with_their_names() -> None:
    assert read(FRAME.groupby("k", sort=False))[1].tolist() == ["b", "a"]
    _, index = read(FRAME.groupby(["k", "j"]))
    assert index.tolist() == [("a", 1), ("b", 1), ("b", 2)]
    assert list(index.names) == ["k", "j"]
    assert read(FRAME.groupby("k"))[0][1].index.tolist() == [5, 7]
    assert pd.isna(read(FRAME.groupby("k", dropna=False))[1][-1])


def test_a_groupby_that_says_otherwise_is_labelled_by_its_keys() -> None:
    class Own(type(FRAME.groupby("k"))):  # type: ignore[misc]
        def size(self) -> Any:
            return super().size()[::-1]

    groups = Groups(Own(FRAME, "k"), pairs=False)
    assert len(list(groups)) == 2
    assert_index_equal(groups.index(), pd.Index(["a", "b"], name="k"))


def test_starmap_gets_each_key_with_its_group() -> None:
    items, index = read(FRAME.groupby("k"), pairs=True)
    assert [key for key, _ in items] == ["a", "b"] == index.tolist()
    assert_frame_equal(items[1][1], FRAME.iloc[[0, 2]])


def test_groups_of_polars_are_items_in_the_order_of_the_rows() -> None:
    frame = pl.DataFrame({"k": ["b", "a", "b", None], "j": [1, 2, 1, 3], "v": [1, 2, 3, 4]})
    items, index = read(frame.group_by("k", maintain_order=True))
    assert [item["v"].to_list() for item in items] == [[1, 3], [2], [4]]
    assert_index_equal(index, pd.Index(["b", "a", None], name="k"))
    items, index = read(frame.group_by("k", twice=pl.col("j") * 2, maintain_order=True))
    assert index.tolist() == [("b", 2), ("a", 4), (index[2][0], 6)]
    assert list(index.names) == ["k", "twice"]
    days = pl.DataFrame({"at": [dt.datetime(2026, 1, day) for day in (1, 1, 2)], "v": [1, 2, 3]})
    items, index = read(days.group_by_dynamic("at", every="1d"))
    assert [item["v"].to_list() for item in items] == [[1, 2], [3]]
    assert index.tolist() == [pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-02")]


def test_groups_are_made_one_at_a_time() -> None:
    alive: list[weakref.ref[Any]] = []

    class Watched:
        def __iter__(self) -> Iterator[Any]:
            for key, group in FRAME.groupby("v"):
                assert sum(each() is not None for each in alive) <= 1
                alive.append(weakref.ref(group))
                yield key, group

    groups = Groups(Watched(), pairs=False)
    for _ in groups:
        pass
    assert len(alive) == 5
    assert groups.keys == [0, 1, 2, 3, 4]


def total(group: pd.DataFrame) -> int:
    return int(group["v"].sum())


def test_a_job_over_groups_has_their_keys_and_is_found_again(session: Session) -> None:
    job = rnb.map(total, FRAME.groupby(["k", "j"]), session=session, show=False)
    frame = job.result()
    assert_index_equal(frame.index, FRAME.groupby(["k", "j"]).size().index)
    assert frame["value"].tolist() == FRAME.groupby(["k", "j"])["v"].sum().tolist()
    assert_frame_equal(frame["item"].iloc[2], FRAME.iloc[[2]])
    assert rnb.map(total, FRAME.groupby(["k", "j"]), session=session, show=False).attached == 3
    assert rnb.map(total, FRAME.groupby(["k", "j"], sort=False), session=session, show=False).attached == 0
    changed = FRAME.assign(v=FRAME["v"] + 1)
    assert rnb.map(total, changed.groupby(["k", "j"]), session=session, show=False).attached == 0


def test_worker_processes_and_starmap_take_groups(session: Session) -> None:
    job = rnb.map(total, FRAME.groupby("k"), executor="process", concurrency=1, session=session, show=False)
    assert job.values() == [5, 2]
    pairs = rnb.starmap(lambda key, group: f"{key}{len(group)}", FRAME.groupby("k"), session=session, show=False)
    assert pairs.result()["value"].to_dict() == {"a": "a2", "b": "b2"}


def test_the_groups_of_a_job_are_its_own(session: Session) -> None:
    frame = FRAME.copy()
    job = rnb.map(lambda group: group.pop("v").tolist(), frame.groupby("k"), session=session, show=False)
    frame["v"] = 0
    assert job.values() == [[1, 4], [0, 2]]
    assert_frame_equal(job.frame()["item"]["b"], FRAME.iloc[[0, 2]])


FRAMES: dict[str, Any] = {
    "pandas": FRAME,
    "pandas, a column": FRAME["v"],
    "polars": pl.DataFrame({"v": [1, None]}),
    "polars, a column": pl.Series("v", [1, None]),
    "a Table": pa.table({"v": [1, None]}),
    "a RecordBatch": pa.record_batch({"v": [1, None]}),
}

MANY: dict[str, Callable[[Any], Any]] = {
    "list": lambda frame: [frame, frame],
    "tuple": lambda frame: (frame, frame),
    "dict": lambda frame: {"x": frame, "y": frame},
    "Series": lambda frame: pd.Series([frame, frame], index=["x", "y"], dtype=object),
    "generator": lambda frame: (each for each in (frame, frame)),
}


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("kind", FRAMES)
def test_each_of_many_frames_is_one_item(kind: str, many: str) -> None:
    frame = FRAMES[kind]
    target = Function(lambda whole: (type(whole), len(whole) if hasattr(whole, "__len__") else whole.num_rows))
    read = read_items(MANY[many](frame), target)
    count = len(frame) if hasattr(frame, "__len__") else frame.num_rows
    assert list(map(target.caller(), read.encoded)) == [(type(frame), count)] * 2
    assert read.index().tolist() == (["x", "y"] if many in ("dict", "Series") else [0, 1])
    assert [type(each) for each in read.originals] == [type(frame)] * 2


def cells_of_v(part: Any) -> list[Any]:
    column = part["v"]
    return column.to_pylist() if isinstance(column, pa.Array) else column.to_list()  # type: ignore[no-any-return]


def test_parts_of_files_are_items(session: Session, tmp_path: Any) -> None:
    frame = pd.DataFrame({"v": range(5)})
    frame.to_csv(tmp_path / "v.csv", index=False)
    frame.to_parquet(tmp_path / "v.parquet")
    parquet = pq.ParquetFile(tmp_path / "v.parquet")
    parts: Any
    for parts in (
        pd.read_csv(tmp_path / "v.csv", chunksize=2),
        pl.from_pandas(frame).iter_slices(2),
        parquet.iter_batches(batch_size=2),
    ):
        job = rnb.map(cells_of_v, parts, session=session, show=False)
        assert job.values() == [[0, 1], [2, 3], [4]]
    with pytest.raises(rnb.InvalidInput, match=r"ParquetFile of pyarrow.*items\.iter_batches\(\)"):
        rnb.map(len, parquet, session=session, show=False)


def test_large_frames_of_an_iterator_are_not_kept() -> None:
    alive: list[weakref.ref[Any]] = []

    def frames() -> Iterator[pd.DataFrame]:
        for number in range(6):
            assert sum(each() is not None for each in alive) <= 2
            frame = pd.DataFrame({"v": range(number)})
            alive.append(weakref.ref(frame))
            yield frame

    assert len(read_items(frames(), Function(len))) == 6
