"""ipyparallel: an engine a core and a load-balanced view; `chunksize` for many small items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipyparallel  # type: ignore[import-not-found, unused-ignore]

from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, nap, noop, reckon


@contextmanager
def start() -> Iterator[Any]:
    with ipyparallel.Cluster(n=CORES, log_level=40) as client:
        view = client.load_balanced_view()
        view.map_sync(noop, range(100))
        yield view


def run(view: Any, work: Callable[[int], int], items: int, clock: Clock, **options: Any) -> None:
    with clock.running():
        results = view.map_sync(work, range(items), **options)
    expect(results, items)


PEER = Peer(
    start,
    {
        "noop": lambda view, items, clock: run(view, noop, items, clock),
        "batched": lambda view, items, clock: run(view, noop, items, clock, chunksize=100),
        "10ms": lambda view, items, clock: run(view, nap, items, clock),
        "cpu": lambda view, items, clock: run(view, reckon, items, clock),
    },
)
