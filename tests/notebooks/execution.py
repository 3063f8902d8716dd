"""Runs notebooks as nbclient does, each in a copy, so that nothing is written into the repository."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

LIMIT = 180
"""Seconds that a notebook may take: one that hangs is a failure, and not a test run without an end."""

LOCAL = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|var|usr|opt|work|Users|private|mnt|data)/[^\s\"'<>)]*|[A-Z]:\\Users\\"
)
"""What only one machine knows: an absolute path."""


def copied(notebook: Path, folder: Path) -> Path:
    """A copy of a notebook, and of what lies beside it, in a folder of its own."""
    shutil.copytree(
        notebook.parent,
        folder,
        ignore=shutil.ignore_patterns(".*", "__pycache__", "*.ipynb"),
        dirs_exist_ok=True,
    )
    return Path(shutil.copy(notebook, folder))


def execute(file: Path, limit: float = LIMIT) -> NotebookNode:
    """Run all cells of a file in its own folder, and return the notebook with its outputs.

    Raises:
        CellExecutionError: a cell raised.
        TimeoutError: it took longer than `limit` seconds.
    """
    notebook = nbformat.read(file, 4)
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}})
    # A session is named after the notebook that it is in; whoever runs this may sit in one of their own.
    env = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    asyncio.run(asyncio.wait_for(client.async_execute(env=env), limit))
    return notebook


def texts(notebook: NotebookNode) -> list[str]:
    """Everything that the outputs say, pictures left out."""
    said = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            said += [output.get("text", ""), *output.get("traceback", [])]
            said += [str(data) for kind, data in output.get("data", {}).items() if not kind.startswith("image/")]
    return said


def local_names(notebook: NotebookNode) -> list[str]:
    """Absolute paths, and the names of this machine and its user, that the outputs tell."""
    found = [match for text in texts(notebook) for match in LOCAL.findall(text)]
    machine = {os.uname().nodename} - {"localhost"}
    return found + [name for name in machine for text in texts(notebook) if re.search(rf"\b{re.escape(name)}\b", text)]
