"""One peer doing one piece of work, as a process of its own: `python -m benchmarks.peers PEER WORK ITEMS AT_ONCE`."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHUNK = 100


async def noop(item: int) -> int:
    return item


async def sleep_10ms(item: int) -> int:
    await asyncio.sleep(0.01)
    return item


WORK = {"noop": noop, "10ms": sleep_10ms}


def plain_asyncio(work: Callable[[int], Any], items: int, concurrency: int) -> float:
    async def main() -> None:
        semaphore = asyncio.Semaphore(concurrency)

        async def one(item: int) -> Any:
            async with semaphore:
                return await work(item)

        await asyncio.gather(*(one(item) for item in range(items)))

    began = time.perf_counter()
    asyncio.run(main())
    return time.perf_counter() - began


def rnb_map(work: Callable[[int], Any], items: int, concurrency: int) -> float:
    import restate_nb as rnb

    with tempfile.TemporaryDirectory() as directory, rnb.start("benchmark", data_dir=directory):
        rnb.map(noop, [0], show=False).result()  # the first invocation opens connections
        began = time.perf_counter()
        frame = rnb.map(work, range(items), concurrency=concurrency, show=False).result()
        took = time.perf_counter() - began
        assert (frame["value"] == range(items)).all()
        return took


def first_item(work: Callable[[int], Any], items: int, concurrency: int) -> float:
    import restate_nb as rnb

    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        with rnb.start("benchmark", data_dir=directory):
            rnb.map(work, range(items), concurrency=concurrency, show=False).result()
            return time.perf_counter() - began


def ctx_run(in_chunks: bool) -> Callable[[Callable[[int], Any], int, int], float]:
    def run(work: Callable[[int], Any], items: int, concurrency: int) -> float:
        import restate

        import restate_nb as rnb

        service = restate.Service("peer")

        @service.handler()
        async def all_items(ctx: restate.Context, count: int) -> int:
            size = concurrency if in_chunks else count
            for begin in range(0, count, size):
                futures = [
                    ctx.run_typed("item", work, restate.RunOptions(type_hint=int), item)
                    for item in range(begin, min(begin + size, count))
                ]
                await restate.gather(*futures)
                for future in futures:
                    await future
            return count

        with tempfile.TemporaryDirectory() as directory, rnb.start("benchmark", data_dir=directory) as session:
            session.serve(service)
            session.call(all_items, 1)
            began = time.perf_counter()
            session.call(all_items, items)
            return time.perf_counter() - began

    return run


PEERS: dict[str, Callable[[Callable[[int], Any], int, int], float]] = {
    "asyncio": plain_asyncio,
    "rnb.map": rnb_map,
    "ctx.run chunks": ctx_run(True),
    "ctx.run gather": ctx_run(False),
    "start to first item": first_item,
}


def memory() -> int:
    """Bytes of memory that this process has now."""
    pages = Path("/proc/self/statm").read_text().split()[1] if sys.platform == "linux" else "0"
    return int(pages) * resource.getpagesize()


def peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    peer, work, items, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if peer != "asyncio":
        import pandas  # noqa: F401 - what is loaded anyway is not counted
        import restate

        import restate_nb.session.session  # noqa: F401
    before = memory()
    seconds = PEERS[peer](WORK[work], items, concurrency)
    print(json.dumps({"seconds": seconds, "grown": peak() - before}))
