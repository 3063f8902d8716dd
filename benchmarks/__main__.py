"""`python -m benchmarks overhead|scale|panel`: what a durable item costs, how that grows, and what the panel costs."""

from __future__ import annotations

import argparse

from benchmarks import overhead, panel, scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    overhead.add_arguments(commands.add_parser("overhead", help="what a durable item costs, beside plain asyncio"))
    scale.add_arguments(commands.add_parser("scale", help="how time and memory grow with the number of items"))
    panel.add_arguments(commands.add_parser("panel", help="the rate with the panel shown, beside that without"))
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
