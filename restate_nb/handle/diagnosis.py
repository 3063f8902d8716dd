"""Why a job stands still, for the person who waits for it."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from restate_nb.engine.pool import Pool
from restate_nb.engine.stacks import RunningItem
from restate_nb.formatting import counted, duration
from restate_nb.server.admin import Admin

_SHOWN: Final = 5  # items of which the lines of code are told
_PAUSED_SHOWN: Final = 1_000


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a job is doing, and what keeps it from going on.

    Attributes:
        job: its name.
        state: where it stands, in words.
        reasons: what holds it up, the most likely first, each with what to do; empty when nothing does.
        running: the items that run longest, and where in the code they are.
        ended: whether every item has an outcome.
    """

    job: str
    state: str
    reasons: Sequence[str]
    running: Sequence[str] = field(default=())
    ended: bool = False

    def __str__(self) -> str:
        lines = [f"{self.job}: {self.state}", *(f"- {reason}" for reason in self.reasons)]
        if not self.reasons:
            lines.append("- It has ended." if self.ended else "- Nothing holds it up.")
        return "\n".join([*lines, *self.running])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def obstacles_of(pool: Pool, function: str) -> list[str]:
    """What keeps the items of a pool from being started."""
    found = []
    if not pool.has_work:
        found.append(f"It waits for {function}: run the cell that maps it.")
    if pool.paused:
        found.append("It is paused: job.resume() goes on.")
    if pool.scarce is not None:
        found.append(shortage_of(pool))
    if pool.stopped:
        found.append(f"It starts no further item. {pool.stopped}")
    if pool.overfull:
        found.append("Outcomes wait to be recorded, and nothing is started before: restate-server is slow or away.")
    if pool.waits_for:
        found.append(f"Items wait for their turn: {pool.waits_for}.")
    if retries := pool.retries_at:
        wait = duration(max(0.0, min(retries) - time.time()))
        found.append(f"{counted(len(retries), 'item')} failed, and wait to be tried again: the first in {wait}.")
    if pool.hung:
        found.append(
            f"{counted(pool.hung, 'thread')} still busy with items that timed out: a thread cannot be stopped. Give "
            'the function\'s own calls a timeout, or use executor="process".'
        )
    return found


def shortage_of(pool: Pool) -> str:
    """That the machine gives no more threads or processes, in words; empty while it does."""
    if pool.scarce is None:
        return ""
    return (
        f"The machine gives no more threads or processes: {counted(pool.scarce, 'item')} at once, of up to "
        f"{pool.concurrency:,}. More are tried again and again; the limit is that of the container (pids) or of the "
        "user (ulimit -u)."
    )


def running_lines(running_items: Iterable[RunningItem], labels: Any) -> list[str]:
    """The items that run longest, and where they are.

    Args:
        running_items: what runs, the longest first.
        labels: the index of the input.
    """
    running_items = list(running_items)
    lines = []
    for each in running_items[:_SHOWN]:
        since = "timed out, its thread runs on" if each.seconds is None else f"for {duration(each.seconds)}"
        attempt = "" if each.number == 1 else f", attempt {each.number}"
        lines.append(f"item {labels[each.position]!r} {since}{attempt}")
        lines += [f"    {line}" for line in each.where[-4:]]
    if len(running_items) > _SHOWN:
        lines.append(f"and {counted(len(running_items) - _SHOWN, 'more item')} that run")
    return lines


async def held_by_restate(admin: Admin, mine: str) -> tuple[list[str], list[str]]:
    """What Restate itself has stopped of a job.

    Args:
        admin: where to ask.
        mine: the condition, in SQL, that an invocation is one of the job's.

    Returns:
        The reasons in words, and the ids of the invocations that are paused.
    """
    rows = await admin.query(
        "select id, status, last_failure from sys_invocation where status in ('paused', 'backing-off') "
        f"and {mine} limit {_PAUSED_SHOWN}",
        texts=["id", "status"],
    )
    paused = [str(row["id"]) for row in rows if row["status"] == "paused"]
    reasons = []
    for status, what in (
        ("paused", "has paused {}: job.resume() has them go on"),
        ("backing-off", "will try {} again by itself"),
    ):
        there = [row for row in rows if row["status"] == status]
        if there:
            why = next((str(row["last_failure"]) for row in there if row.get("last_failure")), "")
            after = f", after: {why.strip().splitlines()[0][:300]}" if why.strip() else ""
            reasons.append(f"Restate {what.format(counted(len(there), 'invocation'))}{after}.")
    return reasons, paused
