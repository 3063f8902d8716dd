"""A job's ledger as DataFrames."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from restate_nb.engine.output import Line
from restate_nb.engine.record import OK, STATUS_NAMES, Attempt
from restate_nb.results.columns import NumbersOrObjects, as_frame, object_column, typed_column
from restate_nb.results.exports import as_key, label_text
from restate_nb.results.fields import fields_of
from restate_nb.results.ledger import PENDING, Ledger, Snapshot
from restate_nb.results.unreadable import unreadable
from restate_nb.results.values import ValuesOf
from restate_nb.store.stored import Stored

COLUMNS = [
    "item",
    "value",
    "status",
    "error_type",
    "error",
    "attempts",
    "queued_s",
    "run_s",
    "started_at",
    "finished_at",
]
ATTEMPT_COLUMNS = ["position", "attempt", "status", "error_type", "error", "started_at", "run_s", "finished_at"]
LOG_COLUMNS = ["position", "stream", "at", "text"]

_ITEM_STATUSES = ("pending", "running", *STATUS_NAMES)
_FIRST_CODE = len(_ITEM_STATUSES) - len(STATUS_NAMES)
_OK_CODE = _FIRST_CODE + OK


def outcomes_frame(
    ledger: Ledger, index: pd.Index[Any], *, running: frozenset[int], submitted: float
) -> tuple[pd.DataFrame, Any]:
    """All columns but items and values; and which items have a value, as truth values of numpy. See `job_frame`."""
    with ledger.held() as now:
        columns = _outcomes(now, running, submitted)
    names = [name for name in COLUMNS if name in columns]
    return as_frame({name: columns[name] for name in names}, index), columns["status"].codes == _OK_CODE


def job_frame(
    ledger: Ledger,
    index: pd.Index[Any],
    originals: Sequence[Any],
    values_of: ValuesOf,
    *,
    running: frozenset[int],
    submitted: float,
) -> pd.DataFrame:
    """One row an item, in input order, on the input's own index.

    Args:
        ledger: what is recorded.
        index: the index of the input.
        originals: the items as the user gave them.
        values_of: decodes recorded values.
        running: positions that run now.
        submitted: when the job was submitted, in seconds since 1970.
    """
    with ledger.held() as now:
        columns = _outcomes(now, running, submitted)
    columns["value"] = _values(ledger, columns["status"].codes == _OK_CODE, values_of)
    columns["item"] = typed_column(originals if isinstance(originals, (list, tuple, range)) else list(originals))
    return as_frame({name: columns[name] for name in COLUMNS}, index)


def _outcomes(now: Snapshot, running: frozenset[int], submitted: float) -> dict[str, Any]:
    """What became of the items, but for their values: each column is made with few others beside it."""
    status = np.frombuffer(now.status, dtype=np.uint8)
    first, started = np.asarray(now.first_started), np.asarray(now.started)
    ended, begun = status != PENDING, first > 0
    codes = np.where(ended, status.astype(np.int8) + _FIRST_CODE, 0).astype(np.int8)
    if running:
        codes[[position for position in running if not ended[position]]] = 1
    failures, total = now.failures, now.total
    kinds = _texts(total, {position: each.type for position, each in failures.items()})
    errors = {position: each.message for position, each in failures.items()}
    return {
        "finished_at": _times(started + np.asarray(now.ran), ended & (started > 0)),
        "started_at": _times(first, begun),
        "queued_s": _where(begun, np.maximum(first - submitted, 0.0)),
        "run_s": _where(begun, np.array(now.ran_in_all)),
        "attempts": np.array(now.attempts, dtype=np.int64),
        "status": pd.Categorical.from_codes(codes, categories=pd.Index(_ITEM_STATUSES)),
        "error_type": kinds,
        "error": _texts(total, errors) if errors else kinds.copy(),  # Arrow shares what is the same
    }


def with_columns(frame: pd.DataFrame, more: Mapping[str, Any]) -> pd.DataFrame:
    """The frame with further columns: times, whose names end with `_at`, in seconds since 1970; counts; and texts."""
    if not more:
        return frame
    columns: dict[str, Any] = {}
    for name, values in more.items():
        if name.endswith("_at"):
            seconds = np.array(values, dtype=np.float64)
            columns[name] = _times(seconds, ~np.isnan(seconds))
        elif name.endswith("_retries"):
            columns[name] = pd.array(values, dtype="Int64")
        else:
            columns[name] = pd.array(values, dtype="string")
    return frame.assign(**columns)


def attempts_frame(ledger: Ledger, index: pd.Index[Any]) -> pd.DataFrame:
    """One row an attempt that was made and recorded, by position and time, on the index of the input."""
    now = ledger.snapshot()
    ended = np.frombuffer(now.status, dtype=np.uint8) != PENDING  # in a retry, what is open again is history
    finals = [now.last(position) for position in np.flatnonzero(ended & (np.array(now.started) > 0)).tolist()]
    attempts: list[Attempt] = sorted([*now.earlier, *finals], key=lambda each: (each.position, each.started))
    positions = np.fromiter((each.position for each in attempts), dtype=np.int64, count=len(attempts))
    started = np.fromiter((each.started for each in attempts), dtype=np.float64, count=len(attempts))
    ran = np.fromiter((each.ran for each in attempts), dtype=np.float64, count=len(attempts))
    statuses = np.fromiter((each.status for each in attempts), dtype=np.int8, count=len(attempts))
    failures = {row: each.failure for row, each in enumerate(attempts) if each.failure is not None}
    frame = pd.DataFrame(
        {
            "position": positions,
            "attempt": pd.Series(positions).groupby(positions).cumcount().to_numpy() + 1,
            "status": pd.Categorical.from_codes(statuses, categories=pd.Index(STATUS_NAMES)),
            "error_type": _texts(len(attempts), {row: each.type for row, each in failures.items()}),
            "error": _texts(len(attempts), {row: each.message for row, each in failures.items()}),
            "started_at": _times(started, np.isfinite(started)),
            "run_s": ran,
            "finished_at": _times(started + ran, np.isfinite(started)),
        },
        columns=ATTEMPT_COLUMNS,
    )
    frame.index = index.take(positions)
    return frame


def logs_frame(lines: list[Line], index: pd.Index[Any]) -> pd.DataFrame:
    """One row a line, in the order in which they were printed, on the index of the input."""
    positions = np.fromiter((each.position for each in lines), dtype=np.int64, count=len(lines))
    frame = pd.DataFrame(
        {
            "position": positions,
            "stream": pd.Categorical([each.stream for each in lines], categories=["stdout", "stderr"]),
            "at": pd.to_datetime([each.at for each in lines], unit="s", utc=True).as_unit("us"),
            "text": pd.array([each.text for each in lines], dtype="string"),
        },
        columns=LOG_COLUMNS,
    )
    frame.index = index.take(positions)
    return frame


def expanded(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the fields of its values in columns of their own, in place of `value`, in the order of the fields.

    A field named like a column of the frame becomes `value_<field>`; values without fields stay in `value`.
    """
    fields = [fields_of(value) for value in frame["value"]]
    names = list(dict.fromkeys(name for each in fields if each is not None for name in each))
    if not names:
        return frame
    left = [None if each is not None else value for each, value in zip(fields, frame["value"], strict=True)]
    columns: dict[Any, Any] = {"item": frame["item"]} if "item" in frame else {}
    if any(value is not None for value in left):
        columns["value"] = object_column(left, len(left))
    for name in names:
        columns[_free(name, names, {*columns, *frame.columns})] = typed_column(
            [None if each is None else each.get(name) for each in fields]
        )
    rest = {name: frame[name] for name in frame.columns if name not in ("item", "value")}
    return as_frame({**columns, **rest}, frame.index)


