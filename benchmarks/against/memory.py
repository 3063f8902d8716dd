"""The memory of all processes that one benchmark started."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import psutil

MARK = "BENCHMARK_OF"
"""A variable in the environment of what is measured; servers that leave their parent keep it (not one
named RESTATE_...: our server takes none of those over)."""


def marked(value: str) -> list[psutil.Process]:
    return [each for each in psutil.process_iter(["environ"]) if (each.info["environ"] or {}).get(MARK) == value]


def held(processes: Iterable[psutil.Process]) -> int:
    """Bytes of memory of processes; what those of one program share counts once."""
    own, shared = 0, defaultdict[str, int](int)
    for process in processes:
        try:
            whole, program = process.memory_full_info(), process.exe()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it has just ended
        own += whole.uss
        shared[program] = max(shared[program], whole.rss - whole.uss)
    return own + sum(shared.values())


@contextmanager
def watched_peak(measure: Callable[[], int], every: float = 0.1) -> Iterator[list[int]]:
    """Sample `measure` in a thread, each `every` seconds; the list that it gives holds the highest sample so far."""
    top, over = [measure()], threading.Event()

    def watch() -> None:
        while not over.wait(every):
            top[0] = max(top[0], measure())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield top
    finally:
        over.set()
        watcher.join()
        top[0] = max(top[0], measure())
