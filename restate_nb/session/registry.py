"""The jobs of a session: those that were begun here, found in Restate, or gone on with."""

from __future__ import annotations

import asyncio
import difflib
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal

from restate_nb.backends.connection import Connection, connection_to_workers
from restate_nb.backends.job_store import read_manifests
from restate_nb.backends.recorded_items import read_items_back, unknown_function
from restate_nb.backends.worker_functions import check_for_workers
from restate_nb.backends.workers import lanes_for
from restate_nb.engine.function import Function
from restate_nb.errors import InvalidInput, RestateNbError
from restate_nb.handle.batches import Batch
from restate_nb.handle.items import Decoded, Items
from restate_nb.handle.job import Job
from restate_nb.handle.provenance import (
    Fresh,
    bound_of,
    check_fresh,
    code_named,
    identity_now,
    made_of,
    older_of,
    warn_of_older,
)
from restate_nb.handle.runner import JobRunner
from restate_nb.names import check_job_name
from restate_nb.policy import RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.digest import items_digest
from restate_nb.service.identity import Identity
from restate_nb.service.run_spec import read_run_spec, run_spec_of
from restate_nb.service.variants import Variant
from restate_nb.service.wire import Manifest, Round, workers_of
from restate_nb.session.run import LoopThread

if TYPE_CHECKING:
    import pandas as pd

On = Literal["here", "workers"]
"""Where a job's items are run: by the process of its session, or by the session's workers."""

_ENDED_KEPT: Final = 20
"""Handles of jobs that have ended, the latest, which are kept though nobody else holds them."""

_TOLD: Final = 5  # unfinished jobs that are named


