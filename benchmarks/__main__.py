"""`python -m benchmarks COMMAND`: what a durable item costs, how that grows, and how others do the same work."""

from __future__ import annotations

import argparse

from benchmarks import growing, identity, invoke, overhead, panel, regress, scale, workers
from benchmarks.against import run as peers
from benchmarks.matrix import run as matrix


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    matrix.add_arguments(commands.add_parser("matrix", help="each kind of work, beside the best that keeps nothing"))
    overhead.add_arguments(commands.add_parser("overhead", help="what a durable item costs, beside plain asyncio"))
    scale.add_arguments(commands.add_parser("scale", help="how time and memory grow with the number of items"))
    panel.add_arguments(commands.add_parser("panel", help="the rate with the panel shown, beside that without"))
    peers.add_arguments(commands.add_parser("peers", help="the same work on joblib, Dask, Ray, ipyparallel and DBOS"))
    invoke.add_arguments(commands.add_parser("invoke", help="rnb.invoke and its frame, beside a bare aiohttp client"))
    regress.add_arguments(commands.add_parser("regress", help="whether a commit's hot paths cost more than another's"))
    workers.add_arguments(commands.add_parser("workers", help="one worker and several, on items that wait or compute"))
    identity.add_arguments(commands.add_parser("identity", help="what it costs to tell which job a cell asks for"))
    growing.add_arguments(commands.add_parser("growing", help="the cell of a job with keys, run again with more rows"))
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
