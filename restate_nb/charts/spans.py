"""When each item waited and ran, as arrays of seconds: what the charts over time are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OK, RETRIED, FAILED, CANCELLED, RUNNING = range(5)
"""How a span ended: well, in a failure that was tried again, in the last failure, by cancelling, not yet."""


@dataclass(frozen=True, slots=True)
class Spans:
    """A job's attempts and items; times are seconds since the job was submitted, NaN where there is none.

    Attributes:
        position: the item of each span, by its place in the input.
        start, end: of each span.
        kind: `OK`, `RETRIED`, `FAILED`, `CANCELLED` or `RUNNING`.
        error_type: what each failed span raised, "" for the others.
        submitted, started: of each item.
        origin: the moment that is second 0.
        now: the latest moment that the data knows of; what runs is drawn up to it.
    """

    position: Ints
    start: Floats
    end: Floats
    kind: Ints
    error_type: npt.NDArray[np.object_]
    submitted: Floats
    started: Floats
    origin: pd.Timestamp
    now: float

    @property
    def items(self) -> int:
        """How many items the job has."""
        return len(self.submitted)


def read_spans(
    frame: pd.DataFrame, attempts: pd.DataFrame | None = None, submitted_at: pd.Timestamp | float | None = None
) -> Spans:
    """Read a job's frames.

    Args:
        frame: one row an item.
        attempts: one row an attempt that has ended; without it each item counts as a single one.
        submitted_at: when the job was submitted, as a timestamp or in Unix seconds; by default the earliest moment
            that the frame tells.
    """
    started, finished = _nanoseconds(frame["started_at"]), _nanoseconds(frame["finished_at"])
    queued = frame["queued_s"].to_numpy(dtype=float, na_value=np.nan)
    origin = _origin(started, queued, submitted_at)
    item_start, item_end = _since(started, origin), _since(finished, origin)
    status = frame["status"].astype(str).to_numpy(dtype=object)
    tries = _of_attempts(attempts, status, origin) if attempts is not None else _of_items(frame, item_start, item_end)
    position, start, end, kind, error_type = tries

    now = float(np.nanmax([0.0, *(part.max() for part in (end, item_end[~np.isnan(item_end)]) if len(part))]))
    now = max(now, float(np.nanmax(item_start, initial=0.0)))
    open_items = np.flatnonzero((status == "running") & ~np.isnan(item_start))
    last_end = item_start.copy()
    np.fmax.at(last_end, position, end)
    submitted = np.where(np.isnan(queued), 0.0, item_start - queued)
    return Spans(
        position=np.concatenate([position, open_items]),
        start=np.concatenate([start, last_end[open_items]]),
        end=np.concatenate([end, np.full(len(open_items), now)]),
        kind=np.concatenate([kind, np.full(len(open_items), RUNNING)]),
        error_type=np.concatenate([error_type, np.full(len(open_items), "", dtype=object)]),
        submitted=np.where(np.isnan(submitted), 0.0, submitted),
        started=item_start,
        origin=pd.Timestamp(origin, unit="ns", tz="UTC"),
        now=now,
    )


_Tries = tuple[Ints, Floats, Floats, Ints, npt.NDArray[np.object_]]


def _of_attempts(attempts: pd.DataFrame, item_status: npt.NDArray[np.object_], origin: int) -> _Tries:
    attempts = attempts.dropna(subset=["started_at"])
    position = attempts["position"].to_numpy(dtype=np.int64)
    start = _since(_nanoseconds(attempts["started_at"]), origin)
    ran = attempts["run_s"].to_numpy(dtype=float, na_value=np.nan)
    end = np.fmax(_since(_nanoseconds(attempts["finished_at"]), origin), start)
    end = np.where(np.isnan(end), start + np.nan_to_num(ran), end)
    number = attempts["attempt"].to_numpy(dtype=np.int64)
    last = np.zeros(len(item_status), dtype=np.int64)
    np.maximum.at(last, position, number)
    # A failure is final if nothing came after it and the item is not in work again.
    ended = ~np.isin(item_status, ["pending", "running"])
    final = (number == last[position]) & ended[position]
    status = attempts["status"].astype(str).to_numpy(dtype=object)
    return position, start, end, _kinds(status, final), _names(attempts["error_type"])


def _of_items(frame: pd.DataFrame, start: Floats, end: Floats) -> _Tries:
    done = ~np.isnan(start) & ~np.isnan(end)
    status = frame["status"].astype(str).to_numpy(dtype=object)[done]
    position = np.flatnonzero(done)
    final = np.full(len(position), True)
    return position, start[done], np.maximum(end, start)[done], _kinds(status, final), _names(frame["error_type"])[done]


def _kinds(status: npt.NDArray[np.object_], final: npt.NDArray[np.bool_]) -> Ints:
    failed = np.where(final, FAILED, RETRIED)
    return np.where(status == "ok", OK, np.where(status == "cancelled", CANCELLED, failed)).astype(np.int64)


def _names(column: pd.Series[Any]) -> npt.NDArray[np.object_]:
    names = column.to_numpy(dtype=object, copy=True)
    names[pd.isna(names)] = ""
    return names


_NEVER = np.iinfo(np.int64).min  # how NaT looks as an integer


def _nanoseconds(column: pd.Series[Any]) -> Ints:
    return pd.DatetimeIndex(pd.to_datetime(column, utc=True)).as_unit("ns").asi8


def _since(moments: Ints, origin: int) -> Floats:
    return np.where(moments == _NEVER, np.nan, (moments - origin) / 1e9)


def _origin(started: Ints, queued: Floats, submitted_at: pd.Timestamp | float | None) -> int:
    if isinstance(submitted_at, (int, float)):
        return int(submitted_at * 1e9)
    if submitted_at is not None:
        return int(pd.DatetimeIndex([pd.to_datetime(submitted_at, utc=True)]).as_unit("ns").asi8[0])
    known = started != _NEVER
    if not known.any():
        return 0
    return int(np.min(started[known] - (np.nan_to_num(queued[known]) * 1e9).astype(np.int64)))
