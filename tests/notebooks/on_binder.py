"""`.ci/binder`: the steps of Binder's Dockerfile as an ordinary user in a new environment, then the quickstart in
JupyterLab there; its memory, and everything that listens, are looked at all the while."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jupyter_client
import nbformat
import psutil

from tests.notebooks.dockerfile import ROOT, base_pins, dockerfile, steps_of_the_user

QUICKSTART = "notebooks/01_quickstart.ipynb"
MOST_MEMORY = 1e9  # bytes, which Binder promises
UID = 61_000  # of nobody, when this is started by root
MARK = "ON_BINDER"  # in the environment of all processes of the run
PASSED_ON = re.compile(r"(?i)pip_\w+|npm_config_\w+|\w+_proxy|\w*cert\w*|\w*ca_(bundle|info)")
"""Settings of the machine for pip and npm; the run sees nothing else of the environment of who starts it."""


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="on-binder-"))
    try:
        run(User(work))
    finally:
        shutil.rmtree(work)


def run(user: User) -> None:
    with stage("the repository and Binder's base, in an environment of its own"):
        user.take_the_repository()
        version = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
        user.make_environment(version)
        user.does(f"{user.prefix}/bin/pip install -q {' '.join(base_pins(version))}")
    for step in steps_of_the_user(dockerfile()):
        with stage(step):
            user.does(step.replace("pip install", "pip install -q"))
    left = user.processes()
    assert not left, f"the build left {left} running"
    with stage(f"{QUICKSTART}, in JupyterLab"), Watch(user) as watch, Lab(user) as lab:
        assert lab.opens()[0] == f"/lab/tree/{QUICKSTART}"
        before = watch.memory
        cells = lab.run(user.home / QUICKSTART)
    print(f"{cells} cells; {before / 1e6:.0f} MB before the first, {watch.memory / 1e6:.0f} at most: {watch.parts()}")
    print(f"listening: {', '.join(sorted(watch.listening))}")
    assert watch.memory < MOST_MEMORY, f"Binder has {MOST_MEMORY / 1e6:.0f} MB"
    assert watch.listening, "nothing was seen to listen, not even JupyterLab"
    beyond = {each for each in watch.listening if not is_loopback(each)}
    assert not beyond, f"not on loopback: {beyond}"


@contextmanager
def stage(name: str) -> Iterator[None]:
    print(f"--- {name}", flush=True)
    began = time.monotonic()
    yield
    print(f"    {time.monotonic() - began:.0f} s", flush=True)


class User:
    """An ordinary user with a home of its own, which is the repository, as on Binder."""

    def __init__(self, work: Path) -> None:
        self.home, self.prefix = work / "home", work / "environment"
        self.uid = UID if os.getuid() == 0 else os.getuid()
        self.mark = secrets.token_hex(8)
        names = {"NB_USER": "jovyan", "USER": "jovyan", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", MARK: self.mark}
        names |= {"HOME": str(self.home), "REPO_DIR": str(self.home)}
        names |= dict.fromkeys(["KERNEL_PYTHON_PREFIX", "NB_PYTHON_PREFIX"], str(self.prefix))
        names["PATH"] = f"{self.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
        self.env = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)} | names
        self.home.mkdir()
        self.own(work)

    def own(self, path: Path) -> None:
        for each in [path, *path.rglob("*")]:
            os.chown(each, self.uid, -1, follow_symlinks=False)

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        who = {"user": self.uid, "group": self.uid, "extra_groups": []} if os.getuid() == 0 else {}
        return subprocess.Popen(command, cwd=self.home, env=self.env, text=True, **who, **options)

    def does(self, command: str) -> None:
        with self.start(["bash", "-c", command]) as process:
            pass
        assert process.returncode == 0, f"{command} ended with {process.returncode}"

    def take_the_repository(self) -> None:
        """What git knows, as it is in the work tree."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.home / name)
        self.own(self.home)

    def make_environment(self, version: str) -> None:
        """With the Python of `runtime.txt`, or another one if this machine has none that every user can start."""
        places = "/usr/local/bin", "/usr/bin", os.environ["PATH"]
        found = [shutil.which(f"python{version}", path=path) for path in places]
        for python in filter(None, [*found, sys.executable]):
            with self.start([python, "-m", "venv", str(self.prefix)], stderr=subprocess.DEVNULL) as process:
                pass
            if process.returncode == 0:
                return
        raise SystemExit("There is no Python that an ordinary user can start: install python3 and python3-venv.")

    def processes(self) -> list[psutil.Process]:
        """Those that run on behalf of this user now."""
        every = psutil.process_iter(["environ"])
        return [each for each in every if (each.info["environ"] or {}).get(MARK) == self.mark]


