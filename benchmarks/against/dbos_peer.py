"""DBOS on SQLite, its default: steps of a workflow, in a plain loop (its fastest) or a hundred at once with gather."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID  # type: ignore[import-not-found, unused-ignore]

from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, nap_async, noop, reckon

CHUNK = 100
runs: list[int] = []
pool: list[ProcessPoolExecutor] = []


@DBOS.step()  # type: ignore[misc, unused-ignore]
def noop_step(item: int) -> int:
    runs.append(item)
    return noop(item)


@DBOS.step()  # type: ignore[misc, unused-ignore]
async def nap_step(item: int) -> int:
    return await nap_async(item)


@DBOS.step()  # type: ignore[misc, unused-ignore]
async def cpu_step(item: int) -> int:
    return await asyncio.get_running_loop().run_in_executor(pool[0], reckon, item)


STEPS = {"10ms": nap_step, "cpu": cpu_step}


@DBOS.workflow()  # type: ignore[misc, unused-ignore]
def run_noops(items: int) -> list[int]:
    return [noop_step(item) for item in range(items)]


@DBOS.workflow()  # type: ignore[misc, unused-ignore]
async def run_all(step: str, items: int) -> list[int]:
    results: list[int] = []
    for begin in range(0, items, CHUNK):
        chunk = range(begin, min(begin + CHUNK, items))
        results += await asyncio.gather(*(STEPS[step](item) for item in chunk))
    return results


def launch(directory: str) -> None:
    config: Any = {
        "name": "peers",
        "system_database_url": f"sqlite:///{directory}/dbos.sqlite",
        "run_admin_server": False,
        "log_level": "ERROR",
    }
    DBOS(config=DBOSConfig(**config))
    DBOS.launch()


@contextmanager
def start() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        launch(directory)
        run_noops(100)
        yield directory
        DBOS.destroy()


def run(step: str, items: int, clock: Clock) -> None:
    with clock.running():
        results = asyncio.run(run_all(step, items))
    expect(results, items)


def noops(_: str, items: int, clock: Clock) -> None:
    with clock.running():
        results = run_noops(items)
    expect(results, items)


def cpu(_: str, items: int, clock: Clock) -> None:
    with ProcessPoolExecutor(CORES) as processes:
        list(processes.map(reckon, range(CORES)))
        pool[:] = [processes]
        run("cpu", items, clock)


def resume(directory: str, items: int, clock: Clock) -> None:
    """DBOS ends and is launched again; the workflow is called again under its ID."""
    with SetWorkflowID("again"):
        run_noops(items)
    before = len(runs)
    DBOS.destroy()
    launch(directory)
    with SetWorkflowID("again"):
        noops(directory, items, clock)
    if len(runs) != before:
        raise AssertionError(f"{len(runs) - before} steps ran again")


PEER = Peer(
    start,
    {
        "noop": noops,
        "10ms": lambda _, items, clock: run("10ms", items, clock),
        "cpu": cpu,
        "resume": resume,
    },
)
