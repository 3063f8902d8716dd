"""The data directory: made, checked, locked."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from restate_nb.errors import ServerError
from restate_nb.server.identity import KEY_FILE
from restate_nb.server.supervisor import BEGIN, LOG, NODE, RECORD
from restate_nb.server.supervisor_client import close_in_children, keep_in_children

LOCK_FILE = "lock"
NEW_DIRECTORY_BYTES = 200_000_000  # an empty server preallocates about 150 MB
USED_DIRECTORY_BYTES = 20_000_000
LOG_BYTES = 5_000_000


def prepare(data_dir: Path) -> Path:
    """Make the directory, private to this user, and return its absolute path.

    Raises:
        ServerError: the path is a file or a directory of something else, or cannot be made or written.
    """
    path = Path(os.path.realpath(data_dir.expanduser()))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_of_something_else(path):
            raise ServerError(
                f"The directory {path} holds other files. Choose a data_dir that is new or empty, such as "
                f"{path / '.restate'}."
            )
        path.chmod(0o700)  # the sockets in it have no other protection
        ignore = path / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# Data of restate_nb's local server: machine-made, private, large.\n*\n")
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileExistsError as error:
        raise ServerError(
            f"The data directory {path} is a file. Choose another data_dir, or move the file away."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        raise ServerError(
            f"The data directory {path} cannot be written ({error.strerror}). Choose a data_dir that you may write to, "
            f"such as data_dir='~/.restate'."
        ) from error
    return path


def _is_of_something_else(path: Path) -> bool:
    """Whether closing the directory to others and having git ignore it would harm somebody's work."""
    names = {entry.name for entry in path.iterdir()}
    return bool(names - {".gitignore", ".DS_Store"}) and not names & {LOCK_FILE, KEY_FILE}


def check_space(data_dir: Path) -> None:
    """Refuse a disk that is too full before the server dies of it.

    Raises:
        ServerError: there is not enough room.
    """
    needed = USED_DIRECTORY_BYTES if (data_dir / NODE / "db").exists() else NEW_DIRECTORY_BYTES
    free = shutil.disk_usage(data_dir).free
    if free < needed:
        raise ServerError(
            f"The disk of {data_dir} has {free // 1_000_000} MB free; the server needs {needed // 1_000_000} MB. Make "
            f"room, or choose a data_dir on another disk."
        )


def disk_full(data_dir: Path) -> ServerError:
    """The error for a disk that became full."""
    return ServerError(f"The disk of {data_dir} is full. Make room, or choose a data_dir on another disk.")


def rotate_log(data_dir: Path) -> None:
    """Keep the log small; call it with the lock held, so that no server writes to it."""
    log = data_dir / LOG
    with suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{LOG}.1"))


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of the log since the last start, for an error message; empty when there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rpartition(BEGIN)[2].strip().splitlines()[-lines:])


class Lock:
    """The directory's lock, held by whoever starts a server there, and then by the supervisor, who inherits it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        close_in_children(self)

    @classmethod
    def take(cls, data_dir: Path) -> Lock | None:
        """Take the lock if it is free.

        Raises:
            ServerError: the file system has no locks, or the lock file cannot be opened.
        """
        try:
            descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                os.close(descriptor)
                raise
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(data_dir) from error
            raise ServerError(
                f"The lock {data_dir / LOCK_FILE} cannot be taken ({error.strerror}). Choose a data_dir on a local "
                f"disk that you may write to."
            ) from error
        return cls(descriptor)

    def close(self) -> None:
        """Give up our share of the lock: a supervisor that inherited it keeps it."""
        keep_in_children(self)
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def holder(data_dir: Path) -> str:
    """Who has the lock, in words, as far as the record tells."""
    try:
        record = json.loads((data_dir / RECORD).read_text())
        if record["host"] != socket.gethostname():
            return f"by a server on the machine {record['host']!r}"
        return f"by the supervisor process {record['supervisor']}, which does not answer"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "by another process"