def _free(name: Any, names: Container[Any], taken: Container[Any]) -> Any:
    """What a field's column is called: like the field, where no other column is."""
    text = label_text(name)
    if type(name) is int and text in names:
        return name  # 1 beside "1"
    if text not in COLUMNS and text not in taken:
        return text
    called, number = f"value_{text}", 2
    while called in taken:
        called, number = f"value_{text}_{number}", number + 1
    return called


def joined(source: Any, outcomes: pd.DataFrame, index: pd.Index[Any]) -> pd.DataFrame:
    """The input's columns, and beside them what became of each row; by position, so that labels may be there twice.

    Args:
        source: the DataFrame or Series that the items came from, or None.
        outcomes: the job's frame.
        index: the index of the input.
    """
    if isinstance(source, pd.DataFrame):
        left = source
    elif isinstance(source, pd.Series):
        left = source.to_frame("item" if source.name is None else source.name)
    else:
        left = outcomes[["item"]]
    right = outcomes.drop(columns="item")
    right = right.rename(columns={name: f"{name}_result" for name in right.columns if name in left.columns})
    both = pd.concat([left.reset_index(drop=True), right.reset_index(drop=True)], axis=1)
    return both.set_axis(index, axis=0)


def compared(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Two jobs' frames side by side, by their index, or by item where an index is not unique.

    Returns:
        One row a label of either: `status_a`, `status_b`, `value_a`, `value_b`, `run_s_a`, `run_s_b`, `change` (one of
        same, changed, fixed, newly failed, still failing, only a, only b) and `speedup` (`run_s_a / run_s_b`).
    """
    keyed = [_keyed(each, one.index.is_unique and other.index.is_unique) for each in (one, other)]
    kept = [each[["status", "value", "run_s"]].astype({"status": object}) for each in keyed]
    both = pd.concat([kept[0].add_suffix("_a"), kept[1].add_suffix("_b")], axis=1)
    both["change"] = [
        _change(*row) for row in zip(both["status_a"], both["status_b"], both["value_a"], both["value_b"], strict=True)
    ]
    both["speedup"] = both["run_s_a"] / both["run_s_b"]
    return both[["change", "status_a", "status_b", "value_a", "value_b", "run_s_a", "run_s_b", "speedup"]]


def _keyed(frame: pd.DataFrame, by_index: bool) -> pd.DataFrame:
    if by_index:
        return frame
    items = [as_key(item) for item in frame["item"]]
    times = pd.Series(items).groupby(items).cumcount()
    return frame.set_index(pd.MultiIndex.from_arrays([items, times], names=["item", "occurrence"]))


def _change(status_a: Any, status_b: Any, value_a: Any, value_b: Any) -> str:
    if not isinstance(status_a, str):
        return "only b"
    if not isinstance(status_b, str):
        return "only a"
    if (status_a == "ok") != (status_b == "ok"):
        return "fixed" if status_b == "ok" else "newly failed"
    if status_a != "ok":
        return "still failing"
    return "same" if _same(value_a, value_b) else "changed"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Stored) and isinstance(other, Stored):
        return one == other
    return one is other or as_key(one) == as_key(other)


def _values(ledger: Ledger, went_well: Any, values_of: ValuesOf) -> Any:
    positions: Any = range(ledger.total) if went_well.all() else np.flatnonzero(went_well)
    column = NumbersOrObjects(len(positions))
    at = 0
    for part in ledger.raws_in_parts(positions):
        some = positions[at : at + len(part)]
        column.add(values_of(part, some if isinstance(some, range) else some.tolist(), unreadable))
        at += len(part)
    return column.typed(positions, ledger.total)


def _texts(count: int, known: dict[int, str]) -> Any:
    places = np.zeros(count, dtype=np.intp)
    places[list(known)] = range(1, len(known) + 1)
    return pd.array([None, *known.values()], dtype="string").take(places)


def _where(known: Any, numbers: Any) -> Any:
    """The numbers that are known; it changes the column that it is given."""
    numbers[~known] = np.nan
    return numbers


def _times(seconds: Any, known: Any) -> Any:
    """Times in seconds since 1970 as a column, of those that are `known`."""
    exact = np.where(known, seconds, 0.0)
    exact *= 1e6
    micros = np.round(exact, out=exact).astype(np.int64)
    micros[~known] = np.iinfo(np.int64).min
    return pd.DatetimeIndex(micros.view("M8[us]")).tz_localize("UTC").array