class Registry:
    """The handles of a session's jobs, one for each name and generation; its workers' jobs have names of their own."""

    def __init__(self, connection: Connection, io: LoopThread, *, private: bool) -> None:
        """`private`: nobody else writes to this Restate, so that what it says may be imported."""
        self._connection = connection
        self._io = io
        self._private = private
        # By the session (or what stands for its workers), the name and the generation.
        self._jobs: weakref.WeakValueDictionary[tuple[str, str, int], Job[Any]] = weakref.WeakValueDictionary()
        self._kept: list[Job[Any]] = []  # those that run, and the latest of those that have ended
        self._handles = threading.Lock()
        self._going_on: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> list[Job[Any]]:
        """All of them, as they came: those that run, those that somebody holds, and the latest that have ended."""
        return list(self._jobs.values())

    def submit(
        self,
        target: Function,
        items: Items,
        policy: RunPolicy,
        *,
        name: str | None,
        fresh: Fresh,
        batch: Batch | None = None,
        on_workers: bool = False,
    ) -> Job[Any]:
        """Begin a job, or attach to the one that is there.

        Raises:
            InvalidInput: the name cannot be one, there are no workers, or they cannot run it.
            JobMismatch: the name belongs to a job over other items.
        """
        check_fresh(fresh)
        connection = self._connection
        spec = run_spec_of(target, policy, 0.0 if batch is None else batch.pause)
        if on_workers:
            check_for_workers(target, policy, spec)
            connection = self._to_workers()
        elif target.known_as is not None:
            raise InvalidInput(
                f"{target.known_as!r} is a name, which only workers can make a function of: rnb.map and rnb.starmap "
                "send items to them. rnb.batch runs functions of this process: import it, and pass the function."
            )
        digest = items_digest(items.encoded.sizes(), items.encoded.chunks())
        identity, now = identity_now(target), time.time()
        code = code_named(target, identity)
        options = target.options if batch is None else f"{target.options}, batches of {batch.size}"
        wanted = Manifest(
            name=check_job_name(name) if name is not None else _unnamed(target, code, identity, digest, options),
            function=target.name,
            items=digest,
            options=options,
            deployed=target.deployed,
            total=len(items),
            created=now,
            durable=target.durable,
            batch=None if batch is None else batch.size,
            rounds=[Round(positions=None, code=code, started=now)],
            recipe=spec,
            lanes=lanes_for(policy, len(items)) if on_workers else None,
            base="" if name is not None else _base(target, identity, digest, options),
            made=[made_of(identity, code, now)],
            bound=bound_of(identity),
        )
        if fresh and on_workers and connection.admin_if_any is not None:
            self._end_older(connection.session, wanted.name)
        ledger = Ledger(len(items))
        try:
            driver = self._io.run(self._open(connection, wanted, identity, items, ledger, fresh=fresh is True))
        except KeyboardInterrupt:
            print("Stopped while the job was being submitted: run the cell again, and it is made complete.")
            raise
        job = self._handle(driver, ledger)
        finished = job.done() or not driver.manifest.unfinished
        older = job._provide(target, items, policy, batch, identity, again=fresh == "changed")
        if fresh != "changed":
            warn_of_older(job.name, older, job._driver.manifest.mixed, finished=finished)
        return job

    async def _open(
        self, connection: Connection, wanted: Manifest, identity: Identity, items: Items, ledger: Ledger, *, fresh: bool
    ) -> JobRunner:
        """Open the job that this one is, by what does not vary by itself."""
        await (connection.job_store.ready if wanted.kind == "deployed" else connection.register)()
        for key, job in list(self._jobs.items()):
            there = job._driver.manifest
            same = there.base == wanted.base if wanted.base else there.name == wanted.name
            if same and key[0] == connection.session and not job.done() and job._which.now is not None:
                await job._which.vary(sorted(job._which.now.own_doing(identity)))
        if wanted.base and identity.varying:
            variant = Variant(job=wanted.name, parts=wanted.made[0].parts, at=wanted.created)
            wanted.name = await connection.job_store.claim(wanted.base, variant)
        driver = await JobRunner.open(connection, wanted, items.encoded, ledger, fresh=fresh)
        if wanted.base and driver.manifest.mixed and not driver.created and connection.job_store.begins_anew:
            # something was changed by hand while it ran: its results are of nothing that could be asked for
            return await JobRunner.open(connection, wanted, items.encoded, ledger, fresh=True)
        return driver

    async def look_once_more(self) -> None:
        """The session is to stop: note what the functions of unfinished jobs have changed by now."""
        await asyncio.gather(*(job._which.look_once_more() for job in self.jobs if not job.done()))

    def _end_older(self, session: str, name: str) -> None:
        """Cancel what workers do for a job that is to begin anew: here somebody may wait for it."""
        for key, job in list(self._jobs.items()):
            if key[:2] == (session, name):
                job.cancel()

    def _to_workers(self) -> Connection:
        return self._io.run(connection_to_workers(self._connection, JobRuns(self._io.loop)))

    def _handle(self, driver: JobRunner, ledger: Ledger) -> Job[Any]:
        """The handle of a job: the one that there is, or a new one."""
        key = driver.session, driver.manifest.name, driver.manifest.generation
        with self._handles:
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = Job(driver, self._io, ledger, self._forget)
            self._keep(job)
            return job

    def _keep(self, job: Job[Any]) -> None:
        """Hold a handle, and let go of those that have ended long ago: what they know is in Restate."""
        ended = [each for each in self._kept if each is not job and each.done()]
        gone = set(map(id, ended[:-_ENDED_KEPT]))
        self._kept = [*(each for each in self._kept if each is not job and id(each) not in gone), job]

    async def go_on(self) -> None:
        """Take up the unfinished jobs whose functions can be imported, and tell which ones wait for their cells."""
        manifests = await read_manifests(self._connection.admin)
        here = self._connection.session
        unfinished = [each for name, each in manifests if name == here and each.unfinished]
        words = [
            f"{each.name!r} goes on"
            if each.recipe and self._private
            else f"{each.name!r} waits for {each.function}: run its cell"
            for each in unfinished
            if (here, each.name, each.generation) not in self._jobs
        ]
        if words:
            more = f"; and {len(words) - _TOLD:,} more" if len(words) > _TOLD else ""
            print(f"Unfinished jobs: {'; '.join(words[:_TOLD])}{more}.")
        for each in unfinished:
            if each.recipe and self._private and (here, each.name, each.generation) not in self._jobs:
                self._going_on.add(task := asyncio.create_task(self._take_up(each, each.recipe)))
                task.add_done_callback(self._going_on.discard)

    async def _take_up(self, manifest: Manifest, recipe: str) -> None:
        try:
            encoded = await read_items_back(self._connection.admin, self._connection.session, manifest)
            target, policy, pause = await asyncio.to_thread(read_run_spec, recipe, durable=manifest.kind == "durable")
            identity = await asyncio.to_thread(identity_now, target)
            if (
                manifest.base
                and manifest.made
                and older_of(manifest.made[-1], identity, code_named(target, identity), manifest.varies)
            ):
                print(f"The job {manifest.name!r} does not go on by itself: {manifest.function} is another one by now.")
                return
            ledger = Ledger(manifest.total)
            driver = await JobRunner.of(self._connection, manifest, encoded, ledger, created=False)
            batch = None if manifest.batch is None else Batch(manifest.batch, pause)
            job = self._handle(driver, ledger)
            older = job._bring(target, Items(Decoded(target, encoded), encoded), policy, batch, identity)
            if older or not older.known:
                await job._which.record()
        except Exception as error:  # nobody waits for this task: what is not told here, nobody is told
            kind = "" if isinstance(error, RestateNbError) else f"{type(error).__name__}: "
            print(f"The job {manifest.name!r} cannot go on without its cell: {kind}{error}")

    def job(self, name: str, on: On | None = None) -> Job[Any]:
        """The job of that name; see `restate_nb.job`.

        Raises:
            InvalidInput: there is no such job, or there are two, or not all of its items were submitted.
        """
        if on not in (None, "here", "workers"):
            raise InvalidInput(f"on= must be 'here' or 'workers', not {on!r}.")
        here = self._connection.session
        places = {"here": here, "workers": workers_of(here)}
        among = [places[on]] if on is not None else list(places.values())
        manifests: dict[str, dict[str, Manifest]] = {session: {} for session in among}  # by session and name
        open_jobs = {key[0]: job for key, job in list(self._jobs.items()) if key[0] in among and key[1] == name}
        if self._connection.admin_if_any is not None or not open_jobs:
            for session, each in self._io.run(read_manifests(self._connection.admin)):
                if session in among:
                    manifests[session][each.name] = each
        found = [session for session in among if session in open_jobs or name in manifests[session]]
        if len(found) > 1:
            raise InvalidInput(
                f"There are two jobs named {name!r}, one that this session runs and one on its workers. Say which: "
                f"rnb.job({name!r}, on='here') or on='workers'."
            )
        if not found:
            raise self._no_such_job(name, [each for those in manifests.values() for each in those])
        return open_jobs.get(found[0]) or self._read_back(found[0], manifests[found[0]][name])

    def _no_such_job(self, name: str, names: list[str]) -> InvalidInput:
        near = difflib.get_close_matches(str(name), names, n=1) or names[-1:]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return InvalidInput(
            f"The session {self._connection.session!r} has no job {name!r}.{hint} rnb.jobs() lists those of all "
            "sessions."
        )

    def _read_back(self, session: str, manifest: Manifest) -> Job[Any]:
        if manifest.kind == "deployed":
            raise InvalidInput(f"{manifest.name!r} is a job of rnb.invoke: run its cell again, which has the handler.")
        encoded = self._io.run(read_items_back(self._connection.admin, session, manifest))
        target = unknown_function(manifest)
        items = Items(Decoded(target, encoded), encoded)
        ledger = Ledger(manifest.total)
        connection = self._connection if manifest.kind != "workers" else self._to_workers()
        driver = self._io.run(JobRunner.of(connection, manifest, encoded, ledger, created=False))
        job = self._handle(driver, ledger)
        job._attach(target, items)
        return job

    def listing(self) -> pd.DataFrame:
        """All jobs of this session's server; see `restate_nb.jobs`."""
        from restate_nb.handle.listing import listing  # noqa: PLC0415 - loads pandas

        return listing(self._io.run(read_manifests(self._connection.admin)), dict(self._jobs))

    def _forget(self, job: Job[Any]) -> None:
        for key in [key for key, each in list(self._jobs.items()) if each is job]:
            del self._jobs[key]
            self._kept = [each for each in self._kept if each is not job]
            if key[0] == self._connection.session:
                self._connection.runs.forget(*key[1:])


def _unnamed(target: Function, code: str, identity: Identity, items: str, options: str) -> str:
    """What a job is called that has no name of its own."""
    by_version = len(identity.parts) == 1 and target.version is not None and target.known_as is None
    return f"{target.name}-{_mix(code if by_version else identity.digest, items, options)}"


def _base(target: Function, identity: Identity, items: str, options: str) -> str:
    """What stands for a job without a name, what may vary left out."""
    return f"{target.name}-{_mix(identity.base, items, options)}"


def _mix(*parts: str) -> str:
    encoded = [part.encode() for part in parts]
    return items_digest(map(len, encoded), encoded)[:10]
