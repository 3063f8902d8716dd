"""Keeps one restate-server running for one data directory, for as long as somebody needs it.

This file is run as a script by `restate_nb.server.lifecycle`, in the data directory, with the standard library alone.
It inherits the directory's lock and the first connection, on which its configuration arrives. It lives in a session of
its own, so that neither Ctrl-C nor the end of a kernel's process group reaches it.

Whoever needs the server keeps a connection to `supervisor.sock` open, a *hold*. The operating system closes it when the
process ends, in whatever way. When the last hold is gone the server is ended, and then the supervisor. A server that
dies while somebody holds it is started again on the same addresses.

The protocol is one JSON object a line, each answered by one with the same number:
`{"op": "hold" | "keep" | "status" | "release" | "stop", "number": 1}`. A connection is closed by the supervisor only
when the release is complete: at once when others hold on, otherwise when the server has ended and the lock is free.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SOCKET = "supervisor.sock"
RECORD = "server.json"
LOG = "restate-server.log"
BEGIN = "restate_nb supervisor: begins"  # in the log: what is before it belongs to an earlier start
ANEW = "restate_nb supervisor: starts restate-server"
NODE = "restate-nb"

GRACE = 3.0  # seconds between SIGTERM and SIGKILL; restate-server needs about 0.1
STEADY = 5.0  # a server that lived this long did not fail at start
SLOWEST_RESTART = 5.0  # seconds
LOG_LIMIT = 20_000_000  # bytes; then the log is moved to `.1`
FILES_CHECK = 60.0  # seconds
DISK_CHECK = 5.0  # seconds, at most
DISK_FULL_SIGNS = ("No space left on device", "Disk quota exceeded", "os error 28")  # in the log
WORKS_AGAIN = "became Leader"  # in the log, once the server records again
ROOM = 50_000_000  # bytes; what the server takes for its next files, and some
LOG_TAIL = 131_072  # bytes
LONGEST_LINE = 65_536  # bytes of a request, which has about 40


class Supervisor:
    """The state of one supervisor: the server, who holds it, and when to start it again."""

    def __init__(self, config: dict[str, Any], lock: int, first: socket.socket) -> None:
        self.config = config
        self.command: list[str] = config["command"]
        self.lock = lock
        self.server: subprocess.Popen[bytes] | None = None
        self.keep = False
        self.ending = False
        self.restarts = 0
        self.quick_deaths = 0
        self.last_end = ""
        self.killed = False
        self.spawned_at = 0.0
        self.restart_at: float | None = None
        self.files_checked_at = time.monotonic()
        self.disk_checked_at = time.monotonic()
        self.goes_on: float = config["goes_on"]
        self.disk_check: float = min(DISK_CHECK, self.goes_on)
        self.room_since: float | None = None
        self.buffers: dict[socket.socket, bytes] = {}
        self.holds: set[socket.socket] = set()
        self.selector = selectors.DefaultSelector()
        self.wakeup = _signal_pipe()
        self.selector.register(self.wakeup, selectors.EVENT_READ)
        self.listener: socket.socket | None = None
        self.add(first)
        self.holds.add(first)

    def run(self) -> None:
        """Serve until nobody holds the server any more."""
        _log(BEGIN)
        self.listener = _listen()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.spawn()
        while True:
            for key, _ in self.selector.select(self.next_timeout()):
                self.handle(key.fileobj)
            self.look_after_server()
            self.look_after_files()
            self.look_after_disk()
            if self.ending or not (self.keep or self.holds or self.accept()):
                break
        self.end()

    def next_timeout(self) -> float:
        """Seconds until something is due though nobody calls."""
        if self.restart_at is None:
            return self.disk_check
        return max(0.0, self.restart_at - time.monotonic())

    def handle(self, source: Any) -> None:
        """Serve whatever became readable."""
        if source is self.wakeup:
            with suppress(BlockingIOError):
                if signal.SIGTERM in self.wakeup.recv(256):
                    self.ending = True
        elif source is self.listener:
            self.accept()
        elif source in self.buffers:
            self.read(source)

    # -- clients

    def accept(self) -> bool:
        """Take what waits in the backlog, and serve what it already asked. Says whether somebody holds on now."""
        assert self.listener is not None
        while True:
            try:
                client, _ = self.listener.accept()
            except BlockingIOError:
                return bool(self.holds)
            except OSError:  # the client is gone again, or there is no descriptor free
                time.sleep(0.01)
                return bool(self.holds)
            self.add(client)
            self.read(client)

    def add(self, client: socket.socket) -> None:
        """Begin to serve a connection."""
        client.setblocking(False)
        self.buffers[client] = b""
        self.selector.register(client, selectors.EVENT_READ)

    def drop(self, client: socket.socket) -> None:
        """End a connection, and its hold."""
        self.holds.discard(client)
        if self.buffers.pop(client, None) is not None:
            self.selector.unregister(client)
            client.close()

    def read(self, client: socket.socket) -> None:
        """Read and answer the requests of one client."""
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(client)
            return
        *lines, self.buffers[client] = (self.buffers[client] + data).split(b"\n")
        for line in lines:
            try:
                request = json.loads(line)
                op, number = request["op"], request["number"]
            except (ValueError, KeyError, TypeError, RecursionError):
                self.drop(client)  # not ours: better no answer than a wrong one
                return
            self.answer(client, op, number)
            if client not in self.buffers:
                return
        if len(self.buffers[client]) > LONGEST_LINE:
            self.drop(client)

    def answer(self, client: socket.socket, op: str, number: int) -> None:
        """Do what one request asks for."""
        if op == "hold":
            self.holds.add(client)
        elif op == "keep":
            self.keep = True
        elif op == "release":
            self.holds.discard(client)
            if self.keep or self.holds:
                self.reply(client, {"number": number, "last": False})
                self.drop(client)
            else:
                self.reply(
                    client, {"number": number, "last": True}
                )  # the connection stays open until the server has ended
            return
        elif op == "stop":
            self.ending = True
        self.reply(client, {"number": number, **self.status()})

    def reply(self, client: socket.socket, message: dict[str, Any]) -> None:
        """Send one line; a client that does not read is dropped, for the supervisor must never wait."""
        try:
            client.send(json.dumps(message).encode() + b"\n")
        except OSError:
            self.drop(client)

    def status(self) -> dict[str, Any]:
        """What a client may know."""
        return {
            "supervisor": os.getpid(),
            "pid": self.server.pid if self.server is not None else None,
            "holds": len(self.holds),
            "keep": self.keep,
            "restarts": self.restarts,
            "quick_deaths": self.quick_deaths,
            "last_end": self.last_end,
            "killed": self.killed,
            "uptime": time.monotonic() - self.spawned_at if self.server is not None else 0.0,
            "shared": self.config["shared"],
        }

    # -- the server

    def spawn(self) -> None:
        """Start the server once more."""
        self.restart_at = None
        self.spawned_at = time.monotonic()
        _log(ANEW)
        try:
            self.server = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - this process has one thread
            )
        except OSError as error:
            self.died(f"it could not be run: {error}")
            return
        record = {"pid": self.server.pid, "supervisor": os.getpid(), "host": socket.gethostname()}
        temporary = Path(f"{RECORD}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(record))
            temporary.replace(RECORD)
        except OSError as error:  # a full disk: the server will say so in its log
            _log(f"restate_nb supervisor: {RECORD} could not be written: {error}")

    def look_after_server(self) -> None:
        """Notice that the server died; start it when its time has come."""
        if self.server is not None and (code := self.server.poll()) is not None:
            how = f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
            self.died(how, killed=code < 0)
        if self.restart_at is not None and time.monotonic() >= self.restart_at and not self.ending:
            self.restarts += 1
            self.spawn()

    def died(self, how: str, *, killed: bool = False) -> None:
        """Plan the next start: at once, unless the server keeps dying."""
        self.server = None
        self.killed = killed
        self.last_end = how
        now = time.monotonic()
        self.quick_deaths = self.quick_deaths + 1 if now - self.spawned_at < STEADY else 1
        wait = 0.0 if self.quick_deaths <= 1 else min(SLOWEST_RESTART, 0.05 * 2**self.quick_deaths)
        self.restart_at = now + wait
        _log(f"restate_nb supervisor: restate-server is gone ({how}); starting it again in {wait:.1f} s")

    def look_after_files(self) -> None:
        """Bound the log, and renew the short link, which a cleaner of temporary files may have taken."""
        if time.monotonic() - self.files_checked_at < FILES_CHECK:
            return
        self.files_checked_at = time.monotonic()
        link, log = self.config["link"], Path(LOG)
        with suppress(OSError):
            if link is not None and not Path(link).is_symlink():
                Path(link).parent.mkdir(mode=0o700, exist_ok=True)
                Path(link).symlink_to(self.config["data_dir"])
        # The server writes in append mode, so that cutting the file under its feet is safe.
        with suppress(OSError):
            if log.stat().st_size > LOG_LIMIT:
                shutil.copyfile(log, f"{LOG}.1")
                os.truncate(log, 0)

    def look_after_disk(self) -> None:
        """Start a server anew that a full disk has stopped and that does not go on though there is room again: its
        database may refuse all writes from then on, and it does not end of that."""
        now = time.monotonic()
        if self.server is None or now - self.disk_checked_at < self.disk_check:
            return
        self.disk_checked_at = now
        if not _stands_still_for_want_of_room():
            self.room_since = None
            return
        if self.room_since is None:
            self.room_since = now
        elif now - self.room_since > self.goes_on:
            self.room_since = None
            _log("restate_nb supervisor: the disk was full and has room again; starting restate-server anew")
            self.server.kill()

    # -- the end

    def end(self) -> None:
        """End the server and this process. From here on nobody can connect any more."""
        assert self.listener is not None
        self.listener.close()
        Path(SOCKET).unlink(missing_ok=True)
        if self.server is not None:
            self.server.terminate()
            deadline = time.monotonic() + GRACE
            while self.server.poll() is None and time.monotonic() < deadline:
                time.sleep(0.003)
            if self.server.poll() is None:
                self.server.kill()
                self.server.wait()
        for name in ("fabric", "ingress", "admin"):  # the server leaves its sockets behind when it is killed
            Path(NODE, f"{name}.sock").unlink(missing_ok=True)
        Path(RECORD).unlink(missing_ok=True)
        with suppress(OSError):
            if self.config["link"] is not None:
                Path(self.config["link"]).unlink()
        self.leave()

    def leave(self) -> None:
        """Free the lock, and only then close the connections: who sees the end of his may start anew at once."""
        os.close(self.lock)
        os._exit(0)


def _signal_pipe() -> socket.socket:
    """A socket that becomes readable when a child dies or somebody sends SIGTERM."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    # Handlers that do nothing instead of SIG_IGN, which the server would inherit.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader


