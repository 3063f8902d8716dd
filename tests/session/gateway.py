"""A gateway before a real restate-server, as clusters have one: it asks for a token, speaks TLS, and turns hostile."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp import web

from restate_nb.server.address import Address

Answer = Callable[[web.Request], Any]


class Gateway:
    """Passes requests on, unless `hostile` answers those that call a handler.

    Attributes:
        url: where it listens.
        asked: the paths that were asked for.
        hostile: answers in the server's place; None for passing on. It is a coroutine function.
        everywhere: whether it is hostile to all requests.
    """

    def __init__(self, to: Address, token: str | None, tls: ssl.SSLContext | None) -> None:
        self._to = to
        self._token = token
        self._tls = tls
        self.asked: list[str] = []
        self.hostile: Answer | None = None
        self.everywhere = False
        self.url = ""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self._token is not None and request.headers.get("Authorization") != f"Bearer {self._token}":
            given = request.headers.get("Authorization")
            return web.json_response({"message": f"who are you? {given} is not known"}, status=401)
        if self.hostile is not None and (self.everywhere or request.path.startswith("/restate/call/")):
            answer: web.StreamResponse = await self.hostile(request)
            return answer
        headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Authorization")}
        body = await request.read()
        async with self._client.request(
            request.method, self._to.url + request.raw_path, data=body or None, headers=headers
        ) as passed:
            kept = ("Content-Type", "x-restate-id", "x-restate-error-source", "idempotency-expires")
            kept_headers = {name: passed.headers[name] for name in kept if name in passed.headers}
            return web.Response(status=passed.status, body=await passed.read(), headers=kept_headers)

    async def open(self) -> None:
        connector = aiohttp.UnixConnector(str(self._to.socket), limit=0) if self._to.socket else aiohttp.TCPConnector()
        self._client = aiohttp.ClientSession(connector=connector, skip_auto_headers=["Content-Type"])
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http{'s' if self._tls else ''}://localhost:{port}"

    async def close(self) -> None:
        await self._runner.cleanup()
        await self._client.close()


@contextmanager
def gateway(to: Address, *, token: str | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Gateway]:
    """Run one in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = Gateway(to, token, tls)
    try:
        asyncio.run_coroutine_threadsafe(made.open(), loop).result(10)
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
