"""The quickstart in a real JupyterLab: it runs from the top to the end in the light theme; in the dark one the kernel
is restarted, all cells are run once more, and nothing is computed again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.browser.lab import CHROMIUM

if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import expect

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "01_quickstart.ipynb"
FIRST_PANEL = 2  # among the code cells


def shoot(notebook, folder, theme):
    """Pictures of every output, by cell."""
    cells = notebook.page.locator(".jp-CodeCell")
    for number in range(cells.count()):
        area = cells.nth(number).locator(".jp-Cell-outputWrapper")
        if area.locator(".jp-OutputArea-output").count():
            area.screenshot(path=folder / f"quickstart-{number:02}-{theme}.png")


def test_the_quickstart_runs_and_after_a_restart_attaches(lab, opened, pictures):
    folder = lab[1] / "quickstart"
    folder.mkdir()
    notebook = opened.file(Path(shutil.copy(QUICKSTART, folder)))
    notebook.theme("Light")
    notebook.run()
    assert notebook.errors() == []
    panel = notebook.output(FIRST_PANEL).first
    expect(panel).to_contain_text(re.compile(r"Finished(, \d+ failed)? *\d+ of \d+ done"))
    expect(notebook.page.locator(".jp-OutputArea-output img")).to_have_count(3)
    shoot(notebook, pictures, "Light")

    notebook.theme("Dark")
    notebook.restart_and_run()
    assert notebook.errors() == []
    panel = notebook.output(FIRST_PANEL).first
    expect(panel).to_contain_text(re.compile(r"Finished *(\d+) of \1 done"))
    expect(panel).to_contain_text(re.compile(r"attached: (\d+) of \1 were already done"))
    shoot(notebook, pictures, "Dark")
