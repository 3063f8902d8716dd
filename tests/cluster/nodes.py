"""Three restate-server nodes on this machine: one cluster, each thing kept twice."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from restate_nb.server.binary import ensure_binary
from restate_nb.server.settings import QUIET, SMALL_PROFILE
from tests.workers.crew import free_port

PARTITIONS = "4"


class Cluster:
    """The nodes, of which any one may be killed, and started again with its data."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self._folder = folder
        self._binary = ensure_binary()
        self._ports = [{each: free_port() for each in ("fabric", "ingress", "admin")} for _ in range(count)]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        for node in range(count):
            self.start(node)

    def ingress(self, node: int) -> str:
        return f"http://127.0.0.1:{self._ports[node]['ingress']}"

    def admin(self, node: int) -> str:
        return f"http://127.0.0.1:{self._ports[node]['admin']}"

    def start(self, node: int) -> None:
        ports = self._ports[node]
        fabrics = [f"http://127.0.0.1:{each['fabric']}/" for each in self._ports]
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("RESTATE_")}
        settings = {
            "RESTATE_CLUSTER_NAME": "tests",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{ports['fabric']}",
            "RESTATE_ADVERTISED_ADDRESS": fabrics[node],
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ports['ingress']}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{ports['admin']}",
            "RESTATE_DEFAULT_REPLICATION": "2",
            "RESTATE_METADATA_CLIENT__ADDRESSES": json.dumps(fabrics),
            "RESTATE_AUTO_PROVISION": "true" if node == 0 else "false",
        }
        profile = {**SMALL_PROFILE, "RESTATE_DEFAULT_NUM_PARTITIONS": PARTITIONS}
        command = [str(self._binary), "--node-name", f"n{node}", "--base-dir", str(self._folder / f"n{node}")]
        with (self._folder / f"n{node}.log").open("ab") as log:
            self.processes[node] = subprocess.Popen(
                [*command, "--listen-mode", "tcp", "--no-logo"],
                env={**inherited, **profile, **QUIET, **settings},
                stdout=log,
                stderr=log,
            )

    def kill(self, node: int) -> None:
        process = self.processes[node]
        assert process is not None
        process.kill()
        process.wait()
        self.processes[node] = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for node, process in enumerate(self.processes):
            if process is not None:
                self.kill(node)
