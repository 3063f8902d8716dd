"""Ends a restate-server that goes on though its supervisor was killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from restate_nb.errors import ServerError
from restate_nb.server.supervisor import NODE, RECORD

KILL_TIMEOUT = 5.0  # seconds
DYING_TIMEOUT = 1.0  # a server that was killed with its supervisor may need a moment to be gone


def end_orphaned_server(data_dir: Path) -> None:
    """End the server of a directory if its supervisor was killed (Linux does so by itself); the lock must be held.

    Raises:
        ServerError: a server runs there that is not ours to end.
    """
    try:
        pid = int(json.loads((data_dir / RECORD).read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pid = 0
    deadline = time.monotonic() + KILL_TIMEOUT
    if pid > 0 and _is_our_server(pid, data_dir):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        while _is_our_server(pid, data_dir) and time.monotonic() < deadline:
            time.sleep(0.005)
    deadline = time.monotonic() + DYING_TIMEOUT
    while _is_locked(data_dir / NODE / "db" / "LOCK"):
        if time.monotonic() > deadline:
            raise ServerError(
                f"The data directory {data_dir} is in use by a restate-server that was not started from here. End that "
                f"server, or choose another data_dir."
            )
        time.sleep(0.01)


def _is_our_server(pid: int, data_dir: Path) -> bool:
    """Whether the process lives and is the restate-server of this directory: the number may be another's by now."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        if Path("/proc/self").exists():
            return False
        listing = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
        return f"--node-name {NODE} --base-dir {data_dir}" in listing.stdout.decode(errors="replace")
    return str(data_dir) in arguments and NODE in arguments


def _is_locked(lock: Path) -> bool:
    """Whether a process has RocksDB's lock on the server's database."""
    try:
        with lock.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
