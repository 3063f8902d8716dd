"""Everything that can keep a server from starting is an error that says what happened and what to do."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from restate_nb.errors import ServerError
from restate_nb.server import binary as binaries
from restate_nb.server import datadir, lifecycle, settings
from restate_nb.server.binary import ensure_binary
from restate_nb.server.identity import identity_key
from restate_nb.server.lifecycle import start_server
from tests.server.serverlab import processes_on
from tests.support import eventually


def program(path: Path, script: str, version: str = "restate-server 1.7.12") -> Path:
    """A program that says it is restate-server, and then does what the script says."""
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit 0; fi\n{script}\n')
    path.chmod(0o755)
    return path


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    """A data directory that is a file is named, and another one asked for."""
    path = tmp_path / "data"
    path.write_text("precious")
    with pytest.raises(ServerError, match=r"data is a file\. Choose another data_dir"):
        start_server(path)
    assert path.read_text() == "precious"


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    """A directory with other files in it, such as a project's, is neither closed to others nor ignored by git."""
    (tmp_path / "notebook.ipynb").write_text("{}")
    mode = tmp_path.stat().st_mode
    with pytest.raises(ServerError, match=r"holds other files\. Choose a data_dir that is new or empty, .*/\.restate"):
        start_server(tmp_path)
    assert tmp_path.stat().st_mode == mode and not (tmp_path / ".gitignore").exists()


def test_a_directory_that_cannot_be_written() -> None:
    """A place where nothing can be written is refused before anything is installed or started."""
    with pytest.raises(ServerError, match=r"/proc/restate-nb cannot be written .* Choose a data_dir"):
        start_server(Path("/proc/restate-nb"))


