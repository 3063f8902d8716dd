"""What one would take for each kind of work if nothing had to be kept: as its users write it, best of its class."""

from __future__ import annotations

import asyncio
import os
import pickle
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pandas as pd

from benchmarks.matrix.works import CORES, price

SYNCED_BYTES = 4 << 20  # what a file may lose


async def gathered(work: Callable[[Any], Awaitable[Any]], items: Iterable[Any], at_once: int) -> list[Any]:
    """asyncio with a semaphore."""
    semaphore = asyncio.Semaphore(at_once)

    async def one(item: Any) -> Any:
        async with semaphore:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))


def on_asyncio(work: Callable[[Any], Awaitable[Any]], at_once: int) -> Callable[[Iterable[Any]], list[Any]]:
    return lambda items: asyncio.run(gathered(work, items, at_once))


def in_threads(work: Callable[[Any], Any], threads: int) -> Callable[[Iterable[Any]], list[Any]]:
    def run(items: Iterable[Any]) -> list[Any]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, items))

    return run


def in_loop(work: Callable[[Any], Any]) -> Callable[[Iterable[Any]], list[Any]]:
    return lambda items: [work(item) for item in items]


def applied(frame: pd.DataFrame) -> list[Any]:
    return frame.apply(lambda row: price(row["km"], row["parcels"]), axis=1).tolist()


def on_joblib(
    work: Callable[[Any], Any], batch_size: int | Literal["auto"] = "auto"
) -> Callable[[Iterable[Any]], list[Any]]:
    """Worker processes (loky, the default), which stay for the next call, and batches of its own sizing, or of so many
    items: where items differ much in length, one is best."""
    from joblib import Parallel, delayed

    def run(items: Iterable[Any]) -> list[Any]:
        done: list[Any] = Parallel(n_jobs=CORES, batch_size=batch_size)(delayed(work)(item) for item in items)
        return done

    return run


def into_a_file(work: Callable[[Any], Any], threads: int) -> Callable[[Iterable[Any]], list[Any]]:
    """Threads, and a file to which each value is pickled; every 4 MiB are synchronised to the disk."""

    def run(items: Iterable[Any]) -> list[Any]:
        values, synced = [], 0
        with ThreadPoolExecutor(threads) as pool, tempfile.NamedTemporaryFile() as file:
            for value in pool.map(work, items):
                pickle.dump(value, file, protocol=5)
                values.append(value)
                if file.tell() - synced >= SYNCED_BYTES:
                    file.flush()
                    os.fsync(file.fileno())
                    synced = file.tell()
            file.flush()
            os.fsync(file.fileno())
        return values

    return run


def invoked(url: str, at_once: int) -> Callable[[Sequence[int]], list[Any]]:
    """An aiohttp client that calls a handler of the SDK, with an idempotency key a call."""
    import aiohttp

    async def main(items: Sequence[int]) -> list[Any]:
        run = uuid.uuid4().hex
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def call(item: int) -> Any:
                headers = {"Idempotency-Key": f"{run}/{item}"}
                async with session.post(url, json=item, headers=headers) as answer:
                    answer.raise_for_status()
                    return await answer.json()

            return await gathered(call, items, at_once)

    return lambda items: asyncio.run(main(items))
