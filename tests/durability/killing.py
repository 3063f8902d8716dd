"""Kills the server of a data directory, as a test of durability does at any moment."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from restate_nb.server.lifecycle import server_status


def kill_server(folder: Path) -> bool:
    """Whether there was one to kill."""
    status = server_status(folder / ".restate")
    if status is None or status.pid is None:
        return False
    try:
        os.kill(status.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
