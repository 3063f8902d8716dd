"""The same notebook through nbclient, `jupyter nbconvert --execute` and papermill shows the same, and no dead widget.

JupyterLab and Voilà are in tests/browser/test_hosts.py.
"""

from __future__ import annotations

import os

import nbformat
import pytest

from tests.browser.lab import write_cells
from tests.notebooks.execution import execute
from tests.notebooks.hosts import CELLS, missing, shown, start, words


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What each host has made of the notebook; they run side by side."""
    folder = tmp_path_factory.mktemp("hosts")
    files = {host: write_cells(folder / host / "host.ipynb", *CELLS) for host in made_by(folder)}
    env = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    env |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder / "run")}
    running = {
        "nbconvert": start("nbconvert", "--execute", "--to", "html", "host.ipynb", cwd=folder / "nbconvert", env=env),
        "papermill": start("papermill", "host.ipynb", "made.ipynb", cwd=folder / "papermill", env=env),
    }
    notebook = execute(files["nbclient"])
    for host, process in running.items():
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, f"{host}: {said}"
    return {
        "nbclient": notebook,
        "nbconvert": (folder / "nbconvert" / "host.html").read_text(),
        "papermill": nbformat.read(folder / "papermill" / "made.ipynb", 4),
    }


def made_by(folder):
    for host in ("nbclient", "nbconvert", "papermill"):
        (folder / host).mkdir()
        yield host


@pytest.mark.parametrize("host", ["nbclient", "papermill"])
def test_the_stored_notebook_shows_the_final_panel_the_frame_and_the_chart(made, host):
    outputs = [output for cell in made[host].cells for output in cell.get("outputs", []) if "data" in output]
    assert missing(shown(made[host])) == []
    assert [set(output.data) for output in outputs] == [
        {"text/html", "text/plain"},
        {"text/html", "text/plain"},
        {"image/png", "text/plain"},
    ]


def test_the_page_of_nbconvert_shows_the_final_panel_the_frame_and_the_chart(made):
    body = made["nbconvert"].partition("<body")[2]
    assert missing(words(body.replace("job.timeline();", ""))) == []
    assert body.count("data:image/png;base64,") == 1
