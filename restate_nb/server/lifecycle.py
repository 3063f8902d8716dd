"""Start, adopt and end the local restate-server."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from restate_nb.errors import ServerError
from restate_nb.server import datadir, settings, supervisor
from restate_nb.server.address import link_path, needs_link, short_path
from restate_nb.server.binary import binary_version, ensure_binary
from restate_nb.server.handle import END_TIMEOUT, ServerHandle, ServerStatus, addresses, read_status, release
from restate_nb.server.health import answers
from restate_nb.server.identity import identity_key
from restate_nb.server.orphans import end_orphaned_server
from restate_nb.server.settings import Listen
from restate_nb.server.supervisor_client import Connection, Gone

START_ATTEMPTS = 3
EXITS_AT_START = 2  # in a row, until a server is given up
KILLS_AT_START = 4  # more than a restless user does, but not more than a machine without memory
GOES_ON_SECONDS = 20.0  # that a server has to go on by itself once its full disk has room again
START_TIMEOUT = 30.0  # seconds for everything but the installation

Progress = Callable[[str], None]

__all__ = ["ServerHandle", "ServerStatus", "server_status", "start_server", "stop_server"]


def start_server(
    data_dir: Path,
    *,
    listen: Listen = "unix",
    env: Mapping[str, str] | None = None,
    binary: Path | None = None,
    keep: bool = False,
    progress: Progress | None = None,
) -> ServerHandle:
    """Start the server of `data_dir`, or adopt the one that runs there, and wait until it answers.

    A server that runs with the other `listen` is adopted all the same; `handle.listen` and `handle.note` say so. May be
    called from any thread, and blocks it, as long as an installation takes at the first use.

    Args:
        data_dir: where the server keeps its data; made when missing.
        listen: `unix` for sockets in the data directory, `tcp` for ports on 127.0.0.1.
        env: further settings of restate-server, as environment variables.
        binary: the restate-server to run, instead of the one that is found or installed.
        keep: let the server run on when nobody holds it, until `stop_server`.
        progress: is told in words what takes long.

    Raises:
        ServerError: the server cannot be found, installed or started, or the directory cannot be used.
    """
    if listen not in ("unix", "tcp"):
        raise ServerError(f"listen must be 'unix' or 'tcp', not {listen!r}.")
    extra = {str(name): str(value) for name, value in (env or {}).items()}
    path = datadir.prepare(Path(data_dir))
    for _ in range(START_ATTEMPTS):
        with suppress(Gone):  # somebody ended it while we waited for it
            handle = _start(path, listen, extra, binary=binary, keep=keep, progress=progress)
            break
    else:
        raise _failure(path, "The server's supervisor ends at start.")
    if handle.listen != listen:
        where = "on Unix sockets" if handle.listen == "unix" else "on TCP ports of 127.0.0.1"
        handle.note = f"The server of {path} runs already, and listens {where}. To change that, stop it first."
    return handle


def _start(
    data_dir: Path,
    listen: Listen,
    extra: Mapping[str, str],
    *,
    binary: Path | None,
    keep: bool,
    progress: Progress | None,
) -> ServerHandle:
    """Hold a server that is ready; on any error give up the hold.

    Raises:
        Gone: the supervisor ended, and with it the server.
        ServerError: see `start_server`.
    """
    connection, adopted = _hold(data_dir, listen, extra, binary, progress)
    with ExitStack() as undo:
        undo.callback(release, connection)
        shared = _wait_until_ready(data_dir, connection, adopted=adopted)
        _check_settings(data_dir, shared["env"], extra)
        if keep:
            connection.ask("keep")
        handle = ServerHandle(data_dir, connection, adopted=adopted, shared=shared)
        undo.pop_all()
    return handle


def server_status(data_dir: Path) -> ServerStatus | None:
    """The state of the server of `data_dir`, without holding it; None when none runs."""
    path = Path(os.path.realpath(data_dir.expanduser()))
    if not path.is_dir() or (connection := Connection.open(short_path(path) / supervisor.SOCKET)) is None:
        return None
    with connection, suppress(Gone):
        return read_status(path, connection.ask("status"))
    return None


def stop_server(data_dir: Path) -> bool:
    """End the server of `data_dir`, whoever uses it, and wait for its end. Says whether one ran.

    Raises:
        ServerError: it does not end.
    """
    path = Path(os.path.realpath(data_dir.expanduser()))
    if not path.is_dir() or (connection := Connection.open(short_path(path) / supervisor.SOCKET)) is None:
        return False
    with connection:
        with suppress(Gone):
            connection.ask("stop")
        if not connection.wait_for_end(END_TIMEOUT):
            raise ServerError(f"The server of {path} does not end. Its supervisor is {datadir.holder(path)}.")
    return True


def _hold(
    data_dir: Path, listen: Listen, extra: Mapping[str, str], binary: Path | None, progress: Progress | None
) -> tuple[Connection, bool]:
    """A connection that holds the server, and whether the server ran before."""
    program: Path | None = None
    deadline = 0.0
    while True:
        if (connection := Connection.open(short_path(data_dir) / supervisor.SOCKET)) is not None:
            try:
                connection.ask("hold")
                return connection, True
            except Gone:  # it was just ending: the lock will be free in a moment
                connection.close()
        if program is None:
            datadir.check_space(data_dir)
            program = ensure_binary(binary, progress)
            deadline = time.monotonic() + START_TIMEOUT
        if (lock := datadir.Lock.take(data_dir)) is not None:
            with lock:
                return _spawn(data_dir, lock, listen, extra, program), False
        if time.monotonic() > deadline:
            raise ServerError(
                f"The data directory {data_dir} is taken {datadir.holder(data_dir)}. End it, or choose another "
                f"data_dir."
            )
        time.sleep(0.02)  # another process is starting the server, or is ending it


def _spawn(data_dir: Path, lock: datadir.Lock, listen: Listen, extra: Mapping[str, str], program: Path) -> Connection:
    """Start a supervisor, which inherits the lock and the first hold."""
    end_orphaned_server(data_dir)
    datadir.rotate_log(data_dir)
    identity_key(data_dir)
    ports = settings.loopback_ports(data_dir) if listen == "tcp" else None
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    config = {
        "data_dir": str(data_dir),
        "command": settings.command(program, data_dir, listen),
        "goes_on": GOES_ON_SECONDS,
        "link": str(link_path(data_dir)) if needs_link(data_dir) else None,
        "shared": {"listen": listen, "ports": ports, "version": binary_version(program), "env": dict(extra)},
    }
    with ExitStack() as stack:
        undo = stack.enter_context(ExitStack())
        undo.callback(connection.close)
        stack.enter_context(theirs)
        try:
            descriptor = os.open(data_dir / supervisor.LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            log = stack.enter_context(os.fdopen(descriptor, "ab"))
            detached = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, str(lock.descriptor), str(theirs.fileno())],
                cwd=data_dir,
                env=settings.environment(data_dir, ports, extra),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.descriptor, theirs.fileno()),
                start_new_session=True,  # no Ctrl-C, no signal to the kernel's process group
            )
            detached.wait()  # it goes on in a child of its own
            theirs.close()
            connection.send(config)  # not an argument: those are visible to all, and settings may be secrets
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise datadir.disk_full(data_dir) from error
            raise ServerError(f"The server's supervisor cannot be started: {error}.") from error
        undo.pop_all()
    return connection


def _wait_until_ready(data_dir: Path, connection: Connection, *, adopted: bool) -> dict[str, Any]:
    """Wait until both interfaces answer; return what the server's users share.

    Raises:
        Gone: the supervisor ended.
        ServerError: the server dies at start or is not ready in time.
    """
    deadline = time.monotonic() + START_TIMEOUT
    before: int | None = None
    while True:
        answer = connection.ask("status", timeout=START_TIMEOUT)
        if before is None:
            before = answer["quick_deaths"] if adopted else 0  # what a server went through that others use is no sign
        if answer["quick_deaths"] - before >= (KILLS_AT_START if answer["killed"] else EXITS_AT_START):
            raise _failure(data_dir, f"restate-server dies at start: {answer['last_end']}.")
        if answer["pid"] is not None:
            ingress, admin = addresses(data_dir, answer["shared"])
            if answers(admin, "/health") and answers(ingress, "/restate/health"):
                shared = answer["shared"]
                assert isinstance(shared, dict)
                return shared
        if time.monotonic() > deadline:
            raise _failure(data_dir, f"restate-server was not ready within {START_TIMEOUT:.0f} s.")
        time.sleep(0.01)


def _failure(data_dir: Path, what: str) -> ServerError:
    log = data_dir / supervisor.LOG
    tail = datadir.log_tail(log)
    if any(sign in tail for sign in supervisor.DISK_FULL_SIGNS):
        return datadir.disk_full(data_dir)
    end = f" The end of its log:\n{tail}" if tail else ""
    return ServerError(f"{what} Its log is {log}.{end}")


def _check_settings(data_dir: Path, running: Mapping[str, str], asked: Mapping[str, str]) -> None:
    differing = sorted(name for name, value in asked.items() if running.get(name) != value)
    if differing:
        raise ServerError(
            f"The server of {data_dir} runs already, with other settings ({', '.join(differing)}). Stop it first "
            f"(restate-nb server stop --data-dir {data_dir}), or choose another data_dir."
        )
