"""Takes a job to its end: opens it, submits its shards, and follows them. Runs on the session's own loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from restate_nb.engine.lane import cancelled
from restate_nb.errors import JobMismatch
from restate_nb.notebook.ledger import Ledger
from restate_nb.server.ingress import Ingress, InvocationFailed
from restate_nb.service.runs import JobRun, JobRuns
from restate_nb.service.wire import (
    SHARD_HANDLER,
    Change,
    Manifest,
    Open,
    Round,
    ShardRequest,
    encode,
    items_service,
    jobs_service,
    manifest_decoder,
    output_decoder,
    shard_key,
)

MAX_SHARD_ITEMS: Final = 10_000
MAX_SHARD_BYTES: Final = 8 * 1024 * 1024
"""Bounds of a shard's input: far from the 32 MiB of a message, and enough shards for many workers."""

_SUBMIT_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Connection:
    """What a job needs of its session: its name, the way to Restate, and the jobs that run in this process."""

    session: str
    ingress: Ingress
    runs: JobRuns


class Driver:
    """One job's way through Restate.

    Attributes:
        manifest: the job as Restate knows it; set by `open`.
        created: whether this call began the job, rather than found it.
    """

    def __init__(self, connection: Connection, encoded: Sequence[bytes], ledger: Ledger) -> None:
        self._connection = connection
        self._encoded = encoded
        self._ledger = ledger
        self.manifest: Manifest
        self.run: JobRun
        self.created = False
        self._slots = asyncio.Semaphore(_SUBMIT_AT_ONCE)

    # ------------------------------------------------------------ the manifest

    async def open(self, wanted: Manifest, *, fresh: bool) -> None:
        """Begin the job, or find the one that has its name.

        Raises:
            JobMismatch: the one that is there is over other items, or passes them in another way.
        """
        there = await self._jobs("open", wanted.name, Open(manifest=wanted, fresh=fresh))
        if (there.items, there.options, there.total) != (wanted.items, wanted.options, wanted.total):
            raise JobMismatch(_mismatch(there, wanted))
        self.manifest = there
        self.created = there.created == wanted.created
        self.run = self._connection.runs.get(there.name, there.generation)
        if there.cancelled:
            self.run.cancel()
        if self.created and there.generation > 1:
            self._connection.runs.get(there.name, there.generation - 1).cancel()  # else its shards wait for ever
        for number, round_ in enumerate(there.rounds):
            if round_.positions is not None:
                self._ledger.begin_round(number, round_.positions)

    async def _jobs(self, handler: str, name: str, asked: Open | Change) -> Manifest:
        service = jobs_service(self._connection.session)
        return manifest_decoder.decode(await self._connection.ingress.call(service, handler, encode(asked), key=name))

    async def _change(self, **changes: object) -> None:
        manifest = self.manifest
        change = msgspec.convert({"generation": manifest.generation, **changes}, Change, from_attributes=True)
        self.manifest = await self._jobs("change", manifest.name, change)

    async def cancel(self) -> None:
        """End every item that has no outcome."""
        self.run.cancel()
        await self._change(cancelled=True)

    async def add_round(self, positions: list[int], code: str) -> None:
        """Open these items again."""
        self.run.reopen()
        await self._change(add_round=Round(positions=positions, code=code, started=time.time()))
        self._ledger.begin_round(len(self.manifest.rounds) - 1, positions)

    # ------------------------------------------------------------ shards

    def _cut(self, positions: Iterable[int]) -> list[list[int]]:
        """The positions of each shard."""
        shards: list[list[int]] = []
        size = 0
        for position in positions:
            length = len(self._encoded[position])
            if not shards or len(shards[-1]) >= MAX_SHARD_ITEMS or size + length > MAX_SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(position)
            size += length
        return shards

    async def follow(self, number: int) -> None:
        """Submit a round's shards where that is still to be done, and wait until the last of them has ended."""
        round_ = self.manifest.rounds[number]
        shards = self._cut(range(self._ledger.total) if round_.positions is None else round_.positions)
        async with asyncio.TaskGroup() as group:
            if not round_.submitted:
                sending = [group.create_task(self._submit(number, shard, each)) for shard, each in enumerate(shards)]
                group.create_task(self._mark_submitted(number, sending))
            else:
                sending = []
            for shard, positions in enumerate(shards):
                group.create_task(self._follow_shard(number, shard, positions, sending[shard] if sending else None))

    async def _submit(self, round_: int, shard: int, positions: list[int]) -> None:
        request = ShardRequest(
            job=self.manifest.name,
            generation=self.manifest.generation,
            round=round_,
            shard=shard,
            function=self.manifest.function,
            positions=positions,
            items=[msgspec.Raw(self._encoded[position]) for position in positions],
        )
        async with self._slots:
            service = items_service(self._connection.session)
            await self._connection.ingress.send(service, SHARD_HANDLER, encode(request), idempotency_key=request.key())

    async def _mark_submitted(self, round_: int, sending: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*sending)
        await self._change(submitted=round_)

    async def _follow_shard(
        self, round_: int, shard: int, positions: list[int], sending: asyncio.Task[None] | None
    ) -> None:
        if sending is not None:
            await sending
        manifest, service = self.manifest, items_service(self._connection.session)
        key: str | None = shard_key(manifest.name, manifest.generation, round_, shard)
        while key is not None:
            try:
                body = await self._connection.ingress.attach(service, SHARD_HANDLER, key)
            except InvocationFailed as failure:
                self._give_up(round_, positions, failure)
                return
            key = _next_decoder.decode(body).next
            if not self._ledger.knows(positions):
                for group in output_decoder.decode(body).groups:
                    self._ledger.apply(round_, group, 0)

    def _give_up(self, round_: int, positions: list[int], failure: InvocationFailed) -> None:
        """The shard was ended from outside, in the Restate UI or CLI: its open items will have no outcome."""
        lost = [position for position in positions if not self._ledger.knows([position])]
        reason = f"Restate ended this part of the job: {failure}"
        self._ledger.apply(round_, [cancelled(position, 1, reason=reason) for position in lost], 0)


class _Next(msgspec.Struct):
    next: str | None = None


_next_decoder = msgspec.json.Decoder(_Next)


def _mismatch(there: Manifest, wanted: Manifest) -> str:
    if there.total != wanted.total:
        what = f"{there.total:,} items, and these are {wanted.total:,}"
    elif there.items != wanted.items:
        what = f"{there.total:,} other items"
    else:
        what = "the same items, passed in another way"
    return (
        f"There is a job {wanted.name!r} over {what}. "
        "Give this one another name=, or drop the old job and its outcomes with fresh=True."
    )
