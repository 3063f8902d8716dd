"""Functions that another process can import, which note their calls in the file that an item names."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import restate

from tests.handle.counted import Calls


class Busy(Exception):
    """Try again."""


def slowly(calls: str, number: int) -> int:
    time.sleep(0.02)
    Calls(Path(calls)).note(number)
    return number * 2


def once_busy(calls: str, number: int) -> int:
    if os.path.exists(f"{calls}.{number}"):  # noqa: PTH110
        return number
    open(f"{calls}.{number}", "w").close()  # noqa: PTH123
    raise Busy


async def in_steps(ctx: restate.Context, number: int) -> int:
    await ctx.sleep(timedelta(seconds=0.3))
    return number + 1
