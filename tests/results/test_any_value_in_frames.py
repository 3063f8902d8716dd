"""Proves that no value, item or label breaks a frame, a chart or a file, at whatever moment of a job: random ones of
every kind, beside failures and what is still open; and that all of it holds through the real server.

The long form: `pytest -m soak tests/notebook`; `RNB_VALUES_SEED` repeats a run."""

from __future__ import annotations

import enum
import json
import os
import pathlib
import random
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import msgspec
import numpy as np
import pandas as pd
import pytest

import restate_nb as rnb
from restate_nb import charts
from restate_nb.engine.record import ERROR, OK, Attempt, Failure
from restate_nb.errors import NotEncodable
from restate_nb.handle.job import runner_of
from restate_nb.results.error_groups import errors_frame
from restate_nb.results.exports import plain_columns, records
from restate_nb.results.frame import ValuesOf, attempts_frame, compared, expanded, job_frame, joined
from restate_nb.results.ledger import Ledger
from restate_nb.session.session import Session
from restate_nb.values.classes import Classes
from restate_nb.values.codec import decode_column, encode
from tests.engine.any_value import CLASSES, Maker, same

SEED = int(os.environ.get("RNB_VALUES_SEED", "14"))
ROWS = 12


class Letter(enum.Enum):
    A = "a"


INDEXES: dict[str, Callable[[int], pd.Index[Any]]] = {
    "range": lambda n: pd.RangeIndex(n),
    "paths": lambda n: pd.Index([pathlib.Path(f"a{i}") for i in range(n)], dtype=object),
    "not UTF-8": lambda n: pd.Index([f"a{i}\udcff" for i in range(n)], dtype=object),
    "UUIDs": lambda n: pd.Index([uuid.UUID(int=i) for i in range(n)], dtype=object),
    "mixed": lambda n: pd.Index(
        [[1, "a", None, Letter.A, 2**70, (1, 2), b"\xff"][i % 7] for i in range(n)], dtype=object
    ),
    "complex": lambda n: pd.Index([1j * i for i in range(n)]),
    "twice": lambda n: pd.Index([7] * n, name="item"),
    "several levels": lambda n: pd.MultiIndex.from_arrays([[Letter.A] * n, range(n)], names=["status", None]),
    "times": lambda n: pd.date_range("2026", periods=n, tz="Europe/Berlin", name=5),
    "intervals": lambda n: pd.IntervalIndex.from_breaks(range(n + 1)),
    "periods": lambda n: pd.period_range("2026-01", periods=n, freq="M", name=("a", 1)),
    "categories": lambda n: pd.CategoricalIndex([pathlib.Path("a")] * n),
}


def reading(classes: Classes) -> ValuesOf:
    """How a frame reads recorded values."""
    return lambda raws, _, instead: decode_column(raws, classes, instead)


def ledger_of(values: list[Any], classes: Classes, rng: random.Random) -> tuple[Ledger, dict[int, Any]]:
    """A job's ledger with these values, among failures and open items; and which value stands where."""
    ledger, kept = Ledger(len(values)), {}
    for position, value in enumerate(values):
        kind = rng.randrange(6)
        if kind == 0:
            continue
        if kind == 1:
            failure = Failure("E\udcff".encode("utf-8", "replace").decode(), "no", "cell:1 in f", "Traceback")
            ledger.apply(0, [Attempt(position, 1, ERROR, 1e9, 0.5, failure=failure)], 0)
            continue
        try:
            raw = encode(value, classes)
        except NotEncodable:
            continue
        ledger.apply(0, [Attempt(position, 1, OK, 1e9, 0.5, msgspec.Raw(raw))], 0)
        kept[position] = value
    return ledger, kept


def never_break_a_frame(seed: int, frames: int, folder: Path) -> None:
    print(f"RNB_VALUES_SEED={seed}")
    maker, rng, classes = Maker(seed), random.Random(seed), Classes(CLASSES)
    names = list(INDEXES)
    for number in range(frames):
        some = maker.leaves if number % 3 else [rng.choice(maker.leaves)]  # whole columns of one kind, too
        values = [maker.value(2, None if number % 3 == 1 else rng.choice(some)) for _ in range(ROWS)]
        ledger, kept = ledger_of(values, classes, rng)
        index = INDEXES[names[number % len(names)]](ROWS)
        frame = job_frame(ledger, index, values, reading(classes), running=frozenset(), submitted=1e9 - 1)
        column = frame["value"].tolist()
        for position, value in kept.items():
            assert is_same(value, column[position]), f"{number}: {value!r} became {column[position]!r}"
        for shown in (frame, expanded(frame), joined(None, frame, index), compared(frame, frame)):
            assert len(shown) == len(frame) and shown.to_html() and repr(shown)
            with np.errstate(all="ignore"):  # of infinite values
                shown.describe()
        errors_frame(ledger, index)
        attempts_frame(ledger, index)
        written(frame, folder)


def is_same(given: Any, shown: Any) -> bool:
    """Whether a cell has the value: of the type that the column's dtype has for it."""
    if same(given, shown) or (given is None and shown is None):
        return True
    if isinstance(given, np.ndarray) or isinstance(shown, np.ndarray):
        return False
    if pd.api.types.is_scalar(given) and pd.isna(given):
        return bool(pd.isna(shown))
    return bool(given == shown) and not isinstance(given, (tuple, list, dict, str))


