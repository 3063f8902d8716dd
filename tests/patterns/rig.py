"""A real restate-server for tests of the helpers, with an endpoint in this process and its log at hand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import hypercorn.asyncio
import restate
from hypercorn.config import Config

BINARY = os.environ.get(
    "RESTATE_NB_SERVER", "/tmp/rs/node_modules/@restatedev/restate-server-linux-x64/bin/restate-server"
)
SMALL = {
    "RESTATE_DEFAULT_NUM_PARTITIONS": "1",
    "RESTATE_ROCKSDB_TOTAL_MEMORY_SIZE": "64MiB",
    "RESTATE_BIFROST__RECORD_CACHE_MEMORY_SIZE": "8MiB",
    "RESTATE_WORKER__INVOKER__MEMORY_LIMIT": "128MiB",
    "RESTATE_WORKER__DATA_SERVICE_MEMORY_LIMIT": "32MiB",
    "RESTATE_ADMIN__QUERY_ENGINE__MEMORY_SIZE": "64MiB",
}
ALWAYS_REPLAY = {"RESTATE_WORKER__INVOKER__INACTIVITY_TIMEOUT": "0s"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Rig:
    http: aiohttp.ClientSession
    ingress: str
    admin: str
    log: Path
    sdk_log: list[str]

    async def call(self, path: str, arg: Any = None, **headers: str) -> tuple[int, Any]:
        async with self.http.post(f"{self.ingress}/{path}", json=arg, headers=headers) as response:
            body = await response.read()
            return response.status, (await response.json(content_type=None) if body else None)

    async def query(self, sql: str) -> list[dict[str, Any]]:
        async with self.http.post(
            f"{self.admin}/query", json={"query": sql}, headers={"Accept": "application/json"}
        ) as response:
            response.raise_for_status()
            return (await response.json())["rows"]

    async def patch(self, path: str) -> None:
        async with self.http.patch(f"{self.admin}/{path}") as response:
            response.raise_for_status()

    def mismatches(self) -> list[str]:
        lines = [*self.log.read_text().splitlines(), *self.sdk_log]
        return [
            line
            for line in lines
            if "RT0016" in line or "570" in line.split("restate.error.code")[-1][:12] or "mismatch" in line
        ]


class _Collect(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__()
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        self.into.append(self.format(record))


@contextlib.asynccontextmanager
async def rig(*services: Any, always_replay: bool = False, **environment: str) -> AsyncIterator[Rig]:
    sdk_log: list[str] = []
    collect = _Collect(sdk_log)
    logging.getLogger("restate").addHandler(collect)
    ports = {name: free_port() for name in ("ingress", "admin", "node", "endpoint")}
    stop = asyncio.Event()
    config = Config()
    config.bind = [f"127.0.0.1:{ports['endpoint']}"]
    config.errorlog = None
    with tempfile.TemporaryDirectory(prefix="rig") as folder:
        environ = (
            {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | SMALL | environment
        )
        environ |= ALWAYS_REPLAY if always_replay else {}
        environ |= {
            "RESTATE_BASE_DIR": f"{folder}/data",
            "RESTATE_NODE_NAME": "rig",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{ports['node']}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ports['ingress']}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{ports['admin']}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "RESTATE_DEFAULT_RETRY_POLICY__INITIAL_INTERVAL": "10ms",
        }
        log = Path(folder) / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen([BINARY], env=environ, stdout=out, stderr=out, cwd=folder)
        serving = asyncio.create_task(
            hypercorn.asyncio.serve(restate.app(services), config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        )
        http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300), connector=aiohttp.TCPConnector(limit=64))
        try:
            made = Rig(http, f"http://127.0.0.1:{ports['ingress']}", f"http://127.0.0.1:{ports['admin']}", log, sdk_log)
            await _ready(made, process)
            uri = f"http://127.0.0.1:{ports['endpoint']}"
            async with http.post(f"{made.admin}/deployments", json={"uri": uri}) as response:
                assert response.status in (200, 201), await response.text()
            yield made
        finally:
            await http.close()
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            stop.set()
            await serving
            logging.getLogger("restate").removeHandler(collect)


async def _ready(made: Rig, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, made.log.read_text()[-3000:]
        with contextlib.suppress(aiohttp.ClientError):
            async with (
                made.http.get(f"{made.admin}/health") as admin,
                made.http.get(f"{made.ingress}/restate/health") as ingress,
            ):
                if admin.status == ingress.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise TimeoutError(made.log.read_text()[-3000:])