def _listen() -> socket.socket:
    Path(SOCKET).unlink(missing_ok=True)  # left by a supervisor that was killed; the lock is ours
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _stands_still_for_want_of_room() -> bool:
    """Whether the disk was full, has room again, and the server has not recorded anything since."""
    try:
        if shutil.disk_usage(".").free < ROOM:
            return False
        with Path(LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return False
    return max(map(text.rfind, DISK_FULL_SIGNS)) > max(text.rfind(WORKS_AGAIN), text.rfind(BEGIN), text.rfind(ANEW))


def _die_with_parent() -> Any:
    """A function for the child: have Linux kill the server when this supervisor is killed. Elsewhere nothing."""
    parent = os.getpid()
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def child() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: tied to the parent's thread, which is its main one
        if os.getppid() != parent:
            os._exit(1)

    return child


def _log(text: str) -> None:
    with suppress(OSError):
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text, flush=True)


def main() -> None:
    """Detach from whoever started us, then supervise."""
    if os.fork():
        os._exit(0)  # the kernel is no parent of ours: kernels end their children when they are shut down
    os.umask(0o077)
    lock, first = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    for descriptor in (lock, first.fileno()):
        os.set_inheritable(descriptor, False)  # restate-server must get neither
    with first.makefile("rb", buffering=0) as file:  # unbuffered: the first request may follow on the heels
        config = file.readline()
    if not config.endswith(b"\n"):
        os._exit(0)  # who started us is dead already
    Supervisor(json.loads(config), lock, first).run()


if __name__ == "__main__":
    main()
