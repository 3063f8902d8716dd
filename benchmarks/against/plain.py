"""Plain asyncio: nothing is kept, nothing is retried. What the machine can do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, nap_async, noop_async, reckon


@contextmanager
def start() -> Iterator[None]:
    run(noop_async, 100, 100, Clock())
    yield


def run(work: Callable[[int], Awaitable[int]], items: int, at_once: int, clock: Clock) -> None:
    async def main() -> list[int]:
        semaphore = asyncio.Semaphore(at_once)

        async def one(item: int) -> int:
            async with semaphore:
                return await work(item)

        return await asyncio.gather(*(one(item) for item in range(items)))

    with clock.running():
        results = asyncio.run(main())
    expect(results, items)


def cpu(_: None, items: int, clock: Clock) -> None:
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(reckon, range(CORES)))

        async def main() -> list[int]:
            loop = asyncio.get_running_loop()
            return await asyncio.gather(*(loop.run_in_executor(pool, reckon, item) for item in range(items)))

        with clock.running():
            results = asyncio.run(main())
    expect(results, items)


PEER = Peer(
    start,
    {
        "noop": lambda _, items, clock: run(noop_async, items, 100, clock),
        "10ms": lambda _, items, clock: run(nap_async, items, 100, clock),
        "cpu": cpu,
    },
)
