"""Proves that versions are told in one voice, and that a bug report tells nothing private."""

from __future__ import annotations

import getpass
import os
import re
import socket
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import restate_nb
from restate_nb.server.binary import VERSION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_written_in_one_place() -> None:
    """The package says it; its metadata are made from that."""
    assert "version" in PROJECT["project"]["dynamic"] and "version" not in PROJECT["project"]
    assert (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).samefile(restate_nb.__file__)
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+|\.dev\d+)?", restate_nb.__version__)
    assert metadata.version("restate-nb") == restate_nb.__version__


def test_the_oldest_constraints_are_the_lower_bounds() -> None:
    """constraints/oldest.txt pins each run-time dependency to the oldest version that pyproject.toml allows."""
    wanted = {}
    for each in PROJECT["project"]["dependencies"]:
        requirement, _, marker = each.partition(";")
        if marker.strip() != "python_version >= '3.14'":  # the constraints are for the oldest Python, too
            name, oldest = re.match(r"([a-z-]+)\d*>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
            wanted[name] = tuple(map(int, oldest.split(".")))
    pinned = dict(re.findall(r"^([a-z-]+)==([\d.]+)$", (ROOT / "constraints" / "oldest.txt").read_text(), re.MULTILINE))
    assert set(pinned) == set(wanted)
    for name, version in pinned.items():
        release = tuple(map(int, version.split(".")))
        assert release[: len(wanted[name])] == wanted[name] and not any(release[len(wanted[name]) :]), name


def test_show_versions_names_python_the_server_and_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    restate_nb.show_versions()
    told = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["restate-nb"] == restate_nb.__version__
    assert told["restate-server"].startswith(VERSION)
    for name in ("restate-sdk", "pandas", "ipykernel"):
        assert told[name] == metadata.version(name)
    assert told["uvloop"] == "not installed"


def test_show_versions_tells_nothing_private(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No directory, no user, no host; not even when the server cannot be used, which has its path in the message."""
    monkeypatch.setenv("RESTATE_NB_SERVER", str(tmp_path / "missing"))
    restate_nb.show_versions()
    told = capsys.readouterr().out
    assert "cannot be used (ServerError); `restate-nb server install` says why\n" in told
    assert os.sep not in told
    for private in (getpass.getuser(), socket.gethostname(), str(tmp_path)):
        assert private not in told