def written(frame: pd.DataFrame, folder: Path) -> None:
    """The frame as files, which have all rows."""
    plain_columns(frame).to_parquet(folder / "a.parquet")
    assert len(pd.read_parquet(folder / "a.parquet")) == len(frame)
    plain_columns(frame).to_csv(folder / "a.csv")
    (folder / "a.csv").read_bytes().decode()
    records(frame).to_json(folder / "a.json", orient="records", date_format="iso", date_unit="us")
    assert len(json.loads((folder / "a.json").read_text())) == len(frame)


def test_random_values_items_and_labels_never_break_a_frame_or_a_file(tmp_path: Path) -> None:
    never_break_a_frame(SEED, 48, tmp_path)


@pytest.mark.soak
def test_20_000_random_values_never_break_a_frame_or_a_file(tmp_path: Path) -> None:
    never_break_a_frame(SEED + 1, 20_000 // ROWS, tmp_path)


@pytest.mark.parametrize("name", INDEXES)
def test_charts_are_drawn_for_any_index(name: str) -> None:
    maker, classes = Maker(SEED), Classes(CLASSES)
    values = [maker.value(1) for _ in range(ROWS)]
    ledger, _ = ledger_of(values, classes, random.Random(SEED))
    index = INDEXES[name](ROWS)
    frame = job_frame(ledger, index, values, reading(classes), running=frozenset({0}), submitted=1e9 - 1)
    attempts = attempts_frame(ledger, index)
    for label in (None, "value") if name == "mixed" else (None,):
        drawn = [
            charts.timeline(frame, attempts, sort="index", label=label, submitted_at=1e9 - 1),
            charts.durations(frame, label=label),
            charts.throughput(frame, attempts, label=label, submitted_at=1e9 - 1),
            charts.failures(frame, attempts, label=label, submitted_at=1e9 - 1),
            charts.compare(compared(frame, frame)),
        ]
        for ax in drawn:
            ax.figure.canvas.draw()
            ax.format_coord(0.5, 0.5)
    plt.close("all")


# ---------------------------------------------------------------- through the real server


def test_random_values_come_back_through_the_server_as_items_and_as_values(session: Session) -> None:
    maker, classes = Maker(SEED + 2), Classes(CLASSES)
    given = []
    while len(given) < 300:
        value = maker.value()
        try:
            encode(value, classes)
        except NotEncodable:
            continue
        given.append(value)
    got: dict[int, Any] = {}

    def keep(number: int, value: Any) -> Any:
        got[number] = value
        return value

    job = rnb.starmap(keep, list(enumerate(given)), session=session, show=False)
    values = job.values()
    for number, value in enumerate(given):
        assert same(value, got[number]), f"item {number}: {value!r} was passed as {got[number]!r}"
        assert same(value, values[number]), f"value {number}: {value!r} came back as {values[number]!r}"
    assert len(job.frame(expand=True)) == len(given)


def test_a_value_that_is_not_kept_fails_its_own_item_by_name(session: Session) -> None:
    all_run = threading.Barrier(4)  # else the first such value would pause the job before the others begin

    def make(number: int) -> Any:
        all_run.wait(30)
        return [1, np.matrix, pd.DataFrame().groupby(level=0), {1, 2}][number]

    frame = rnb.map(make, range(4), session=session, show=False).result()
    assert frame["status"].tolist() == ["ok", "error", "error", "ok"]
    assert frame["error_type"].dropna().tolist() == ["NotEncodable"] * 2
    assert "list(value)" in frame["error"][2]


def test_a_value_whose_class_is_gone_is_told_in_its_row_and_takes_no_other_with_it(session: Session) -> None:
    class Found(enum.Enum):
        YES = 1

    def look(number: int) -> Found | int:
        return Found.YES if number == 1 else number

    job = rnb.map(look, range(3), session=session, show=False)
    assert job.values() == [0, Found.YES, 2]
    runner_of(job).data.function.classes.named.clear()  # as in a kernel where the class is no more
    frame = job.frame()
    lost = frame["value"][1]
    assert isinstance(lost, rnb.Unreadable)
    assert "no class of that name is known" in lost.reason
    assert frame["status"].tolist() == ["ok"] * 3
    assert [frame["value"][0], frame["value"][2]] == [0, 2]
    with pytest.raises(rnb.JobError, match=r"item 1 \(index 1\) is recorded and cannot be read: .*Run the cell"):
        job.values()
    assert [isinstance(row.value, rnb.Unreadable) for row in rnb.as_completed(job)].count(True) == 1


def test_frames_charts_and_counts_are_there_while_items_fail_by_the_thousand(session: Session) -> None:
    async def fails(item: int) -> int:
        if item % 3:
            raise ValueError(f"no {item}")
        return item

    job = rnb.map(fails, range(5_000), concurrency=200, session=session, show=False)
    looks = 0
    while not job.done():
        frame = job.frame()
        assert frame["error"].notna().sum() == (frame["status"] == "error").sum(), "of one moment"
        assert frame["value"].notna().sum() == (frame["status"] == "ok").sum()
        job.errors(), job.attempts(), job.counts
        looks += 1
    assert looks
    assert len(job.result()) == 5_000
