"""Purges what jobs that were dropped have left in Restate: here, or by whoever comes next if this process dies.

A job is dropped in one step, in its record (`service/job_object.py`), which from then on knows it only as something to
be purged: so there is no moment in which half of it could be found. Its invocations are purged afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from restate_nb.backends.introspection import JobInvocations, purge_where
from restate_nb.backends.job_store import read_folders
from restate_nb.errors import InvocationFailed, ServerError
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.server.ingress import Ingress
from restate_nb.service.wire import (
    UNPURGED,
    Unpurged,
    decode_received,
    encode,
    items_service,
    jobs_service,
    lanes_service,
    unpurged_decoder,
    workers_of,
)
from restate_nb.store.base import Store, StoreUnavailable
from restate_nb.store.sweep import drop, old_folders, sweep

_log: Final = logging.getLogger("restate_nb.jobs")

_INTERVAL: Final = 600.0  # seconds between two looks
_RECORDED_SECONDS: Final = 1.0


class Sweeper:
    """Purges what is left of dropped jobs of a session and of its workers. It belongs to the session's own loop."""

    def __init__(
        self, admin: Admin | None, ingress: Ingress, session: str, retention: timedelta, store: Store | None = None
    ) -> None:
        self._admin = admin
        self._ingress = ingress
        self._store = store
        self._session = session
        self._retention = retention
        self._watching: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()

    def watch(self) -> None:
        """Look now, and from time to time: a job's retention may end."""
        if self._admin is not None:
            self._watching = asyncio.create_task(self._watch())

    def soon(self) -> None:
        """Look at once, or once more. From any thread."""
        self._loop.call_soon_threadsafe(self._asked.set)

    def when_recorded(self) -> None:
        """Look in a moment: what there is to purge is about to be recorded. From any thread."""
        self._loop.call_soon_threadsafe(self._loop.call_later, _RECORDED_SECONDS, self._asked.set)

    async def close(self) -> None:
        """End the looking; what is left is purged in the next session."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    async def _watch(self) -> None:
        swept = False
        while True:
            self._asked.clear()
            try:
                await self.sweep()
                swept = swept or await self.sweep_store()
            except (ServerError, InvocationFailed, StoreUnavailable) as error:
                _log.info("What dropped jobs have left is purged later: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._asked.wait()

    async def sweep(self) -> None:
        """Purge what is left now.

        Raises:
            ServerError: Restate is away, or says nothing of the kind.
            StoreUnavailable: the store does not answer.
        """
        if self._admin is None:
            return
        for session in (self._session, workers_of(self._session)):
            for name, rest in await self._left(self._admin, session):
                await JobInvocations(rest.service, name, rest.generation).purge(self._admin)
                if rest.folder and self._store is not None:
                    await asyncio.to_thread(drop, self._store, rest.folder)  # nobody writes there any more
                key = f"purged/{session}/{name}/{rest.generation}/{rest.service}"
                await self._ingress.send(jobs_service(session), "purged", encode(rest), key=name, idempotency_key=key)
        await self.purge_calls(self._admin)

    async def sweep_store(self) -> bool:
        """Drop what lies in the store and belongs to no job; says whether it is known by now what is the session's.

        Raises:
            ServerError: Restate is away, or says nothing of the kind.
            StoreUnavailable: the store does not answer.
        """
        if self._admin is None or self._store is None:
            return True
        known = bool(self._store.owner) or not self._store.config.shared
        old = await asyncio.to_thread(old_folders, self._store)
        if old:
            named = await read_folders(self._admin, (self._session, workers_of(self._session)))
            await asyncio.to_thread(sweep, self._store, old, named)
        return known

    async def _left(self, admin: Admin, session: str) -> list[tuple[str, Unpurged]]:
        rows = await admin.query(
            f"select service_key, value_utf8 from state where key = {sql_literal(UNPURGED)} "
            f"and service_name = {sql_literal(jobs_service(session))}",
            texts=["service_key", "value_utf8"],
        )
        ours = {items_service(session), lanes_service(session)}
        found = []
        for row in rows:
            for rest in decode_received(unpurged_decoder, row["value_utf8"], "what is left of a job"):
                if rest.service in ours or not rest.service.startswith("rnb-"):
                    found.append((str(row["service_key"]), rest))
        return found

    async def purge_calls(self, admin: Admin) -> None:
        """Single calls run in the service that runs items, which keeps what belongs to a job until that is dropped."""
        before = (datetime.now(UTC) - self._retention).isoformat()
        await purge_where(
            admin,
            f"target_service_name = {sql_literal(items_service(self._session))} and status = 'completed' "
            "and (idempotency_key is null or idempotency_key not like '%/%/%/%') "
            f"and completed_at < {sql_literal(before)}",
        )
