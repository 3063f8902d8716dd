"""The handlers behind a job: `shard` runs items, the jobs object keeps manifests."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from restate import Context, InvocationRetryPolicy, ObjectContext, Service, TerminalError, VirtualObject
from restate.serde import BytesSerde

from restate_nb.engine.commit import commit
from restate_nb.service.runs import JobRuns
from restate_nb.service.shard import Shard
from restate_nb.service.variants import add_variant_handlers
from restate_nb.service.wire import (
    SHARD_HANDLER,
    Change,
    Forget,
    Manifest,
    Open,
    apply_change,
    encode,
    encode_output,
    items_service,
    jobs_service,
)

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
        part = Shard(body, lambda request: runs.get(request.job, request.generation))
        await commit(ctx, part.count, part, part.on_group)
        rest = part.rest()
        if rest is None:
            return encode_output(part.groups, None)
        ctx.generic_send(items_service(session), SHARD_HANDLER, encode(rest), idempotency_key=rest.key())
        return encode_output(part.groups, rest.key())

    return service


def _check_given(asked: object) -> None:
    if asked is None:  # what the SDK makes of a request without a body, whatever the annotation
        raise TerminalError("The request has no body.", status_code=400)


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
        _check_given(asked)
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
        _check_given(asked)
        manifest = await ctx.get("manifest", type_hint=Manifest)
        if manifest is None or manifest.generation != asked.generation:
            raise TerminalError("The job was deleted or started afresh elsewhere. Run its cell again.", 409)
        try:
            ctx.set("manifest", apply_change(manifest, asked))
        except ValueError as error:
            raise TerminalError(f"The job cannot be changed so: {error}.", status_code=400) from error
        return manifest

    @jobs.handler("forget")
    async def forget(ctx: ObjectContext, asked: Forget) -> None:
        _check_given(asked)
        manifest = await ctx.get("manifest", type_hint=Manifest)
        if manifest is not None and manifest.generation == asked.generation:
            ctx.clear_all()
            ctx.set("generation", asked.generation)

    add_variant_handlers(jobs, retention)
    return jobs
