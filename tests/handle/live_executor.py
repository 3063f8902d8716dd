"""A notebook that is killed: `python -m tests.handle.live_executor FOLDER EXECUTOR THEN`.

It runs the cell of a job with an executor, sets another one once 20 items are done, and says which are done when that
has run 20 more.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.handle.counted import Calls, where
from tests.support import eventually, submit

TOTAL = 400


def cell(session: Session, folder: Path, executor: str) -> rnb.Job[Any]:
    """The cell of the job."""
    work = partial(where, Calls(folder / "calls"), 0.02)
    return submit(session, work, range(TOTAL), name="moved", executor=executor, concurrency=4, version=1)


def main(folder: Path, executor: str, then: Any) -> None:
    session = Session("killed", folder / ".restate")
    job = cell(session, folder, executor)
    eventually(lambda: job.counts["ok"] >= 20)
    job.executor = then
    done = job.counts["ok"]
    eventually(lambda: job.counts["ok"] >= done + 20)
    frame = job.frame()
    for item in frame["item"][frame["status"] == "ok"]:
        print(item, end=" ")
    print(flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
