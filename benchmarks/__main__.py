"""`python -m benchmarks overhead|scale|panel|invoke`: what durable items and invocations cost, and the panel."""

from __future__ import annotations

import argparse

from benchmarks import invoke, overhead, panel, scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    overhead.add_arguments(commands.add_parser("overhead", help="what a durable item costs, beside plain asyncio"))
    scale.add_arguments(commands.add_parser("scale", help="how time and memory grow with the number of items"))
    panel.add_arguments(commands.add_parser("panel", help="the rate with the panel shown, beside that without"))
    invoke.add_arguments(commands.add_parser("invoke", help="rnb.invoke and its frame, beside a bare aiohttp client"))
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
