"""The jobs of a session: those that were begun here, found in Restate, or gone on with."""

from __future__ import annotations

import asyncio
import difflib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired, TypedDict, Unpack

from restate_nb.backends.connection import Connection, connection_to_workers
from restate_nb.backends.job_store import read_manifests
from restate_nb.backends.recorded_items import read_items_back, unknown_function
from restate_nb.backends.worker_functions import check_for_workers
from restate_nb.engine.function import Function
from restate_nb.engine.loop_thread import LoopThread
from restate_nb.errors import InvalidInput, JobMismatch, RestateNbError, ServerError
from restate_nb.handle.batches import Batch
from restate_nb.handle.function_changes import code_named, identity_now, older_of
from restate_nb.handle.growth import Growth, kept_items
from restate_nb.handle.item_folder import ItemFolder
from restate_nb.handle.items import Items, in_journal
from restate_nb.handle.job import Job, runner_of
from restate_nb.handle.keys import KeyedRows
from restate_nb.handle.originals import DecodedItems
from restate_nb.handle.provenance import Fresh, check_fresh, warn_of_older
from restate_nb.handle.record import (
    JobRecord,
    open_grown,
    open_record,
    ready_for,
    wanted_manifest,
    with_folder_of,
)
from restate_nb.handle.runner import JobRunner, data_of
from restate_nb.handle.status import progress_of
from restate_nb.policy import RunPolicy
from restate_nb.results.key_table import KeptItems
from restate_nb.results.spool import Spool
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.identity import Identity
from restate_nb.service.outside import MOST_LISTED, LiveError, LiveJob, Verb
from restate_nb.service.run_spec import read_run_spec, run_spec_of
from restate_nb.service.variants import Variant
from restate_nb.service.wire import Manifest, workers_of

if TYPE_CHECKING:
    import pandas as pd

On = Literal["here", "workers"]
"""Where a job's items are run: by the process of its session, or by the session's workers."""

Key = tuple[str, str, int]
"""Which job a handle is of: the session (or what stands for its workers), the name and the generation."""

_ENDED_KEPT: Final = 20
"""Handles of jobs that have ended, the latest, which are kept though nobody else holds them."""

_TOLD: Final = 5  # unfinished jobs that are named


class SubmitOptions(TypedDict):
    """How a job is submitted.

    Attributes:
        name: its name; None for one that is made of what it is over.
        fresh: what is run again.
        batch: how many items begin together; by default they need not wait for others.
        on_workers: whether the session's workers run it.
        pickle: whether values and items that have no other form are pickled.
        rows: the keys of its items, where it grows with them.
    """

    name: str | None
    fresh: Fresh
    batch: NotRequired[Batch | None]
    on_workers: NotRequired[bool]
    pickle: NotRequired[bool]
    rows: NotRequired[KeyedRows | None]


