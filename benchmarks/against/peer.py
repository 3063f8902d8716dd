"""What a peer can be asked to do, and the process that asks it: `python -m benchmarks.against.peer NAME CASES`."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

MODULES = {
    "asyncio": "plain",
    "restate_nb": "ours",
    "Restate SDK": "bare_sdk",
    "joblib": "joblib_peer",
    "Dask": "dask_peer",
    "Ray": "ray_peer",
    "ipyparallel": "ipyparallel_peer",
    "DBOS": "dbos_peer",
}


@dataclass
class Clock:
    """Times what happens in its `with` block, and nothing around it."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - began


Case = Callable[[Any, int, Clock], None]


@dataclass(frozen=True)
class Peer:
    """A peer: how it is started, and its way of each piece of work. Work that it has no way of is left out.

    A case takes what `start` gave, the number of items and the clock, which it lets run for as long as a user would
    wait for the results; it fails if a result is wrong.
    """

    start: Callable[[], AbstractContextManager[Any]]
    cases: dict[str, Case] = field(default_factory=dict)


def expect(results: Iterable[int], items: int) -> None:
    found = list(results)
    if found != list(range(items)):
        raise AssertionError(f"{items} items were expected in their order, found {len(found)}: {found[:5]} ...")


def main(name: str, cases: list[tuple[str, int]]) -> None:
    peer: Peer = importlib.import_module(f"benchmarks.against.{MODULES[name]}").PEER
    with peer.start() as started:
        for case, items in cases:
            clock = Clock()
            peer.cases[case](started, items, clock)
            print(json.dumps({"case": case, "items": items, "seconds": clock.seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
