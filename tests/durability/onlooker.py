"""A notebook that shares a job with others: `python -m tests.durability.onlooker FOLDER TOTAL`.

Runs one cell a line of its standard input, and answers with a line. Executions are lines of FOLDER/runs: item, process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import restate

import restate_nb as rnb

greeter = restate.Service("greeter")


@greeter.handler()
async def greet(ctx: restate.Context, name: str) -> str:
    return f"Hello {name} from {os.getpid()}"


def main() -> None:
    folder, total = Path(sys.argv[1]), int(sys.argv[2])
    runs = os.open(folder / "runs", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    async def work(item: int) -> int:
        await asyncio.sleep(0.02)
        os.write(runs, f"{item} {os.getpid()}\n".encode())
        return item * item

    def small(item: int) -> int:
        os.write(runs, f"small{item} {os.getpid()}\n".encode())
        return -item

    with redirect_stdout(sys.stderr):  # which tells of unfinished jobs
        session = rnb.start("shared", data_dir=folder / ".restate")
    job: rnb.Job[Any] | None = None
    print("ready", flush=True)
    for line in sys.stdin:
        cell = line.strip()
        answer: object = None
        if cell == "map":
            job = rnb.map(work, range(total), concurrency=10, name="job", show=False)
        elif cell.startswith("small"):
            answer = rnb.map(small, range(3), name=cell, show=False).result(20)["value"].tolist()
        elif cell == "other":
            job = rnb.map(work, range(total), concurrency=10, name="other", show=False)
        elif cell == "serve":
            session.serve(greeter)
        elif cell == "greet":
            answer = session.call(greet, "Ada")
        elif cell == "kill the server":
            os.kill(session.server.pid, signal.SIGKILL)
        elif cell == "jobs":
            answer = rnb.jobs()["name"].tolist()
        elif cell == "look":
            assert job is not None
            answer = {"status": job.status, "ok": job.counts["ok"], "note": job.progress().note}
        elif cell == "result":
            assert job is not None
            answer = job.result(60)["value"].tolist() == [item * item for item in range(total)]
        elif cell == "stop":
            session.stop()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
