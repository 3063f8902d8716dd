"""One small notebook for every host that runs notebooks, and what each has to show of it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from nbformat import NotebookNode

CELLS = (
    """
import asyncio
import restate_nb as rnb

session = rnb.start("host")

async def square(number: int) -> int:
    await asyncio.sleep(0.05)
    if number == 13:
        raise ValueError("unlucky")
    return number * number
""",
    'job = rnb.map(square, range(100), name="squares", concurrency=10)',
    "frame = job.result()\nframe[['item', 'value', 'status']].tail(2)",
    "job.timeline();",
    "session.stop()",
)
"""The job is begun in one cell and awaited in the next: so the panel's last state comes when its own cell has ended."""

PANEL = ("squares square", "Finished, 1 failed 100 of 100 done", "99 ok", "1 failed", "1 × ValueError: unlucky")
FRAME = ("item value status", "98 98 9604 ok", "99 99 9801 ok")
DEAD = re.compile(r"\b(HBox|VBox|HTML|IntSlider|Button)\(|\d+%\||model_id|Submitting|Running|Error displaying widget")
"""A widget or a progress bar that was stored as text, or a panel that is not the last one."""


def missing(said: str) -> list[str]:
    """What is missing in a text, its spaces left aside, or should not be in it."""
    said = " ".join(said.split())
    return [part for part in (*PANEL, *FRAME) if part not in said] + [match[0] for match in DEAD.finditer(said)]


class _Words(HTMLParser):
    """The text of HTML as it is read, scripts and styles left out."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._silent += tag in ("script", "style")
        self.words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")
        self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


def words(html: str) -> str:
    """The text of a piece of HTML."""
    parser = _Words()
    parser.feed(html)
    return "".join(parser.words)


def shown(notebook: NotebookNode) -> str:
    """What a viewer shows of the outputs of a stored notebook: HTML where there is HTML, and else text."""
    said = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            said.append(words(data["text/html"]) if "text/html" in data else data.get("text/plain", ""))
            said.append(output.get("text", ""))
    return " ".join(said)


def start(module: str, *arguments: str | Path, cwd: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """Run a module of this Python beside others."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
