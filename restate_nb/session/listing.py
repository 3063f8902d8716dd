"""All jobs that a server knows, as a DataFrame."""

from __future__ import annotations

import time
from typing import Any, Final

import pandas as pd

from restate_nb.handle.runner import JobRunner
from restate_nb.handle.status import counts_of, elapsed_of, status_of
from restate_nb.service.wire import Manifest

COLUMNS: Final = [
    *("name", "session", "function", "status", "total", "ok", "failed", "cancelled"),
    *("started_at", "finished_at", "elapsed_s", "rounds"),
]


def listing(manifests: list[tuple[str, Manifest]], live: dict[tuple[str, str, int], JobRunner]) -> pd.DataFrame:
    """One row a job, the latest first.

    Args:
        manifests: sessions and manifests.
        live: what runs the jobs of this process, by session, name and generation; their counts are those of now.
    """
    rows = [_row(session, each, live.get((session, each.name, each.generation))) for session, each in manifests]
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("started_at", ascending=False, ignore_index=True)
    for name in ("started_at", "finished_at"):
        micros = (frame[name].astype(float) * 1e6).round().astype("Int64")  # of floats with NaN, pandas 2 warns
        frame[name] = pd.to_datetime(micros, unit="us", utc=True)
    return frame.astype(dict.fromkeys(("total", "ok", "failed", "cancelled", "rounds"), "Int64"))


def _row(session: str, manifest: Manifest, runner: JobRunner | None) -> dict[str, Any]:
    summary = manifest.summary
    row: dict[str, Any] = {
        "name": manifest.name,
        "session": session,
        "function": manifest.function,
        "total": manifest.total,
        "started_at": manifest.created,
        "finished_at": summary.at if summary is not None else None,
        "elapsed_s": _elapsed(manifest),
        "rounds": len(manifest.rounds),
    }
    if runner is not None:
        counts = counts_of(runner)
        return row | {
            "status": status_of(runner),
            "ok": counts["ok"],
            "failed": runner.data.ledger.failed,
            "cancelled": counts["cancelled"],
            "elapsed_s": elapsed_of(runner, time.time()),
            "finished_at": row["finished_at"] or (runner.data.ledger.last_end or None if runner.ended.done() else None),
        }
    if summary is None:  # counts are known where it runs
        return row | {"status": "paused" if manifest.paused else "unfinished"}
    return row | {
        "status": "cancelled" if summary.cancelled else "finished",
        "ok": summary.ok,
        "failed": summary.failed,
        "cancelled": summary.cancelled,
    }


def _elapsed(manifest: Manifest) -> float:
    """As far as the record tells: the ends of rounds are known where they run, and in the summary, all together."""
    summary = manifest.summary
    if summary is None:
        return time.time() - manifest.rounds[-1].started
    return summary.at - manifest.created if summary.busy is None else summary.busy
