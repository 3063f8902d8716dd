"""What the caller of `start_server` holds, and what it tells of the server."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restate_nb.errors import ServerError
from restate_nb.server import supervisor
from restate_nb.server.address import Address, short_path
from restate_nb.server.datadir import LOCK_FILE
from restate_nb.server.identity import identity_key
from restate_nb.server.settings import Listen
from restate_nb.server.supervisor_client import Connection, Gone

END_TIMEOUT = 15.0  # seconds; the supervisor takes at most about 3


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The server of a data directory at one moment.

    Attributes:
        pid: the process id of restate-server; None while it is being started again.
        supervisor_pid: the process that keeps it running.
        holds: how many processes use it.
        keep: whether it runs on when nobody uses it (`restate-nb server start`).
        restarts: how often it was started again after it died.
        last_end: how it died last, in words; empty when it never did.
        uptime: seconds since restate-server was started last.
        listen: `unix` or `tcp`.
    """

    pid: int | None
    supervisor_pid: int
    holds: int
    keep: bool
    restarts: int
    last_end: str
    uptime: float
    listen: Listen
    version: str
    ingress: Address
    admin: Address


class ServerHandle:
    """A running server, held: it runs at least until `close()` or the end of this process.

    Attributes:
        data_dir: its data directory, absolute.
        log_path: its log.
        ingress: where invocations are submitted.
        admin: where deployments and invocations are managed.
        identity_key: the public key with which its requests are signed, for `restate.app(identity_keys=[...])`.
        version: of restate-server, such as `1.7.12`.
        listen: `unix` or `tcp`.
        adopted: whether the server ran before this handle was made.
        note: what the caller asked for and did not get, because the adopted server runs otherwise; else empty.
    """

    def __init__(self, data_dir: Path, connection: Connection, *, adopted: bool, shared: Mapping[str, Any]) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir / supervisor.LOG
        self.listen: Listen = shared["listen"]
        self.version: str = shared["version"]
        self.ingress, self.admin = addresses(data_dir, shared)
        self.identity_key = identity_key(data_dir)
        self.adopted = adopted
        self.note = ""
        self._connection = connection
        self._closed = False
        self._data = _inodes(data_dir)
        # A handle that is lost, or left open at exit, gives up its hold without a warning.
        self._finalizer = weakref.finalize(self, connection.close)

    @property
    def pid(self) -> int | None:
        """The process id of restate-server now; None while it is being started again, or after its end."""
        try:
            return self.status().pid
        except ServerError:
            return None

    @property
    def alive(self) -> bool:
        """Whether the hold is in force. When it is not, `start_server` starts the server anew on the same addresses."""
        try:
            self.status()
        except ServerError:
            return False
        return True

    def status(self) -> ServerStatus:
        """How the server does.

        Raises:
            ServerError: the handle is closed, or the server was ended by someone else.
        """
        if self._closed:
            raise ServerError("This server handle is closed. Start the server again with start_server().")
        try:
            return read_status(self.data_dir, self._connection.ask("status"))
        except Gone:
            raise ServerError(
                f"The server of {self.data_dir} was ended from outside. Start it again; its log is {self.log_path}."
            ) from None

    def lost(self) -> str:
        """What became of the data under the server's feet; empty while they are where they were."""
        now = _inodes(self.data_dir)
        self._data = tuple(before or after for before, after in zip(self._data, now, strict=True))
        if self._closed or self._data == now:
            return ""
        return (
            f"The data directory {self.data_dir} was deleted or replaced while its server ran, and with it what was "
            "recorded there. rnb.start() ends that server, and begins anew."
        )

    def close(self) -> None:
        """Give up the hold. Was it the last one, this returns when the server has ended. Again: no effect."""
        if self._closed:
            return
        self._closed = True
        release(self._connection)
        self._finalizer()

    def __enter__(self) -> ServerHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"pid {self.pid}" if self.alive else "ended"
        return f"<ServerHandle {self.version} {self.listen} {state} {str(self.data_dir)!r}>"


def _inodes(data_dir: Path) -> tuple[tuple[int, int] | None, ...]:
    """The inodes of the directory's lock and database, as far as they are there: they tell a directory from another one
    that was put in its place."""
    found: list[tuple[int, int] | None] = []
    for path in (data_dir / LOCK_FILE, data_dir / supervisor.NODE / "db"):
        try:
            there = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((there.st_dev, there.st_ino))
    return tuple(found)


def release(connection: Connection) -> None:
    """Give up the hold; return when the server has ended, if it was the last one."""
    with connection, suppress(Gone):
        answer = connection.ask("release")
        connection.wait_for_end(END_TIMEOUT if answer.get("last") else 1.0)


def read_status(data_dir: Path, answer: Mapping[str, Any]) -> ServerStatus:
    """What the supervisor's answer says."""
    ingress, admin = addresses(data_dir, answer["shared"])
    return ServerStatus(
        pid=answer["pid"],
        supervisor_pid=answer["supervisor"],
        holds=answer["holds"],
        keep=answer["keep"],
        restarts=answer["restarts"],
        last_end=answer["last_end"],
        uptime=answer["uptime"],
        listen=answer["shared"]["listen"],
        version=answer["shared"]["version"],
        ingress=ingress,
        admin=admin,
    )


def addresses(data_dir: Path, shared: Mapping[str, Any]) -> tuple[Address, Address]:
    """Where ingress and admin are."""
    if shared["listen"] == "tcp":
        ports = shared["ports"]
        return Address(f"http://127.0.0.1:{ports['ingress']}"), Address(f"http://127.0.0.1:{ports['admin']}")
    home = short_path(data_dir) / supervisor.NODE
    return Address("http://localhost", home / "ingress.sock"), Address("http://localhost", home / "admin.sock")
