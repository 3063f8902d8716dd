"""What the items of each row do. In a module of its own, which worker processes can import."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

CORES = os.cpu_count() or 1
LOOPS_20_US = 800
LOOPS_10_MS = 400_000  # some 25 ns each: what counts is that both sides do the same
LOOPS_1_S = 40_000_000


async def noop_async(item: int) -> int:
    return item


def noop(item: int) -> int:
    return item


async def nap_async(item: int) -> int:
    await asyncio.sleep(0.01)
    return item


def nap(item: int) -> int:
    time.sleep(0.01)
    return item


def short_nap(item: int) -> int:
    time.sleep(0.001)
    return item


def price(km: float, parcels: int) -> float:
    return 2.5 + km * 0.5 * parcels


def rows(count: int) -> pd.DataFrame:
    dice = np.random.default_rng(7)
    return pd.DataFrame({"km": dice.gamma(2.0, 60.0, count), "parcels": dice.integers(1, 9, count)})


@dataclass
class Order:
    number: int
    street: str
    km: float


@dataclass
class Offer:
    order: Order
    price: float


async def offer(order: Order) -> Offer:
    return Offer(order, 2.5 + order.km * 0.5)


def orders(count: int) -> list[Order]:
    return [Order(number, f"{number} Main Street", number / 8) for number in range(count)]


def compute(loops: int) -> int:
    total = 0
    for step in range(loops):
        total ^= step
    return total


def small_loops(count: int) -> list[int]:
    return [LOOPS_20_US + item % 7 for item in range(count)]


def loops(count: int) -> list[int]:
    return [LOOPS_10_MS + item % 7 for item in range(count)]


def mixed_loops(count: int) -> list[int]:
    """Between 1 ms and 1 s, each order of magnitude equally often, in a random order that is always the same."""
    dice = random.Random(7)
    low, high = LOOPS_10_MS / 10, LOOPS_1_S
    spread = [round(low * (high / low) ** (item / (count - 1))) for item in range(count)]
    dice.shuffle(spread)
    return spread


def embedding(item: int) -> np.ndarray[Any, Any]:
    """6 kB."""
    return np.full(768, item, dtype=np.float64)


def page(item: int) -> bytes:
    """100 kB."""
    return item.to_bytes(4, "little") * 25_000
