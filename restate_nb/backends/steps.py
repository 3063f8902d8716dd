"""The durable steps of a job's invocations, read from their journals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import pandas as pd

from restate_nb.backends.introspection import JobInvocations
from restate_nb.server.admin import Admin
from restate_nb.service.durable_handler import OUTCOME_STEP
from restate_nb.service.wire import decoding

COLUMNS: Final = ["position", "step", "kind", "status", "started_at", "run_s", "finished_at"]

_NO_STEPS: Final = {"Input", "Output"}
_KINDS: Final = {
    "OneWayCall": "send",
    "SendSignal": "signal",
    "CompleteAwakeable": "resolve",
    "CompletePromise": "resolve",
    "GetState": "get",
    "GetLazyState": "get",
    "GetEagerState": "get",
    "GetLazyStateKeys": "get",
    "GetEagerStateKeys": "get",
    "SetState": "set",
    "ClearState": "clear",
    "ClearAllState": "clear",
}
"""What is not called as it is in the journal, in lower case."""


async def read_steps(
    admin: Admin, invocations: JobInvocations, index: pd.Index[Any], rows_of: Callable[[list[int]], list[int]]
) -> pd.DataFrame:
    """One row a durable step, by position and order.

    Args:
        admin: where journals are read.
        invocations: of the job.
        index: the index of the job's input.
        rows_of: the rows of the input that have these positions.

    Returns:
        Columns `position`, `step` (its name; the target of a call; or its kind), `kind` (run, sleep, call, send, ...),
        `status` (ok, error, pending, or cancelled when its invocation ended first), `started_at`, `run_s` (seconds
        until its result was recorded, or its invocation ended), `finished_at`.
    """
    entries = await invocations.journals(admin)
    rows: list[dict[str, Any]] = []
    journals: dict[str, list[Mapping[str, Any]]] = {}
    with decoding("a journal"):
        for entry in entries:
            journals.setdefault(entry["idempotency_key"], []).append(entry)
        for invocation, journal in journals.items():
            for row in rows_of([int(invocation.rpartition("/")[2])]):
                rows += [{"position": row, **step} for step in _steps(journal)]
        frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("position", kind="stable")
        for name in ("started_at", "finished_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
        frame["run_s"] = (frame["finished_at"] - frame["started_at"]).dt.total_seconds()
        frame.index = index.take(frame["position"].to_numpy(dtype="int64"))
    return frame


def _steps(journal: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps of one invocation, in the order in which they were begun."""
    steps: list[dict[str, Any]] = []
    waiting: dict[int, dict[str, Any]] = {}
    for entry in journal:
        (what, content), *_ = msgspec.json.decode(entry["entry_lite_json"]).items()
        if what == "Command":
            (kind, details), *_ = content.items()
            if kind in _NO_STEPS:
                continue
            began, named = entry["appended_at"], entry.get("name") or _target(details)
            if named == OUTCOME_STEP:
                continue
            called = _KINDS.get(kind, kind.lower())
            step = {"step": named or called, "kind": called, "status": "pending", "started_at": began}
            completion = _completion_id(details)
            if completion is None:  # such as a state's change: done with its entry
                step |= {"status": "ok", "finished_at": began}
            else:
                waiting[completion] = step
            steps.append(step)
        elif what == "Notification":
            done = waiting.pop((content.get("id") or {}).get("CompletionId", -1), None)
            if done is not None:
                failed = content.get("result") == "Failure"
                done |= {"status": "error" if failed else "ok", "finished_at": entry["appended_at"]}
    if journal[-1]["status"] == "completed":  # nobody waits for the rest any more
        ended = journal[-1].get("completed_at") or journal[-1]["appended_at"]
        for step in waiting.values():
            step |= {"status": "cancelled", "finished_at": ended}
    return steps


def _target(details: Any) -> str:
    """What a call calls, such as `counter/key/add`; empty for what calls nothing."""
    targets = details.get("invocation_target") if isinstance(details, dict) else None
    if not isinstance(targets, dict):
        return ""
    (target, *_) = targets.values()
    return "/".join(target[each] for each in ("name", "key", "handler") if target.get(each))


def _completion_id(details: Any) -> int | None:
    if not isinstance(details, dict):
        return None
    found = details.get("result_completion_id", details.get("completion_id"))
    return found if isinstance(found, int) else None
