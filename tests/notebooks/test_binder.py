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


def test_binder_installs_this_repository_and_the_rest_by_valid_names():
    lines = (BINDER / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted[0] == "."
    assert {Requirement(line).name for line in wanted[1:]} == {"jupyter-server-proxy", "pyarrow"}


def test_the_build_script_can_be_run():
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
