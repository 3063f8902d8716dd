"""What Restate itself tells of the invocations of a job: their ids, states, retries, times, journals and failures.

All SQL about invocations of jobs is here. Inputs are read back by `recorded_items.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

import msgspec

from restate_nb.formatting import counted
from restate_nb.server.admin import Admin, order_all, sql_literal
from restate_nb.service.wire import Manifest, decoding, job_key, service_of

_FIELDS: Final = (
    "id, idempotency_key, target_service_key, status, completion_result, retry_count, created_at, running_at, "
    "completed_at"
)
_KEYS_AT_ONCE: Final = 500
_STOPPED_SHOWN: Final = 1_000
_GOING: Final = ("running", "ready", "suspended", "backing-off")

_PAGE: Final = 5_000  # invocations of which a query tells
_WAIT: Final = 0.2  # seconds
_ENDING_SECONDS: Final = 60.0
"""That what still runs of a dropped job has to end after it was cancelled. Then it is killed."""


class Invocation(msgspec.Struct, frozen=True, gc=False):
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


@dataclass(frozen=True, slots=True)
class JobInvocations:
    """The invocations of one job. All methods ask the admin API, and raise ServerError while it is away.

    Attributes:
        service: the Restate service that runs them.
        job: the job's name.
        generation: of the job.
    """

    service: str
    job: str
    generation: int

    @classmethod
    def of(cls, session: str, manifest: Manifest) -> Self:
        """Those of the job of a session, or of what stands for its workers."""
        return cls(service_of(session, manifest), manifest.name, manifest.generation)

    @property
    def _where(self) -> str:
        return self._among("")

    def _among(self, alias: str) -> str:
        """The condition that a row is one of them: those of a job `a/1` have keys that begin with what those of the
        first generation of `a` do, and have a part more."""
        prefix, key = job_key(self.job, self.generation) + "/", f"{alias}idempotency_key"
        return (
            f"{alias}target_service_name = {sql_literal(self.service)} and starts_with({key}, {sql_literal(prefix)}) "
            f"and {key} not like {sql_literal(prefix + '%/%/%')}"
        )

    async def all(self, admin: Admin) -> list[dict[str, Any]]:
        """All: `id`, `status`, `idempotency_key` and `last_failure`."""
        return await admin.query(
            f"select id, status, idempotency_key, last_failure from sys_invocation where {self._where}",
            texts=["id", "status", "idempotency_key"],
        )

    async def first_round(self, admin: Admin) -> list[str]:
        """The ids of those that have all items of the job, each once, in the order of the items."""
        prefix = f"{job_key(self.job, self.generation)}/0"
        rows = await admin.query(
            f"select id, idempotency_key as key from sys_invocation where {self._where} "
            f"and starts_with(idempotency_key, {sql_literal(prefix + '/')})",
            texts=["id", "key"],
        )
        numbers = ((row["key"].rpartition("/"), row["id"]) for row in rows)
        # What goes on with the rest of a shard has a number with a dot, and items that the shard has, too.
        shards = [(int(number), id_) for (head, _, number), id_ in numbers if head == prefix and number.isdecimal()]
        return [id_ for _, id_ in sorted(shards)]

    async def paused(self, admin: Admin) -> list[str]:
        """The ids of those that Restate has paused."""
        return await self._ids(admin, "status = 'paused'")

    async def going(self, admin: Admin) -> list[str]:
        """The ids of those that run, or will by themselves."""
        return await self._ids(admin, f"status in {_GOING}")

    async def _ids(self, admin: Admin, condition: str) -> list[str]:
        rows = await admin.query(f"select id from sys_invocation where {condition} and {self._where}")
        return [str(row["id"]) for row in rows]

    async def stopped(self, admin: Admin) -> tuple[list[str], list[str]]:
        """What Restate itself has stopped: the reasons in words, and the ids of those that are paused."""
        rows = await admin.query(
            "select id, status, last_failure from sys_invocation where status in ('paused', 'backing-off') "
            f"and {self._where} limit {_STOPPED_SHOWN}",
            texts=["id", "status"],
        )
        paused = [str(row["id"]) for row in rows if row["status"] == "paused"]
        reasons = []
        for status, what in (
            ("paused", "has paused {}: job.resume() has them go on"),
            ("backing-off", "will try {} again by itself"),
        ):
            found = [row for row in rows if row["status"] == status]
            if found:
                why = next((str(row["last_failure"]) for row in found if row.get("last_failure")), "")
                after = f", after: {why.strip().splitlines()[0][:300]}" if why.strip() else ""
                reasons.append(f"Restate {what.format(counted(len(found), 'invocation'))}{after}.")
        return reasons, paused

    async def journals(self, admin: Admin) -> list[dict[str, Any]]:
        """The entries of their journals, by idempotency key and order."""
        return await admin.query(
            "select i.idempotency_key, i.status, i.completed_at, j.index, j.name, j.entry_lite_json, j.appended_at "
            f"from sys_journal j join sys_invocation i on i.id = j.id where {self._among('i.')} "
            "order by i.idempotency_key, j.index"
        )

    async def of_handler(self, admin: Admin, handler: str, run_keys: Sequence[str] | None) -> dict[str, Invocation]:
        """Those of a handler, by their idempotency keys.

        Args:
            admin: whom to ask.
            handler: its name.
            run_keys: of a workflow the keys, one an item; its runs have no idempotency keys, and stand under the one
                that they would have.
        """
        target = f"target_handler_name = {sql_literal(handler)}"
        rows = await admin.query(f"select {_FIELDS} from sys_invocation where {target} and {self._where}")
        with decoding("an invocation"):
            found = {str(row["idempotency_key"]): _invocation(row) for row in rows}
            for each in found:
                position_of(each)
                _order(each)
        if run_keys is not None and not found:
            key = job_key(self.job, self.generation)
            positions = {run_key: position for position, run_key in enumerate(run_keys)}
            for keys in _parts(list(positions)):
                rows = await admin.query(
                    f"select {_FIELDS} from sys_invocation where target_service_name = {sql_literal(self.service)} "
                    f"and {target} and idempotency_key is null "
                    f"and target_service_key in ({', '.join(map(sql_literal, keys))})"
                )
                with decoding("an invocation"):
                    found |= {f"{key}/0/{positions[str(row['target_service_key'])]}": _invocation(row) for row in rows}
        return found

    async def cancel(self, admin: Admin) -> None:
        """Cancel those that have not ended, the last first, so that nothing moves up in the queue of a key."""
        rows = await admin.query(
            f"select id, status from sys_invocation where status <> 'completed' and {self._where} "
            "order by created_at desc"
        )
        paused = {str(row["id"]) for row in rows if row["status"] == "paused"}

        async def cancel(invocation: str) -> bool:
            cancelled = await admin.cancel(invocation)
            if invocation in paused:
                await admin.resume(invocation)  # it has to run to be told
            return cancelled

        await order_all(cancel, [str(row["id"]) for row in rows])

    async def purge(self, admin: Admin) -> None:
        """Purge all of them, and first end those that have not ended."""
        await purge_where(admin, self._where)


def position_of(key: str) -> int:
    """The position in an idempotency key: what stands after the last slash, up to a dot."""
    return int(key.rpartition("/")[2].partition(".")[0])


def last_of(found: Mapping[str, Invocation]) -> dict[int, Invocation]:
    """The last invocation of each item, by position."""
    last: dict[int, tuple[tuple[int, int], Invocation]] = {}
    for key, each in found.items():
        position, order = position_of(key), _order(key)
        if position not in last or last[position][0] < order:
            last[position] = order, each
    return {position: each for position, (_, each) in last.items()}


def columns_of(total: int, found: Mapping[str, Invocation], ids: Mapping[int, str]) -> dict[str, Sequence[Any]]:
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


def _invocation(row: Mapping[str, Any]) -> Invocation:
    created = _seconds(row.get("created_at")) or 0.0
    ended = _seconds(row.get("completed_at"))
    status = str(row.get("status"))
    if status == "completed":
        status = "succeeded" if row.get("completion_result") == "success" else "failed"
    started = _seconds(row.get("running_at")) or created
    return Invocation(str(row["id"]), status, int(row.get("retry_count") or 0), created, started, ended)


def _seconds(text: Any) -> float | None:
    return None if text is None else datetime.fromisoformat(str(text)).timestamp()


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[begin : begin + _KEYS_AT_ONCE]


async def purge_where(admin: Admin, condition: str) -> None:
    """Purge the invocations that this condition, in SQL, is true of, and first end those that have not ended.

    Raises:
        ServerError: Restate is away.
    """
    began, cancelled = time.monotonic(), set[str]()
    while rows := await admin.query(
        f"select id, status from sys_invocation where {condition} limit {_PAGE}", texts=["id", "status"]
    ):
        status = {row["id"]: row["status"] for row in rows}

        async def purge(invocation: str, status: Mapping[str, str] = status) -> bool:
            if status[invocation] == "completed":
                return await admin.purge(invocation)
            if time.monotonic() - began > _ENDING_SECONDS:
                await admin.kill(invocation)
            elif invocation not in cancelled:
                cancelled.add(invocation)
                await admin.cancel(invocation)
            return False

        if await order_all(purge, status) < len(status):
            await asyncio.sleep(_WAIT)
