"""Find restate-server, or install it."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from restate_nb.errors import ServerError
from restate_nb.server.npm import npm_command, npm_install

VERSION = "1.7.12"
"""The version that is installed, and that this release was tested with."""

OLDEST = (1, 7)
"""Older ones do not know all of the settings that we use."""

_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_SYSTEMS = ("linux", "darwin")

Progress = Callable[[str], None]


def ensure_binary(explicit: Path | None = None, progress: Progress | None = None) -> Path:
    """The restate-server to run: `explicit`, RESTATE_NB_SERVER, the one on PATH, the cached one, or a new installation.

    Raises:
        ServerError: none can be had, or the one that was asked for does not run.
    """
    if (found := find_binary(explicit)) is not None:
        return found
    return install(progress)


def find_binary(explicit: Path | None = None) -> Path | None:
    """The restate-server that is there already, checked to run; None when one must be installed.

    Raises:
        ServerError: `explicit` or RESTATE_NB_SERVER names something that is no usable restate-server.
    """
    if explicit is not None:
        return _asked_for(explicit, "binary")
    if named := os.environ.get("RESTATE_NB_SERVER"):
        return _asked_for(Path(named), "RESTATE_NB_SERVER")
    if on_path := shutil.which("restate-server"):
        path = _behind_wrapper(Path(on_path))
        # One on PATH that is broken or too old was put there for something else: then ours is used.
        with suppress(ServerError):
            if path is not None and _is_recent(binary_version(path)):
                return path
    cached = cached_binary()
    return cached if cached.exists() else None


def cached_binary() -> Path:
    """Where the pinned version is, once it is installed.

    Raises:
        ServerError: this user has no directory of its own.
    """
    try:
        cache = platformdirs.user_cache_dir("restate-nb")
    except RuntimeError as error:  # a user of no account, without HOME
        raise ServerError(
            f"There is no place for restate-server: {error}. Set HOME or XDG_CACHE_HOME to a directory that can be "
            "written, or RESTATE_NB_SERVER to the path of a restate-server binary."
        ) from error
    return Path(cache, "server", VERSION, "restate-server")


def install(progress: Progress | None = None) -> Path:
    """Install the pinned version into the user's cache, unless it is there. Several processes may do so at once.

    Args:
        progress: is told in words what happens.

    Raises:
        ServerError: there is no package for this platform, no npm, npm failed, or the cache cannot be written.
    """
    say = progress or (lambda _: None)
    target = cached_binary()
    if target.exists():
        return target
    package = platform_package()
    npm_command()  # says what is missing before anything is written
    home = target.parent.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("Another process is installing restate-server; waiting for it.")
            lock.acquire()
        try:
            if not target.exists():
                _install(package, home, target, say)
        finally:
            lock.release()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "Make room (about 500 MB are needed meanwhile)"
        else:
            advice = "Make it writable, set XDG_CACHE_HOME to another directory"
        raise ServerError(
            f"restate-server cannot be installed into {home}: {error.strerror or error}. {advice}, or set "
            f"RESTATE_NB_SERVER to the path of a restate-server binary."
        ) from error
    return target


def _install(package: str, home: Path, target: Path, say: Progress) -> None:
    """Install beside the target, then move the binary there in one step; the lock is held."""
    for leftover in home.glob(".install-*"):  # of an installation that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    say(f"Installing restate-server {VERSION} with npm into {target.parent} (once; about 60 MB to download) ...")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".install-", dir=home, ignore_cleanup_errors=True) as name:
        modules = npm_install(f"{package}@{VERSION}", Path(name))
        binary = modules.joinpath(*package.split("/"), "bin", "restate-server")
        if not binary.exists():
            raise ServerError(f"npm installed {package}@{VERSION}, but there is no bin/restate-server in it.")
        binary.chmod(0o755)
        binary_version(binary)  # runs it
        target.parent.mkdir(exist_ok=True)
        binary.replace(target)
    say(f"Installed restate-server {VERSION} in {time.monotonic() - began:.1f} s.")


def platform_package() -> str:
    """The npm package with the binary for this machine.

    Raises:
        ServerError: there is none.
    """
    architecture = _ARCHITECTURES.get(platform.machine().lower())
    if sys.platform not in _SYSTEMS or architecture is None:
        raise ServerError(
            f"There is no restate-server for {platform.system()} on {platform.machine()}, only for Linux and macOS on "
            f"x86-64 and arm64. On Windows use WSL; or connect to a server elsewhere with restate_nb.connect()."
        )
    return f"@restatedev/restate-server-{sys.platform}-{architecture}"


_versions: dict[tuple[Path, float, int], str] = {}


def binary_version(path: Path) -> str:
    """The version that the binary reports, such as `1.7.12`.

    Raises:
        ServerError: it does not run, or is no restate-server.
    """
    remedy = (
        f"Set RESTATE_NB_SERVER to a restate-server for {platform.system()} {platform.machine()}, or unset it to have "
        f"one installed."
    )
    try:
        status = path.stat()
        key = (path, status.st_mtime, status.st_size)
        if key in _versions:
            return _versions[key]
        done = subprocess.run(
            [path, "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False
        )
    except FileNotFoundError:
        raise ServerError(f"There is no restate-server at {path}. {remedy}") from None
    except PermissionError as error:
        raise ServerError(f"{path} is not executable ({error.strerror}). Try: chmod +x {path}. {remedy}") from error
    except OSError as error:
        raise ServerError(
            f"{path} does not run on this machine ({error.strerror}): it may be built for another platform. {remedy}"
        ) from error
    except subprocess.TimeoutExpired:
        raise ServerError(f"{path} --version did not answer within a minute. {remedy}") from None
    output = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode:
        raise ServerError(
            f"{path} does not run (exit code {done.returncode}): {output[-500:] or 'it says nothing'}. {remedy}"
        )
    if (match := re.search(r"restate-server\s+v?(\d+\.\d+\.\d+\S*)", output)) is None:
        raise ServerError(f"{path} is no restate-server; to --version it answers {output[:200]!r}. {remedy}")
    return _versions.setdefault(key, match[1])


def _is_recent(version: str) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) >= OLDEST


def _asked_for(path: Path, by: str) -> Path:
    path = path.expanduser()
    if path.is_dir() or not path.exists():
        kind = "a directory" if path.is_dir() else "nothing"
        raise ServerError(
            f"{by} names {path}, where there is {kind}. Give the path of a restate-server binary, or leave it out to "
            f"have one installed."
        )
    path = _behind_wrapper(path.absolute()) or path.absolute()
    version = binary_version(path)
    if not _is_recent(version):
        raise ServerError(
            f"{by} names restate-server {version}; restate_nb needs {'.'.join(map(str, OLDEST))} or later. Leave it "
            f"out to have {VERSION} installed."
        )
    return path


def _behind_wrapper(path: Path) -> Path | None:
    """The binary itself where npm has put a script on PATH; None when that is a script and the binary is not found.

    The script would stay alive between us and the server, and would not pass on a kill.
    """
    real = path.resolve()
    try:
        with real.open("rb") as file:
            if file.read(2) != b"#!":
                return path
        package = platform_package()
    except (OSError, ServerError):
        return None
    for folder in real.parents:
        for modules in (folder / "node_modules", folder):
            binary = modules.joinpath(*package.split("/"), "bin", "restate-server")
            if binary.exists():
                return binary
    return None
