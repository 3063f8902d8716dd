"""Dask, distributed on this machine: a worker a core, a task an item; bags for small items; threads for waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask.bag  # type: ignore[import-not-found, unused-ignore]
from dask.distributed import Client, LocalCluster  # type: ignore[import-not-found, unused-ignore]

from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, nap, noop, reckon


@contextmanager
def cluster(threads: int) -> Iterator[Any]:
    with (
        LocalCluster(n_workers=CORES, threads_per_worker=threads, dashboard_address="127.0.0.1:0") as local,
        Client(local) as client,
    ):
        client.gather(client.map(noop, range(100), pure=False))
        yield client


def start() -> Any:
    return cluster(1)


def run(client: Any, work: Callable[[int], int], items: int, clock: Clock) -> None:
    with clock.running():
        results = client.gather(client.map(work, range(items), pure=False))
    expect(results, items)


def batched(_: Any, items: int, clock: Clock) -> None:
    with clock.running():
        results = dask.bag.from_sequence(range(items), partition_size=100).map(noop).compute()
    expect(results, items)


def wait(_: Any, items: int, clock: Clock) -> None:
    with cluster(100 // CORES) as client:
        run(client, nap, items, clock)


PEER = Peer(
    start,
    {
        "noop": lambda client, items, clock: run(client, noop, items, clock),
        "batched": batched,
        "10ms": wait,
        "cpu": lambda client, items, clock: run(client, reckon, items, clock),
    },
)
