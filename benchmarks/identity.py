"""What it costs to tell which job a cell asks for: the identity of a function, and of what it names."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from restate_nb.service.identity import identity_of

FACTOR = 3
CONFIG = {"model": "large", "temperature": 0.5, "stop": ["a", "b"]}
ARRAY = np.zeros(0)
FRAME = pd.DataFrame()


def plain(item: int) -> int:
    return item + 1


def inner(item: int) -> int:
    return item * FACTOR


def helper(item: int) -> int:
    return inner(item) + len(CONFIG)


class Model:
    rate = 2

    def __init__(self) -> None:
        self.calls, self.weights = 0, np.ones(100)

    def predict(self, item: int) -> float:
        return float(self.weights[item] * self.rate)


MODEL = Model()


def ordinary(item: int) -> float:
    return helper(item) + MODEL.predict(item)


def over_array(item: int) -> float:
    return float(ARRAY[item])


def over_frame(item: int) -> float:
    return float(FRAME["n0"].iloc[item])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=int, default=20, help="times each is taken (default 20)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    global ARRAY, FRAME  # noqa: PLW0603 - the functions name them, as those of a notebook do
    rng = np.random.default_rng(0)
    ARRAY = rng.random(2_500_000)
    columns: dict[str, Any] = {f"n{place}": rng.random(2_000_000) for place in range(11)}
    columns["label"] = pd.Categorical.from_codes(rng.integers(0, 3, 2_000_000), categories=pd.Index(["a", "b", "c"]))
    FRAME = pd.DataFrame(columns)
    bytes_of_frame = int(FRAME.memory_usage(index=False).sum())
    works: list[tuple[str, Callable[..., Any]]] = [
        ("a plain function", plain),
        ("with helpers, a config and a model", ordinary),
        (f"that names an array of {ARRAY.nbytes / 1e6:,.0f} MB", over_array),
        (f"that names a frame of {bytes_of_frame / 1e6:,.0f} MB", over_frame),
    ]
    print(f"{'function':45} {'first (ms)':>10} {'again (ms)':>10}")
    for name, fn in works:
        taken = [_seconds(fn) for _ in range(arguments.repeat)]
        print(f"{name:45} {taken[0] * 1000:10.2f} {statistics.median(taken[1:]) * 1000:10.2f}")


def _seconds(fn: Callable[..., Any]) -> float:
    begun = time.perf_counter()
    identity_of({fn.__name__: fn})
    return time.perf_counter() - begun
