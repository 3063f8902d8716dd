"""`python -m benchmarks overhead|scale`: what a durable item costs, and how that grows."""

from __future__ import annotations

import argparse

from benchmarks import overhead, scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    overhead.add_arguments(commands.add_parser("overhead", help="what a durable item costs, beside plain asyncio"))
    scale.add_arguments(commands.add_parser("scale", help="how time and memory grow with the number of items"))
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
