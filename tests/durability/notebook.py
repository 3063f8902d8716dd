"""The notebook that the kill tests kill: `python -m tests.durability.notebook FOLDER TOTAL HOW`.

HOW is where its items run: `loop`, `thread`, or `process` (in batches, since they are short).

Every execution of an item is a line of FOLDER/runs, on disk before the item goes on: `begin ITEM ATTEMPT PROCESS` and
`end ITEM ATTEMPT PROCESS`, where PROCESS is the kernel's, and ATTEMPT tells executions of the item in it apart. Every
outcome that the job calls recorded is a line of FOLDER/recorded. Prints `submitted`, `attached COUNT`, and `finished`
at the end.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

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
SHORT = 0.002  # seconds that an item of a batch takes


async def on_loop(item: int) -> int:
    begin(item)
    await asyncio.sleep(SECONDS)
    return end(item)


def in_thread(item: int) -> int:
    begin(item)
    time.sleep(SECONDS)
    return end(item)


def begin(item: int) -> None:
    ATTEMPTS[item] += 1
    note(RUNS, f"begin {item} {ATTEMPTS[item]} {os.getpid()}")


def end(item: int) -> int:
    note(RUNS, f"end {item} {ATTEMPTS[item]} {os.getpid()}")
    return item * item


def in_process(path: str, item: int) -> int:
    """In a worker, whose parent is the kernel."""
    runs = os.open(path, os.O_WRONLY | os.O_APPEND)
    told = f"{item} {os.getpid()}{time.monotonic_ns() % 10**9:09} {os.getppid()}"
    note(runs, f"begin {told}")
    time.sleep(SHORT)
    note(runs, f"end {told}")
    os.close(runs)
    return item * item


def note(runs: int, line: str) -> None:
    os.write(runs, f"{line}\n".encode())
    os.fsync(runs)


HOW: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "loop": (on_loop, {"concurrency": CONCURRENCY}),
    "thread": (in_thread, {"concurrency": CONCURRENCY}),
    "process": (in_process, {"executor": "process", "concurrency": 2}),
}


def main() -> None:
    total, how = int(sys.argv[2]), sys.argv[3]
    function, options = HOW[how]
    if how == "process":
        function = functools.partial(function, str(FOLDER / "runs"))
    with redirect_stdout(sys.stderr):  # which tells of unfinished jobs
        session = rnb.start("killed", data_dir=FOLDER / ".restate")
    with session:
        job = rnb.map(function, range(total), show=False, **options)
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
