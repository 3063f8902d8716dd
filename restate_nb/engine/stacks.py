"""What the items that run are doing at this moment, for a person who wonders why nothing ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from restate_nb.engine.outbox import Entry
from restate_nb.engine.whereabouts import of_task, of_thread


@dataclass(frozen=True, slots=True)
class RunningItem:
    """What an attempt is doing.

    Attributes:
        position: of its item.
        number: of the attempt, from 1.
        seconds: since it began; None for a thread that runs on after its item timed out.
        where: the lines of code in which it is, the innermost last; nothing is known of worker processes.
    """

    position: int
    number: int
    seconds: float | None
    where: list[str]


def running_items(
    running: Iterable[tuple[asyncio.Task[Any], Entry, float]], threads: Mapping[tuple[int, int], int]
) -> list[RunningItem]:
    """What runs, the longest first, and after it the threads that run on.

    Args:
        running: the task, the entry and the start (seconds since 1970) of each attempt.
        threads: the thread of an attempt, by position and number.
    """
    now, left = time.time(), dict(threads)
    found = []
    for task, entry, started in running:
        thread = left.pop((entry.position, entry.number), None)
        where = of_task(task) if thread is None else of_thread(thread)
        found.append(RunningItem(entry.position, entry.number, now - started, where))
    found.sort(key=lambda each: -(each.seconds or 0))
    return [*found, *(RunningItem(*key, None, of_thread(thread)) for key, thread in left.items())]
