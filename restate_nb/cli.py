"""The command line, `restate-nb`. Each subcommand is a module of its own, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from restate_nb import __version__
from restate_nb.errors import RestateNbError

COMMANDS = {
    "cancel": ("restate_nb.jobs_command", "end a job: what is done stays"),
    "demo": ("restate_nb.demo", "run a first job: measure the source files of Python's own library"),
    "jobs": ("restate_nb.jobs_command", "list the jobs of a data directory, or of a Restate elsewhere"),
    "pause": ("restate_nb.jobs_command", "have a job start nothing more, until it is resumed"),
    "resume": ("restate_nb.jobs_command", "let a paused job go on"),
    "server": ("restate_nb.server.command", "install, start and stop the local restate-server"),
    "show": ("restate_nb.jobs_command", "how far a job is, and what failed"),
    "worker": ("restate_nb.workers.command", "run jobs of importable functions, for notebooks elsewhere"),
}
"""Name: the module, and a line of help. Such a module has what `Command` says."""

FAILED = 1
INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT


class Command(Protocol):
    """What the module of a subcommand offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 failed, 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="restate-nb", description="Durable fan-out and batch work from a notebook.")
    parser.add_argument("--version", action="version", version=f"restate-nb {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen: Command | None = None
    for name, (module, text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name in words[:1]:
            chosen = cast(Command, importlib.import_module(module))
            chosen.configure(subparser)
            subparser.set_defaults(verb=name)
    arguments = parser.parse_args(words)
    assert chosen is not None  # parse_args has ended the program when no command was named
    try:
        return chosen.run(arguments)
    except RestateNbError as error:
        print(f"restate-nb: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("restate-nb: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
