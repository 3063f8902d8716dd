"""The notebook that the kill tests kill: `python -m tests.durability.notebook FOLDER TOTAL`.

Every execution of an item is a line of FOLDER/runs, on disk before the item goes on: `begin ITEM ATTEMPT PROCESS` and
`end ITEM ATTEMPT PROCESS`, where ATTEMPT counts the executions of the item in this process. Every outcome that the job
calls recorded is a line of FOLDER/recorded. Prints `submitted`, `attached COUNT`, and `finished` at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import restate_nb as rnb
from restate_nb.engine.record import OK
from restate_nb.handle.job import runner_of
from tests.durability.outcomes import final_outcomes

CONCURRENCY = 20
SECONDS = 0.05
if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    RUNS = os.open(FOLDER / "runs", os.O_CREAT | os.O_WRONLY | os.O_APPEND)


ATTEMPTS = Counter[int]()


async def work(item: int) -> int:
    ATTEMPTS[item] += 1
    note("begin", item)
    await asyncio.sleep(SECONDS)
    note("end", item)
    return item * item


def note(what: str, item: int) -> None:
    os.write(RUNS, f"{what} {item} {ATTEMPTS[item]} {os.getpid()}\n".encode())
    os.fsync(RUNS)


def main() -> None:
    total = int(sys.argv[2])
    with redirect_stdout(sys.stderr):  # which tells of unfinished jobs
        session = rnb.start("killed", data_dir=FOLDER / ".restate")
    with session:
        job = rnb.map(work, range(total), concurrency=CONCURRENCY, show=False)
        print("submitted", flush=True)
        threading.Thread(target=watch, args=(job, FOLDER / "recorded"), daemon=True).start()
        frame = job.result(timeout=300)
        assert frame["value"].tolist() == [item * item for item in range(total)]
        assert frame["status"].eq("ok").all()
        assert final_outcomes(session, job) == dict.fromkeys(range(total), 1)
        print("attached", job.attached, flush=True)
        print("finished", flush=True)


def watch(job: rnb.Job[int], path: Path) -> None:
    told: set[int] = set()
    with path.open("a") as file:
        while True:
            recorded = set(
                runner_of(job).data.ledger.positions(OK)
            )  # what job.frame() shows, without a second of loading pandas
            file.writelines(f"{position}\n" for position in sorted(recorded - told))
            file.flush()
            told = recorded
            threading.Event().wait(0.005)


if __name__ == "__main__":
    main()
