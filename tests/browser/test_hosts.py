"""The notebook of tests/notebooks/hosts.py in JupyterLab and as a Voilà page: the same panel, frame and chart as in
every other host. In Voilà, where cells have ended before anybody sees them, the panel moves and its buttons work."""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import contextmanager

import pytest

from tests.browser.lab import CHROMIUM, write_cells
from tests.notebooks.hosts import CELLS, missing, start

if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import expect

LASTING = """
async def nap(number: int) -> int:
    await asyncio.sleep(0.3)
    return number

job = rnb.map(nap, range(5_000), name="naps", concurrency=10)
"""


def test_jupyterlab_shows_the_final_panel_the_frame_and_the_chart(opened):
    notebook = opened(*CELLS)
    notebook.run()
    assert notebook.errors() == []
    expect(notebook.output(1).first).to_contain_text("Finished, 1 failed")
    assert missing(notebook.output(1).first.inner_text() + " " + notebook.output(2).first.inner_text()) == []
    expect(notebook.page.locator(".jp-OutputArea-output img")).to_have_count(1)


@contextmanager
def voila(folder, environment):
    """A Voilà that shows the notebook of a folder; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}"]
    server = start("voila", "page.ipynb", *options, cwd=folder, env=environment)
    try:
        for _ in range(300):
            assert server.poll() is None, server.communicate()[0]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_a_voila_page_shows_the_final_panel_and_one_that_still_moves(tmp_path, browser, pictures, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "run"))
    write_cells(tmp_path / "page.ipynb", *CELLS[:-1], LASTING)
    with voila(tmp_path, dict(os.environ)) as address:
        page = browser.new_page()
        # What the page would load from elsewhere (fonts, MathJax) is not what is tested.
        page.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
        page.goto(address, timeout=60_000)
        first, second = page.get_by_role("group", name="job squares"), page.get_by_role("group", name="job naps")
        expect(first).to_contain_text("Finished, 1 failed", timeout=30_000)
        assert missing(first.inner_text() + " " + page.locator("table").inner_text()) == []
        expect(page.locator("img[src^='data:image/png']")).to_have_count(1)
        page.get_by_role("button", name="Pause").click()
        expect(second).to_contain_text("Paused", timeout=15_000)
        page.screenshot(path=pictures / "voila.png", full_page=True)
        page.get_by_role("button", name="Resume").click()
        expect(second).to_contain_text("Running", timeout=15_000)
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Click again to cancel").click()
        expect(second).to_contain_text(re.compile("Cancelled"), timeout=15_000)
        page.close()
