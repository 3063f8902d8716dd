"""Proves that the Restate UI opens from a notebook whose Jupyter server has a path, as on a JupyterHub or Binder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import CHROMIUM, Notebook, jupyterlab, write_cells

if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import expect

CELLS = [
    "import restate_nb as rnb\nsession = rnb.start()",
    "rnb.map(len, ['a', 'bb'], name='two words').result()",
    "session",
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab as a JupyterHub has it: under the path of a user."""
    with jupyterlab(tmp_path_factory.mktemp("hub"), "/user/ada/") as lab:
        yield lab


def test_the_panel_leads_to_the_list_of_invocations(hub: tuple[str, Path], browser: Any, pictures: Path) -> None:
    notebook = Notebook(browser, hub, write_cells(hub[1] / "words.ipynb", *CELLS))
    failed: list[str] = []
    try:
        notebook.run()
        expect(notebook.output(2).first.get_by_role("link", name="Open in the Restate UI")).to_be_visible()
        with notebook.page.expect_popup() as opened:
            notebook.output(1).first.get_by_role("link", name="Open in the Restate UI").click()
        page = opened.value
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.bring_to_front()
        page.get_by_role("link", name="All", exact=True).dispatch_event("click")
        rows = page.get_by_role("row")
        expect(rows.filter(has_text="rnb-words").first).to_be_visible(timeout=30_000)
        page.screenshot(path=pictures / "restate-ui-behind-a-path.png", scale="css")
        page.get_by_role("link", name="Overview").dispatch_event("click")
        page.wait_for_url("**/ui/overview*")
        expect(page.get_by_role("main")).to_contain_text("rnb-words", timeout=30_000)
        page.reload()
        expect(page.get_by_role("main")).to_contain_text("rnb-words", timeout=30_000)
        assert "/user/ada/restate-nb/" in page.url
        assert not failed
        page.close()
    finally:
        notebook.close()
