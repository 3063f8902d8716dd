"""The notebook that the state machine drives, in this process or, to be killed, in one of its own.

Its items wait until they are released, so that the machine knows what runs. Run as a script, `python -m
tests.durability.cells FOLDER`, it reads calls, one JSON list a line, and writes what they return.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.durability.outcomes import final_outcomes


class Cells:
    """What a person does in a notebook, a method a cell."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._starts = os.open(folder / "starts", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        with redirect_stdout(sys.stderr):  # which tells of unfinished jobs
            self._session = Session("machine", folder / ".restate")
        self._job: rnb.Job[Any]

    def run(self, name: str, total: int, limit: int, version: int, failing: list[int]) -> None:
        """The cell of the job, with a function of this version, which fails for some items."""

        async def work(item: int) -> int:
            os.write(self._starts, f"{name} {item}\n".encode())
            self._waiting[item] = asyncio.get_running_loop().create_future()
            try:
                await self._waiting[item]
            finally:
                del self._waiting[item]
            if item in failing:
                raise ValueError(f"version {version}")
            return item * 1000 + version

        self._job = rnb.map(work, range(total), name=name, concurrency=limit, session=self._session, show=False)

    def release(self, item: int) -> None:
        future = self._waiting[item]
        self._session.items_loop.loop.call_soon_threadsafe(future.set_result, None)

    def pause(self) -> None:
        self._job.pause()

    def resume(self) -> None:
        self._job.resume()

    def cancel(self) -> None:
        self._job.cancel()

    def retry(self) -> None:
        self._job.retry_failed()

    def limit(self, limit: int) -> None:
        self._job.concurrency = limit

    def look(self) -> dict[str, Any]:
        """What the person sees, and which items wait to be released."""
        frame = self._job.frame()
        rows = []
        for status, value, error in zip(frame["status"], frame["value"], frame["error"], strict=True):
            shown = {"ok": value, "pending": None, "running": None}.get(status, error)
            rows.append([status.replace("running", "pending"), int(shown) if status == "ok" else shown])
        return {"rows": rows, "running": sorted(self._waiting), "done": self._job.done(), "status": self._job.status}

    def recorded(self, round_: int) -> list[list[int]]:
        """Of a finished job: how many final outcomes each item of a round has in Restate."""
        return [
            [position, count] for position, count in sorted(final_outcomes(self._session, self._job, round_).items())
        ]

    def server(self) -> int | None:
        return self._session.server.pid

    def stop(self) -> None:
        self._session.stop()
        os.close(self._starts)


if __name__ == "__main__":
    cells = Cells(Path(sys.argv[1]))
    print("null", flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(cells, name)(*arguments)), flush=True)
