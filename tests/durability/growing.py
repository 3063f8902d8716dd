"""The notebook of a job that grows: `python -m tests.durability.growing FOLDER ROWS WHERE`.

Its items are 0 to ROWS - 1. Every execution is a line of FOLDER/runs, on disk before the item ends, and every outcome
that is recorded one of FOLDER/recorded. Prints `finished` when all have their values. WHERE is the moment at which it
kills itself with -9: `stored` (what is new is in the store, and the record does not know of it), `changed` (the record
knows of it, and Restate has none of it), `submitted` (Restate has it), or `never`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import restate_nb as rnb
from restate_nb.backends.job_store import ObjectJobStore
from restate_nb.backends.shards import Shards
from restate_nb.handle.job import Job, runner_of

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()


def note(name: str, line: object) -> None:
    with (FOLDER / name).open("a") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def item(n: int) -> int:
    await asyncio.sleep(0.01)
    note("runs", n)
    return n * n


def die_at(where: str) -> None:
    """Kill this process at that moment of a growth."""
    change, submit = ObjectJobStore.change, Shards.submit

    async def changed(self: Any, manifest: Any, asked: Any, **options: Any) -> Any:
        grows = asked.grown is not None
        if grows and where == "stored":
            die()
        answer = await change(self, manifest, asked, **options)
        if grows and where == "changed":
            die()
        return answer

    async def submitted(self: Any, *arguments: Any, **options: Any) -> None:
        await submit(self, *arguments, **options)
        if where == "submitted":
            die()

    ObjectJobStore.change = changed  # type: ignore[method-assign,assignment]
    Shards.submit = submitted  # type: ignore[method-assign]


def run(rows: int) -> Job[int]:
    return rnb.map(item, range(rows), key="item", name="growing", version=1, concurrency=10, show=False)


def main(rows: int, where: str) -> None:
    if where != "never":
        die_at(where)
    with rnb.start("growing", data_dir=FOLDER / ".restate"):
        job = run(rows)
        ledger = runner_of(job).data.ledger
        before = ledger.on_recorded

        def recorded(now: float) -> None:
            before(now)
            while len(told) < len(ledger.order):
                told.append(ledger.order[len(told)])
                note("recorded", told[-1])

        told = [*ledger.order]
        ledger.on_recorded = recorded
        print("submitted", flush=True)
        assert job.values() == [n * n for n in range(rows)]
        print("finished", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[2]), sys.argv[3])
