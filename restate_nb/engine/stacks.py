"""Where items are in the user's code at this moment, for a person who wonders why nothing ends: the stacks of threads,
and what coroutines wait at."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from restate_nb.engine.attempt import RunningAttempt
from restate_nb.tracebacks import file_name, is_package_file, is_standard_file


@dataclass(frozen=True, slots=True)
class RunningItem:
    """Where an attempt is.

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


def running_items(running: Iterable[RunningAttempt], hung: Mapping[int, tuple[int, int]]) -> list[RunningItem]:
    """What runs, the longest first, and after it the threads that run on.

    Args:
        running: the attempts.
        hung: the items (position, number of the attempt) that were given up, by the thread that each still is in.
    """
    now = time.time()
    found = [
        RunningItem(each.entry.position, each.entry.number, now - (each.started or now), _stack_of(each.place))
        for each in running
    ]
    found.sort(key=lambda each: -(each.seconds or 0))
    return [*found, *(RunningItem(*item, None, stack_of_thread(thread)) for thread, item in hung.items())]


def _stack_of(place: Any) -> list[str]:
    if isinstance(place, asyncio.Task):
        return stack_of_task(place)
    return stack_of_thread(place) if isinstance(place, int) else []


def stack_of_thread(ident: int) -> list[str]:
    """The user's and the libraries' lines in which a thread is, the innermost last; none when it has ended."""
    frame = sys._current_frames().get(ident)
    steps = []
    while frame is not None:
        steps.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return _lines(reversed(steps))


def stack_of_task(task: asyncio.Task[Any]) -> list[str]:
    """The lines at which a task's coroutines wait for one another, the innermost last."""
    return _lines(_awaited(task.get_coro()))


def _awaited(step: Any) -> Iterator[tuple[CodeType, int]]:
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None:
            yield frame.f_code, frame.f_lineno
        # an item's coroutine is driven by hand (see loop_runner.py), so that nothing says what it is waited for by
        driven = None
        if frame is not None and is_package_file(frame.f_code.co_filename):
            driven = frame.f_locals.get("coroutine")
        step = driven or getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)


def _lines(steps: Iterable[tuple[CodeType, int]]) -> list[str]:
    shown = [(code, line) for code, line in steps if not is_package_file(code.co_filename)]
    while shown and is_standard_file(shown[0][0].co_filename):
        shown.pop(0)  # the thread's or the loop's own first steps
    return [f"{file_name(code)}:{line} in {code.co_qualname}" for code, line in shown]
