"""A notebook on a disk that becomes full: `unshare --mount python -m tests.durability.full_disk FOLDER RECORD`.

Mounts a small disk of its own on FOLDER, which nobody else sees and which ends with this process. Prints what happens,
and writes to the file RECORD how often each item was executed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import restate_nb as rnb
from tests.durability.outcomes import final_outcomes

TOTAL = 6000


def main() -> None:
    folder, record = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", folder], check=True)
    calls = Counter[int]()

    async def work(item: int) -> str:
        calls[item] += 1
        await asyncio.sleep(0.02)
        return f"{item} {'x' * 2000}"

    with rnb.start("full", data_dir=folder / ".restate") as session:
        job = rnb.map(work, range(TOTAL), concurrency=50, show=False)
        while job.counts["ok"] < 500:
            time.sleep(0.01)
        with (folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"x" * 10_000)
            except OSError:
                print("full:", shutil.disk_usage(folder).free, flush=True)
        deadline, said = time.monotonic() + 30, ""
        while "disk" not in said and time.monotonic() < deadline:
            time.sleep(0.1)
            said = job.progress().note
        print("said:", said, flush=True)
        recorded = job.counts["ok"]
        assert not job.done()
        (folder / "ballast").unlink()
        deadline = time.monotonic() + 30
        while "room again" not in said and not job.done() and time.monotonic() < deadline:
            time.sleep(0.1)
            said = job.progress().note or said
        print("said:", said, flush=True)
        frame = job.result(120)
        assert frame["value"].tolist() == [f"{item} {'x' * 2000}" for item in range(TOTAL)]
        assert frame["attempts"].eq(1).all()
        assert final_outcomes(session, job) == dict.fromkeys(range(TOTAL), 1)
        record.write_text(json.dumps(Counter(calls.values())))
        print("recorded before:", recorded, flush=True)


if __name__ == "__main__":
    main()
