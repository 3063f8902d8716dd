"""Every notebook of the repository runs from the top to the end, and is stored as people read it: final panels as HTML
and text, charts as pictures, no dead widgets, nothing of the machine it ran on."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import nbformat
import pytest

from tests.notebooks.execution import FOLDER, NOTEBOOKS, copied, execute, local_names, texts

QUICKSTART = FOLDER / "01_quickstart.ipynb"
SHOWN = {
    "03_crash_and_resume": (
        r"300 calls for 300 items, and 300 of them different\.",
        r"attached: \d+ of 300 were already done",
        r"Recorded before the crash: [1-9]\d+\. Of these, 0 ran again\.",
        r"Ran twice: \[(\d+, ){0,44}\d*\]\n",  # 15 run at once, and a busy disk holds the last ones up
        r"300 of 300 were done already\. Calls in all: still 3([0-3]\d|4[0-5])\.",
    ),
    "04_rate_limited_api": (
        r"too-fast \(locate\): Finished, \d+ failed(.|\n)*429, message='Too Many Requests'",
        r"(try-again|keep-to-it|find-it) \(locate\): Finished, 300 of 300 done.* retr",
        r"find-it \(locate\): Finished, 400 of 400 done",
        r"places \(locate\): Finished, 150 of 150 done",
        r"heights \(height\): Finished, 150 of 150 done",
    ),
    "05_charts_and_comparison": (
        r"\b20 +LookupError +there is no street \d+ +cell:7 in find",
        r"0 of 400 are still failed\. Only 20 items were run again\.",
        r"same +372\nnewly failed +28\n",
    ),
    "06_cpu_bound": (
        r"in processes \(draw\): Finished, 360 of 360 done(.|\n)*moved \(draw\): Finished, 360 of 360 done",
        r"A loop [\d.]+ s, processes [\d.]+ s: [\d.]+ times as fast\.\n",
        r"π is about 3\.14089\n",
        r"hangs \(collatz\): Finished, 1 failed, 4 of 4 done",
        r"1 × WorkerDied: The worker process was ended by SIGABRT\.",
        r"3 +9 +ok +2 (.|\n)*7 +<NA> +error +2 ",
    ),
    "07_tables_images_embeddings": (
        r"105,120 rows\n",
        r"S00 +2026-01-01 00:00:00\+01:00 +-7\.9 +1\.8 +11\.1",
        r"\(\(8, 1536\), dtype\('float32'\)\)",
        r"<Stored image RGB, 260 x 260, [\d.]+ kB>\n\(260, 260\)",
        r"2 months were warmer than 30 degrees",
    ),
}
"""What a notebook says when it has run, whatever the machine: what it is there to show."""

WIDGET = "application/vnd.jupyter.widget-view+json"
DEAD = re.compile(r"\b(HBox|VBox|HTML|IntSlider|Button)\(|^ *\d+%\|", re.MULTILINE)
"""How a widget or a progress bar looks that was stored as text."""

FINISHED = re.compile(r"standard-library \(measure\): Finished, (?:\d+ failed, )?(\d+) of \1 done")
"""Pythons that come without their tests have no broken files."""

by_name = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def panels(notebook):
    return [
        output.data
        for output in outputs(notebook)
        if 'role="progressbar"' in output.get("data", {}).get("text/html", "")
    ]


def check_outputs(notebook):
    """What holds of every notebook that has been run."""
    kinds = [set(output.get("data", {})) for output in outputs(notebook)]
    assert not [kind for kind in kinds if WIDGET in kind]
    assert not [text for text in texts(notebook) if DEAD.search(text)]
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert panels(notebook)
    for panel in panels(notebook):
        assert set(panel) == {"text/html", "text/plain"}
        assert not re.search(r"\): (Running|Submitting|Waiting)", panel["text/plain"])
    drawn = [kind for kind in kinds if any(part.startswith("image/") for part in kind)]
    assert all("image/png" in kind for kind in drawn)
    return len(drawn)


def listing(folder):
    return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@by_name
def test_a_notebook_runs_to_its_end_and_keeps_its_panels_and_charts(notebook, tmp_path):
    before = listing(FOLDER)
    made = execute(copied(notebook, tmp_path))
    drawn = check_outputs(made)
    said = "\n".join(texts(made))
    assert [text for text in SHOWN.get(notebook.stem, ()) if not re.search(text, said)] == []
    if notebook == QUICKSTART:
        assert drawn == 3
        assert FINISHED.match(panels(made)[0]["text/plain"])
        assert sum("attached: " in panel["text/plain"] for panel in panels(made)) == 3
    assert listing(FOLDER) == before


@by_name
def test_a_committed_notebook_is_rendered_and_tells_nothing_of_its_machine(notebook):
    """If this fails: python -m tests.notebooks.render."""
    stored = nbformat.read(notebook, 4)
    nbformat.validate(stored)
    check_outputs(stored)
    said = "\n".join(texts(stored))
    assert [text for text in SHOWN.get(notebook.stem, ()) if not re.search(text, said)] == []
    assert local_names(stored) == []
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert stored.metadata.kernelspec.name == "python3"
    assert notebook.stat().st_size < 500_000


def test_nbconvert_executes_the_quickstart_into_a_page_with_the_finished_panel(tmp_path):
    file = copied(QUICKSTART, tmp_path / "work")
    env = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "run")}
    command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", file.name]
    done = subprocess.run(command, cwd=file.parent, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    page = file.with_suffix(".html").read_text()
    assert re.search(r"<b>Finished(, \d+ failed)?</b>", page)
    assert "were already done" in page
    assert len(re.findall(r"<img[^>]* src=\"data:image/png;base64,", page)) == 3
    assert not DEAD.search(re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))
