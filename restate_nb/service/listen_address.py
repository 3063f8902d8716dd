"""Where a process is reached by Restate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where this process listens for Restate, and how Restate reaches it.

    Attributes:
        identity_key: the public key of the server that is let in, as `publickeyv1_...`; None lets everybody in.
        host: the address to listen on.
        port: 0 for any that is free.
        url: how Restate reaches it; None for that host and port.
        shared: whether other processes listen on the same port, too; connections are spread over them.
    """

    identity_key: str | None
    host: str = "127.0.0.1"
    port: int = 0
    url: str | None = None
    shared: bool = False
