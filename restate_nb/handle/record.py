"""A job's record in Restate: its manifest, and the changes to it. Runs on the session's own loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final
from uuid import uuid4

import msgspec

from restate_nb.backends.connection import Connection
from restate_nb.backends.introspection import JobInvocations
from restate_nb.backends.workers import lanes_for
from restate_nb.engine.function import Function
from restate_nb.errors import JobMismatch
from restate_nb.handle.batches import Batch
from restate_nb.handle.function_changes import bound_of, check_bound, code_named, made_of
from restate_nb.handle.items import Items
from restate_nb.names import check_job_name
from restate_nb.policy import RunPolicy
from restate_nb.server.admin import order_all
from restate_nb.service.digest import items_digest, stored_items_digest
from restate_nb.service.identity import Identity
from restate_nb.service.variants import Vary
from restate_nb.service.wire import Change, Manifest, Round

_PURGE_SECONDS: Final = 10.0
"""That `delete` waits for what it drops; the rest is purged behind its back."""


class JobRecord:
    """The record of one job.

    Attributes:
        connection: the way to Restate.
        manifest: the job as Restate knows it.
        created: whether this process began the job, rather than found it.
        changing: is held by whoever changes it.
    """

    def __init__(self, connection: Connection, manifest: Manifest, *, created: bool) -> None:
        self.connection = connection
        self.manifest = manifest
        self.created = created
        self.changing = asyncio.Lock()  # a cancellation that waits for Restate must not overtake a later retry

    @property
    def key(self) -> tuple[str, str, int]:
        """Which job it is: the session whose it is (or what stands for its workers), the name, and the generation."""
        return self.connection.session, self.manifest.name, self.manifest.generation

    @property
    def can_pause_invocations(self) -> bool:
        """Whether there is a way to pause what runs elsewhere."""
        return self.connection.admin_if_any is not None

    async def ready(self) -> None:
        """See to it that the record can be kept, and that what is new comes to this process if it runs here."""
        await ready_for(self.connection, self.manifest)

    async def change(self, *, patient: bool = False, **changes: object) -> None:
        """Change the manifest; `patient`: nobody waits in a cell, so for as long as Restate is away."""
        async with self.changing:
            manifest = self.manifest
            change = msgspec.convert({"generation": manifest.generation, **changes}, Change, from_attributes=True)
            self.manifest = await self.connection.job_store.change(manifest, change, patient=patient)

    async def reopen(
        self, wanted: Manifest, *, fresh: bool, had_ended: Callable[[], bool]
    ) -> tuple[JobRecord, Manifest]:
        """Open a job of which this may be the record; see `open_record`. No change of this process comes in between.

        Args:
            wanted: the job as it would begin.
            fresh: begin it anew.
            had_ended: whether the job has ended here: only then can rounds be followed that another process has added.

        Returns:
            The record that was opened, and how the manifest of this one was before it.
        """
        async with self.changing:
            before, ended = self.manifest, had_ended()
            opened = await open_record(self.connection, wanted, fresh=fresh)
            if opened.key == self.key and (ended or len(opened.manifest.rounds) == len(before.rounds)):
                self.manifest = opened.manifest
            return opened, before

    async def vary(self, names: list[str]) -> None:
        """Note that these parts of the function vary by themselves."""
        manifest = self.manifest
        if news := [name for name in names if name not in manifest.varies]:
            if manifest.base:
                await self.connection.job_store.vary(manifest.base, Vary(job=manifest.name, varies=news))
            await self.change(varies=news)

    @property
    def invocations(self) -> JobInvocations:
        """What Restate knows of the job's invocations."""
        return JobInvocations.of(self.connection.session, self.manifest)

    async def stopped_by_restate(self) -> tuple[list[str], list[str]]:
        """What Restate itself has stopped: the reasons in words, and the ids of the invocations that are paused."""
        admin = self.connection.admin_if_any
        return ([], []) if admin is None else await self.invocations.stopped(admin)

    async def resume_invocations(self) -> None:
        """Let go on what Restate has paused."""
        if paused := (await self.stopped_by_restate())[1]:
            await order_all(self.connection.admin.resume, paused)

    async def delete(self) -> None:
        """Drop the job in its record, in one step; then purge its invocations, or leave them to the sweeper."""
        manifest, admin = self.manifest, self.connection.admin
        await self.connection.job_store.forget(manifest)
        purging = asyncio.create_task(JobInvocations.of(self.connection.session, manifest).purge(admin))
        purging.add_done_callback(lambda _: self.connection.sweep())
        await asyncio.wait({purging}, timeout=_PURGE_SECONDS)
        if purging.done():
            purging.exception()  # the sweeper tries again


async def ready_for(connection: Connection, manifest: Manifest) -> None:
    """See to it that a job's record can be kept, and that what is new comes to this process if it runs the job."""
    await (connection.job_store.ready if manifest.kind == "deployed" else connection.register)()


