"""Replays in other processes: with another clock, other random numbers, and sets in another order.

That is what a restart brings. A handler that takes a decision by any of these has often taken the same one when it is
replayed in its own process.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cloudpickle

from restate_nb.errors import JournalMismatch
from restate_nb.testing.callees import Request
from restate_nb.testing.journal import Answer, Entry

PROCESSES: Final = 4
"""A set of two texts has the same order in all of them once in 16 times, one of three or more hardly ever."""

_PROGRAM: Final = "from restate_nb.testing.replaying import main; main()"


@dataclass(frozen=True, slots=True)
class Recording:
    """What another process needs to replay an invocation.

    Args:
        handler: the function that the test invoked.
        args: what it was given.
        request: what the invocation is.
        service: whose it is.
        entries: the steps that it took.
        answers: what these were answered.
        seed: of the world's random numbers.
    """

    handler: Callable[..., Any]
    args: tuple[Any, ...]
    request: Request
    service: str
    entries: list[Entry]
    answers: list[tuple[int, Answer]]
    seed: int


async def replay_elsewhere(recording: Recording) -> None:
    """Replay an invocation that has ended in some other processes.

    Raises:
        JournalMismatch: it did something else there.
        Exception: the handler cannot be sent to another process.
    """
    payload = cloudpickle.dumps((sys.path, recording))
    said = await asyncio.gather(*(_replay(payload, number) for number in range(1, PROCESSES + 1)))
    for each in said:
        if each:
            raise JournalMismatch(f"In another process the handler did something else. {each}")


async def _replay(payload: bytes, number: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        str(number),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, errors = await process.communicate(payload)
    if process.returncode != 0:
        raise RuntimeError(f"The replay in another process could not be made:\n{errors.decode(errors='replace')}")
    return out.decode().partition("\0")[2]
