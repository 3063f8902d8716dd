"""A notebook whose store becomes full: `unshare --mount python -m tests.durability.full_store FOLDER RECORD`.

Mounts a small disk of its own on FOLDER, which nobody else sees and which ends with this process. Values are kept
there, and the server's data elsewhere. Prints what happens, and writes to the file RECORD how often each item was
executed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import restate_nb as rnb

TOTAL = 150
SIZE = 100_000


def value(item: int) -> bytes:
    return bytes([item]) * SIZE


def main() -> None:
    folder, record = Path(sys.argv[1]), Path(sys.argv[2])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], check=True)
    (folder / "ballast").write_bytes(b"x" * 15_000_000)
    calls = Counter[int]()

    def work(item: int) -> bytes:
        calls[item] += 1
        time.sleep(0.02)
        return value(item)

    with rnb.start("full", data_dir=record.parent / ".restate", store=folder / "values"):
        job = rnb.map(work, range(TOTAL), concurrency=4, name="job", show=False)
        deadline, said = time.monotonic() + 30, ""
        while "disk" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said = job.progress().note
        print("said:", said, flush=True)
        recorded = job.counts["ok"]
        time.sleep(1)
        assert not job.done()
        assert job.counts["ok"] == recorded, "what the store did not take was recorded"
        (folder / "ballast").unlink()
        assert job.values() == list(map(value, range(TOTAL)))
        assert job.frame()["attempts"].eq(1).all()
        record.write_text(json.dumps(Counter(calls.values())))
        print("recorded before:", recorded, flush=True)
        kept = sum(each.stat().st_size for each in (folder / "values" / "full").rglob("*.seg"))
        print("bytes too many:", kept - TOTAL * (SIZE + 160), flush=True)


if __name__ == "__main__":
    main()
