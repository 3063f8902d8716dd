"""`python -m benchmarks overhead`: what a durable item costs."""

from __future__ import annotations

import argparse

from benchmarks import overhead


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    overhead.add_arguments(commands.add_parser("overhead", help="what a durable item costs, beside plain asyncio"))
    arguments = parser.parse_args()
    arguments.run(arguments)


main()
