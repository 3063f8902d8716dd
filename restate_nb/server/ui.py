"""The Restate UI through jupyter-server-proxy: on a JupyterHub, on Binder, wherever JupyterLab is.

The UI asks for `/ui/...` and for the admin interface at the root of its host, and the server listens on Unix sockets.
So jupyter-server-proxy starts this program, on a socket in a private folder, and lets only the signed-in user through
to it. It passes requests on to that user's servers, and puts the paths in the UI's pages and scripts under a prefix.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from restate_nb.errors import ServerError
from restate_nb.server.address import Address, link_path
from restate_nb.server.lifecycle import server_status
from restate_nb.server.ui_link import NAME

_MOST_BYTES: Final = 32 * 1024 * 1024  # of a request; restate-server takes no more either
_REWRITTEN: Final = {"text/html", "text/javascript", "application/javascript", "application/manifest+json"}
_ROOT_PATH: Final = re.compile(rb"""(["'`])/ui/""")
_PASSED_ON: Final = ("Accept", "Content-Type")  # no cookies, no tokens: those are for Jupyter
_GIVEN_BACK: Final = ("Content-Type", "Location", "Vary")
_YEAR: Final = 365 * 24 * 3600
_FETCH: Final = """
(() => {
  const prefix = PREFIX, send = window.fetch;
  window.fetch = async (what, options) => {
    const asked = new Request(what, options), url = new URL(asked.url);
    if (url.origin !== location.origin || url.pathname.startsWith(prefix + "/")) return send(asked);
    url.pathname = prefix + url.pathname;
    const {method, headers, signal} = asked;
    const body = method === "GET" || method === "HEAD" ? undefined : await asked.arrayBuffer();
    return send(url, {method, headers, signal, body});
  };
})();
"""
_GONE: Final = "No restate-server runs there now. Run rnb.start() in the notebook, and reload this page."


def jupyter_entry() -> dict[str, Any]:
    """What jupyter-server-proxy is told: how to start this program, on a socket in a private folder."""
    return {
        "command": [sys.executable, "-m", __name__, "{unix_socket}", f"{{base_url}}{NAME}"],
        "unix_socket": True,
        "timeout": 30,
        "launcher_entry": {"enabled": False},
    }


class Ui:
    """Passes requests on to the admin interfaces of the user's servers.

    Args:
        prefix: the path at which the browser finds this program, such as `/user/ada/restate-nb`.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = quote(prefix.rstrip("/"), safe="/%:@!$&*+,;=~")
        self._clients: dict[Address, aiohttp.ClientSession] = {}
        self._admins: dict[str, Address] = {}

    def application(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_get("/", _alive)
        app.router.add_route("*", r"/{key:[0-9a-f]{16}}{path:/.*}", self._pass_on)
        app.cleanup_ctx.append(self._closing)
        return app

    async def _closing(self, _: web.Application) -> AsyncIterator[None]:
        yield
        for client in self._clients.values():
            await client.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD") and not _same_origin(request):
            raise web.HTTPForbidden(text="This was not asked by the Restate UI itself, but by another page.")
        key = request.match_info["key"]
        if (admin := await self._find(key)) is None:
            raise web.HTTPNotFound(text=_GONE)
        path = request.raw_path.partition(key)[2]
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers["Accept-Encoding"] = "identity"
        try:
            async with self._client(admin).request(
                request.method,
                URL(admin.url + path, encoded=True),
                data=await request.read() or None,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                return await self._give_back(request, answer, f"{self._prefix}/{key}")
        except aiohttp.ClientConnectionError:
            self._admins.pop(key, None)  # it may have come back elsewhere
            raise web.HTTPServiceUnavailable(text=_GONE) from None

    async def _find(self, key: str) -> Address | None:
        if key not in self._admins:
            admin = await asyncio.to_thread(_admin_of, key)
            if admin is None:
                return None
            self._admins[key] = admin
        return self._admins[key]

    def _client(self, admin: Address) -> aiohttp.ClientSession:
        if admin not in self._clients:
            connector = None if admin.socket is None else aiohttp.UnixConnector(str(admin.socket))
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
            self._clients[admin] = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self._clients[admin]

    async def _give_back(self, request: web.Request, answer: aiohttp.ClientResponse, prefix: str) -> web.StreamResponse:
        headers = {name: answer.headers[name] for name in _GIVEN_BACK if name in answer.headers}
        if headers.get("Location", "").startswith("/"):
            headers["Location"] = prefix + headers["Location"]
        headers |= {"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
        if "/ui/assets/" in request.path and answer.status == 200:
            headers["Cache-Control"] = f"private, max-age={_YEAR}, immutable"  # their names have their digests
        if "/ui/" in request.path and answer.content_type in _REWRITTEN:
            moved = rewritten(await answer.read(), prefix)
            if answer.content_type == "text/html":
                moved = sending(moved, prefix)
            page = web.Response(status=answer.status, headers=headers, body=moved)
            page.enable_compression()
            return page
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


def rewritten(text: bytes, prefix: str) -> bytes:
    """A page or a script of the UI, its paths put under a prefix.

    Args:
        text: as the server has it, with `/ui/...` in quotes.
        prefix: what comes before `/ui` in the browser.
    """
    under = prefix.encode()
    return _ROOT_PATH.sub(lambda found: found[1] + under + b"/ui/", text)


def sending(page: bytes, prefix: str) -> bytes:
    """A page of the UI whose scripts send what they ask of the root of their host to the prefix instead.

    Asked there, and not told of another address of the admin interface, the UI works as it was written and tested.
    """
    script = _FETCH.replace("PREFIX", json.dumps(prefix).replace("<", "\\u003c")).encode()
    return re.sub(rb"<head\b[^>]*>", lambda found: found[0] + b"<script>" + script + b"</script>", page, count=1)


async def _alive(_: web.Request) -> web.Response:
    return web.Response(text="The Restate UI of each session is linked in its panel.")


def _admin_of(key: str) -> Address | None:
    """The admin interface of the server with this key; None when there is none or it does not run."""
    try:
        data_dir = link_path(Path()).with_name(key).readlink()  # all are in the same private place
        status = server_status(data_dir)
    except (OSError, ServerError):
        return None
    return None if status is None else status.admin


def _same_origin(request: web.Request) -> bool:
    """Whether a page of the same host asks: others could have the browser send the user's cookies along."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host")


if __name__ == "__main__":
    web.run_app(Ui(sys.argv[2]).application(), path=sys.argv[1], print=None, access_log=None)