class Watch:
    """Looks at the memory and the ports of a user's processes, five times a second."""

    def __init__(self, user: User) -> None:
        self._user = user
        self.memory = 0
        self.listening: set[str] = set()
        self._parts: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def parts(self) -> str:
        """Which processes held how much, when they held most."""
        return ", ".join(f"{name} {size / 1e6:.0f}" for name, size in self._parts.most_common())

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            parts: Counter[str] = Counter()
            for process in self._user.processes():
                try:
                    name = "kernel" if "ipykernel_launcher" in process.cmdline() else process.name()
                    parts[name] += process.memory_full_info().pss  # what is shared counts in parts, and once in all
                    self.listening |= {
                        f"{name} {each.laddr.ip}:{each.laddr.port}"
                        for each in process.net_connections("inet")
                        if each.status == psutil.CONN_LISTEN or (each.type == socket.SOCK_DGRAM and not each.raddr)
                    }
                except psutil.NoSuchProcess:
                    continue  # it has just ended
            if parts.total() > self.memory:
                self.memory, self._parts = parts.total(), parts


def is_loopback(place: str) -> bool:
    """Of a name and an address, as `Watch` keeps them."""
    return ip_address(place.rpartition(" ")[2].rpartition(":")[0]).is_loopback


class Lab:
    """The JupyterLab of the user's environment, with the settings that the build has left there."""

    def __init__(self, user: User) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._token, self._url = secrets.token_hex(), f"http://127.0.0.1:{port}"
        self._user = user
        self._log = user.home.parent / "lab.log"
        options = {"ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "IdentityProvider.token": self._token}
        lab = [f"{user.prefix}/bin/jupyter-lab", "--no-browser", *(f"--{key}={each}" for key, each in options.items())]
        self._process = user.start(lab, stdout=self._log.open("w"), stderr=subprocess.STDOUT)

    def __enter__(self) -> Lab:
        end = time.monotonic() + 60
        while True:
            try:
                self.ask("/api/status")
                return self
            except OSError:
                assert self._process.poll() is None and time.monotonic() < end, self._log.read_text()
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        _, left = psutil.wait_procs(self._user.processes(), timeout=30)
        for each in left:
            each.kill()
        assert not left, f"{left} did not end with JupyterLab"

    def ask(self, path: str, /, **sent: Any) -> Any:
        body = json.dumps(sent).encode() if sent else None
        request = urllib.request.Request(self._url + path, body, {"Authorization": f"token {self._token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def opens(self, path: str = "") -> tuple[str, str]:
        """The page that a path, or the address alone, leads to; and its text."""
        request = urllib.request.Request(self._url + path, headers={"Authorization": f"token {self._token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.url.removeprefix(self._url).partition("?")[0], answer.read().decode()

    def run(self, notebook: Path) -> int:
        """Run all cells of a notebook, one after the other, as "Run all" does; how many there were.

        At the end a session is asked for its Restate UI.

        Raises:
            AssertionError: a cell failed, or the UI is not there.
        """
        path = str(notebook.relative_to(self._user.home))
        kernel = self.ask("/api/sessions", path=path, name=path, type="notebook", kernel={"name": "python3"})["kernel"]
        (connection,) = self._user.home.rglob(f"kernel-{kernel['id']}.json")
        client = jupyter_client.BlockingKernelClient(connection_file=str(connection))
        client.load_connection_file()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
            for cell in cells:
                reply = client.execute_interactive(cell, timeout=300, output_hook=lambda _: None, allow_stdin=False)
                content = reply["content"]
                told = "\n".join(content.get("traceback", [str(content)]))
                assert content["status"] == "ok", re.sub(r"\x1b\[[\d;]*m", "", told)
            asked = client.execute_interactive("session = rnb.start()", user_expressions={"it": "session"}, timeout=60)
            shown = asked["content"]["user_expressions"]["it"]["data"]["text/html"]
            link = re.search(r'href="(/restate-nb/[^"]+)"', shown)
            assert link is not None, shown
            assert "<title>Restate" in self.opens(link[1])[1], self.opens(link[1])
        finally:
            client.stop_channels()
        return len(cells)


if __name__ == "__main__":
    main()
