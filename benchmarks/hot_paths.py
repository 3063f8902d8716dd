"""The paths that every item goes through, each once on demand: `python benchmarks/hot_paths.py`.

Started by `benchmarks regress` on one commit's package (PYTHONPATH) with these probes, so that two commits are measured
by the same code. It reads names of probes, one a line, and answers each with the seconds of processor time it took.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

MIXED = {
    "number": 12.5,
    "text": "a line of text, as an answer of an API may be",
    "list": list(range(20)),
    "nested": {"ok": True, "none": None, "pairs": [(1, "one"), (2, "two")]},
}


async def noop(item: int) -> int:
    return item


def plain(item: int) -> int:
    return item


async def priced(km: float, parcels: int) -> dict[str, float]:
    return {"price": 2.5 + km * parcels, "km": km}


def _parcels(rows: int) -> Any:
    import pandas as pd

    return pd.DataFrame(
        {"km": [number / 8 for number in range(rows)], "parcels": [number % 7 for number in range(rows)]}
    )


def engine(state: dict[str, Any]) -> Callable[[], object]:
    """10,000 no-op items through `rnb.map` on a real server, the frame included."""
    import restate_nb as rnb

    _session(state)
    return lambda: rnb.map(noop, range(10_000), concurrency=100, show=False, fresh=True).result()


def commits(state: dict[str, Any]) -> Callable[[], object]:
    """5,000 items through `run_each` on a context in memory."""
    from restate_nb.patterns import run_each
    from restate_nb.testing import mock_context

    return _awaited(lambda: run_each(mock_context(), noop, range(5_000)))


def scheduler(state: dict[str, Any]) -> Callable[[], object]:
    """500 durable steps through `map_concurrent` on a context in memory."""
    from restate_nb.patterns import map_concurrent
    from restate_nb.testing import mock_context

    def steps() -> Awaitable[Any]:
        ctx = mock_context()
        return map_concurrent(ctx, range(500), lambda item: ctx.run_typed("step", lambda: item))

    return _awaited(steps)


def codec(state: dict[str, Any]) -> Callable[[], object]:
    """5,000 values of several types, to bytes and back."""
    from restate_nb.values.codec import decode, encode

    return lambda: [decode(encode(MIXED)) for _ in range(5_000)]


def frame(state: dict[str, Any]) -> Callable[[], object]:
    """The frame of a finished job of 50,000 items."""
    import restate_nb as rnb

    _session(state)
    job = rnb.map(noop, range(50_000), concurrency=100, show=False)
    job.result()
    return job.frame


def threads(state: dict[str, Any]) -> Callable[[], object]:
    """3,000 plain no-op items, 16 at once."""
    import restate_nb as rnb

    _session(state)
    return lambda: rnb.map(plain, range(3_000), name="plain", concurrency=16, show=False, fresh=True).result()


def processes(state: dict[str, Any]) -> Callable[[], object]:
    """500 no-op items in two processes: what this process does for them. Theirs is not counted."""
    import restate_nb as rnb

    _session(state)
    options: dict[str, Any] = {"name": "processes", "executor": "process", "concurrency": 2, "show": False}
    return lambda: rnb.map(plain, range(500), **options, fresh=True).result()


def rows(state: dict[str, Any]) -> Callable[[], object]:
    """3,000 rows of a DataFrame as items."""
    import restate_nb as rnb

    _session(state)
    parcels = _parcels(3_000)
    return lambda: rnb.map(priced, parcels, name="rows", concurrency=100, show=False, fresh=True).result()


def values(state: dict[str, Any]) -> Callable[[], object]:
    """The frame of a finished job whose 5,000 values are dicts, with a column for each field."""
    import restate_nb as rnb

    _session(state)
    job = rnb.map(priced, _parcels(5_000), name="values", concurrency=100, show=False)
    job.result()
    return lambda: job.frame(expand=True)


def items(state: dict[str, Any]) -> Callable[[], object]:
    """3,000 items of several types, read, encoded and digested: the cell of a finished job is run again."""
    import restate_nb as rnb

    _session(state)
    mixed = [{**MIXED, "number": number} for number in range(3_000)]
    rnb.map(noop, mixed, name="items", concurrency=100, show=False).result()
    return lambda: rnb.map(noop, mixed, name="items", concurrency=100, show=False).done()


PROBES = {
    "engine": engine,
    "threads": threads,
    "processes": processes,
    "rows": rows,
    "items": items,
    "values": values,
    "frame": frame,
    "codec": codec,
    "commits": commits,
    "scheduler": scheduler,
}


def _awaited(work: Callable[[], Awaitable[Any]]) -> Callable[[], object]:
    async def main() -> Any:
        return await work()

    return lambda: asyncio.run(main())


def _session(state: dict[str, Any]) -> None:
    import restate_nb as rnb

    if "session" not in state:
        state["session"] = rnb.start("regress", data_dir=state["directory"])


def main() -> None:
    import restate_nb

    print(json.dumps({"package": restate_nb.__file__}), flush=True)
    ready: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as directory:
        state: dict[str, Any] = {"directory": directory}
        for line in sys.stdin:
            name = line.strip()
            try:
                if name not in ready:
                    ready[name] = PROBES[name](state)
                    ready[name]()  # the first time opens connections and fills caches
                gc.collect()
                began = time.process_time()
                ready[name]()
                answer: dict[str, Any] = {"seconds": time.process_time() - began}
            except (ImportError, AttributeError, TypeError) as error:
                answer = {"missing": f"{type(error).__name__}: {error}"}  # another commit's interface
            print(json.dumps(answer), flush=True)
        if "session" in state:
            state["session"].stop()


if __name__ == "__main__":
    main()
