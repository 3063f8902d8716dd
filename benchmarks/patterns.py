"""`python -m benchmarks.patterns`: many durable steps, or calls, in one handler, beside chunks that one writes by hand.

    chunks of 50      `restate.gather` of fifty `ctx.run_typed` (or `ctx.service_call`), and then of the next fifty
    map_concurrent    `restate_nb.patterns.map_concurrent`, with windows of 20, 50 (its default), 100 and 200

What is compared is the CPU time of this process, in which the handlers run, so that other work on the machine does not
count; and how much of the native core they ask for: how often it is to make progress, and how often
it is asked whether a handle is completed. The ways take turns; medians are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import restate

from restate_nb.patterns import map_concurrent
from restate_nb.testing import LocalServer, running_server

service = restate.Service("PatternsBenchmark")
COUNTS = (500, 2_500)
WINDOWS = (20, 50, 100, 200)
CHUNK = 50


@service.handler()
async def child(ctx: restate.Context, number: int) -> int:
    return number


async def step() -> int:
    return 1


def one(ctx: Any, kind: str, number: int) -> Any:
    return ctx.run_typed("step", step) if kind == "run" else ctx.service_call(child, number)


@service.handler()
async def chunks(ctx: restate.Context, given: dict[str, Any]) -> dict[str, float]:
    with measured(ctx, counts=given["counts"]) as found:
        for begin in range(0, given["count"], CHUNK):
            numbers = range(begin, min(begin + CHUNK, given["count"]))
            futures = [one(ctx, given["kind"], number) for number in numbers]
            await restate.gather(*futures)
            for future in futures:
                await future
    return found


@service.handler()
async def mapped(ctx: restate.Context, given: dict[str, Any]) -> dict[str, float]:
    with measured(ctx, counts=given["counts"]) as found:
        await map_concurrent(
            ctx, range(given["count"]), lambda number: one(ctx, given["kind"], number), max_concurrent=given["window"]
        )
    return found


@contextmanager
def measured(ctx: Any, *, counts: bool) -> Iterator[dict[str, float]]:
    """What a block asks of the native core, or, since counting takes time, its CPU time."""
    found: Counter[str] = Counter()
    took: dict[str, float] = {}
    core = ctx.vm.vm
    if counts:
        ctx.vm.vm = Core(core, found)
    begin = time.process_time()
    try:
        yield took
    finally:
        took |= found if counts else {"cpu": time.process_time() - begin}
        ctx.vm.vm = core


class Core:
    """The SDK's native core, counted."""

    def __init__(self, core: Any, found: Counter[str]) -> None:
        self._core, self._found = core, found

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._core, name)
        if name not in ("do_progress", "is_completed"):
            return real

        def counted(argument: Any) -> Any:
            self._found[name] += 1
            return real(argument)

        return counted


async def measure(server: LocalServer, rounds: int, counts: list[int]) -> None:
    await server.call(
        mapped, {"count": 100, "kind": "run", "window": 50, "counts": False}
    )  # the first call sets up the connection
    ways: list[int | None] = [None, *WINDOWS]
    print(f"{'':<8}{'count':>7}  {'':<22}{'us CPU a step':>14}{'of chunks':>11}{'progress':>10}{'completed?':>12}")
    for kind in ("run", "call"):
        for count in counts:
            found: dict[int | None, list[dict[str, float]]] = defaultdict(list)
            for turn in range(rounds + 1):
                for window in ways:
                    given = {"count": count, "kind": kind, "window": window, "counts": turn == rounds}
                    found[window].append(await server.call(chunks if window is None else mapped, given))
            for window in ways:
                row(kind, count, window, found)


def row(kind: str, count: int, window: int | None, found: dict[int | None, list[dict[str, float]]]) -> None:
    def median(of: int | None, what: str) -> float:
        return statistics.median(each[what] for each in found[of] if what in each) / count

    name = f"chunks of {CHUNK}" if window is None else f"map_concurrent {window}"
    print(
        f"{kind:<8}{count:>7,}  {name:<22}{median(window, 'cpu') * 1e6:>14,.0f}"
        f"{median(window, 'cpu') / median(None, 'cpu'):>11.2f}{median(window, 'do_progress'):>10.2f}"
        f"{median(window, 'is_completed'):>12.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patterns", description=__doc__)
    parser.add_argument("--count", type=int, nargs="*", default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with running_server(service) as server:
        asyncio.run(measure(server, arguments.rounds, arguments.count))


if __name__ == "__main__":
    main()
