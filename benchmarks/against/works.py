"""The work that every peer does. In a module of its own, which every peer's worker processes can import."""

from __future__ import annotations

import asyncio
import os
import time

CORES = os.cpu_count() or 1


def noop(item: int) -> int:
    return item


async def noop_async(item: int) -> int:
    return item


def nap(item: int) -> int:
    """10 ms of waiting, as for an answer from a network."""
    time.sleep(0.01)
    return item


async def nap_async(item: int) -> int:
    await asyncio.sleep(0.01)
    return item


def reckon(item: int) -> int:
    """About 5 ms of plain Python on one core."""
    total = 0
    for step in range(200_000):
        total ^= step
    return item


def noops(items: list[int]) -> list[int]:
    return [noop(item) for item in items]


def in_batches(items: int, size: int) -> list[list[int]]:
    return [list(range(begin, min(begin + size, items))) for begin in range(0, items, size)]
