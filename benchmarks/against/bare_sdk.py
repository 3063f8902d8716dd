"""The Restate SDK without us: `ctx.run` for each item, gathered in chunks of a hundred, in one handler."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import restate

import restate_nb as rnb
from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, nap_async, noop_async, reckon

CHUNK = 100
runs: list[int] = []
pool: list[ProcessPoolExecutor] = []
service = restate.Service("Peer")


async def counted(item: int) -> int:
    runs.append(item)
    return item


async def in_process(item: int) -> int:
    return await asyncio.get_running_loop().run_in_executor(pool[0], reckon, item)


WORKS = {"noop": noop_async, "10ms": nap_async, "cpu": in_process, "counted": counted}


@service.handler()
async def run_all(ctx: restate.Context, order: dict[str, Any]) -> list[int]:
    work, items = WORKS[order["work"]], order["items"]
    results: list[int] = []
    for begin in range(0, items, CHUNK):
        futures = [
            ctx.run_typed("item", work, restate.RunOptions(type_hint=int), item)
            for item in range(begin, min(begin + CHUNK, items))
        ]
        await restate.gather(*futures)
        results += [await future for future in futures]
    return results


@contextmanager
def start() -> Iterator[Path]:
    # Our session starts the server and serves the handler, as `restate-server` and hypercorn would do by hand.
    with tempfile.TemporaryDirectory() as directory, rnb.start("peers", data_dir=directory) as session:
        session.serve(service)
        session.call(run_all, {"work": "noop", "items": 100})
        yield Path(directory)


def run(work: str, items: int, clock: Clock) -> None:
    with clock.running():
        results = rnb.start().call(run_all, {"work": work, "items": items})
    expect(results, items)


def cpu(_: Path, items: int, clock: Clock) -> None:
    with ProcessPoolExecutor(CORES) as processes:
        list(processes.map(reckon, range(CORES)))
        pool[:] = [processes]
        run("cpu", items, clock)


def resume(directory: Path, items: int, clock: Clock) -> None:
    """The process that serves the handler ends and comes again; the call is made again under its idempotency key."""
    order = {"work": "counted", "items": items}
    rnb.start().call(run_all, order, idempotency_key="again")
    rnb.start().stop()
    with rnb.start("peers", data_dir=directory) as session:
        session.serve(service)
        with clock.running():
            results = session.call(run_all, order, idempotency_key="again")
        expect(results, items)
    if len(runs) != items:
        raise AssertionError(f"{items} items ran {len(runs)} times")


PEER = Peer(
    start,
    {
        "noop": lambda _, items, clock: run("noop", items, clock),
        "10ms": lambda _, items, clock: run("10ms", items, clock),
        "cpu": cpu,
        "resume": resume,
    },
)