async def open_record(connection: Connection, wanted: Manifest, *, fresh: bool) -> JobRecord:
    """Begin the job, or find the one that has its name.

    Raises:
        JobMismatch: the one that is there is over other items, or runs them in another way.
    """
    await ready_for(connection, wanted)
    if fresh:
        await connection.job_store.kill_stuck_requests(wanted.name, connection.admin_if_any)
    there, created = await connection.job_store.open(wanted, fresh=fresh)
    if (there.items, there.options, there.total) != (wanted.items, wanted.options, wanted.total):
        raise JobMismatch(_mismatch(there, wanted))
    check_bound(there, wanted)
    if there.recipe != wanted.recipe:
        change = Change(generation=there.generation, recipe=wanted.recipe or "")
        there = await connection.job_store.change(there, change)
    if created and there.generation > 1:
        connection.runs.get(there.name, there.generation - 1).cancel()  # else its shards wait for ever
        if there.kind == "workers" and connection.admin_if_any is not None:
            older = msgspec.structs.replace(there, generation=there.generation - 1)
            await JobInvocations.of(connection.session, older).cancel(connection.admin)  # else they run to their end
        connection.sweep()
    return JobRecord(connection, there, created=created)


def _mismatch(there: Manifest, wanted: Manifest) -> str:
    if there.total != wanted.total:
        what = f"{there.total:,} {'item' if there.total == 1 else 'items'}, and these are {wanted.total:,}"
    elif there.items != wanted.items:
        what = f"{there.total:,} other {'item' if there.total == 1 else 'items'}"
    else:
        what = "the same items, passed in another way, in other batches, or to another kind of function"
    return (
        f"There is a job {wanted.name!r} over {what}. "
        "Give this one another name=, or drop the old job and its outcomes with fresh=True."
    )


# ------------------------------------------------------------ of a job that is to begin


def wanted_manifest(
    function: Function,
    items: Items,
    policy: RunPolicy,
    identity: Identity,
    *,
    name: str | None,
    batch: Batch | None,
    spec: str | None,
    on_workers: bool,
    pickled: bool,
) -> Manifest:
    """How the record of a job begins.

    Args:
        function: the job's.
        items: over which it is run.
        policy: how.
        identity: what the function is now.
        name: the job's; None for one that is made of all this.
        batch: how many items begin together.
        spec: how it is run, so that it goes on without its cell; None where that cannot be written.
        on_workers: whether workers run it.
        pickled: whether values that have no other form are pickled.

    Raises:
        InvalidInput: the name cannot be one.
    """
    now = time.time()
    code, folder = code_named(function, identity), items.folder
    if folder is not None and folder.count:
        digest = stored_items_digest(items.encoded)
    else:
        digest = items_digest(items.encoded.sizes(), items.encoded.chunks())
    options = function.options if batch is None else f"{function.options}, batches of {batch.size}"
    kept = f"{options}, pickled" if pickled else options
    return Manifest(
        name=check_job_name(name) if name is not None else _unnamed(function, code, identity, digest, kept),
        function=function.name,
        items=digest,
        options=options,
        deployed=function.deployed,
        total=len(items),
        created=now,
        opened_by=uuid4().hex,
        durable=function.durable,
        batch=None if batch is None else batch.size,
        rounds=[Round(positions=None, code=code, started=now)],
        recipe=spec,
        lanes=lanes_for(policy, len(items)) if on_workers else None,
        base="" if name is not None else _base(function, identity, digest, kept),
        made=[made_of(identity, code, now)],
        bound=bound_of(identity),
        folder="" if folder is None else folder.name,
        placed="" if folder is None else folder.placed,
        pickled=pickled,
    )


def with_folder_of(there: Manifest, items: Items) -> Items:
    """The items of a job that is open, with its own folder, which is another one where the job was there already;
    blocks.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    folder = items.folder
    if folder is None or folder.name == there.folder or not folder.count:
        return items
    encoded = folder.same_in(there.folder, there.placed, items.encoded)
    folder.drop()
    return items.over(encoded)


def _unnamed(function: Function, code: str, identity: Identity, items: str, options: str) -> str:
    """What a job is called that has no name of its own. `options`: all that makes it another one."""
    by_version = len(identity.parts) == 1 and function.version is not None and function.known_as is None
    return f"{function.name}-{_mix(code if by_version else identity.digest, items, options)}"


def _base(function: Function, identity: Identity, items: str, options: str) -> str:
    """What stands for a job without a name, what may vary left out."""
    return f"{function.name}-{_mix(identity.base, items, options)}"


def _mix(*parts: str) -> str:
    encoded = [part.encode() for part in parts]
    return items_digest(map(len, encoded), encoded)[:10]
