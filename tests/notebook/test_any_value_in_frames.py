"""Proves that no value, item or label breaks a frame, a chart or a file, at whatever moment of a job: random ones of
every kind, beside failures and what is still open; and that all of it holds through the real server.

The long form: `pytest -m soak tests/notebook`; `RNB_VALUES_SEED` repeats a run."""

from __future__ import annotations

import enum
import functools
import json
import os
import pathlib
import random
import threading
import time
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
from restate_nb.engine.codec import decode, encode
from restate_nb.engine.objects import Classes
from restate_nb.engine.record import ERROR, OK, Attempt, Failure
from restate_nb.errors import NotEncodable
from restate_nb.notebook import charts
from restate_nb.notebook.exports import plain_columns, records
from restate_nb.notebook.failures import errors_frame
from restate_nb.notebook.frame import attempts_frame, compared, expanded, job_frame, joined
from restate_nb.notebook.ledger import Ledger
from restate_nb.notebook.session import Session
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
        make: Any = functools.partial(maker.value, 2) if number % 3 == 1 else lambda some=some: rng.choice(some)()
        values = [make() for _ in range(ROWS)]
        ledger, kept = ledger_of(values, classes, rng)
        index = INDEXES[names[number % len(names)]](ROWS)
        frame = job_frame(
            ledger, index, values, lambda raw, _: decode(raw, classes), running=frozenset(), submitted=1e9 - 1
        )
        column = frame["value"].tolist()
        for position, value in kept.items():
            assert is_same(value, column[position]), f"{number}: {value!r} became {column[position]!r}"
        for shown in (frame, expanded(frame), joined(None, frame, index), compared(frame, frame)):
            assert len(shown) == len(frame) and shown.to_html() and repr(shown)
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
