"""Makes the pictures of the README from real jobs on the real restate-server: `python -m docs.images.make [FOLDER]`.

A notebook is run in JupyterLab, and Chromium takes the pictures: the panel of one job in the states of its life, in the
light and the dark theme, and the overviews of jobs over 10, 4,000 and 100,000 items as the notebook shows them. Needs
the extras `lab` and `test`, and Chromium.
"""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect

from tests.browser.lab import Notebook, chromium, jupyterlab, write_cells

HERE = Path(__file__).parent
MOST = 150_000  # bytes a picture

API = """
import asyncio, random, sys
from aiohttp import web

async def address(request):
    number = int(request.match_info["number"])
    if random.random() < 0.06:
        raise web.HTTPTooManyRequests
    await asyncio.sleep(random.lognormvariate(-2.2, 0.6) if random.random() > 0.01 else 30)
    if number % 100 == 13:
        raise web.HTTPNotFound
    return web.json_response({"lat": 52.5 + number / 1e5, "lon": 13.4})

app = web.Application()
app.router.add_get("/{number}", address)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""
"""A real HTTP API that is slow now and then, hangs sometimes, and answers 429 to one of sixteen."""

CELLS = """
import asyncio

import aiohttp
import restate_nb as rnb

rnb.start("readme")

class NotFound(Exception):
    pass

class RateLimited(Exception):
    pass

async def geocode(number: int) -> dict:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:PORT/{number}") as answer:
        if answer.status == 429:
            raise RateLimited("429 Too Many Requests")
        if answer.status == 404:
            raise NotFound("404 no such address")
        return await answer.json()
<cell>
job = rnb.map(geocode, range(4_000), name="geocode-customers", concurrency=40, timeout=1,
              retry=rnb.Retry(max_attempts=3, give_up_on=NotFound))
<cell>
frame = job.result()
<cell>
job.overview();
<cell>
ask = geocode

async def geocode(number: int) -> dict | None:
    try:
        return await ask(number)
    except NotFound:
        return None

job = rnb.map(geocode, range(4_000), name="geocode-customers", concurrency=40, timeout=1,
              retry=rnb.Retry(max_attempts=8))
frame = job.retry_failed().result()
<cell>
few = rnb.map(ask, range(10, 20), name="few", concurrency=4, timeout=1, fresh=True, show=False,
              retry=rnb.Retry(max_attempts=3, give_up_on=NotFound))
few.result()
few.overview();
<cell>
import random

async def look_up(number: int) -> int:
    await asyncio.sleep(random.lognormvariate(-4.6, 0.5))
    if random.random() < 0.002:
        raise ConnectionError("connection reset")
    return number

many = rnb.map(look_up, range(100_000), name="many", concurrency=200, retry=rnb.Retry(2), show=False)
many.result()
many.overview();
"""


@contextmanager
def api() -> Iterator[int]:
    """The API in a process of its own; gives its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", API, str(port)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def take(notebook: Notebook, folder: Path) -> None:
    """Run the notebook, and take the pictures on the way."""
    notebook.page.set_viewport_size({"width": 1100, "height": 1000})

    def show(cell: int, state: str) -> None:
        for theme in ("Light", "Dark"):
            notebook.theme(theme)
            shoot(notebook.outputs(cell), folder / f"panel-{state}-{theme.lower()}.png")

    def run(cell: int) -> Any:
        notebook.run_cell(cell)
        return notebook.output(cell).first

    notebook.theme("Light")
    run(0)
    panel = run(1)
    expect(panel).to_contain_text(re.compile(r"1,\d\d\d of 4,000 done"), timeout=60_000)
    show(1, "running")
    notebook.page.evaluate("async () => await jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    run(0)
    panel = run(1)
    expect(panel).to_contain_text("attached", timeout=60_000)
    expect(panel).to_contain_text("p95", timeout=60_000)
    show(1, "attached")
    run(2)
    expect(panel).to_contain_text("Finished")
    show(1, "failed")
    run(4)
    show(4, "done")
    notebook.theme("Light")
    for cell, name in ((3, "overview"), (5, "overview-10"), (6, "overview-100000")):
        run(cell)
        source = notebook.output(cell).locator("img").get_attribute("src")
        chart = folder / f"{name}.png"
        chart.write_bytes(base64.b64decode(source.partition("base64,")[2]))
        reduce(chart)


def shoot(element: Any, file: Path) -> None:
    """Take a picture of a part of the page."""
    element.screenshot(path=file)
    reduce(file)


def reduce(file: Path) -> None:
    """A palette of 256 colours: a third of the bytes, and no difference to the eye."""
    with Image.open(file) as picture:
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file.name}: {few.width} x {few.height}, {size / 1000:.0f} kB")
    if size > MOST:
        raise SystemExit(f"{file.name} is larger than {MOST / 1000:.0f} kB.")


def main() -> None:
    """Make all pictures."""
    folder = Path(sys.argv[1] if sys.argv[1:] else HERE)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base, jupyterlab(Path(base)) as lab, chromium() as browser, api() as port:
        cells = [cell.strip() for cell in CELLS.replace("PORT", str(port)).split("<cell>")]
        notebook = Notebook(browser, lab, write_cells(lab[1] / "readme.ipynb", *cells))
        take(notebook, folder)
        notebook.close()


if __name__ == "__main__":
    main()
