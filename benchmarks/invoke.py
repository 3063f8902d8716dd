"""`rnb.invoke` and its frame beside a bare aiohttp client: the same invocations, at the same concurrency, in pairs."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import restate

from benchmarks.measure import table

WANTED = 0.75

service = restate.Service("Echo", idempotency_retention=timedelta(days=1), journal_retention=timedelta(days=1))


@service.handler()
async def echo(ctx: restate.Context, item: int) -> int:
    return item


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=10_000, help="invocations a run (default 10,000)")
    parser.add_argument("--concurrency", type=int, default=50, help="open at once (default 50)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks-invoke.json"), help="where the report goes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(folder, arguments.items, arguments.concurrency, arguments.pairs)
    ratios = [bare / ours for bare, ours in zip(found["aiohttp"], found["rnb.invoke"], strict=True)]
    rows = [["client", "invocations", "seconds", "a second", "client's CPU, ms each"]]
    for client in ("aiohttp", "rnb.invoke"):
        seconds = statistics.median(found[client])
        cpu = 1000 * statistics.median(found[f"{client} cpu"]) / arguments.items
        rate = f"{arguments.items / seconds:,.0f}"
        rows.append([client, f"{arguments.items:,}", f"{seconds:.2f}", rate, f"{cpu:.3f}"])
    print(table(rows))
    print(f"\nrnb.invoke with its frame has {statistics.median(ratios):.3f} of the rate of a bare aiohttp client, at")
    print(f"{arguments.concurrency} at once; pairs: {', '.join(f'{ratio:.3f}' for ratio in ratios)}. Wanted: {WANTED}.")
    arguments.json.write_text(json.dumps({**found, "ratios": ratios}, indent=1))


def measure(folder: str, items: int, concurrency: int, pairs: int) -> dict[str, list[float]]:
    """The seconds of each run, in turn; which of the two comes first alternates."""
    import restate_nb as rnb
    from restate_nb.patterns import ServiceClient

    process = subprocess.Popen([sys.executable, "-m", "benchmarks.invoke"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with rnb.start("benchmark", data_dir=f"{folder}/.restate", listen="tcp") as session:
            session.io.run(session.connection.admin.point(["Echo"], process.stdout.readline().strip()))
            url = session.server.ingress.url
            client = ServiceClient[int, int]("Echo", "echo")

            def ours(number: int, items: int = items) -> float:
                began = time.perf_counter()
                options: dict[str, Any] = {"name": f"run {number}", "concurrency": concurrency, "show": False}
                frame = rnb.invoke(client, range(items), **options).result()
                took = time.perf_counter() - began
                assert (frame["value"] == range(items)).all() and frame["invocation_id"].is_unique
                return took

            def bare(number: int, items: int = items) -> float:
                began = time.perf_counter()
                values = asyncio.run(aiohttp_client(url, number, items, concurrency))
                took = time.perf_counter() - began
                assert values == list(range(items))
                return took

            clients = {"aiohttp": bare, "rnb.invoke": ours}
            found: dict[str, list[float]] = {name: [] for each in clients for name in (each, f"{each} cpu")}
            for call in clients.values():
                call(-1, 500)  # the first runs open connections and load what is loaded once
            for pair in range(pairs):
                for name in sorted(clients, reverse=pair % 2 == 1):
                    worked = time.process_time()
                    found[name].append(clients[name](pair))
                    found[f"{name} cpu"].append(time.process_time() - worked)
                    print(f"{name:<12} {found[name][-1]:>7.2f} s", flush=True)
            return found
    finally:
        process.kill()
        process.communicate()


async def aiohttp_client(url: str, number: int, items: int, concurrency: int) -> list[int]:
    """What one writes by hand: as many workers as may be open at once, an idempotency key an invocation."""
    import aiohttp

    values: list[int] = [-1] * items
    left = iter(range(items))

    async def worker(session: aiohttp.ClientSession) -> None:
        for item in left:
            headers = {"Idempotency-Key": f"bare/{number}/{item}"}
            async with session.post(f"{url}/Echo/echo", json=item, headers=headers) as response:
                response.raise_for_status()
                values[item] = await response.json()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(worker(session) for _ in range(concurrency)))
    return values


async def serve_echo() -> None:
    """The service, in a process of its own."""
    import socket

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listening = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.h2_max_concurrent_streams = 10_000
    await serve(restate.app([service]), config, mode="asgi")


if __name__ == "__main__":
    asyncio.run(serve_echo())
