"""`python -m benchmarks peers`: the same work on restate_nb and its peers, in turn, in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.against.environments import Environment, prepare
from benchmarks.against.measured import Measured
from benchmarks.against.memory import MARK, held, marked, watched_peak
from benchmarks.against.table import print_report

ROOT = Path(__file__).parents[2]
OURS = "restate_nb"
SMALL = 1_000
"""Items of the common size, which every peer runs; growth is told from it to the peer's own, larger one."""

CASES: dict[str, list[tuple[str, int]]] = {
    "asyncio": [("noop", SMALL), ("noop", 100_000), ("10ms", 30_000), ("cpu", 400)],
    OURS: [("noop", SMALL), ("noop", 100_000), ("10ms", 30_000), ("cpu", 400), ("resume", SMALL)],
    "Restate SDK": [("noop", SMALL), ("noop", 5_000), ("10ms", 5_000), ("cpu", 400), ("resume", SMALL)],
    "joblib": [("noop", SMALL), ("noop", 100_000), ("10ms", 10_000), ("cpu", 400), ("resume", SMALL)],
    "Dask": [("noop", SMALL), ("noop", 5_000), ("batched", 100_000), ("10ms", 5_000), ("cpu", 400)],
    "Ray": [("noop", SMALL), ("noop", 5_000), ("batched", 100_000), ("10ms", 5_000), ("cpu", 400)],
    "ipyparallel": [("noop", SMALL), ("noop", 4_000), ("batched", 100_000), ("10ms", 300), ("cpu", 400)],
    "DBOS": [("noop", SMALL), ("noop", 2_000), ("10ms", SMALL), ("cpu", 400), ("resume", SMALL)],
}
"""What each peer does, and on how many items: so many that it takes seconds, as far as that can be."""

TIME_LIMIT = 180.0
"""Seconds that one peer may take for its cases."""


class PeerFailed(Exception):
    """A peer's process ended with an error, or took too long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="runs of each; medians are shown (default 5)")
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="these peers alone, and restate_nb")
    parser.add_argument("--small", action="store_true", help="one round of a tenth of the sizes, to see that it works")
    parser.add_argument("--json", type=Path, default=Path("benchmarks-peers.json"), help="where the report goes")
    parser.add_argument("--chart", type=Path, help="where a picture of it goes (.png or .svg)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    rounds, scale = (1, 10) if arguments.small else (arguments.rounds, 1)
    names = [name for name in CASES if not arguments.only or name in {OURS, *arguments.only}]
    environments = {name: prepare(name) for name in names}
    found = {
        name: Measured(name, environment.packages, missing=environment.missing)
        for name, environment in environments.items()
    }
    load = [os.getloadavg()]
    for turn in range(rounds):
        # Neighbours in a round meet the same minute of the machine; every other round goes backwards.
        for name in names if turn % 2 == 0 else reversed(names):
            _measure(found[name], environments[name], _sized(name, scale))
            load.append(os.getloadavg())
        print(f"round {turn + 1} of {rounds} done", file=sys.stderr)
    for name in names:  # apart from the rounds: looking at memory takes time too
        _weigh(found[name], environments[name], max(each for each in _sized(name, scale) if each[0] == "noop"))

    everything = list(found.values())
    machine = _machine(load)
    print_report(everything, machine)
    report = {"machine": machine, "rounds": rounds, "peers": [_as_json(each) for each in everything]}
    arguments.json.write_text(json.dumps(report, indent=1))
    print(f"\nReport: {arguments.json}")
    if arguments.chart:
        from benchmarks.against.chart import draw

        draw(everything, arguments.chart)
        print(f"Chart: {arguments.chart}")


def _sized(name: str, scale: int) -> list[tuple[str, int]]:
    return [(case, items // scale) for case, items in CASES[name]]


def _measure(measured: Measured, environment: Environment, cases: list[tuple[str, int]]) -> None:
    if measured.missing:
        return
    try:
        lines = _in_process(measured.peer, environment, cases)
    except PeerFailed as error:
        measured.missing = str(error)
        measured.seconds.clear()
        return
    for line in lines:
        measured.seconds.setdefault((line["case"], line["items"]), []).append(line["seconds"])


def _weigh(measured: Measured, environment: Environment, case: tuple[str, int]) -> None:
    if measured.missing:
        return
    process = _start(measured.peer, environment, [case])
    with watched_peak(lambda: held(marked(_mark(measured.peer)))) as top:
        _finish(process)
    measured.memory = top[0]


def _in_process(peer: str, environment: Environment, cases: list[tuple[str, int]]) -> list[dict[str, Any]]:
    output = _finish(_start(peer, environment, cases))
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if [(line["case"], line["items"]) for line in lines] != cases:
        raise PeerFailed(f"it printed {output!r}")
    return lines


def _start(peer: str, environment: Environment, cases: list[tuple[str, int]]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [environment.python, "-m", "benchmarks.against.peer", peer, json.dumps(cases)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", MARK: _mark(peer)},
        start_new_session=True,  # so that what it leaves behind when it takes too long can be ended
    )


def _mark(peer: str) -> str:
    return f"{peer} of {os.getpid()}"


def _finish(process: subprocess.Popen[str]) -> str:
    try:
        output, errors = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise PeerFailed(f"it took more than {TIME_LIMIT:.0f} s") from None
    if process.returncode:
        raise PeerFailed((errors.strip() or "it failed without a word").splitlines()[-1])
    return output


def _machine(load: list[tuple[float, float, float]]) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "load": [round(each[0], 1) for each in load],
        "packages": {name: version(name) for name in ("restate-nb", "restate-sdk")},
    }


def _as_json(measured: Measured) -> dict[str, Any]:
    seconds = [{"case": case, "items": items, "seconds": each} for (case, items), each in measured.seconds.items()]
    return {
        "peer": measured.peer,
        "missing": measured.missing,
        "packages": measured.packages,
        "cases": seconds,
        "memory": measured.memory,
    }
