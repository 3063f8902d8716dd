"""Workers in processes of their own, for tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Worker:
    """One `restate-nb worker`, which is ready."""

    def __init__(self, log: Path, session: str, port: int, *more: str, serve: str = "tests.workers.work") -> None:
        self.log = log
        command = [sys.executable, "-m", "restate_nb.cli", "worker", serve, "--session", session]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, "--bind", f"127.0.0.1:{port}", *more], stdout=file, stderr=file, cwd=ROOT
            )
        end = time.monotonic() + 60
        while "ready: " not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def executions(path: Path) -> list[int]:
    """The numbers of the items that began to run, each as often as it did."""
    return list(map(int, path.read_text().split())) if path.exists() else []
