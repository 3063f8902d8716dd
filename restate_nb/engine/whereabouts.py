"""Where items are in the user's code at this moment: the stacks of threads, and what coroutines wait at."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from restate_nb.tracebacks import is_cell, is_package_file

_STANDARD: Final = sysconfig.get_path("stdlib") + os.sep


def of_thread(ident: int) -> list[str]:
    """The user's and the libraries' lines in which a thread is, the innermost last; none when it has ended."""
    frame = sys._current_frames().get(ident)
    lines = []
    while frame is not None:
        lines.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return _told(reversed(lines))


def of_task(task: asyncio.Task[Any]) -> list[str]:
    """The lines at which a task's coroutines wait for one another, the innermost last."""
    return _told(_awaited(task.get_coro()))


def _awaited(step: Any) -> Iterator[tuple[types.CodeType, int]]:
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None:
            yield frame.f_code, frame.f_lineno
        # an item's coroutine is driven by hand (see attempts.py), so that nothing says what it is waited for by
        driven = frame.f_locals.get("coroutine") if frame is not None and _is_ours(frame.f_code) else None
        step = driven or getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)


def _told(lines: Any) -> list[str]:
    kept = [(code, line) for code, line in lines if not _is_ours(code)]
    while kept and kept[0][0].co_filename.startswith(_STANDARD) and "site-packages" not in kept[0][0].co_filename:
        kept.pop(0)  # the thread's or the loop's own first steps
    return [f"{_file(code)}:{line} in {code.co_qualname}" for code, line in kept]


def _file(code: types.CodeType) -> str:
    return "cell" if is_cell(code.co_filename) else Path(code.co_filename).name


def _is_ours(code: types.CodeType) -> bool:
    return is_package_file(code.co_filename)
