"""Items of plain functions: thousands to an invocation, run by this process, recorded in groups."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from restate_nb.backends.connection import Connection
from restate_nb.backends.pooled import PooledBackend
from restate_nb.backends.shards import Shards, unended, why_ended_outside
from restate_nb.engine.outbox import cancelled
from restate_nb.errors import InvocationFailed
from restate_nb.results.key_table import EncodedItems
from restate_nb.results.ledger import Ledger
from restate_nb.server.http import UnknownInvocation
from restate_nb.service.shard_wire import decode_output, next_of
from restate_nb.service.wire import Manifest, decoding

MAX_SHARD_ITEMS: Final = 10_000
MAX_SHARD_BYTES: Final = 8 * 1024 * 1024
"""Bounds of a shard's input: far from the 32 MiB of a message, and enough shards for many workers."""

MAX_UNFINISHED_BYTES: Final = 48 * 1024 * 1024
"""Input of shards that Restate has and that have not ended: restate-server hands all of them to this process at once,
and gives up on invocations for which its memory (128 MiB for this in a managed server) has no room."""

_SUBMIT_AT_ONCE: Final = 4


class LocalBackend(PooledBackend):
    """The shards of one job: Restate sends them to this process, which runs their items in the job's pool."""

    def __init__(self, connection: Connection, manifest: Manifest, encoded: EncodedItems, ledger: Ledger) -> None:
        super().__init__(connection, manifest, encoded, ledger)
        self._shards = Shards(connection.ingress, connection.session, manifest, encoded)
        self._submitting = asyncio.Semaphore(_SUBMIT_AT_ONCE)
        self.unfinished_bytes = 0  # bytes
        self._room = asyncio.Condition()

    async def run_round(
        self,
        round_: int,
        positions: Sequence[int],
        submitted: Callable[[], Awaitable[None]] | None,
        first: int = 0,
    ) -> None:
        self._latest = max(self._latest, round_)
        shards = self._numbered(positions, first)
        async with asyncio.TaskGroup() as group:
            sending: dict[int, asyncio.Task[None]] = {}
            if submitted is not None:
                sending = {shard: group.create_task(self._submit(round_, shard, each)) for shard, each in shards}
                group.create_task(_after(list(sending.values()), submitted))
            for shard, each in shards:
                group.create_task(self._follow(round_, shard, each, sending.get(shard)))

    def _numbered(self, positions: Sequence[int], first: int) -> list[tuple[int, Sequence[int]]]:
        """The positions of each shard, and its number. A batch has shards of its own, numbered from where it begins
        among the items, so that they have the same numbers whoever cuts them, and whenever."""
        size = self._manifest.batch or len(positions) or 1
        return [
            (first + start + number, shard)
            for start in range(0, len(positions), size)
            for number, shard in enumerate(
                self._shards.cut(positions[start : start + size], MAX_SHARD_ITEMS, MAX_SHARD_BYTES)
            )
        ]

    async def _submit(self, round_: int, shard: int, positions: Sequence[int]) -> None:
        await self._wait_for_room(self._shards.size(positions))
        try:
            async with self._submitting:  # so that few requests are in memory
                await self._shards.submit(round_, shard, positions)
        except BaseException:
            self.unfinished_bytes -= self._shards.size(positions)  # it is not there; the job may be followed anew
            raise

    async def _wait_for_room(self, size: int) -> None:
        async with self._room:
            while self.unfinished_bytes and self.unfinished_bytes + size > MAX_UNFINISHED_BYTES:
                await self._room.wait()
            self.unfinished_bytes += size

    async def _make_room(self, size: int) -> None:
        async with self._room:
            self.unfinished_bytes -= size
            self._room.notify_all()

    async def _follow(
        self, round_: int, shard: int, positions: Sequence[int], sending: asyncio.Task[None] | None
    ) -> None:
        if sending is not None:
            await sending
        try:
            await self._finish_shard(round_, shard, positions)
        finally:
            if sending is not None:
                await self._make_room(self._shards.size(positions))

    async def _finish_shard(self, round_: int, shard: int, positions: Sequence[int]) -> None:
        key: str | None = self._shards.key(round_, shard)
        while key is not None:
            try:
                body = await self._shards.attach(key)
            except (InvocationFailed, UnknownInvocation) as failure:  # in the Restate UI or CLI, ended or purged
                self._run.drop((round_, shard))
                lost, reason = unended(self._ledger, positions), why_ended_outside(failure)
                self._ledger.apply(round_, [cancelled(position, 1, reason=reason) for position in lost], 0)
                return
            with decoding("a shard's outcomes"):
                key = next_of(body)
                groups = [] if self._ledger.knows(positions) else decode_output(body).groups
            for group in groups:
                self._ledger.apply(round_, group, 0)


async def _after(tasks: list[asyncio.Task[None]], then: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(*tasks)
    await then()
