"""How time and memory grow with the number of items and with their size, the frame of no-ops included."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, nargs="*", default=[100_000, 1_000_000], help="sizes (default 1e5 1e6)")
    parser.add_argument("--no-large", action="store_true", help="leave 200 MB of inputs and 500 MB of values out")
    parser.add_argument("--json", type=Path, default=Path("benchmarks-scale.json"), help="where the report goes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    cases = [("no-op", items, 0) for items in arguments.items]
    if not arguments.no_large:
        cases += [
            ("inputs of 1 kB", 200_000, 1_000),
            ("inputs 200 MB", 200, 1_000_000),
            ("values 1 MB", 500, 1_000_000),
        ]
    found = [_in_child(*case) for case in cases]
    rows = [["work", "items", "seconds", "items/s", "data MB", "kernel MB", "bytes/item", "server MB"]]
    for each in found:
        rate, size = each["items"] / each["seconds"], each["kernel_grown"] / each["items"]
        memory = f"{each['kernel_peak'] / 1e6:,.0f}", f"{size:,.0f}", f"{each['server_peak'] / 1e6:,.0f}"
        data = f"{each['items'] * each['size'] / 1e6:,.0f}"
        rows.append([each["work"], f"{each['items']:,}", f"{each['seconds']:.2f}", f"{rate:,.0f}", data, *memory])
    print(table(rows))
    print("\nkernel MB, server MB: peaks of the whole processes; bytes/item: what the kernel grew by.")
    noops = [each for each in found if each["work"] == "no-op"]
    if len(noops) > 1:
        first, last = noops[0], noops[-1]
        times = last["seconds"] / first["seconds"]
        print(f"{last['items'] // first['items']} times as many items take {times:.1f} times as long.")
    arguments.json.write_text(json.dumps(found, indent=1))


def _in_child(work: str, items: int, size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", work, str(items), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def texts(items: int, size: int) -> Iterator[str]:
    """Texts that all differ, made when they are asked for."""
    for item in range(items):
        yield f"{item:010d}".ljust(size, "x")


async def length(text: str) -> int:
    return len(text)


async def megabyte(_: int) -> str:
    return "y" * 1_000_000


def measure(work: str, items: int, size: int) -> dict[str, Any]:
    import tempfile
    import time

    import pandas  # noqa: F401 - what is loaded anyway is not counted
    import psutil

    import restate_nb as rnb
    from benchmarks.against.memory import watched_peak
    from benchmarks.peers import memory, noop, peak

    jobs: dict[str, tuple[Any, Any]] = {
        "no-op": (noop, range(items)),
        "inputs of 1 kB": (length, texts(items, size)),
        "inputs 200 MB": (length, texts(items, size)),
        "values 1 MB": (megabyte, range(items)),
    }
    function, inputs = jobs[work]
    with tempfile.TemporaryDirectory() as directory, rnb.start("scale", data_dir=f"{directory}/.restate") as session:
        rnb.map(noop, [0], show=False).result()
        server = psutil.Process(session.server.pid)
        with watched_peak(lambda: server.memory_info().rss, every=0.05) as top:
            before, began = memory(), time.perf_counter()
            job = rnb.map(function, inputs, concurrency=100 if size < 1_000_000 else None, show=False)
            job.wait()
            if work == "no-op":
                job.result()
            seconds = time.perf_counter() - began
        highest = peak()  # before large values are asked for
        frame = job.result()
        if work == "no-op":
            assert (frame["value"] == range(items)).all()
        elif work.startswith("inputs"):
            assert (frame["value"] == size).all()
        else:
            assert (frame["value"].str.len() == size).all()
    return {
        "work": work,
        "items": items,
        "size": size,
        "seconds": seconds,
        "kernel_peak": highest,
        "kernel_grown": highest - before,
        "server_peak": top[0],
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
