"""Steps of a durable function that are begun and not recorded: they outlive the attempt that began them.

When the server dies, the attempts of all invocations end, and new ones come as soon as it is back. What their steps had
begun goes on meanwhile in this process, and the next attempt takes its result: nothing runs twice unless this process
dies, too.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

ORPHAN_END: Final = 3600.0
"""Seconds after which what an attempt left is given up, since no other attempt came: it goes on elsewhere, or was
killed."""


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    future: asyncio.Future[Any]


class StepsInFlight:
    """The steps of one invocation that are not recorded yet, by their handles, which are the same in each attempt."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}
        self._attempts = 0  # the end of a connection may be noticed after the next attempt has begun
        self._latest: int | None = 0
        self._give_up: asyncio.TimerHandle | None = None

    def once(self, attempt: int, handle: int, name: str, action: Callable[[], Any]) -> Callable[[], Any]:
        """The action to run as this step: it takes what an earlier attempt has begun, and else begins it.

        Args:
            attempt: which one asks. One that was held up while a later one went on begins nothing more.
            handle: the step's.
            name: the step's.
            action: what it does.
        """

        async def run() -> Any:
            if attempt != self._latest:
                await asyncio.get_running_loop().create_future()  # until it finds that its connection is gone
            step = self._steps.get(handle)
            if step is None or step.name != name:
                step = self._steps[handle] = _Step(name, _start(action))
            try:
                return await asyncio.shield(step.future)
            except Exception:
                self.drop(handle)  # this attempt tells Restate, and the next one tries again
                raise

        return run

    def drop(self, handle: int) -> None:
        """Let go of a step, since its result is recorded."""
        self._steps.pop(handle, None)

    def begin_attempt(self) -> int:
        """Count an attempt that begins, and return its number."""
        assert self._latest is not None
        self._attempts += 1
        self._latest += 1
        self._cancel_timer()
        return self._latest

    def end_attempt(self, forget: Callable[[], object]) -> None:
        """Count an attempt that ended without an outcome. If no other goes on or comes, `forget` is called in time."""
        self._attempts -= 1
        if self._attempts > 0:
            return
        self._cancel_timer()
        if self._steps:
            self._give_up = asyncio.get_running_loop().call_later(ORPHAN_END, forget)
        else:
            forget()

    def _cancel_timer(self) -> None:
        if self._give_up is not None:
            self._give_up.cancel()

    def close(self) -> None:
        """Cancel what still runs, since no attempt will come for it. A thread cannot be stopped."""
        self._latest = None
        self._cancel_timer()
        for step in self._steps.values():
            step.future.cancel()
        self._steps.clear()


def _start(action: Callable[[], Any]) -> asyncio.Future[Any]:
    if inspect.iscoroutinefunction(action):
        future: asyncio.Future[Any] = asyncio.ensure_future(action())
    else:
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(None, context.run, action)
    future.add_done_callback(_retrieve_exception)
    return future


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # else asyncio complains where no attempt comes for it
