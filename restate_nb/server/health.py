"""Whether a local server does its work, and if not, why: in words for the person who waits."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
from pathlib import Path

from restate_nb.errors import ServerError
from restate_nb.server import datadir, supervisor
from restate_nb.server.address import Address
from restate_nb.server.handle import ServerHandle

ANSWER_TIMEOUT = 2.0  # a server that is stopped (SIGSTOP, suspended machine) accepts and does not answer
FULL_BYTES = 1_000_000  # what is left of a full disk may be too little for the next piece, and not nothing


def answers(address: Address, path: str) -> bool:
    """Whether a GET of this path succeeds now."""
    host = address.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=ANSWER_TIMEOUT)
    try:
        if address.socket is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(ANSWER_TIMEOUT)
            connection.sock.connect(os.fspath(address.socket))
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def trouble(handle: ServerHandle) -> str:
    """What keeps the server from recording outcomes, and what to do; empty when nothing is found.

    It blocks for up to 4 s, as long as a server that hangs is given to answer.
    """
    if lost := handle.lost():
        return lost[0].lower() + lost[1:-1]
    try:
        status = handle.status()
    except ServerError:
        return "restate-server was ended from outside: rnb.start() starts it again, and the job goes on"
    if _free(handle.data_dir) < FULL_BYTES:
        return f"the disk of {handle.data_dir} is full: make room, and the job goes on by itself"
    log = datadir.log_tail(handle.log_path, lines=1000)
    if max(map(log.rfind, supervisor.DISK_FULL_SIGNS)) > log.rfind(supervisor.WORKS_AGAIN):
        return (
            "the disk was full and has room again: restate-server tries anew within a minute, or its supervisor starts "
            "it anew"
        )
    if status.pid is None:
        return f"restate-server is being started again, since {status.last_end}; its log is {handle.log_path}"
    if _is_stopped(status.pid):
        return f"restate-server was stopped: kill -CONT {status.pid} lets it go on, and the job with it"
    if not (answers(handle.ingress, "/restate/health") and answers(handle.admin, "/health")):
        return f"restate-server (process {status.pid}) does not answer; its log is {handle.log_path}"
    return ""


def _free(data_dir: Path) -> int:
    try:
        return shutil.disk_usage(data_dir).free
    except OSError:  # deleted in this moment, which the next look finds
        return FULL_BYTES


def _is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process, as SIGSTOP and Ctrl-Z do."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except OSError:
        listing = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
        state = listing.stdout.strip()
    return state.startswith("T")
