"""Ray on this machine: a task an item; tasks of a hundred items; async actors for waiting, as its guide says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray  # type: ignore[import-not-found, unused-ignore]

from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, in_batches, nap_async, noop, noops, reckon


@contextmanager
def start() -> Iterator[None]:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(num_cpus=CORES, _node_ip_address="127.0.0.1", **quiet)
    ray.get([ray.remote(noop).remote(item) for item in range(100)])
    yield
    ray.shutdown()


def run(work: Any, items: int, clock: Clock) -> None:
    task = ray.remote(work)
    with clock.running():
        results = ray.get([task.remote(item) for item in range(items)])
    expect(results, items)


def batched(_: None, items: int, clock: Clock) -> None:
    task = ray.remote(noops)
    with clock.running():
        results = ray.get([task.remote(batch) for batch in in_batches(items, 100)])
    expect(itertools.chain(*results), items)


class Waiter:
    async def one(self, item: int) -> int:
        return await nap_async(item)


def wait(_: None, items: int, clock: Clock) -> None:
    actors = [ray.remote(Waiter).options(max_concurrency=100 // CORES).remote() for _ in range(CORES)]
    ray.get([actor.one.remote(0) for actor in actors])
    with clock.running():
        results = ray.get([actors[item % CORES].one.remote(item) for item in range(items)])
    expect(results, items)


PEER = Peer(
    start,
    {
        "noop": lambda _, items, clock: run(noop, items, clock),
        "batched": batched,
        "10ms": wait,
        "cpu": lambda _, items, clock: run(reckon, items, clock),
    },
)
