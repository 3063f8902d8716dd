"""The notebook that the crash tests kill: `python -m tests.notebook.crash_job DATA_DIR RUNS RECORDED TOTAL`.

Every execution of an item is a line of RUNS (index, process), on disk before the item returns. Every outcome that the
job calls recorded is a line of RECORDED. Prints `server PID`, and `finished` at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import restate_nb as rnb

RUNS = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY | os.O_APPEND)


async def work(item: int) -> int:
    await asyncio.sleep(0.02)
    os.write(RUNS, b"%d %d\n" % (item, os.getpid()))
    os.fsync(RUNS)
    return item * item


def main() -> None:
    total = int(sys.argv[4])
    with rnb.start("crash", data_dir=sys.argv[1]) as session:
        job = rnb.map(work, range(total), concurrency=20, show=False)
        print("server", session.server.pid, flush=True)
        threading.Thread(target=watch, args=(job, Path(sys.argv[3])), daemon=True).start()
        frame = job.result(timeout=120)
        assert frame["value"].tolist() == [item * item for item in range(total)]
        print("attached", job.attached, flush=True)
        print("finished", flush=True)


def watch(job: rnb.Job[int], path: Path) -> None:
    told: set[int] = set()
    with path.open("a") as file:
        while True:
            recorded = {position for position, status in enumerate(job.frame()["status"]) if status == "ok"}
            file.writelines(f"{position}\n" for position in sorted(recorded - told))
            file.flush()
            told = recorded
            threading.Event().wait(0.01)


if __name__ == "__main__":
    main()
