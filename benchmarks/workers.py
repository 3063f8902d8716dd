"""The same job on one worker and on several, in turn: items that wait, and items that compute."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import put_between, table

WANTED = 1.7  # two workers to one, on items that compute, on two cores
AT_ONCE = 16  # items that wait, for each worker; items that compute, for all
NAP = 0.1  # seconds
LOOPS = 1_800_000  # of an item that computes: some 100 ms
PAGE = Path("docs/scaling.md")


def nap(_: int) -> None:
    time.sleep(NAP)


def crunch(item: int) -> int:
    total = item
    for number in range(LOOPS):
        total = (total * 31 + number) % 1_000_003
    return total


@dataclass
class Run:
    """One job.

    Attributes:
        work: what its items do, `wait` or `compute`.
        seconds: from the cell to the frame.
        shares: how many items each worker ended.
    """

    work: str
    workers: int
    items: int
    concurrency: int
    seconds: float
    shares: list[int]

    @property
    def rate(self) -> float:
        return self.items / self.seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="of each kind, in turn (default 3)")
    parser.add_argument("--small", action="store_true", help="one round, a tenth of the items: does it work?")
    parser.add_argument("--json", type=Path, default=Path("benchmarks-workers.json"), help="where the report goes")
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing: take what is in this report")
    parser.add_argument("--markdown", action="store_true", help=f"put the table into {PAGE}")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.report is None:
        runs = measure(1 if arguments.small else arguments.rounds, 0.1 if arguments.small else 1.0)
        packages = {name: version(name) for name in ("restate-nb", "restate-sdk", "hypercorn")}
        machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
        report = {"machine": machine | {"packages": packages}, "runs": [asdict(each) for each in runs]}
        report |= {"ratios": {f"{work}, {workers}": ratios(runs, work, workers) for work, workers in kinds(runs)}}
        arguments.json.write_text(json.dumps(report, indent=1))
    report = json.loads((arguments.report or arguments.json).read_text())
    runs = [Run(**each) for each in report["runs"]]
    rows = rows_of(runs)
    print(table(rows))
    for work, workers in kinds(runs):
        if workers > 1:
            told = ", ".join(f"{each:.2f}" for each in ratios(runs, work, workers))
            print(f"{work}: {workers} workers to one, by round: {told}")
    both = statistics.median(ratios(runs, "compute", 2))
    print(f"Two workers ran {both:.2f} times as many computing items as one. Wanted: {WANTED}.")
    if arguments.markdown:
        put(rows, report)


def kinds(runs: list[Run]) -> list[tuple[str, int]]:
    return sorted({(each.work, each.workers) for each in runs}, key=lambda each: (each[0] != "wait", each[1]))


def ratios(runs: list[Run], work: str, workers: int) -> list[float]:
    """The rate of so many workers to that of one, round by round."""
    of = {count: [each.rate for each in runs if (each.work, each.workers) == (work, count)] for count in (1, workers)}
    return [many / one for many, one in zip(of[workers], of[1], strict=True)]


def rows_of(runs: list[Run]) -> list[list[str]]:
    rows = [["items", "workers", "at once", "items a job", "a second", "to one worker", "shares"]]
    for work, workers in kinds(runs):
        found = [each for each in runs if (each.work, each.workers) == (work, workers)]
        rate = statistics.median(each.rate for each in found)
        to_one = statistics.median(ratios(runs, work, workers))
        shares = statistics.median(min(each.shares) / max(each.shares) for each in found)
        rows.append([work, str(workers), str(found[0].concurrency), f"{found[0].items:,}", f"{rate:,.1f}"])
        rows[-1] += [f"{to_one:.2f}", f"{shares:.2f}"]
    return rows


def put(rows: list[list[str]], report: dict[str, Any]) -> None:
    """Write the table into the page on scaling, between its marks."""
    machine = report["machine"]
    rounds = sum((each["work"], each["workers"]) == ("wait", 1) for each in report["runs"])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " --: |" * (len(rows[0]) - 1))
    told = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    about = f"Medians of {rounds} rounds; {machine['cores']} cores, Python {machine['python']}, {told}."
    put_between(PAGE, "measured", [about, "", *lines])


def measure(rounds: int, size: float) -> list[Run]:
    """The runs, in the order in which they were made: in each round all kinds, forwards and backwards in turn."""
    import restate_nb as rnb

    plan = [("wait", 1), ("wait", 2), ("wait", 4), ("compute", 1), ("compute", 2)]
    runs: list[Run] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        rnb.start("benchmark", data_dir=f"{folder}/.restate", listen="tcp") as session,
    ):
        for number in range(rounds):
            for work, workers in plan if number % 2 == 0 else reversed(plan):
                runs.append(one_run(session, work, workers, size, f"{work} {workers} {number}"))
                told = f"{runs[-1].seconds:>7.2f} s, {runs[-1].rate:>8,.1f}/s, shares {runs[-1].shares}"
                print(f"{work:<8}{workers} workers {told}", flush=True)
    return runs


def one_run(session: Any, work: str, workers: int, size: float, name: str) -> Run:
    """A job on workers that are started for it and ended after it."""
    import restate_nb as rnb

    concurrency = AT_ONCE * workers if work == "wait" else AT_ONCE
    items = round(size * (50 * concurrency if work == "wait" else 320))
    function = f"{__name__}:{ {'wait': 'nap', 'compute': 'crunch'}[work] }"
    run = functools.partial(rnb.map, function, concurrency=concurrency, show=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "restate_nb.cli", "worker", __name__, "--session", "benchmark"]
    command += ["--bind", f"127.0.0.1:{port}", "--admin", session.server.admin.url]
    command += ["--identity-key", session.server.identity_key]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    try:
        for process in processes:
            assert process.stdout is not None
            while not (line := process.stdout.readline()).startswith("ready"):
                if not line:
                    raise SystemExit("A worker ended before it was ready; see above.")
        run(range(4 * concurrency), name=f"{name} first").result()
        began = time.perf_counter()
        job = run(range(items), name=name)
        frame = job.result()
        took = time.perf_counter() - began
        assert frame["status"].eq("ok").all()
        ended = job.workers().set_index("process")["items"].to_dict()
        return Run(work, workers, items, concurrency, took, [int(ended.get(each.pid, 0)) for each in processes])
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate()
