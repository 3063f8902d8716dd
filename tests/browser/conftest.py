"""A JupyterLab and a headless Chromium that looks at it, shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import Notebook, chromium, jupyterlab, write_cells


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A running JupyterLab: its address with a place for the path, and the folder it shows."""
    with jupyterlab(tmp_path_factory.mktemp("jupyter")) as lab:
        yield lab


@pytest.fixture(scope="package")  # it holds the thread's event loop: tests elsewhere need theirs
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: `RESTATE_NB_SCREENSHOTS`, for CI to keep and people to look at."""
    folder = Path(os.environ.get("RESTATE_NB_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(lab: tuple[str, Path], browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Opens notebooks made of cells; each page ends with the test."""
    notebooks: list[Notebook] = []

    def open_cells(*cells: str) -> Notebook:
        name = f"{request.node.name.replace('[', '-').strip(']')}-{len(notebooks)}.ipynb"
        return open_file(write_cells(lab[1] / name, *cells))

    def open_file(file: Path) -> Notebook:
        notebooks.append(Notebook(browser, lab, file))
        return notebooks[-1]

    open_cells.file = open_file  # type: ignore[attr-defined]
    yield open_cells
    for notebook in notebooks:
        notebook.close()
