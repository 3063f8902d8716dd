"""`restate-nb server install | start | status | stop`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from restate_nb.server.binary import binary_version, ensure_binary
from restate_nb.server.lifecycle import ServerStatus, server_status, start_server, stop_server

NOT_RUNNING = 3  # what `systemctl status` says of a service that does not run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("install", help="find restate-server, or install it; print its path")
    start = actions.add_parser("start", help="start a server that runs until it is stopped; notebooks adopt it")
    status = actions.add_parser("status", help=f"say whether a server runs (exit code 0) or not ({NOT_RUNNING})")
    stop = actions.add_parser("stop", help="end the server, even while notebooks use it")
    for action in (start, status, stop):
        action.add_argument(
            "--data-dir", type=Path, default=Path(".restate"), metavar="DIR", help="its data (default: %(default)s)"
        )
    start.add_argument(
        "--listen",
        choices=("unix", "tcp"),
        default="unix",
        help="Unix sockets in the data directory, which are private, or ports of 127.0.0.1 (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; return the exit code."""
    actions = {"install": _install, "start": _start, "status": _status, "stop": _stop}
    return actions[arguments.action](arguments)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _install(_: argparse.Namespace) -> int:
    binary = ensure_binary(progress=_say)
    _say(f"restate-server {binary_version(binary)} is ready:")
    print(binary)
    return 0


def _start(arguments: argparse.Namespace) -> int:
    with start_server(arguments.data_dir, listen=arguments.listen, keep=True, progress=_say) as server:
        _describe(
            "The server runs already." if server.adopted else "The server runs.", server.data_dir, server.status()
        )
        if server.note:
            _say(server.note)
        print(f"Stop it with: restate-nb server stop --data-dir {server.data_dir}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    status = server_status(arguments.data_dir)
    if status is None:
        print(f"No server runs on {arguments.data_dir.absolute()}.")
        return NOT_RUNNING
    _describe("The server runs.", arguments.data_dir.absolute(), status)
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    if stop_server(arguments.data_dir):
        print("The server has ended.")
    else:
        print(f"No server runs on {arguments.data_dir.absolute()}.")
    return 0


def _describe(headline: str, data_dir: Path, status: ServerStatus) -> None:
    users = "nobody" if status.holds == 0 else f"{status.holds} process{'es' if status.holds > 1 else ''}"
    until = "it is stopped" if status.keep else "nobody uses it any more"
    restarts = f"{status.restarts} (the last time {status.last_end})" if status.restarts else "none"
    print(
        f"{headline}\n"
        f"  version   restate-server {status.version}, process {status.pid or 'being started again'}\n"
        f"  data      {data_dir}\n"
        f"  ingress   {status.ingress}\n"
        f"  admin     {status.admin}\n"
        f"  used by   {users}; it runs until {until}\n"
        f"  restarts  {restarts}"
    )