def test_a_directory_in_use_by_a_foreign_server(data_dir: Path, binary: Path) -> None:
    """A restate-server that somebody started there by hand is neither harmed nor fought."""
    path = datadir.prepare(data_dir)
    identity_key(path)
    command, environment = settings.command(binary, path, "unix"), settings.environment(path, None, {})
    with subprocess.Popen(command, cwd=path, env=environment, stdout=subprocess.DEVNULL) as foreign:
        eventually((path / "restate-nb" / "admin.sock").exists)
        eventually((path / "restate-nb" / "db" / "LOCK").exists)
        with pytest.raises(ServerError, match=r"in use by a restate-server that was not started from here"):
            start_server(data_dir)
        assert foreign.poll() is None and (path / "restate-nb" / "admin.sock").is_socket()
        foreign.terminate()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "by another process"),
        ({"host": "far-away", "supervisor": 1}, "by a server on the machine 'far-away'"),
    ],
)
def test_a_directory_that_another_machine_has_locked(
    data_dir: Path, record: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the lock stays taken and nobody answers, the error says by whom, as far as that is known."""
    monkeypatch.setattr(lifecycle, "START_TIMEOUT", 0.2)
    path = datadir.prepare(data_dir)
    if record:
        (path / "server.json").write_text(json.dumps(record))
    with (path / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ServerError, match=f"taken {said}.*choose another data_dir"):
            start_server(data_dir)


def test_a_disk_with_too_little_room(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room on the disk is looked at first: the server would die in the middle of its start."""
    monkeypatch.setattr(datadir, "NEW_DIRECTORY_BYTES", 10**18)
    with pytest.raises(ServerError, match=r"MB free; the server needs \d+ MB\. Make room, or choose"):
        start_server(data_dir)


def test_a_disk_that_becomes_full(data_dir: Path, tmp_path: Path) -> None:
    """A server that dies of a full disk is told from one that dies of something else."""
    full = program(tmp_path / "full", "echo 'IO error: No space left on device: While appending'; exit 1")
    with pytest.raises(ServerError, match=r"The disk of .* is full\. Make room"):
        start_server(data_dir, binary=full)
    later = program(tmp_path / "later", "echo something else; exit 1")
    with pytest.raises(ServerError, match=r"(?s)dies at start.*something else"):  # the log of old does not count
        start_server(data_dir, binary=later)


def test_a_server_that_dies_at_start(data_dir: Path) -> None:
    """The error has the exit code, the end of the log and where the log is; nothing is left running."""
    with pytest.raises(ServerError) as caught:
        start_server(data_dir, env={"RESTATE_DEFAULT_NUM_PARTITIONS": "many"})
    message = str(caught.value)
    assert "dies at start: it ended with exit code" in message
    assert str(data_dir / "restate-server.log") in message and 'invalid type: found string "many"' in message
    start_server(data_dir).close()  # the failed one does not stand in the way


def test_a_server_that_is_not_ready_in_time(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers is given up, and ended."""
    monkeypatch.setattr(lifecycle, "START_TIMEOUT", 0.5)
    silent = program(tmp_path / "silent", "echo thinking; exec sleep 60")
    with pytest.raises(ServerError, match=r"not ready within 0 s\.(?s:.*)thinking"):
        start_server(data_dir, binary=silent)
    eventually(lambda: not processes_on(data_dir))


def test_a_supervisor_that_cannot_start(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that cannot be run as a process of its own, as in some embedded interpreters, is said."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ServerError, match="supervisor cannot be started"):
        start_server(data_dir)


def test_other_settings_than_those_of_the_running_server(data_dir: Path) -> None:
    """Settings cannot be changed under a running server: which ones differ is said, and how to stop it."""
    with start_server(data_dir, env={"RESTATE_A": "1", "RESTATE_B": "2"}) as handle:
        assert start_server(data_dir).close() is None  # who asks for nothing adopts
        assert start_server(data_dir, env={"RESTATE_A": "1"}).close() is None
        with pytest.raises(ServerError, match=r"other settings \(RESTATE_B, RESTATE_C\)\. Stop it first"):
            start_server(data_dir, env={"RESTATE_B": "3", "RESTATE_C": "4"})
        assert handle.alive and handle.status().holds == 1


def test_a_wrong_listen_mode(data_dir: Path) -> None:
    """Only the two modes are taken."""
    with pytest.raises(ServerError, match="'unix' or 'tcp', not 'udp'"):
        start_server(data_dir, listen="udp")  # type: ignore[arg-type]


def test_a_damaged_identity_key(data_dir: Path) -> None:
    """A key file that is no key is not silently replaced: the error says that deleting it helps."""
    datadir.prepare(data_dir)
    (data_dir / "identity.pem").write_text("not a key")
    with pytest.raises(ServerError, match="Delete that file"):
        start_server(data_dir)


# -- binaries


def test_a_named_binary_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RESTATE_NB_SERVER that points nowhere, or to a directory, is an error and never ignored."""
    monkeypatch.setenv("RESTATE_NB_SERVER", str(tmp_path / "nowhere"))
    with pytest.raises(ServerError, match=r"RESTATE_NB_SERVER names .*nowhere, where there is nothing"):
        ensure_binary()
    with pytest.raises(ServerError, match="where there is a directory"):
        ensure_binary(tmp_path)


def test_a_binary_that_is_not_executable(tmp_path: Path) -> None:
    """The error says how to make it executable."""
    path = program(tmp_path / "server", "")
    path.chmod(0o644)
    with pytest.raises(ServerError, match=r"not executable .* chmod"):
        ensure_binary(path)


def test_a_binary_for_another_platform(tmp_path: Path) -> None:
    """What the kernel does not execute is named as built for another platform."""
    path = tmp_path / "server"
    path.write_bytes(b"\xcf\xfa\xed\xfe" + bytes(60))  # how a binary of macOS begins
    path.chmod(0o755)
    with pytest.raises(ServerError, match="another platform"):
        ensure_binary(path)


def test_a_binary_that_fails(tmp_path: Path) -> None:
    """What a binary says when it does not run, such as a missing library, is passed on."""
    path = tmp_path / "server"
    path.write_text("#!/bin/sh\necho \"version 'GLIBC_2.99' not found\" >&2\nexit 127\n")
    path.chmod(0o755)
    with pytest.raises(ServerError, match=r"exit code 127\): version 'GLIBC_2\.99' not found"):
        ensure_binary(path)


def test_a_binary_that_is_something_else(tmp_path: Path) -> None:
    """A program that answers otherwise, or an old restate-server, is refused."""
    with pytest.raises(ServerError, match=r"no restate-server; .* 'cat 9\.1'"):
        ensure_binary(program(tmp_path / "cat", "", "cat 9.1"))
    with pytest.raises(ServerError, match=r"restate-server 1\.2\.0; restate_nb needs 1\.7 or later"):
        ensure_binary(program(tmp_path / "old", "", "restate-server 1.2.0"))


def test_a_platform_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine for which there is no binary the error says which there are, and what else helps."""
    monkeypatch.setattr(binaries.platform, "machine", lambda: "riscv64")
    with pytest.raises(ServerError, match=r"riscv64, only for Linux and macOS .* WSL"):
        binaries.platform_package()
