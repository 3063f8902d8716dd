"""Our side of the connection to the supervisor: the hold that keeps the server running."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet

_LONGEST_LINE = 1 << 20  # bytes; an answer holds the settings of the server


class _Closable(Protocol):
    def close(self) -> None: ...


# A forked child (multiprocessing's "fork") must not keep our connections and locks open after we died. Children that
# are exec'd do not inherit them in the first place.
_closed_in_children: WeakSet[_Closable] = WeakSet()


def close_in_children(item: _Closable) -> None:
    """Close `item` in forked children."""
    _closed_in_children.add(item)


def keep_in_children(item: _Closable) -> None:
    """Undo `close_in_children`, before `item` is closed here."""
    _closed_in_children.discard(item)


def _after_fork() -> None:
    for item in list(_closed_in_children):
        with suppress(OSError):
            item.close()


os.register_at_fork(after_in_child=_after_fork)


class Gone(Exception):
    """The supervisor ended, or is about to."""


class Connection:
    """A connection to the supervisor; thread-safe."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lock = threading.Lock()
        self._received = b""
        self._number = 0
        self._pid = os.getpid()
        close_in_children(self)

    @classmethod
    def open(cls, path: Path, timeout: float = 5.0) -> Connection | None:
        """Connect, or return None when nobody listens there."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(timeout)
        try:
            client.connect(os.fspath(path))
        except OSError:
            client.close()
            return None
        return cls(client)

    def ask(self, op: str, timeout: float = 5.0) -> dict[str, Any]:
        """Send one request and return its answer.

        Args:
            op: the request.
            timeout: seconds to wait for the answer.

        Raises:
            Gone: the supervisor ended, or does not answer.
        """
        if self._pid != os.getpid():  # in a forked child the lock may be held by a thread that does not exist there
            raise Gone
        with self._lock:
            self._number += 1
            try:
                self._socket.settimeout(timeout)
                self.send({"op": op, "number": self._number})
                while (answer := self._read_line()).get("number") != self._number:
                    pass  # late, to a request that was given up
            except (OSError, ValueError, RecursionError) as error:  # the latter of what is no answer of a supervisor
                raise Gone from error
        return answer

    def _read_line(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            if len(self._received) > _LONGEST_LINE:
                raise ValueError("the answer has no end")
            data = self._socket.recv(65536)
            if not data:
                raise Gone
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("the answer is no object")
        return answer

    def send(self, message: dict[str, Any]) -> None:
        """Send one line.

        Raises:
            OSError: nobody reads.
        """
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def wait_for_end(self, timeout: float) -> bool:
        """Wait until the supervisor closes the connection. Says whether it did within `timeout` seconds."""
        if self._pid != os.getpid():
            return True
        with self._lock:
            try:
                self._socket.settimeout(timeout)
                while self._socket.recv(65536):
                    pass
            except TimeoutError:
                return False
            except OSError:
                pass
            return True

    def close(self) -> None:
        """Close our end; in a forked child only the child's copy of it."""
        keep_in_children(self)
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
