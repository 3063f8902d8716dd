"""Where the server's HTTP interfaces are, and paths short enough for a Unix socket."""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from restate_nb.errors import ServerError

LONGEST_SOCKET_PATH = 100  # bytes; Linux takes 107, macOS 103
LONGEST_SOCKET_NAME = len("/restate-nb/ingress.sock")


@dataclass(frozen=True, slots=True)
class Address:
    """An HTTP interface of the server.

    Attributes:
        url: the base url, without a slash at its end; `http://localhost` when it is reached through a socket.
        socket: the Unix socket to connect to, or None for TCP.
        tls: whom to trust where the url begins with `https`; None for those whom the operating system trusts.
    """

    url: str
    socket: Path | None = None
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.url if self.socket is None else f"unix:{self.socket}"


def needs_link(data_dir: Path) -> bool:
    """Whether the sockets in this directory have paths too long for the operating system."""
    return len(os.fsencode(data_dir)) + LONGEST_SOCKET_NAME > LONGEST_SOCKET_PATH


def link_path(data_dir: Path) -> Path:
    """The place of the short symlink to `data_dir`: the same for every process of this user.

    Raises:
        ServerError: there is no safe place for it.
    """
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    # /tmp first, because the usual temporary directory of macOS is half the limit long.
    for parent in dict.fromkeys((Path("/tmp"), Path(tempfile.gettempdir()))):
        home = parent / f"restate-nb-{os.getuid()}"
        with suppress(OSError):
            home.mkdir(mode=0o700, exist_ok=True)
            status = home.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
                return home / name
    raise ServerError(
        f"The path of the data directory is too long for Unix sockets, and no private directory for a short link to it "
        f"could be made in {tempfile.gettempdir()}. Use a shorter data_dir, or listen='tcp'. The path: {data_dir}"
    )


def short_path(data_dir: Path) -> Path:
    """The directory itself, or a short symlink to it when its path is too long for a socket.

    Raises:
        ServerError: the link cannot be made.
    """
    return make_link(data_dir) if needs_link(data_dir) else data_dir


def make_link(data_dir: Path) -> Path:
    """The short symlink to `data_dir`, which is made if it is not there.

    Raises:
        ServerError: it cannot be made.
    """
    link = link_path(data_dir)
    with suppress(OSError):
        if link.readlink() == data_dir:
            return link
    temporary = link.with_name(f"{link.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        temporary.symlink_to(data_dir)
        temporary.replace(link)
    except OSError as error:
        raise ServerError(
            f"A short link to the data directory could not be made: {error}. Use a shorter data_dir, or listen='tcp'."
        ) from error
    return link
