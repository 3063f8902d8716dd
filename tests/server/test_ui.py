"""Proves that the Restate UI is passed on under a prefix: the user's own servers, and to its own pages only."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from restate_nb.server.address import Address
from restate_nb.server.lifecycle import start_server
from restate_nb.server.ui import Ui, jupyter_entry, rewritten, sending
from restate_nb.server.ui_link import NAME, publish

PREFIX = f"/user/ada%40work/{NAME}"
SAME = {"Sec-Fetch-Site": "same-origin"}
COUNT = {"query": "SELECT count(*) AS n FROM sys_invocation"}


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[httpx.Client]:
    """What jupyter-server-proxy does: it starts the program as it is told to, and asks it through its socket."""
    socket = tmp_path / "ui.sock"
    values = {"unix_socket": str(socket), "base_url": "/user/ada%40work/"}
    program = subprocess.Popen([part.format(**values) for part in jupyter_entry()["command"]])
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://hub.example.org") as client:
            for _ in range(200):
                assert program.poll() is None
                if socket.exists():
                    break
                time.sleep(0.05)
            yield client
    finally:
        program.terminate()
        program.wait(10)


def asked(browser: httpx.Client, key: str, headers: dict[str, str]) -> httpx.Response:
    """The answer to a query; a server that has just begun answers none for a moment."""
    while True:
        answer = browser.post(f"/{key}/query", json=COUNT, headers={"Accept": "application/json", **headers})
        if answer.status_code != 500:
            return answer
        time.sleep(0.05)


def test_jupyter_server_proxy_finds_the_entry() -> None:
    (entry,) = entry_points(group="jupyter_serverproxy_servers", name=NAME)
    assert entry.load() is jupyter_entry
    assert jupyter_entry()["unix_socket"] is True  # no port, which other users of the machine could reach


@pytest.mark.parametrize("listen", ["unix", "tcp"])
def test_the_pages_ask_for_all_under_the_prefix(data_dir: Path, browser: httpx.Client, listen) -> None:
    with start_server(data_dir, listen=listen):
        key = publish(data_dir)
        page = browser.get(f"/{key}/ui/invocations")
        assert page.status_code == 200
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert f'const prefix = "{PREFIX}/{key}"' in page.text
        assert page.text.index("window.fetch = ") < page.text.index("import(")  # before any script that asks
        assert '"/ui/' not in page.text
        scripts = {path for path in page.text.split('"') if path.endswith(".js")}
        assert len(scripts) > 10
        for script in scripts:
            assert script.startswith(f"{PREFIX}/{key}/ui/assets/")
            text = browser.get(script.removeprefix(PREFIX)).raise_for_status()
            assert '"/ui/' not in text.text
            assert "immutable" in text.headers["Cache-Control"]
        assert asked(browser, key, SAME).json()["rows"] == [{"n": 0}]


def test_a_server_that_ends_and_comes_back_is_found_again(data_dir: Path, browser: httpx.Client) -> None:
    key = publish(data_dir)
    for _ in range(2):
        gone = browser.get(f"/{key}/ui/")
        assert gone.status_code in (404, 503)
        assert gone.text == "No restate-server runs there now. Run rnb.start() in the notebook, and reload this page."
        with start_server(data_dir):
            assert browser.get(f"/{key}/version").json()["version"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (SAME, 200),
        ({}, 200),  # no browser
        ({"Origin": "http://hub.example.org"}, 200),
        ({"Origin": "http://evil.example.org"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # the page of another user, where each has a host
    ],
)
def test_only_its_own_pages_may_change_anything(data_dir: Path, browser: httpx.Client, headers, status) -> None:
    with start_server(data_dir):
        assert asked(browser, publish(data_dir), headers).status_code == status


@pytest.mark.parametrize("path", ["/0123456789abcdef/ui/", "/../ui/", "/%2e%2e/ui/", "/0123456789abcdeg/ui/", "/ui/"])
def test_nothing_else_is_reached(browser: httpx.Client, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_a_prefix_is_no_way_into_the_page() -> None:
    page = sending(b"<html><head lang='en'><title>", '/user/"</script><script>alert(1)//')
    assert page.count(b"</script>") == 1
    assert b'const prefix = "/user/\\"\\u003c/script>' in page


def test_only_paths_in_quotes_are_moved() -> None:
    text = b"""["/ui/a", '/ui/b', `/ui/c`, "https://x.org/ui/d", "/uix", "see /ui/"]"""
    moved = b"""["/p/ui/a", '/p/ui/b', `/p/ui/c`, "https://x.org/ui/d", "/uix", "see /ui/"]"""
    assert rewritten(text, "/p") == moved


async def test_cookies_and_tokens_stay_with_jupyter(tmp_path: Path) -> None:
    async def hear(request: web.Request) -> web.Response:
        heard.append(f"{request.headers} {await request.text()}")
        return web.Response(text="heard", headers={"Set-Cookie": "a=b"})

    heard: list[str] = []
    server = web.Application()
    server.router.add_route("*", "/{path:.*}", hear)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "admin.sock")).start()
    ui = Ui(PREFIX)
    ui._admins["0" * 16] = Address("http://localhost", tmp_path / "admin.sock")
    async with TestClient(TestServer(ui.application())) as client:
        secrets = {"Cookie": "token=secret", "Authorization": "token secret", "X-XSRFToken": "secret"}
        answer = await client.post(f"/{'0' * 16}/query", data="asked", headers=secrets)
        assert await answer.text() == "heard"
    await runner.cleanup()
    assert "asked" in heard[0]
    assert "secret" not in heard[0]
    assert "Set-Cookie" not in answer.headers
