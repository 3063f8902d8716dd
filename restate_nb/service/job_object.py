"""What Restate calls for the jobs of a session: the service that runs shards, and the object that keeps manifests."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from restate import Context, InvocationRetryPolicy, ObjectContext, Service, TerminalError, VirtualObject
from restate.serde import BytesSerde

from restate_nb.engine.group_commit import commit
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.shard_handler import Shard
from restate_nb.service.shard_wire import encode_request
from restate_nb.service.variants import add_variant_handlers, check_body
from restate_nb.service.wire import (
    MAX_RECORD_BYTES,
    SHARD_HANDLER,
    UNPURGED,
    Change,
    Forget,
    Manifest,
    Open,
    Unpurged,
    apply_change,
    encode,
    items_service,
    jobs_service,
    manifest_decoder,
    service_of,
    unpurged_decoder,
)

FOR_EVER: Final = timedelta(days=365)
"""The defaults (inactivity 1 minute, abort 10 minutes) would abort a long item and run it again; 0 does not switch them
off. Items have their own `timeout`."""

_LONGEST_RETENTION: Final = 1000 * FOR_EVER

RETRIES: Final = InvocationRetryPolicy(
    initial_interval=timedelta(milliseconds=100),
    exponentiation_factor=2.0,
    max_interval=timedelta(seconds=5),
    max_attempts=1_000_000,  # the default pauses after 70, as a kernel that is away for some minutes would cause
    on_max_attempts="pause",
)


def invocation_retention(retention: timedelta) -> timedelta:
    """How long Restate keeps an invocation of a job after the invocation's own end, which may be long before the job's.

    When a job is dropped, a session purges its invocations; this is for those that no session purges.
    """
    return min(retention, _LONGEST_RETENTION) + FOR_EVER


def shard_service(session: str, runs: JobRuns, *, retention: timedelta, patient: bool = True) -> Service:
    """The service that runs items.

    Args:
        session: the session's name.
        runs: the jobs of this process.
        retention: how long a job is kept after its end.
        patient: False leaves the server's own timeouts in force; with an inactivity timeout of 0 s in the server's
            environment every wait is then replayed, which is how the tests look for what does not replay.
    """
    service = Service(
        items_service(session),
        description="Runs the items of restate_nb jobs.",
        inactivity_timeout=FOR_EVER if patient else None,
        abort_timeout=FOR_EVER if patient else None,
        idempotency_retention=invocation_retention(retention),
        journal_retention=invocation_retention(retention),
        invocation_retry_policy=RETRIES,
    )

    @service.handler(SHARD_HANDLER, accept="*/*", input_serde=BytesSerde(), output_serde=BytesSerde())
    async def shard(ctx: Context, body: bytes) -> bytes:
        part = Shard(body, lambda request: runs.get(request.job, request.generation, request.folder))
        await commit(ctx, part.count, part, part.on_group)
        rest = part.rest()
        if rest is None:
            return part.output(None)
        ctx.generic_send(items_service(session), SHARD_HANDLER, encode_request(rest), idempotency_key=rest.key())
        return part.output(rest.key())

    return service


def jobs_object(session: str, *, retention: timedelta, dropped: Callable[[], None] = lambda: None) -> VirtualObject:
    """The object that keeps manifests: one key a job, so that two processes never begin the same job twice.

    Args:
        session: the session's name, or what stands for its workers.
        retention: how long a job is kept after its end.
        dropped: is called when a job was dropped, perhaps more than once, and before that is recorded.
    """
    jobs = VirtualObject(
        jobs_service(session),
        description="Keeps what restate_nb knows of its jobs.",
        inactivity_timeout=FOR_EVER,
        abort_timeout=FOR_EVER,
        invocation_retry_policy=RETRIES,
    )

    @jobs.handler("open")
    async def open_(ctx: ObjectContext, request: Open) -> Manifest:
        check_body(request)
        return await JobRecord(ctx, session).open(request)

    @jobs.handler("change")
    async def change(ctx: ObjectContext, request: Change) -> Manifest:
        check_body(request)
        manifest = await JobRecord(ctx, session).change(request)
        if request.summary is not None:
            forget_later(ctx, manifest)
        return manifest

    @jobs.handler("forget")
    async def forget(ctx: ObjectContext, request: Forget) -> None:
        check_body(request)
        record = JobRecord(ctx, session)
        manifest = await record.read(unreadable_is_none=True)
        if manifest is None or manifest.generation != request.generation:
            return
        if request.now or (manifest.summary is not None and manifest.summary.at == request.ended):
            await record.drop(manifest)
            dropped()
        elif request.ended is None and manifest.summary is not None:
            forget_later(ctx, manifest)  # a version of before counted from the job's begin
        # Else it runs, or ended later: its end brings another of these.

    @jobs.handler("purged")
    async def purged(ctx: ObjectContext, request: Unpurged) -> None:
        check_body(request)
        await JobRecord(ctx, session).purged(request)

    @jobs.handler("owner")
    async def owner(ctx: ObjectContext) -> str:
        found = await ctx.get("owner", type_hint=str)
        if found is None:
            found = ctx.uuid().hex[:12]
            ctx.set("owner", found)
        return found

    def forget_later(ctx: ObjectContext, manifest: Manifest) -> None:
        assert manifest.summary is not None
        request = Forget(generation=manifest.generation, ended=manifest.summary.at)
        ctx.object_send(forget, ctx.key(), request, send_delay=retention)

    add_variant_handlers(jobs, retention)
    return jobs


class JobRecord:
    """The state of one key: the manifest, the last generation, and what is still to be purged of earlier ones."""

    def __init__(self, ctx: ObjectContext, session: str) -> None:
        self._ctx = ctx
        self._session = session

    async def open(self, request: Open) -> Manifest:
        """The manifest of the job that is there; else, or if it is to begin afresh, that of a new one."""
        known = await self.read(unreadable_is_none=request.fresh)
        if known is not None and not request.fresh:
            return known
        manifest = request.manifest
        # Counted on from a job that was deleted: invocations of its earlier generations may still be kept.
        last = await self._last_generation(manifest)
        if known is not None:
            await self.drop(known)
        manifest.generation = last + 1
        self._write(manifest)
        return manifest

    async def change(self, request: Change) -> Manifest:
        """Make a change to the manifest, and return it.

        Raises:
            TerminalError: there is no such job, or the change is not one to it.
        """
        manifest = await self.read()
        if manifest is None or manifest.generation != request.generation:
            raise TerminalError("The job was deleted or started afresh elsewhere. Run its cell again.", 409)
        try:
            manifest = apply_change(manifest, request)
        except ValueError as error:
            raise TerminalError(f"The job cannot be changed so: {error}.", status_code=400) from error
        self._write(manifest)
        return manifest

    async def read(self, *, unreadable_is_none: bool = False) -> Manifest | None:
        """The manifest; None when there is none.

        Raises:
            TerminalError: it cannot be read, and that is not the same to the caller.
        """
        raw = await self._ctx.get("manifest", BytesSerde())
        try:
            return None if raw is None else manifest_decoder.decode(raw)
        except (ValueError, RecursionError) as error:
            if unreadable_is_none:
                return None
            raise TerminalError(
                f"The record of the job cannot be read ({error}). With fresh=True it begins anew.", status_code=422
            ) from error

    def _write(self, manifest: Manifest) -> None:
        """Write the manifest.

        Raises:
            TerminalError: it has grown too large to be read again.
        """
        raw = encode(manifest)
        if len(raw) > MAX_RECORD_BYTES:
            raise TerminalError(
                f"The record of the job would have {len(raw) >> 20} MiB, and {MAX_RECORD_BYTES >> 20} MiB is the most: "
                f"it has {len(manifest.rounds)} rounds over {manifest.total:,} items. Begin anew with fresh=True, over "
                "the items that are still to do.",
                status_code=413,
            )
        self._ctx.set("manifest", raw, BytesSerde())
        self._ctx.set("generation", manifest.generation)

    async def _last_generation(self, wanted: Manifest) -> int:
        """The generation of the last job of this name; 0 when there was none."""
        kept = await self._ctx.get("generation", type_hint=int) or 0
        raw = await self._ctx.get("manifest", BytesSerde())  # versions of before kept it there alone
        found = None if raw is None else re.search(rb'"generation":(\d{1,15})\b', raw)
        if found is not None:
            return max(kept, int(found[1]))
        return kept if kept or raw is None else int(wanted.created)  # unreadable: more than there can have been

    async def drop(self, manifest: Manifest) -> None:
        """Forget the job; its invocations are purged later, by the sweeper of a session (`backends/sweeper.py`)."""
        self._ctx.clear("manifest")
        self._ctx.set("generation", manifest.generation)
        service = service_of(self._session, manifest)
        unpurged = Unpurged(generation=manifest.generation, service=service, folder=manifest.folder)
        self._ctx.set(UNPURGED, encode([*await self._unpurged(), unpurged]), BytesSerde())

    async def purged(self, purged: Unpurged) -> None:
        """Note that all invocations of a generation are purged."""
        left = [each for each in await self._unpurged() if each != purged]
        if left:
            self._ctx.set(UNPURGED, encode(left), BytesSerde())
        else:
            self._ctx.clear(UNPURGED)

    async def _unpurged(self) -> list[Unpurged]:
        raw = await self._ctx.get(UNPURGED, BytesSerde())
        try:
            return [] if raw is None else unpurged_decoder.decode(raw)
        except (ValueError, RecursionError):
            return []
