"""The Dockerfile that mybinder.org would build from this repository, as repo2docker writes it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

_SPEC = importlib.util.find_spec("repo2docker")
assert _SPEC is not None and _SPEC.origin is not None, "pip install jupyter-repo2docker"
_LOCKS = Path(_SPEC.origin).parent / "buildpacks" / "conda"
_OF_CONDA = {"jupyterhub-base": "jupyterhub"}
BASE = ("ipykernel", "ipywidgets", "jupyterhub-base", "jupyterlab", "jupyter-resource-usage", "jupyter_server")
"""What Binder's base image starts, or has in its kernel, by the names of conda-forge."""


def dockerfile() -> str:
    """The text of the Dockerfile. Nothing is built, and Docker is not asked for."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(ROOT)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, such as `("USER", "root")`; lines that go on are joined."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


def steps_of_the_user(text: str) -> list[str]:
    """The commands that run as the ordinary user, once the repository is there."""
    steps: list[str] = []
    user, there = "root", False
    for word, rest in instructions(text):
        if word == "USER":
            user = rest
        there = there or (word == "COPY" and rest.split()[-2:] == ["src/", "${REPO_DIR}/"])
        if word == "RUN" and there and user == "${NB_USER}":
            steps.append(rest)
    return steps


def base_pins(python: str) -> list[str]:
    """What is in Binder's base image before the repository comes, as pip names it.

    Args:
        python: the version in `runtime.txt`, such as "3.11".
    """
    pins = {}
    for line in (_LOCKS / f"environment.py-{python}-linux-64.lock").read_text().splitlines():
        if line.startswith("https://"):
            name, version, _ = line.rpartition("/")[2].rsplit("-", 2)
            pins[name] = version
    return [f"{_OF_CONDA.get(name, name)}=={pins[name]}" for name in BASE]