class Registry:
    """The handles of a session's jobs, one for each name and generation; its workers' jobs have names of their own."""

    def __init__(self, connection: Connection, io: LoopThread, *, private: bool) -> None:
        """`private`: nobody else writes to this Restate, so that what it says may be imported."""
        self._connection = connection
        self._io = io
        self._private = private
        self._jobs: weakref.WeakValueDictionary[Key, Job[Any]] = weakref.WeakValueDictionary()
        self._kept: list[Job[Any]] = []  # those that run, and the latest of those that have ended
        self._handles = threading.Lock()
        self._stands: weakref.WeakKeyDictionary[JobRunner, tuple[int, float]] = weakref.WeakKeyDictionary()
        self._going_on: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> list[Job[Any]]:
        """All of them, as they came: those that run, those that somebody holds, and the latest that have ended."""
        return list(self._jobs.values())

    def prepare(self, function: Function, *, on_workers: bool, pickle: bool) -> ItemFolder | None:
        """Let a function's items and values go to the session's store, where it has one that they can go to; return
        the folder of a job that is about to begin.

        Raises:
            InvalidInput: nothing may be pickled here.
        """
        store = self._connection.store
        if on_workers and store is not None and not store.config.shared:
            store = None  # they could not reach it
        if pickle:
            self._check_may_pickle(on_workers=on_workers)
        function.keep_in(store, pickle=pickle)
        return None if store is None else ItemFolder(store)

    def _check_may_pickle(self, *, on_workers: bool = False) -> None:
        """See that whatever is unpickled was pickled by this user.

        Raises:
            InvalidInput: others could have written it.
        """
        if on_workers:
            raise InvalidInput(
                "pickle=True is for jobs that this process runs: what workers return is not unpickled here, since "
                "unpickling runs code of whoever wrote it. Return what rnb keeps by itself, or a path."
            )
        if not self._private:
            raise InvalidInput(
                "pickle=True is for a Restate of your own, as rnb.start() has it. Others can write to this one, and "
                "unpickling runs code of whoever wrote it. Return what rnb keeps by itself, or a path."
            )
        store = self._connection.store
        if store is not None and not store.config.private:
            raise InvalidInput(
                f"pickle=True is for a store that nobody but you can write to, and others can write to "
                f"{store.config.url}. Unpickling runs code of whoever wrote it. Use a directory of your own "
                "(chmod 700), or leave store= out."
            )

    def _keep_values(self, function: Function, connection: Connection, manifest: Manifest, *, pickle: bool) -> None:
        """Let a function's values go, and be read, where its job keeps them."""
        function.keep_in(connection.store, parts=bool(manifest.folder), pickle=pickle)

    def _unpickles(self, manifest: Manifest) -> bool:
        """Whether a job that goes on by itself may unpickle what it has pickled."""
        store = self._connection.store
        return manifest.pickled and self._private and (store is None or store.config.private)

    def submit(self, function: Function, items: Items, policy: RunPolicy, **options: Unpack[SubmitOptions]) -> Job[Any]:
        """Begin a job, or attach to the one that is there.

        Raises:
            InvalidInput: the name cannot be one, there are no workers, or they cannot run it.
            JobMismatch: the name belongs to a job over other items.
        """
        fresh, batch, on_workers = options["fresh"], options.get("batch"), options.get("on_workers", False)
        pickle, rows = options.get("pickle", False), options.get("rows")
        check_fresh(fresh)
        spec = run_spec_of(function, policy, 0.0 if batch is None else batch.pause)

        def begun_with(items: Items) -> Manifest:
            return wanted_manifest(
                function,
                items,
                policy,
                identity,
                name=options["name"],
                batch=batch,
                spec=spec,
                on_workers=on_workers,
                pickled=pickle,
                rows=rows,
            )

        with _dropping(items, BaseException):  # nobody was told of its folder yet
            connection = self._connection_for(function, policy, spec, on_workers=on_workers)
            identity = identity_now(function)
            wanted = begun_with(items)
            looks_back = rows is None and fresh is not True
            if looks_back and (journaled := self._journaled(connection, wanted, function, items, begun_with)):
                items, wanted = journaled, begun_with(journaled)
        if fresh and on_workers and connection.admin_if_any is not None:
            self._end_older(connection.session, wanted.name)
        growth = None if rows is None else Growth(connection, wanted, items, rows, policy.retry.max_attempts)
        try:
            with _dropping(items, JobMismatch):
                if growth is None:
                    opening = self._open(connection, wanted, identity, function, items, fresh=fresh is True)
                else:
                    opening = self._open_grown(connection, wanted, function, growth, fresh=fresh is True)
                job, items = self._io.run(opening)
        except KeyboardInterrupt:
            print("Stopped while the job was being submitted: run the cell again, and it is made complete.")
            raise
        runner = runner_of(job)
        if not function.deployed:
            self._keep_values(function, connection, runner.data.manifest, pickle=pickle)
        if pickle and not runner.data.manifest.pickled:
            self._io.run(runner.data.record.change(pickled=True))
        finished = job.done() or not runner.data.manifest.unfinished
        older = runner.provide(function, items, policy, batch, identity, again=fresh == "changed")
        if growth is not None:
            self._io.run(runner.follow_up(growth))
        if fresh != "changed":
            warn_of_older(job.name, older, runner.data.manifest.mixed, finished=finished)
        return job

    def _journaled(
        self,
        connection: Connection,
        wanted: Manifest,
        function: Function,
        items: Items,
        begun_with: Callable[[Items], Manifest],
    ) -> Items | None:
        """The items as they are without a store, if they are those of a job that was begun so: by a version that had
        none, or by a session without one. None else."""
        folder = items.folder
        if folder is None or not folder.count or connection.admin_if_any is None:
            return None
        before = [
            each
            for session, each in self._io.run(read_manifests(connection.admin))
            if session == connection.session and not each.folder
            if (each.total, each.function, each.kind) == (wanted.total, wanted.function, wanted.kind)
        ]
        if not before or (journaled := in_journal(items, function)) is None:
            return None
        then = begun_with(journaled)
        names = {each.name for each in before if each.items == then.items}
        bases = {each.base for each in before if each.items == then.items and each.base}
        if then.name not in names and then.base not in bases:
            return None
        folder.drop()
        return journaled

    def _connection_for(
        self, function: Function, policy: RunPolicy, spec: str | None, *, on_workers: bool
    ) -> Connection:
        """The way to where a job is run."""
        if on_workers:
            check_for_workers(function, policy, spec)
            return self._to_workers()
        if function.known_as is not None:
            raise InvalidInput(
                f"{function.known_as!r} is a name, which only workers can make a function of: rnb.map and rnb.starmap "
                "send items to them. rnb.batch runs functions of this process: import it, and pass the function."
            )
        return self._connection

    async def _open(
        self,
        connection: Connection,
        wanted: Manifest,
        identity: Identity,
        function: Function,
        items: Items,
        *,
        fresh: bool,
    ) -> tuple[Job[Any], Items]:
        """The handle of the job that this one is, by what does not vary by itself; and its items where they lie."""
        await ready_for(connection, wanted)
        for key, runner in self._runners():
            data = runner.data
            there, then = data.manifest, data.provenance.now
            same = there.base == wanted.base if wanted.base else there.name == wanted.name
            if same and key[0] == connection.session and not runner.ended.done() and then is not None:
                await data.record.vary(sorted(then.own_doing(identity)))
        if wanted.base and identity.varying:
            variant = Variant(job=wanted.name, parts=wanted.made[0].parts, at=wanted.created)
            wanted.name = await connection.job_store.claim(wanted.base, variant)
        record = await self._open_record(connection, wanted, fresh=fresh)
        if wanted.base and record.manifest.mixed and not record.created and connection.job_store.begins_anew:
            # something was changed by hand while it ran: its results are of nothing that could be asked for
            record = await self._open_record(connection, wanted, fresh=True)
        items = await asyncio.to_thread(with_folder_of, record.manifest, items)
        return await self._handle(record, function, items), items

    async def _open_grown(
        self, connection: Connection, wanted: Manifest, function: Function, growth: Growth, *, fresh: bool
    ) -> tuple[Job[Any], Items]:
        """The handle of a keyed job, which has what its cell has now; and the items of the cell where they lie."""
        name = connection.session, wanted.name
        runner = next((each for key, each in self._runners() if key[:2] == name), None)
        if runner is None:
            opened = await open_grown(growth, connection, wanted, fresh=fresh)
        else:
            record = runner.data.record
            async with record.changing:
                before = record.manifest
                opened = await open_grown(growth, connection, wanted, fresh=fresh)
                if opened.manifest.generation == before.generation:
                    record.manifest = opened.manifest
                    runner.follow_pause(before)
        record = JobRecord(connection, opened.manifest, created=opened.created)
        job = await self._handle(record, function, opened.items, KeptItems(opened.table))
        runner = runner_of(job)
        await runner.grow(opened.table)
        runner.growth = "" if opened.created else opened.comparison.words()
        return job, opened.items

    async def _open_record(self, connection: Connection, wanted: Manifest, *, fresh: bool) -> JobRecord:
        """The record of a job: with the handle that there may be, which follows what others have changed of it."""
        known = (each for key, each in self._runners() if key[:2] == (connection.session, wanted.name))
        runner = next(known, None)
        return await (open_record(connection, wanted, fresh=fresh) if runner is None else runner.reopen(wanted, fresh))

    def _runners(self) -> list[tuple[Key, JobRunner]]:
        return [(key, runner_of(job)) for key, job in list(self._jobs.items())]

    def live(self) -> list[LiveJob]:
        """How far the jobs of this process are, for other processes: those that run, and the latest others."""
        runners = [runner for _, runner in self._runners()]
        running = [each for each in runners if not each.ended.done()]
        ended = [each for each in runners if each.ended.done()]
        chosen = [*ended, *running][-MOST_LISTED:]
        return [_live(each) for each in chosen]

    async def steer(self, name: str, verb: Verb) -> None:
        """Tell the job of that name what to do, as another process wants it.

        Raises:
            LookupError: no such job runs here.
        """
        runner = next((each for _, each in self._runners() if each.data.name == name and not each.ended.done()), None)
        if runner is None:
            raise LookupError(f"No job {name!r} runs in this process.")
        if verb == "cancel":
            await runner.cancel()
        elif verb == "resume" and runner.guard.unkept is not None:
            await asyncio.wrap_future(runner.guard.resume())
        else:
            await runner.set_paused(verb == "pause")

    async def note_before_stop(self) -> None:
        """The session is to stop: note what functions of unfinished jobs changed by now, and which jobs have ended."""
        unfinished = [each for _, each in self._runners() if not each.ended.done()]
        await asyncio.gather(self._note_ends(), *(each.data.provenance.note_before_stop() for each in unfinished))

    async def _note_ends(self) -> None:
        await asyncio.gather(*(each.noted() for _, each in self._runners()))

    def stop_following(self) -> None:
        """Follow the jobs no longer; they stay where they are."""
        for _, runner in self._runners():
            runner.stop_following()

    def give_up_standing(self, error: ServerError, seconds: float) -> None:
        """Follow the jobs no longer of which nothing was recorded for so long, since their data are gone.

        Call it now and then, on the session's loop.
        """
        now = time.monotonic()
        for _, runner in self._runners():
            done = runner.data.ledger.done
            before, since = self._stands.get(runner, (-1, now))
            self._stands[runner] = (done, since if before == done else now)
            if now - self._stands[runner][1] > seconds:
                runner.give_up(error)

    def end_waiting(self) -> None:
        """Tell those who wait for a job that nobody follows it any more."""
        for _, runner in self._runners():
            runner.end_waiting()

    def forget_handles(self) -> None:
        """Leave all jobs and know none of them, as another process does. For tests."""
        self._io.run(self._note_ends())
        self.stop_following()
        self._jobs.clear()

    def _end_older(self, session: str, name: str) -> None:
        """Cancel what workers do for a job that is to begin anew: here somebody may wait for it."""
        for key, job in list(self._jobs.items()):
            if key[:2] == (session, name):
                job.cancel()

    def _to_workers(self) -> Connection:
        return self._io.run(connection_to_workers(self._connection, JobRuns(self._io.loop)))

    async def _handle(
        self, record: JobRecord, function: Function, items: Items, kept: KeptItems | None = None
    ) -> Job[Any]:
        """The handle of a job: the one that there is, or a new one; `kept`: its items, where it is keyed."""
        runner = None
        if self._jobs.get(record.key) is None:
            runner = JobRunner(await data_of(record, function, items, kept), self._io)
        with self._handles:
            job = self._jobs.get(record.key)
            if job is None:
                assert runner is not None
                job = self._jobs[record.key] = Job(runner, self.forget)
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

    async def _take_up(self, manifest: Manifest, spec: str) -> None:
        try:
            kept, encoded, positions = await self._items_of(self._connection, self._connection.session, manifest)
            function, policy, pause = await asyncio.to_thread(read_run_spec, spec, durable=manifest.kind == "durable")
            self._keep_values(function, self._connection, manifest, pickle=self._unpickles(manifest))
            identity = await asyncio.to_thread(identity_now, function)
            if (
                manifest.base
                and manifest.made
                and older_of(manifest.made[-1], identity, code_named(function, identity), manifest.varies)
            ):
                print(f"The job {manifest.name!r} does not go on by itself: {manifest.function} is another one by now.")
                return
            items = Items(DecodedItems(function, encoded), encoded, positions=positions)
            batch = None if manifest.batch is None else Batch(manifest.batch, pause)
            runner = runner_of(await self._handle(self._found(self._connection, manifest), function, items, kept))
            older = runner.set_first_function(function, items, policy, batch, identity)  # its cell may have come before
            if older is not None and (older or not older.known):
                await runner.data.provenance.note()
        except Exception as error:  # nobody waits for this task: what is not told here, nobody is told
            kind = "" if isinstance(error, RestateNbError) else f"{type(error).__name__}: "
            print(f"The job {manifest.name!r} cannot go on without its cell: {kind}{error}")

    def job(self, name: str, on: On | None = None, *, pickle: bool = False) -> Job[Any]:
        """The job of that name; see `restate_nb.job`.

        Raises:
            InvalidInput: there is no such job, or there are two, not all of its items were submitted, or nothing may
                be unpickled here.
        """
        if pickle:
            self._check_may_pickle()
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
        return open_jobs.get(found[0]) or self._read_back(found[0], manifests[found[0]][name], pickle=pickle)

    def _no_such_job(self, name: str, names: list[str]) -> InvalidInput:
        near = difflib.get_close_matches(str(name), names, n=1) or names[-1:]
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return InvalidInput(
            f"The session {self._connection.session!r} has no job {name!r}.{hint} rnb.jobs() lists those of all "
            "sessions."
        )

    def _read_back(self, session: str, manifest: Manifest, *, pickle: bool) -> Job[Any]:
        if manifest.kind == "deployed":
            raise InvalidInput(f"{manifest.name!r} is a job of rnb.invoke: run its cell again, which has the handler.")
        connection = self._connection if manifest.kind != "workers" else self._to_workers()
        kept, encoded, positions = self._io.run(self._items_of(connection, session, manifest))
        function = unknown_function(manifest)
        self._keep_values(function, connection, manifest, pickle=pickle)
        items = Items(DecodedItems(function, encoded), encoded, positions=positions)
        job = self._io.run(self._handle(self._found(connection, manifest), function, items, kept))
        runner_of(job).attach()
        return job

    async def _items_of(
        self, connection: Connection, session: str, manifest: Manifest
    ) -> tuple[KeptItems | None, Spool, Any]:
        """A job's items as they are kept: all of them by position, where it is keyed, else None; those of the rows of
        its cell; and the positions of these, where it is keyed."""
        if manifest.keyed is not None:
            return await kept_items(connection, manifest)
        return None, await read_items_back(self._connection.admin, session, manifest), None

    @staticmethod
    def _found(connection: Connection, manifest: Manifest) -> JobRecord:
        return JobRecord(connection, manifest, created=False)

    def listing(self) -> pd.DataFrame:
        """All jobs of this session's server; see `restate_nb.jobs`."""
        from restate_nb.session.listing import listing  # noqa: PLC0415 - loads pandas

        return listing(self._io.run(read_manifests(self._connection.admin)), dict(self._runners()))

    def forget(self, job: Job[Any]) -> None:
        """Know this job no longer, nor what runs it here: it was deleted."""
        for key in [key for key, each in list(self._jobs.items()) if each is job]:
            del self._jobs[key]
            self._kept = [each for each in self._kept if each is not job]
            if key[0] == self._connection.session:
                self._connection.runs.forget(*key[1:])


def _live(runner: JobRunner) -> LiveJob:
    now = progress_of(runner)
    return LiveJob(
        name=now.name,
        generation=runner.data.manifest.generation,
        function=now.function,
        status=now.status,
        total=now.total,
        ok=now.ok,
        failed=now.failed,
        cancelled=now.cancelled,
        running=now.running,
        retries=now.retries,
        elapsed=now.elapsed,
        rate=now.rate,
        eta=now.eta,
        p50=now.p50,
        p95=now.p95,
        concurrency=now.concurrency,
        note=now.note,
        hint=now.hint,
        errors=tuple(LiveError(error_type=e.error_type, message=e.message, count=e.count) for e in now.errors[:5]),
    )


@contextmanager
def _dropping(items: Items, errors: type[BaseException]) -> Iterator[None]:
    """Where errors of this kind say that there is no job that the folder of these items is for."""
    try:
        yield
    except errors:
        if items.folder is not None:
            items.folder.drop()
        raise
