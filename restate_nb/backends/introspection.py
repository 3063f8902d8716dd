"""What Restate itself tells of the invocations of a job: their ids, states, retries and times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from restate_nb.backends.deployed_handler import DeployedHandler
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.service.received import reading

_FIELDS: Final = (
    "id, idempotency_key, target_service_key, status, completion_result, retry_count, created_at, running_at, "
    "completed_at"
)
_KEYS_AT_ONCE: Final = 500


class Found(msgspec.Struct, frozen=True, gc=False):
    """An invocation, as `sys_invocation` has it. Times are seconds since 1970.

    Attributes:
        id: which invocation.
        status: of Restate: `running`, `backing-off`, `suspended`, ...; `succeeded` or `failed` when it has ended.
        retries: how often Restate has tried it again, since it last made progress.
        created: when it was submitted.
        started: when it began to run; when it was submitted where that is not known.
        ended: when it ended; None while it lives.
    """

    id: str
    status: str
    retries: int
    created: float
    started: float
    ended: float | None


async def look(admin: Admin, target: DeployedHandler, key: str) -> dict[str, Found]:
    """The invocations of a job by their idempotency keys.

    Args:
        admin: whom to ask.
        target: the handler.
        key: what the idempotency keys of the job begin with.

    Returns:
        Those that Restate knows. Runs of workflows have no such key: they stand under the one that they would have.
    """
    handler = (
        f"select {_FIELDS} from sys_invocation where target_service_name = {sql_literal(target.service)} "
        f"and target_handler_name = {sql_literal(target.handler)} and "
    )
    prefix = key + "/"
    rows = await admin.query(
        f"{handler} starts_with(idempotency_key, {sql_literal(prefix)}) "
        f"and idempotency_key not like {sql_literal(prefix + '%/%/%')}"  # those of a job `a/1` begin like those of `a`
    )
    with reading("an invocation"):
        found = {str(row["idempotency_key"]): _found(row) for row in rows}
        for each in found:
            position_of(each)
            _order(each)
    if target.kind == "workflow" and not found:
        positions = {object_key: position for position, object_key in enumerate(target.keys or ())}
        for keys in _parts(list(positions)):
            among = ", ".join(map(sql_literal, keys))
            rows = await admin.query(f"{handler} idempotency_key is null and target_service_key in ({among})")
            with reading("an invocation"):
                found |= {f"{key}/0/{positions[str(row['target_service_key'])]}": _found(row) for row in rows}
    return found


def position_of(key: str) -> int:
    """The position in an idempotency key: what stands after the last slash, up to a dot."""
    return int(key.rpartition("/")[2].partition(".")[0])


def last_of(found: Mapping[str, Found]) -> dict[int, Found]:
    """The last invocation of each item, by position."""
    last: dict[int, tuple[tuple[int, int], Found]] = {}
    for key, each in found.items():
        position, order = position_of(key), _order(key)
        if position not in last or last[position][0] < order:
            last[position] = order, each
    return {position: each for position, (_, each) in last.items()}


def columns_of(total: int, found: Mapping[str, Found], ids: Mapping[int, str]) -> dict[str, Sequence[Any]]:
    """Columns for a job's frame: of the last invocation of each item.

    Args:
        total: how many items.
        found: invocations by idempotency key.
        ids: what else is known, by position.

    Returns:
        `invocation_id`, `invocation_status`, `invocation_retries`, `invocation_created_at`, `invocation_started_at`,
        `invocation_ended_at`; times in seconds since 1970, NaN and None for what is not known.
    """
    last = last_of(found)
    known = [last.get(position) for position in range(total)]
    return {
        "invocation_id": [ids.get(at) if each is None else each.id for at, each in enumerate(known)],
        "invocation_status": [None if each is None else each.status for each in known],
        "invocation_retries": [None if each is None else each.retries for each in known],
        "invocation_created_at": [math.nan if each is None else each.created for each in known],
        "invocation_started_at": [math.nan if each is None else each.started for each in known],
        "invocation_ended_at": [math.nan if each is None or each.ended is None else each.ended for each in known],
    }


def _order(key: str) -> tuple[int, int]:
    """Round, and number within it."""
    head, _, tail = key.rpartition("/")
    return int(head.rpartition("/")[2]), int(tail.partition(".")[2] or 0)


def _found(row: Mapping[str, Any]) -> Found:
    created = _seconds(row.get("created_at")) or 0.0
    ended = _seconds(row.get("completed_at"))
    status = str(row.get("status"))
    if status == "completed":
        status = "succeeded" if row.get("completion_result") == "success" else "failed"
    started = _seconds(row.get("running_at")) or created
    return Found(str(row["id"]), status, int(row.get("retry_count") or 0), created, started, ended)


def _seconds(text: Any) -> float | None:
    return None if text is None else datetime.fromisoformat(str(text)).timestamp()


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[begin : begin + _KEYS_AT_ONCE]
