"""joblib: worker processes (loky, its default) with its own batching; threads for waiting, as its guide says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib import Memory, Parallel, delayed

from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, nap, noop, reckon


@contextmanager
def start() -> Iterator[Any]:
    with Parallel(n_jobs=CORES) as parallel:
        parallel(delayed(noop)(item) for item in range(100))
        yield parallel


def run(parallel: Any, work: Callable[[int], int], items: int, clock: Clock) -> None:
    with clock.running():
        results = parallel(delayed(work)(item) for item in range(items))
    expect(results, items)


def wait(_: Any, items: int, clock: Clock) -> None:
    with Parallel(n_jobs=100, backend="threading") as parallel:
        parallel(delayed(nap)(item) for item in range(100))
        run(parallel, nap, items, clock)


def resume(parallel: Any, items: int, clock: Clock) -> None:
    """`Memory` keeps each item's result in a file; the whole is run again and finds them."""
    with tempfile.TemporaryDirectory() as directory:
        kept = Memory(directory, verbose=0).cache(noop)
        parallel(delayed(kept)(item) for item in range(items))
        run(parallel, kept, items, clock)


PEER = Peer(
    start,
    {
        "noop": lambda parallel, items, clock: run(parallel, noop, items, clock),
        "10ms": wait,
        "cpu": lambda parallel, items, clock: run(parallel, reckon, items, clock),
        "resume": resume,
    },
)
