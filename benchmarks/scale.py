"""How time and memory grow with the number of items: no-op items, the frame included."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes (default 1e5 1e6)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks-scale.json"), help="where the report goes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    found = [_in_child(items) for items in arguments.items]
    rows = [["items", "seconds", "items/s", "kernel MB", "bytes/item", "server MB"]]
    for each in found:
        rate, size = each["items"] / each["seconds"], each["kernel_grown"] / each["items"]
        memory = f"{each['kernel_peak'] / 1e6:,.0f}", f"{size:,.0f}", f"{each['server'] / 1e6:,.0f}"
        rows.append([f"{each['items']:,}", f"{each['seconds']:.2f}", f"{rate:,.0f}", *memory])
    print(table(rows))
    print("\nkernel MB: peak of the whole process; bytes/item: what it grew by; server MB: resident at the end.")
    if len(found) > 1:
        first, last = found[0], found[-1]
        times = last["seconds"] / first["seconds"]
        print(f"{last['items'] // first['items']} times as many items take {times:.1f} times as long.")
    arguments.json.write_text(json.dumps(found, indent=1))


def _in_child(items: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", str(items)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(items: int) -> dict[str, Any]:
    import tempfile
    import time

    import pandas  # noqa: F401 - what is loaded anyway is not counted
    import psutil

    import restate_nb as rnb
    from benchmarks.peers import memory, noop, peak

    with tempfile.TemporaryDirectory() as directory, rnb.start("scale", data_dir=f"{directory}/.restate") as session:
        rnb.map(noop, [0], show=False).result()
        before, began = memory(), time.perf_counter()
        frame = rnb.map(noop, range(items), concurrency=100, show=False).result()
        seconds = time.perf_counter() - began
        assert (frame["value"] == range(items)).all()
        server = psutil.Process(session.server.pid).memory_info().rss
    grown = peak() - before
    return {"items": items, "seconds": seconds, "kernel_peak": peak(), "kernel_grown": grown, "server": server}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
