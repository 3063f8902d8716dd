"""Every notebook of the repository in a real JupyterLab, all at once: each runs from the top to the end, and shows its
last panels and its charts. (The quickstart has a test of its own.)"""

from __future__ import annotations

import pytest

from tests.browser.lab import CHROMIUM
from tests.notebooks.execution import NOTEBOOKS, copied

if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import expect

CHARTS = {"02_patterns": 0, "03_crash_and_resume": 1, "04_rate_limited_api": 3, "05_charts_and_comparison": 7}
CHARTS |= {"06_cpu_bound": 2, "07_tables_images_embeddings": 3}


def test_each_notebook_runs_in_jupyterlab_and_shows_its_panels_and_charts(lab, opened, pictures):
    paths = [path for path in NOTEBOOKS if not path.stem.startswith("01_")]
    assert {path.stem for path in paths} == set(CHARTS)
    notebooks = {path.stem: opened.file(copied(path, lab[1] / path.stem)) for path in paths}
    for notebook in notebooks.values():
        notebook.page.evaluate("async () => await jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        notebook.begin()
    for name, notebook in notebooks.items():
        notebook.ended()
        assert notebook.errors() == [], name
        notebook.page.bring_to_front()  # what lies behind is drawn when the browser finds the time
        panels = notebook.page.get_by_role("group", name="job ")
        expect(panels.first, name).to_be_visible()
        expect(panels.filter(has_not_text="Finished"), name).to_have_count(0)
        expect(notebook.page.locator(".jp-OutputArea-output img"), name).to_have_count(CHARTS[name])
        expect(notebook.page.get_by_text("Error displaying widget"), name).to_have_count(0)
        notebook.theme("Dark" if name < "05" else "Light")
        notebook.shoot(pictures / f"notebook-{name}.png")
