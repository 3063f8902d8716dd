"""What the tests of the server share: processes, descriptors, an endpoint, a Python process of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config

from restate_nb.server.supervisor import NODE


def processes_on(data_dir: Path) -> list[psutil.Process]:
    """The servers and supervisors that run on a data directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            command = process.cmdline()
            ours = NODE in command or any(word.endswith("supervisor.py") for word in command)
            if ours and (str(data_dir) in command or process.cwd() == str(data_dir)):
                found.append(process)
    return found


def open_descriptors() -> set[str]:
    """What this process has open: sockets, pipes and files."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own descriptor is gone by now
            found.add(str(entry.readlink()))
    return found


@asynccontextmanager
async def endpoint(*services: object, keys: list[str] | None = None, port: int = 0) -> AsyncIterator[str]:
    """Serve Restate services on loopback; gives the url."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "CRITICAL"
    config.graceful_timeout = 0.1
    stop = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # hypercorn's shutdown cancels its connections
    task = asyncio.create_task(
        serve(restate.app(list(services), identity_keys=keys), config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
    )
    try:
        yield url
    finally:
        stop.set()
        await task
