"""`python -m benchmarks.patterns`: operations in one handler, three ways, in one run on one server.

    gather of all       `restate.gather` of every `ctx.run_typed` at once
    chunked gather      the same, a hundred at a time
    map_concurrent      `restate_nb.patterns.map_concurrent` with its default window of 50

Times are those inside the handler (of gather of all: of the whole call). Chunked gather and map_concurrent take turns,
and their medians are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import restate

from restate_nb.patterns import map_concurrent
from restate_nb.testing import LocalServer, running_server

service = restate.Service("PatternsBenchmark")


async def step() -> int:
    return 1


@service.handler()
async def gather_all(ctx: restate.Context, count: int) -> None:
    await restate.gather(*[ctx.run_typed("step", step) for _ in range(count)])


@service.handler()
async def chunked_gather(ctx: restate.Context, count: int) -> float:
    start = time.perf_counter()
    for done in range(0, count, 100):
        futures = [ctx.run_typed("step", step) for _ in range(min(100, count - done))]
        await restate.gather(*futures)
        for future in futures:
            await future
    return time.perf_counter() - start


@service.handler()
async def mapped(ctx: restate.Context, count: int) -> float:
    start = time.perf_counter()
    await map_concurrent(ctx, range(count), lambda _: ctx.run_typed("step", step))
    return time.perf_counter() - start


async def measure(server: LocalServer, count: int, rounds: int, *, with_gather: bool) -> None:
    await server.call(mapped, 200)  # the first call sets up the connection
    chunks, small, large = [], [], []
    for _ in range(rounds):
        chunks.append(await server.call(chunked_gather, count))
        small.append(await server.call(mapped, count))
        large.append(await server.call(mapped, 4 * count))
    chunk, one, four = (statistics.median(times) for times in (chunks, small, large))
    row("chunked gather", count, chunk)
    row("map_concurrent", count, one)
    row("map_concurrent", 4 * count, four)
    if with_gather:
        # From outside: it takes more than a minute, and then the server suspends the handler and has it replayed.
        start = time.perf_counter()
        await server.call(gather_all, count)
        everything = time.perf_counter() - start
        row("gather of all", count, everything)
        print(f"map_concurrent is {everything / one:.0f} times as fast as gather of all (wanted: 20)")
    print(f"map_concurrent takes {one / chunk:.2f} of the time of chunked gather (wanted: at most 1.25)")
    print(f"four times as many operations take {four / one:.2f} times as long (wanted: at most 4.4)")


def row(name: str, count: int, seconds: float) -> None:
    print(f"{name:<16} {count:>7,} operations {seconds:>8.2f} s {count / seconds:>8,.0f}/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patterns", description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-gather", action="store_true", help="gather of all takes a minute")
    arguments = parser.parse_args()
    with running_server(service) as server:
        asyncio.run(measure(server, arguments.count, arguments.rounds, with_gather=not arguments.skip_gather))


if __name__ == "__main__":
    main()
