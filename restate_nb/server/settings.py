"""The command line and the environment of our restate-server."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from restate_nb.server.identity import KEY_FILE
from restate_nb.server.supervisor import NODE

Listen = Literal["unix", "tcp"]

# Half the memory of the defaults at the same speed, measured: 138 MB idle instead of 263 MB. Binder has 1 to 2 GB.
SMALL_PROFILE = {
    "RESTATE_DEFAULT_NUM_PARTITIONS": "1",
    "RESTATE_ROCKSDB_TOTAL_MEMORY_SIZE": "64MiB",
    "RESTATE_BIFROST__RECORD_CACHE_MEMORY_SIZE": "8MiB",
    "RESTATE_WORKER__INVOKER__MEMORY_LIMIT": "128MiB",
    "RESTATE_WORKER__DATA_SERVICE_MEMORY_LIMIT": "32MiB",
    "RESTATE_ADMIN__QUERY_ENGINE__MEMORY_SIZE": "64MiB",
}
# An invocation in flight is a stream to the endpoint, and hypercorn goes through all of a connection to choose the next
# to send. Measured with a million items, which are 100 streams: 5 % of the kernel's time with the default of 128.
CONNECTIONS = {"RESTATE_WORKER__INVOKER__HTTP2_STREAMS_PER_CONNECTION_LIMIT": "16"}
# What is deleted leaves the disk: few large values are deleted at a time, which the defaults (thousands of deletions in
# a file, files of 256 MB) would let lie. Measured after 60 MB of results: 5 MB of database instead of 184 MB.
TIDY = {
    "RESTATE_WORKER__STORAGE__ROCKSDB_COMPACT_ON_DELETIONS_WINDOW": "64",
    "RESTATE_WORKER__STORAGE__ROCKSDB_COMPACT_ON_DELETIONS_COUNT": "8",
    "RESTATE_WORKER__STORAGE__ROCKSDB_COMPACT_ON_DELETIONS_RATIO": "0.1",
    "RESTATE_WORKER__STORAGE__ROCKSDB_COMPACT_ON_DELETIONS_MIN_SST_FILE_SIZE": "0",
    "RESTATE_LOG_SERVER__ROCKSDB_MAX_FILE_SIZE": "16MiB",
    "RESTATE_LOG_SERVER__ROCKSDB_PERIODIC_COMPACTION": "1m",
    # What the database has on disk stays in the log for ten minutes by default, for other nodes; there are none.
    "RESTATE_WORKER__TRIM_DELAY_INTERVAL": "30s",
}
QUIET = {
    "RESTATE_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "RESTATE_LOG_DISABLE_ANSI_CODES": "true",
    # octocrab is the server's look for a newer release, which cannot be turned off: offline it is no error to us.
    "RESTATE_LOG_FILTER": "warn,restate=info,octocrab=off",
}
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}

PORTS_FILE = "ports.json"
PORT_NAMES = ("ingress", "admin", "fabric")


def command(binary: Path, data_dir: Path, listen: Listen) -> list[str]:
    """The command line. The node name is fixed: under another one the server would start empty in the same place."""
    return [str(binary), "--node-name", NODE, "--base-dir", str(data_dir), "--listen-mode", listen, "--no-logo"]


def environment(data_dir: Path, ports: Mapping[str, int] | None, extra: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: ours without proxies (the endpoint is on loopback) and without settings for others.

    Args:
        data_dir: the data directory, which is the server's working directory too.
        ports: where to listen in TCP mode; None for Unix sockets.
        extra: further settings, which win over all.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in PROXIES and not name.upper().startswith("RESTATE_")
    }
    if ports is None:
        # Relative to the working directory: the server dials itself there, and a long path would exceed the limit.
        listening = {"RESTATE_ADVERTISED_ADDRESS": f"unix:{NODE}/fabric.sock"}
    else:
        listening = {
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{ports['fabric']}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{ports['fabric']}/",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ports['ingress']}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{ports['admin']}",
        }
    identity = {"RESTATE_WORKER__INVOKER__REQUEST_IDENTITY_PRIVATE_KEY_PEM_FILE": str(data_dir / KEY_FILE)}
    return {**inherited, **SMALL_PROFILE, **CONNECTIONS, **TIDY, **QUIET, **listening, **identity, **extra}


def loopback_ports(data_dir: Path) -> dict[str, int]:
    """The ports of this directory's server: those of last time when they are free, else new ones, which are kept."""
    path = data_dir / PORTS_FILE
    try:
        ports = {name: int(port) for name, port in json.loads(path.read_text()).items()}
        if set(ports) == set(PORT_NAMES) and all(map(_is_free, ports.values())):
            return ports
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass  # the first time, or a damaged file
    with ExitStack() as bound:  # all bound at once, so that no port is given out twice
        ports = {name: bound.enter_context(_bind(0)).getsockname()[1] for name in PORT_NAMES}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(ports))
    temporary.replace(path)
    return ports


def _bind(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, so TIME_WAIT is no hurdle
        listener.bind(("127.0.0.1", port))
    except BaseException:
        listener.close()
        raise
    return listener


def _is_free(port: int) -> bool:
    try:
        _bind(port).close()
    except (OSError, OverflowError):
        return False
    return True
