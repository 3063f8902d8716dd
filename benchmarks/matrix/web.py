"""An HTTP server on this machine, and clients of it: `python -m benchmarks.matrix.web` serves."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.matrix.peers import gathered

_clients: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}


async def place(request: web.Request) -> web.Response:
    number = int(request.match_info["number"])
    return web.json_response({"lat": 52.5 + number / 1e4, "lon": 13.4})


def serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    app = web.Application()
    app.router.add_get("/{number}", place)
    web.run_app(app, sock=listener, print=None, access_log=None)


@contextmanager
def served() -> Iterator[str]:
    """The server in a process of its own; gives its address."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.matrix.web"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def with_shared_client(url: str) -> Callable[[int], Any]:
    """Asks with one client for all items of a loop, as aiohttp wants it."""

    async def locate(number: int) -> Any:
        loop = asyncio.get_running_loop()
        client = _clients.get(loop)
        if client is None:
            client = _clients[loop] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with client.get(f"{url}/{number}") as answer:
            answer.raise_for_status()
            return await answer.json()

    return locate


async def close_client(_: int) -> None:
    await _clients.pop(asyncio.get_running_loop()).close()


def asked(url: str, at_once: int) -> Callable[[Sequence[int]], list[Any]]:
    """asyncio with a semaphore and a client."""

    async def main(items: Sequence[int]) -> list[Any]:
        values = await gathered(with_shared_client(url), items, at_once)
        await close_client(0)
        return values

    return lambda items: asyncio.run(main(items))


if __name__ == "__main__":
    serve()
