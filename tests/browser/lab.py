"""A JupyterLab of its own, and notebooks that are open in it in a headless Chromium."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
ROOT = Path(__file__).parents[2]


@contextmanager
def jupyterlab(base: Path, prefix: str = "/") -> Iterator[tuple[str, Path]]:
    """A running JupyterLab, which ends with the block.

    Args:
        base: an empty folder for its notebooks and settings.
        prefix: the path under which it is found, as on a JupyterHub.

    Yields:
        Its address with a place for the path, and the folder it shows.
    """
    folder, home = base / "lab", base / "home"
    folder.mkdir()
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    token = secrets.token_hex()
    server_options = {
        "ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder, "IdentityProvider.token": token, "ServerApp.base_url": prefix,
    }  # fmt: skip
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser"]
    options += [f"--{name}={value}" for name, value in server_options.items()]
    log = (home / "lab.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder
    )
    url = f"http://127.0.0.1:{port}{prefix.rstrip('/')}"
    try:
        _wait_for(f"{url}/api/status?token={token}", server, home / "lab.log")
        yield f"{url}/lab{{}}?token={token}", folder
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(log.read_text())


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser, which ends with the block; its pages share a cache."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_context(viewport={"width": 1280, "height": 900}, device_scale_factor=2)
        browser.close()


def write_cells(file: Path, *cells: str) -> Path:
    """Write a notebook of code cells."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel)
    nbformat.write(made, file)
    return file


class Notebook:
    """A notebook that is open in JupyterLab.

    Args:
        browser: what `chromium` gave.
        lab: what `jupyterlab` gave.
        file: the notebook, somewhere in the folder that JupyterLab shows.
    """

    def __init__(self, browser: Any, lab: tuple[str, Path], file: Path) -> None:
        url, folder = lab
        self.file = file
        self.page = browser.new_page()
        path = file.relative_to(folder).as_posix()
        self.page.goto(url.format(f"/workspaces/w{time.monotonic_ns()}/tree/{path}"))
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=60_000
        )
        self.page.evaluate(
            "async () => { await jupyterapp.restored; await jupyterapp.shell.currentWidget.context.ready }"
        )

    def close(self) -> None:
        """End the kernel, and close the page."""
        self.page.evaluate("async () => await jupyterapp.serviceManager.sessions.shutdownAll()")
        self.page.close()

    def run(self, *, wait: bool = True) -> None:
        """Run all cells, and wait for the end of them."""
        call = "jupyterapp.commands.execute('notebook:run-all-cells')"
        self.page.evaluate(f"async () => {{ {'await ' if wait else ''}{call} }}")

    def begin(self) -> None:
        """Run all cells; `ended` waits for the end of them."""
        self.page.evaluate("() => { window.ran = jupyterapp.commands.execute('notebook:run-all-cells') }")

    def ended(self) -> None:
        """Wait for the end of what was begun."""
        self.page.evaluate("async () => { await window.ran }")

    def run_cell(self, cell: int) -> None:
        """Run one cell, counted over all cells, and wait for the end of it."""
        self.page.evaluate(
            """async (cell) => {
                const content = jupyterapp.shell.currentWidget.content;
                content.activeCellIndex = cell;
                content.deselectAll();
                await jupyterapp.commands.execute('notebook:run-cell');
            }""",
            cell,
        )

    def restart_and_run(self) -> None:
        """What "Kernel: Restart Kernel and Run All Cells" does, its question answered with yes; wait for the end."""
        self.page.evaluate(
            "() => { window.ran = jupyterapp.commands.execute('notebook:restart-run-all').then(() => true) }"
        )
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self.page.evaluate("async () => await window.ran")

    def errors(self) -> list[str]:
        """The tracebacks that are shown."""
        kind = "application/vnd.jupyter.error"
        return self.page.locator(f".jp-OutputArea-output[data-mime-type='{kind}']").all_inner_texts()

    def save(self) -> Any:
        """Save, and read what was written."""
        self.page.evaluate("async () => await jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.file, 4)

    def theme(self, name: str) -> None:
        """Change the theme of the page: "Light" or "Dark"."""
        self.page.evaluate(
            "async (theme) => await jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {name}"
        )
        self.page.wait_for_function(
            "(light) => document.body.dataset.jpThemeLight === light", arg=str(name == "Light").lower()
        )
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")  # it would lie over every picture

    def shoot(self, file: Path) -> None:
        """Take a picture of the whole notebook."""
        self.page.set_viewport_size({"width": 1280, "height": 9000})  # cells out of sight have no height yet
        self.page.wait_for_timeout(300)
        heights = self.page.locator(".jp-Cell").evaluate_all("cells => cells.map(cell => cell.offsetHeight + 8)")
        self.page.set_viewport_size({"width": 1280, "height": sum(heights) + 120})
        self.page.screenshot(path=file, scale="css")

    def output(self, cell: int) -> Any:
        """The outputs of a code cell."""
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")

    def outputs(self, cell: int) -> Any:
        """The area that holds all outputs of a code cell, for a picture."""
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea").first
