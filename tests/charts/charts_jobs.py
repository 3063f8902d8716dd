"""Jobs that never ran: frames and attempts as the job layer hands them to the charts."""

import heapq
import math
import random

import pandas as pd

SUBMITTED = pd.Timestamp("2026-03-01 09:00:00", tz="UTC")
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
ERRORS = [("HTTPError", "429 Too Many Requests"), ("ConnectionError", "reset by peer"), ("ValueError", "no such place")]


def simulate(
    n, *, concurrency=50, run=0.1, spread=0.5, tail=0.0, fail=0.0, max_attempts=1, backoff=0.2, hang=0.0, timeout=None,
    stop=None, gap=None, seed=1, index=None,
):  # fmt: skip
    """Run n items in virtual time, and return (frame, attempts).

    run, spread: median and log-deviation of an attempt's seconds; tail: share of items that take 20 times as long;
    fail: chance of an attempt to fail; hang: chance to reach the timeout; stop: seconds at which the snapshot is taken;
    gap: (at, seconds), a pause of the whole job, as after a crash.
    """
    rng = random.Random(seed)
    fresh, again = iter(range(n)), []
    slots = [0.0] * concurrency
    rows = [{"status": "pending", "error_type": None, "error": None, "attempts": 0} for _ in range(n)]
    first, spent, ended, tries = [math.nan] * n, [0.0] * n, [math.nan] * n, []
    coming = next(fresh, None)
    while again or coming is not None:
        slot = heapq.heappop(slots)
        # What is to be tried again goes before what was not tried yet.
        if again and (again[0][0] <= slot or coming is None):
            ready, i, attempt = heapq.heappop(again)
        else:
            (ready, i, attempt), coming = (0.0, coming, 1), next(fresh, None)
        start = max(slot, ready)
        if gap and start > gap[0]:
            start = max(start, gap[0] + gap[1])
        if stop is not None and start >= stop:
            heapq.heappush(slots, start)
            continue
        took = run * math.exp(rng.gauss(0, spread)) * (20 if rng.random() < tail else 1)
        status, kind = "ok", (None, None)
        if rng.random() < hang:
            status, took, kind = "timeout", timeout, ("ItemTimeout", f"longer than {timeout} s")
        elif rng.random() < fail:
            status, kind = "error", rng.choices(ERRORS, [6, 3, 1])[0]
        heapq.heappush(slots, start + took)
        if attempt == 1:
            first[i] = start
        row = rows[i]
        if stop is not None and start + took > stop:
            row["status"] = "running"
            continue
        row["attempts"], spent[i] = attempt, spent[i] + took
        tries.append((i, attempt, status, *kind, start, took))
        if status != "ok" and attempt < max_attempts:
            row["status"] = "running"
            heapq.heappush(again, (start + took + backoff * 2 ** (attempt - 1), i, attempt + 1))
        else:
            row["status"], row["error_type"], row["error"] = status, *kind
            ended[i] = start + took
    labels = pd.RangeIndex(n) if index is None else index
    frame = pd.DataFrame(rows, index=labels, columns=["status", "error_type", "error", "attempts"])
    frame["item"] = [f"https://example.org/page/{i}" for i in range(n)]
    frame["value"] = None
    frame["queued_s"], frame["started_at"] = first, moment(first)
    frame["run_s"] = [s if a else math.nan for s, a in zip(spent, frame["attempts"], strict=True)]
    frame["finished_at"] = moment(ended)
    columns = ["position", "attempt", "status", "error_type", "error", "started_at", "run_s"]
    attempts = pd.DataFrame(tries, columns=columns)
    attempts.index = labels.take(attempts["position"].to_numpy(dtype=int))
    attempts["finished_at"] = moment(attempts["started_at"].astype(float) + attempts["run_s"].astype(float))
    attempts["started_at"] = moment(attempts["started_at"].astype(float))
    return frame[COLUMNS], attempts


def moment(seconds):
    micros = (pd.Series(list(seconds), dtype=float) * 1e6).round().astype("Int64")  # floats with NaN: pandas 2 warns
    return SUBMITTED + pd.to_timedelta(pd.Index(micros), unit="us")


JOBS = {
    "noop": {"run": 20e-6, "spread": 0.3, "concurrency": 100},
    "steady": {"run": 0.01, "spread": 0.1, "concurrency": 100},
    "flaky": {"run": 0.8, "fail": 0.15, "max_attempts": 3, "hang": 0.01, "timeout": 5, "concurrency": 20},
    "tailed": {"run": 0.3, "spread": 0.9, "tail": 0.02, "concurrency": 20},
    "failed": {"run": 0.3, "fail": 1.0, "max_attempts": 2, "concurrency": 20},
}
