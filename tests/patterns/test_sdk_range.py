"""The supported range of restate-sdk: its ends are tried, and others are refused with the range."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from restate_nb.errors import UnsupportedSdk
from restate_nb.patterns import sdk
from tests.support import run_python

OLDEST = "1.1.0"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", ["1.0.5", "0.17.1", "1.4.0", "2.0.0", "1.4.0rc1"])
def test_other_versions_are_refused_with_the_range_and_the_remedy(version: str) -> None:
    with pytest.raises(UnsupportedSdk) as caught:
        sdk.check_version(version)
    message = str(caught.value)
    assert f"restate-sdk {sdk.SUPPORTED}, but {version} is installed" in message
    assert f'pip install "restate-sdk{sdk.SUPPORTED}"' in message


@pytest.mark.parametrize("version", [OLDEST, "1.2.0", "1.3.0", "1.3.7", "1.3.0.dev1"])
def test_versions_of_the_range_are_accepted(version: str) -> None:
    sdk.check_version(version)


def test_a_surface_that_lacks_something_is_refused_at_import() -> None:
    """In a process of its own: an SDK without the method that the scheduler shadows."""
    code = (
        "from restate.server_context import ServerInvocationContext as C\n"
        "del C.create_poll_or_cancel_coroutine\n"
        "import restate_nb.patterns"
    )
    done = run_python(code, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert "UnsupportedSdk: restate_nb.patterns works with restate-sdk" in done.stderr
    assert "create_poll_or_cancel_coroutine" in done.stderr


def test_the_package_asks_for_the_range_that_the_code_knows() -> None:
    asked = [line for line in requires("restate-nb") or [] if re.match(r"restate[-_]sdk", line)]
    declared = (ROOT / "pyproject.toml").read_text()
    assert asked and f'"restate-sdk{sdk.SUPPORTED}"' in declared


@pytest.fixture(scope="module")
def oldest_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the oldest supported SDK, to be put before the installed one."""
    folder = tmp_path_factory.mktemp("oldest")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, f"restate-sdk=={OLDEST}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"restate-sdk {OLDEST} cannot be had here: {done.stderr[-300:]}")
    return folder


def test_the_stress_passes_on_the_oldest_supported_sdk(oldest_sdk: Path) -> None:
    """The scheduler's tests and the stress on the server, in a process that imports the oldest SDK."""
    env = os.environ | {"PYTHONPATH": f"{oldest_sdk}{os.pathsep}{ROOT}"}
    probe = (
        "import json, restate, importlib.metadata as m; print(json.dumps([restate.__file__, m.version('restate-sdk')]))"
    )
    found = json.loads(run_python(probe, env=env).stdout)
    assert found == [str(oldest_sdk / "restate" / "__init__.py"), OLDEST]
    tests = [
        "tests/patterns/test_fan_out.py",
        "tests/patterns/test_scheduler.py",
        "tests/patterns/test_mock_context.py",
        "tests/patterns/test_scheduler_on_server.py::test_random_programs_equal_the_oracle[always_replay]",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests],
        env=env, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
