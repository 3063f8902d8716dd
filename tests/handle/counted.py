"""Counts calls over processes, in a file. A module of its own, so that a worker process which needs it starts fast."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Any


class Calls:
    """What was noted, by whichever process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, what: object) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{what}\n".encode())
        os.close(descriptor)

    def counts(self) -> Counter[str]:
        return Counter(self.path.read_text().split("\n")[:-1]) if self.path.exists() else Counter()


variable: ContextVar[str] = ContextVar("variable", default="unset")


def look(item: int) -> str:
    return variable.get()


async def look_awaited(item: int) -> str:
    return variable.get()


def unkeepable(calls: Calls, item: int) -> object:
    calls.note(item)
    return object() if item >= 2 else item


def spoils(item: dict[str, Any]) -> None:
    was = repr(item)
    item["in"].clear()
    item["n"] += 1
    raise ValueError(f"was {was}")


async def spoils_soon(item: dict[str, Any]) -> None:
    spoils(item)


async def _inc(item: int) -> int:
    await asyncio.sleep(0)
    return item + 1


@functools.wraps(_inc)
def ran_alone(item: int) -> int:
    return asyncio.run(_inc(item))


@functools.wraps(_inc)
def ran_alone_passed_on(item: int) -> Any:
    return _inc(item)


def where(calls: Calls, seconds: float, item: int) -> int:
    """Notes that it runs; gives the process in which it does."""
    calls.note(f"{item} {os.getpid()}")
    time.sleep(seconds)
    return os.getpid()


async def where_awaited(calls: Calls, seconds: float, item: int) -> int:
    calls.note(f"{item} {os.getpid()}")
    await asyncio.sleep(seconds)
    return os.getpid()
