"""`restate-nb server ...` as a user types it: what it prints, and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from restate_nb.server.lifecycle import start_server
from tests.server.serverlab import processes_on
from tests.support import eventually


def restate_nb(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "restate_nb.cli", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd, env={**os.environ, **environment}
    )


def test_a_server_from_start_to_stop(data_dir: Path) -> None:
    """start keeps a server that notebooks adopt, status shows it, stop ends it; each again does no harm."""
    assert restate_nb("server", "status", "--data-dir", data_dir).returncode == 3
    started = restate_nb("server", "start", "--data-dir", data_dir)
    assert started.returncode == 0 and "The server runs." in started.stdout and str(data_dir) in started.stdout
    again = restate_nb("server", "start", "--data-dir", data_dir, "--listen", "tcp")
    assert again.returncode == 0 and "runs already" in again.stdout and "stop it first" in again.stderr
    with start_server(data_dir) as handle:
        assert handle.adopted
        status = restate_nb("server", "status", "--data-dir", data_dir)
        assert status.returncode == 0
        assert f"process {handle.pid}" in status.stdout and "used by   1 process;" in status.stdout
    stopped = restate_nb("server", "stop", "--data-dir", data_dir)
    assert (stopped.returncode, stopped.stdout) == (0, "The server has ended.\n")
    eventually(lambda: not processes_on(data_dir))
    assert "No server runs" in restate_nb("server", "stop", "--data-dir", data_dir).stdout


def test_the_data_lies_beside_the_notebook(data_dir: Path) -> None:
    """Without --data-dir it is .restate in the current directory; with --listen tcp there are urls."""
    data_dir.mkdir()
    try:
        started = restate_nb("server", "start", "--listen", "tcp", cwd=data_dir)
        assert started.returncode == 0 and "http://127.0.0.1:" in started.stdout
        assert (data_dir / ".restate" / "ports.json").exists()
    finally:
        assert restate_nb("server", "stop", cwd=data_dir).returncode == 0


def test_install_prints_the_path(binary: Path) -> None:
    """install prints where the binary is on stdout, for scripts, and what it does on stderr."""
    done = restate_nb("server", "install", RESTATE_NB_SERVER=str(binary))
    assert (done.returncode, done.stdout) == (0, f"{binary}\n") and "1.7.12 is ready" in done.stderr


def test_an_error_is_a_sentence(tmp_path: Path) -> None:
    """A failure prints what happened and what to do, without a traceback, and ends with 1; wrong usage with 2."""
    (tmp_path / "file").write_text("")
    failed = restate_nb("server", "start", "--data-dir", tmp_path / "file")
    assert failed.returncode == 1 and failed.stderr.startswith("restate-nb: The data directory")
    assert "Traceback" not in failed.stderr and failed.stdout == ""
    for wrong in ((), ("server",), ("nonsense",), ("server", "start", "--listen", "udp")):
        assert restate_nb(*wrong).returncode == 2


def test_version() -> None:
    """--version is that of the installed package."""
    assert restate_nb("--version").stdout == f"restate-nb {metadata.version('restate-nb')}\n"
