"""The steps that run, or ran, and are not recorded: they outlive the attempt that began them.

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
class _Flight:
    name: str
    future: asyncio.Future[Any]


class StepsInFlight:
    """The steps of one invocation that are not recorded yet, by their handles, which are the same in each attempt."""

    def __init__(self) -> None:
        self._flights: dict[int, _Flight] = {}
        self._attempts = 0  # the end of a connection may be noticed after the next attempt has begun
        self._latest: int | None = 0
        self._orphaned: asyncio.TimerHandle | None = None

    def board(self, attempt: int, handle: int, name: str, action: Callable[[], Any]) -> Callable[[], Any]:
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
            there = self._flights.get(handle)
            if there is None or there.name != name:
                there = self._flights[handle] = _Flight(name, _begun(action))
            try:
                return await asyncio.shield(there.future)
            except Exception:
                self.land(handle)  # this attempt tells Restate, and the next one tries again
                raise

        return run

    def land(self, handle: int) -> None:
        """The step is recorded."""
        self._flights.pop(handle, None)

    def adopt(self) -> int:
        """An attempt is there; says which one it is."""
        assert self._latest is not None
        self._attempts += 1
        self._latest += 1
        self._stop_the_clock()
        return self._latest

    def orphan(self, forget: Callable[[], object]) -> None:
        """An attempt has ended; another should come, or be there."""
        self._attempts -= 1
        if self._attempts > 0:
            return
        self._stop_the_clock()
        if self._flights:
            self._orphaned = asyncio.get_running_loop().call_later(ORPHAN_END, forget)
        else:
            forget()

    def _stop_the_clock(self) -> None:
        if self._orphaned is not None:
            self._orphaned.cancel()

    def end(self) -> None:
        """No attempt will come: what still runs is nobody's. A thread cannot be stopped."""
        self._latest = None
        self._stop_the_clock()
        for flight in self._flights.values():
            flight.future.cancel()
        self._flights.clear()


def _begun(action: Callable[[], Any]) -> asyncio.Future[Any]:
    if inspect.iscoroutinefunction(action):
        future: asyncio.Future[Any] = asyncio.ensure_future(action())
    else:
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(None, context.run, action)
    future.add_done_callback(_heard)
    return future


def _heard(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # else asyncio complains where no attempt comes for it
