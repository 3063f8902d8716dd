"""restate_nb: `rnb.map`, its DataFrame included."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import restate_nb as rnb
from benchmarks.against.peer import Clock, Peer, expect
from benchmarks.against.works import CORES, nap_async, noop_async, reckon


@contextmanager
def start() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory, rnb.start("peers", data_dir=directory):
        rnb.map(noop_async, range(100), show=False).result()
        yield Path(directory)


def run(work: Any, items: int, clock: Clock, **options: Any) -> None:
    with clock.running():
        frame = rnb.map(work, range(items), show=False, fresh=True, **options).result()
    expect(frame["value"], items)


def cpu(_: Path, items: int, clock: Clock) -> None:
    rnb.map(reckon, range(CORES), executor="process", concurrency=CORES, show=False, fresh=True).result()
    run(reckon, items, clock, executor="process", concurrency=CORES)


def resume(directory: Path, items: int, clock: Clock) -> None:
    """The session ends and another one starts; the cell is run again."""
    runs = []

    async def counted(item: int) -> int:
        runs.append(item)
        return item

    rnb.map(counted, range(items), name="again", concurrency=100, show=False).result()
    rnb.start().stop()
    with rnb.start("peers", data_dir=directory):
        with clock.running():
            frame = rnb.map(counted, range(items), name="again", concurrency=100, show=False).result()
        expect(frame["value"], items)
    if len(runs) != items:
        raise AssertionError(f"{items} items ran {len(runs)} times")


PEER = Peer(
    start,
    {
        "noop": lambda _, items, clock: run(noop_async, items, clock, concurrency=100),
        "10ms": lambda _, items, clock: run(nap_async, items, clock, concurrency=100),
        "cpu": cpu,
        "resume": resume,
    },
)
