"""The handlers behind a job: `shard` runs items, the jobs object keeps manifests."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from datetime import timedelta
from typing import Final

import msgspec
from restate import Context, InvocationRetryPolicy, ObjectContext, Service, TerminalError, VirtualObject
from restate.serde import BytesSerde

from restate_nb.engine.commit import commit
from restate_nb.engine.lane import Entry, Lane, entries
from restate_nb.engine.record import WIRE_VERSION, Attempt, decode_group
from restate_nb.service.runs import JobRuns
from restate_nb.service.wire import (
    SHARD_HANDLER,
    Change,
    Forget,
    Manifest,
    Open,
    ShardRequest,
    apply_change,
    encode,
    encode_output,
    items_service,
    jobs_service,
    request_decoder,
)

HANDOVER_BYTES: Final = 12 * 1024 * 1024
"""A shard whose output reaches this hands its rest on. With one group on top (at most 16 MiB, when it holds a single
value of the largest size) it stays under the 32 MiB that restate-server can move."""

FOR_EVER: Final = timedelta(days=365)
"""The defaults (inactivity 1 minute, abort 10 minutes) would abort a long item and run it again; 0 does not switch them
off. Items have their own `timeout`."""

RETRIES: Final = InvocationRetryPolicy(
    initial_interval=timedelta(milliseconds=100),
    exponentiation_factor=2.0,
    max_interval=timedelta(seconds=5),
    max_attempts=1_000_000,  # the default pauses after 70, as a kernel that is away for some minutes would cause
    on_max_attempts="pause",
)


def items_of(session: str, runs: JobRuns, *, retention: timedelta, patient: bool = True) -> Service:
    """The service that runs items.

    Args:
        session: the session's name.
        runs: the jobs of this process.
        retention: how long outcomes are kept.
        patient: False leaves the server's own timeouts in force; with an inactivity timeout of 0 s in the server's
            environment every wait is then replayed, which is how the tests look for what does not replay.
    """
    service = Service(
        items_service(session),
        description="Runs the items of restate_nb jobs.",
        inactivity_timeout=FOR_EVER if patient else None,
        abort_timeout=FOR_EVER if patient else None,
        idempotency_retention=retention,
        journal_retention=retention,
        invocation_retry_policy=RETRIES,
    )

    @service.handler(SHARD_HANDLER, accept="*/*", input_serde=BytesSerde(), output_serde=BytesSerde())
    async def shard(ctx: Context, body: bytes) -> bytes:
        request = _Shard(runs, body)
        await commit(ctx, request.count, request, request.on_group)
        rest = request.rest()
        if rest is None:
            return encode_output(request.groups, None)
        ctx.generic_send(items_service(session), SHARD_HANDLER, encode(rest), idempotency_key=rest.key())
        return encode_output(request.groups, rest.key())

    return service


def _read(body: bytes) -> ShardRequest:
    try:
        request = request_decoder.decode(body)
        if request.version > WIRE_VERSION:
            raise ValueError(f"it was written by a newer restate_nb (format {request.version})")
        if len(request.positions) != len(request.items):
            raise ValueError("it has not one item a position")
    except ValueError as error:
        raise TerminalError(f"This is no shard that restate_nb can read: {error}.", status_code=400) from error
    return request


class _Shard:
    """One attempt of a shard's handler. It keeps the request as it came, and reads it again when its turn comes."""

    def __init__(self, runs: JobRuns, body: bytes) -> None:
        request = _read(body)
        self.count = len(request.positions)
        self.groups: list[bytes] = []
        self._body = body
        self._run = runs.get(request.job, request.generation)
        self._round = request.round
        self._id = request.round, request.shard
        self._size = 0
        self._open = self.count

    def lane(self, ended: set[int], failed: Mapping[int, Attempt]) -> Lane:
        def load() -> Iterable[Entry]:
            return entries(_items(request_decoder.decode(self._body), ended), failed)

        return self._run.lane(self._id, self.count - len(ended), load)

    def acknowledge(self, recorded: Iterable[Attempt]) -> None:
        self._run.acknowledge(self._id, recorded)

    def cancel(self) -> None:
        self._run.cancel_shard(self._id)

    def on_group(self, group: bytes, attempts: list[Attempt]) -> bool:
        self.groups.append(group)
        self._size += len(group)
        self._open -= sum(attempt.final for attempt in attempts)
        self._run.publish(self._round, attempts)
        return self._size < HANDOVER_BYTES

    def rest(self) -> ShardRequest | None:
        """The request for what has no outcome yet. Without any, None, and the lane is let go."""
        if not self._open:
            self._run.finish(self._id)
            return None
        ended = {attempt.position for group in self.groups for attempt in decode_group(group) if attempt.final}
        request = request_decoder.decode(self._body)
        left = _items(request, ended)
        items = list(map(msgspec.Raw, left.values()))
        return msgspec.structs.replace(request, part=request.part + 1, positions=list(left), items=items)


def _items(request: ShardRequest, without: Container[int]) -> dict[int, bytes]:
    pairs = zip(request.positions, request.items, strict=True)
    return {position: bytes(item) for position, item in pairs if position not in without}


def jobs_of(session: str, *, retention: timedelta) -> VirtualObject:
    """The object that keeps manifests: one key a job, so that two processes never begin the same job twice."""
    jobs = VirtualObject(
        jobs_service(session),
        description="Keeps what restate_nb knows of its jobs.",
        inactivity_timeout=FOR_EVER,
        abort_timeout=FOR_EVER,
        invocation_retry_policy=RETRIES,
    )

    @jobs.handler("open")
    async def open_(ctx: ObjectContext, asked: Open) -> Manifest:
        there = await ctx.get("manifest", type_hint=Manifest)
        if there is not None and not asked.fresh:
            return there
        manifest = asked.manifest
        # Counted on from a job that was deleted: invocations of its earlier generations may still be kept.
        last = there.generation if there is not None else await ctx.get("generation", type_hint=int) or 0
        manifest.generation = last + 1
        ctx.set("manifest", manifest)
        ctx.object_send(forget, ctx.key(), Forget(generation=manifest.generation), send_delay=retention)
        return manifest

    @jobs.handler("change")
    async def change(ctx: ObjectContext, asked: Change) -> Manifest:
        manifest = await ctx.get("manifest", type_hint=Manifest)
        if manifest is None or manifest.generation != asked.generation:
            raise TerminalError("The job was deleted or started afresh elsewhere. Run its cell again.", 409)
        ctx.set("manifest", apply_change(manifest, asked))
        return manifest

    @jobs.handler("forget")
    async def forget(ctx: ObjectContext, asked: Forget) -> None:
        manifest = await ctx.get("manifest", type_hint=Manifest)
        if manifest is not None and manifest.generation == asked.generation:
            ctx.clear_all()
            ctx.set("generation", asked.generation)

    return jobs
