"""Ends the operations that an attempt left unfinished, since it was suspended or failed.

Closing such a coroutine at once would run its `finally` blocks, and their durable steps would reach the journal of an
attempt that has ended already. So it is kept until the attempt is over, and then ended the way the SDK ends a suspended
handler: with its suspension exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from restate.exceptions import SuspendedException

from restate_nb.patterns.loop_guard import OperationLoop, running
from restate_nb.patterns.sdk import Wiring

_teardowns: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references to tasks


def end_after_attempt(left: list[Coroutine[Any, Any, Any]], wiring: Wiring) -> None:
    """End the coroutines in `left` as soon as the attempt is over."""
    task = asyncio.get_running_loop().create_task(_wait_and_end(left, wiring))
    _teardowns.add(task)
    task.add_done_callback(_teardowns.discard)


async def _wait_and_end(left: list[Coroutine[Any, Any, Any]], wiring: Wiring) -> None:
    try:
        await wiring.until_finished()
    finally:
        # Their `finally` blocks may not start anything: the loop that they see refuses everything.
        loop = OperationLoop(asyncio.get_running_loop(), _refuse, lambda: "an operation of an attempt that is over")
        with running(loop):
            for coroutine in left:
                _end(coroutine)


def _end(coroutine: Coroutine[Any, Any, Any]) -> None:
    for end in (lambda: coroutine.throw(SuspendedException()), coroutine.close):
        try:
            end()
        except BaseException:  # whatever a cleanup raises now has nobody left to hear it
            continue


def _refuse(coroutine: Coroutine[Any, Any, Any]) -> object:
    coroutine.close()
    raise SuspendedException
