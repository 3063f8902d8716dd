"""What the workers of the tests serve. Each run is noted, fsynced, in the file that the item names."""

from __future__ import annotations

import os
import time
from os import system  # noqa: F401 - something that is not the module's own
from typing import Any

import numpy as np

from restate_nb import item_seed


def double(path: str, number: int, seconds: float = 0.02) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.fsync(descriptor)
    os.close(descriptor)
    time.sleep(seconds)
    return number * 2


async def even(number: int) -> str:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return "even"


def seeds(number: int) -> list[int]:
    return [item_seed(), item_seed(number % 2)]


def once(path: str) -> str:
    if not os.path.exists(path):  # noqa: PTH110
        open(path, "w").close()  # noqa: PTH123
        raise ConnectionError("come again")
    return "came again"


def doubled_array(item: Any) -> Any:
    return item * 2


def zeros(count: int) -> Any:
    return np.zeros(count)


def unkeepable(path: str, number: int) -> object:
    double(path, number)
    return object() if number else 0


def large(number: int) -> bytes:
    return bytes([number]) * 100_000


def length(item: bytes) -> int:
    return len(item)
