"""Pausing a job whose items workers run: Restate holds the shard at the head of each lane, and so all behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from restate_nb.backends.base import Connection
from restate_nb.errors import ServerError
from restate_nb.server.admin import sql_literal
from restate_nb.server.http import UnknownInvocation

_LOOK: Final = 0.2  # seconds
_LONGEST_LOOK: Final = 5.0
_GOING: Final = ("running", "ready", "suspended", "backing-off")


class WorkerPause:
    """Whether a job on workers is paused. Its methods belong to the session's loop.

    Restate pauses an invocation when its current step has ended, which is when an item has. The workers then start
    nothing more of it, and what runs there goes on.

    Attributes:
        paused: whether nothing more is to be started.
    """

    def __init__(self, connection: Connection, service: str, keys: str) -> None:
        """`service`: of the lanes; `keys`: the condition, in SQL, that a key is one of the job's."""
        self._connection = connection
        self._mine = f"target_service_name = {sql_literal(service)} and {keys}"
        self.paused = False
        self._asked: set[str] = set()  # may still become paused
        self._going = asyncio.Event()
        self._going.set()
        self._task: asyncio.Task[None] | None = None

    async def until_resumed(self) -> None:
        """Wait until it is not paused."""
        await self._going.wait()

    def pause(self) -> None:
        """Have Restate hold what runs, and what takes its place."""
        if not self.paused:
            self.paused = True
            self._asked.clear()
            self._going.clear()
            if self._connection.admin_if_any is not None:
                self._do(self._hold())

    def resume(self) -> None:
        """Let all go on that is held by now, or about to be."""
        if self.paused:
            self.paused = False
            self._going.set()
            self._do(self._release())

    def close(self) -> None:
        """The job has ended, or is not followed any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self.close()
        self._task = asyncio.create_task(work)

    async def _hold(self) -> None:
        wait = _LOOK
        while True:
            try:
                going = await self._ids(f"status in {_GOING}")
                wait = min(2 * wait, _LONGEST_LOOK) if self._asked.issuperset(going) else _LOOK
                for invocation in going:
                    self._asked.add(invocation)
                    await self._told(self._connection.admin.pause(invocation))
            except ServerError:
                wait = _LONGEST_LOOK  # Restate is away, and runs nothing meanwhile
            await asyncio.sleep(wait)

    async def _release(self) -> None:
        """`Driver.pause` has let those go on that it found; some may be paused when their step has ended."""
        wait = _LOOK
        while self._asked:
            try:
                for invocation in await self._ids("status = 'paused'"):
                    await self._told(self._connection.admin.resume(invocation))
                    self._asked.discard(invocation)
                self._asked &= set(await self._ids(f"status in {_GOING}"))
            except ServerError:
                pass  # Restate is away: they are let go when it is back
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_LOOK)

    async def _ids(self, condition: str) -> list[str]:
        sql = f"select id from sys_invocation where {condition} and {self._mine}"
        return [str(row["id"]) for row in await self._connection.admin.query(sql)]

    async def _told(self, order: Coroutine[Any, Any, bool]) -> None:
        try:
            await order
        except UnknownInvocation:
            return  # it has ended
