"""The rows: kinds of work, each with its peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import restate

import restate_nb as rnb
from benchmarks.matrix import peers, web, works
from benchmarks.matrix.works import CORES

Made = tuple[Callable[..., Any], Callable[[Any], list[Any]]]
"""What each item of ours does, and how the peer runs all of them."""


@dataclass(frozen=True)
class Row:
    """A kind of work.

    Attributes:
        name: on the command line.
        work: what an item does.
        peer: what ours is measured beside.
        count: how many items a run has.
        make: a context that gives both sides.
        wanted: the least that ours shall have of the peer's rate; None where nothing was said.
        options: of `rnb.map`.
        items: gives so many items.
    """

    name: str
    work: str
    peer: str
    count: int
    make: Callable[[], Any]
    wanted: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    items: Callable[[int], Any] = range

    def ours(self, function: Callable[..., Any], items: Any, name: str) -> rnb.Job[Any]:
        return rnb.map(function, items, name=name, show=False, **self.options)


def both(function: Callable[..., Any], peer: Callable[[], Callable[[Any], list[Any]]]) -> Callable[[], Any]:
    """Sides that need nothing beside them. `peer` is made when its row is measured: not everyone has them all."""

    @contextmanager
    def make() -> Iterator[Made]:
        yield function, peer()

    return make


@contextmanager
def http() -> Iterator[Made]:
    with web.served() as url:
        yield web.with_shared_client(url), web.asked(url, 50)
        rnb.map(web.close_client, [0], show=False, fresh=True).result()


service = restate.Service("MatrixPeer")


@service.handler()
async def three_steps(ctx: restate.Context, item: int) -> int:
    for name in ("fetch", "reckon", "store"):
        item = await ctx.run_typed(name, works.noop, restate.RunOptions(type_hint=int), item=item)
    return item


async def in_steps(ctx: restate.Context, item: int) -> int:
    for name in ("fetch", "reckon", "store"):
        item = await ctx.run_typed(name, works.noop, restate.RunOptions(type_hint=int), item=item)
    return item


@contextmanager
def durable() -> Iterator[Made]:
    session = rnb.start()
    session.serve(service)
    yield in_steps, peers.invoked(f"{session.server.ingress.url}/MatrixPeer/three_steps", 50)


PROCESSES: Mapping[str, Any] = {"executor": "process", "concurrency": CORES}

ROWS: Sequence[Row] = [
    Row(
        "async-noop", "async def, nothing to do", "asyncio, semaphore of 100", 100_000,
        both(works.noop_async, lambda: peers.on_asyncio(works.noop_async, 100)), 1.5, {"concurrency": 100},
    ),
    Row(
        "async-100", "async def, 10 ms, 100 at once", "asyncio, semaphore of 100", 10_000,
        both(works.nap_async, lambda: peers.on_asyncio(works.nap_async, 100)), 0.97, {"concurrency": 100},
    ),
    Row(
        "async-1000", "async def, 10 ms, 1,000 at once", "asyncio, semaphore of 1,000", 50_000,
        both(works.nap_async, lambda: peers.on_asyncio(works.nap_async, 1_000)), 0.97, {"concurrency": 1_000},
    ),
    Row(
        "plain-noop", "def, nothing to do", "ThreadPoolExecutor(16)", 100_000,
        both(works.noop, lambda: peers.in_threads(works.noop, 16)), 2.0, {"concurrency": 16},
    ),
    Row(
        "plain-noop-1", "def, nothing to do, one at a time", "ThreadPoolExecutor(1)", 50_000,
        both(works.noop, lambda: peers.in_threads(works.noop, 1)), None, {"concurrency": 1},
    ),
    Row(
        "plain-1ms-1", "def, 1 ms, one at a time", "a for loop", 1_000,
        both(works.short_nap, lambda: peers.in_loop(works.short_nap)), None, {"concurrency": 1},
    ),
    Row(
        "plain-100", "def, 10 ms, 100 at once", "ThreadPoolExecutor(100)", 10_000,
        both(works.nap, lambda: peers.in_threads(works.nap, 100)), 0.97, {"concurrency": 100},
    ),
    Row(
        "rows", "rows of a DataFrame", "df.apply(axis=1)", 50_000,
        both(works.price, lambda: peers.applied), 1.0, items=works.rows,
    ),
    Row(
        "dataclasses", "dataclasses in and out", "asyncio, semaphore of 100", 50_000,
        both(works.offer, lambda: peers.on_asyncio(works.offer, 100)), None, {"concurrency": 100}, works.orders,
    ),
    Row(
        "compute-20us", "compute 20 µs, processes", "joblib", 50_000,
        both(works.compute, lambda: peers.on_joblib(works.compute)), 0.6, PROCESSES, works.small_loops,
    ),
    Row(
        "compute-10ms", "compute 10 ms, processes", "joblib", 400,
        both(works.compute, lambda: peers.on_joblib(works.compute)), 0.97, PROCESSES, works.loops,
    ),
    Row(
        "compute-default", "compute 10 ms, no options", "a for loop", 200,
        both(works.compute, lambda: peers.in_loop(works.compute)), 0.97, items=works.loops,
    ),
    Row(
        "mixed", "compute 1 ms to 1 s, processes", "joblib, batch_size=1", 60,
        both(works.compute, lambda: peers.on_joblib(works.compute, 1)), 0.97, PROCESSES, works.mixed_loops,
    ),
    Row(
        "arrays", "values: arrays of 6 kB", "threads, file with fsync", 5_000,
        both(works.embedding, lambda: peers.into_a_file(works.embedding, 16)), None, {"concurrency": 16},
    ),
    Row(
        "bytes", "values: bytes of 100 kB", "threads, file with fsync", 500,
        both(works.page, lambda: peers.into_a_file(works.page, 16)), None, {"concurrency": 16},
    ),
    Row("http", "HTTP requests, 50 at once", "asyncio, semaphore of 50", 4_000, http, None, {"concurrency": 50}),
    Row("durable", "durable functions of 3 steps", "Restate SDK, aiohttp", 500, durable, None, {"concurrency": 50}),
]  # fmt: skip
