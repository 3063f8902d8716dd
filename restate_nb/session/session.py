"""The session: a restate-server, the endpoint of this kernel, and the jobs that were submitted from here."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack
from datetime import timedelta
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, Unpack, overload

from restate_nb.backends.connection import Connection
from restate_nb.backends.job_store import job_store_of
from restate_nb.backends.sweeper import Sweeper
from restate_nb.engine.forked import Home
from restate_nb.engine.function import Function
from restate_nb.engine.loop_thread import LoopThread
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.formatting import count, counted, one_line
from restate_nb.handle.item_folder import ItemFolder
from restate_nb.handle.items import Items
from restate_nb.handle.job import Job, runner_of
from restate_nb.handle.runner import SessionStopped
from restate_nb.limits import Seconds
from restate_nb.panel.render import ui_anchor
from restate_nb.policy import RunPolicy
from restate_nb.server.lifecycle import ServerHandle
from restate_nb.server.ui_link import ui_link
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.durable_handler import DurableFunctions, add_durable_handler
from restate_nb.service.endpoint import Definition, Endpoint
from restate_nb.service.handlers import handler_of
from restate_nb.service.job_object import jobs_object, shard_service
from restate_nb.service.outside import LiveJob, Verb, add_outside_handlers
from restate_nb.session.calls import DurableCall, HandlerCall, handler_call
from restate_nb.session.cluster import Cluster, LocalCluster
from restate_nb.session.deployments import deployments_of
from restate_nb.session.invocation import Invocation
from restate_nb.session.registry import On, Registry, SubmitOptions
from restate_nb.store.base import Store, StoreConfig
from restate_nb.store.opening import open_store, probe, session_store
from restate_nb.validation import seconds
from restate_nb.words import SESSION, checks_calls, no_attribute

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - the SDK's name for a handler's input

RETENTION = timedelta(days=30)
_PATIENCE: Final = 0.5  # seconds for each of a loop's last tasks: stop() takes at most 5 s in all
_ENDPOINT_PATIENCE: Final = 1.0
NOTE_PATIENCE: Final = 1.0
"""Seconds that `stop()` takes at most to note which jobs have ended, and what their functions changed."""

_log = logging.getLogger(__name__)

VALUES_FOLDER: Final = "values"
"""Of a data directory: what is too large for journals lies there."""

LOOK_SECONDS: Final = 2.0  # between two looks whether the server's data are there
_SHOWN: Final = 20  # jobs of its representation
STANDS_SECONDS: Final = 8.0  # without an outcome until a job whose data are gone is given up


@checks_calls
class Session:
    """A live connection of this process to Restate. Made by `restate_nb.start` and `restate_nb.connect`.

    Use it as a context manager to stop it at the end of a script; a notebook may just let it live.

    Example:
        import restate_nb as rnb

        session = rnb.start()
        session.jobs
    """

    def __init__(
        self,
        name: str,
        cluster: Path | Cluster,
        *,
        listen: Literal["unix", "tcp"] = "unix",
        retention: timedelta = RETENTION,
        patient: bool = True,
        server_env: dict[str, str] | None = None,
        store: StoreConfig | None = None,
    ) -> None:
        """`cluster`: where to run jobs; a directory stands for a server of our own with its data there. `store`: where
        large values lie; by default beside those data, and nowhere if others have them."""
        self.name = name
        self.retention = retention
        self._home = Home()
        self._closing = threading.Lock()
        self._closed = False
        self._io_answers = True
        self._calls: set[Future[Any]] = set()  # that somebody waits for
        self._watching: asyncio.Task[None] | None = None
        self.cluster = LocalCluster(cluster, listen=listen, env=server_env) if isinstance(cluster, Path) else cluster
        self._store_at = store
        try:
            self._store = _open_store(self.cluster, name, store)
        except BaseException:
            self.cluster.close()
            raise
        self.io = LoopThread("rnb-io")
        self.items_loop = LoopThread("rnb-work")
        try:
            self.io.run(self._make_parts(retention, patient))
        except BaseException:
            self.io.close()
            self.items_loop.close()
            self.cluster.close()
            raise
        try:
            self.io.run(self._open())
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)

    async def _make_parts(self, retention: timedelta, patient: bool) -> None:
        """Make what the session consists of, nothing of which is open yet; on its own loop."""
        cluster = self.cluster
        admin, ingress = cluster.admin(), cluster.ingress()
        runs, functions = JobRuns(self.items_loop.loop, store=self._store), DurableFunctions()
        self.sweeper = Sweeper(admin, ingress, self.name, retention, self._store)
        self.endpoint = Endpoint(cluster.listen_address)
        items = shard_service(self.name, runs, retention=retention, patient=patient)
        add_durable_handler(items, functions)
        add_outside_handlers(items, self._live_jobs, self._steer)
        self.endpoint.serve(items, jobs_object(self.name, retention=retention, dropped=self.sweeper.when_recorded))
        self.deployments = deployments_of(admin, self.endpoint, self._go_on, local=cluster.data_dir is not None)
        register = self.deployments.ensure_registered
        self.connection = Connection(
            self.name,
            ingress,
            cluster.ingress(),
            admin,
            runs,
            functions,
            register,
            job_store_of(ingress, self.name, register, reachable=self.deployments.reachable),
            cluster.trouble,
            ui_link(admin.address, cluster.data_dir) if admin is not None else "",
            self.sweeper.soon,
            cluster.lost,
            self._store,
        )
        self._registry = Registry(self.connection, self.io, private=cluster.private)

    def _live_jobs(self) -> list[LiveJob]:
        return self._registry.live()  # which is made after the handlers

    async def _steer(self, job: str, verb: Verb) -> None:
        await self._registry.steer(job, verb)

    async def _open(self) -> None:
        await self.endpoint.open()
        if self.cluster.shared:
            here = await self.deployments.take_over_gone()
        else:
            here = True
            await self.deployments.register(alone=True)
        self.deployments.watch()
        self.sweeper.watch()
        self._watching = asyncio.create_task(self._watch_data())
        if here:
            await self._know_owner()
            await self._go_on()

    async def _know_owner(self) -> None:
        """Learn which folders of a store that others use are this session's, where its own server does not tell."""
        store = self._store
        if store is not None and store.config.shared and not store.owner:
            await self.deployments.register_if_reachable()
            store.owner = await self.connection.job_store.store_owner()
            if store.owner:
                self.sweeper.soon()

    async def _watch_data(self) -> None:
        """End the waiting for jobs whose data were deleted, when nothing of them is recorded any more."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not (lost := self.cluster.lost()):
                continue
            self._registry.give_up_standing(ServerError(lost), STANDS_SECONDS)

    async def _go_on(self) -> None:
        await self._registry.go_on()  # which is made after what calls this

    def revive(self) -> None:
        """Start the server again if someone ended it, as `restate-nb server stop` does; jobs find it where it was."""
        if self.cluster.revive():
            self.io.run(self.deployments.register())

    def prepare(self, function: Function, *, on_workers: bool = False, pickle: bool = False) -> ItemFolder | None:
        """Let what a function takes and returns go to the session's store; return the folder of a job that is about to
        begin, for `submit`. None where all goes into journals.

        Args:
            function: of the job.
            on_workers: whether the session's workers run it.
            pickle: whether values and items that have no other form are pickled.

        Raises:
            InvalidInput: the session was stopped, or nothing may be pickled here.
        """
        self._check_open()
        self.io.run(self._know_owner())
        return self._registry.prepare(function, on_workers=on_workers, pickle=pickle)

    def _check_open(self) -> None:
        self.check_process()
        if self._closed:
            raise InvalidInput("This session was stopped. Run rnb.start() again.")

    def submit_job(
        self, function: Function, items: Items, policy: RunPolicy, **options: Unpack[SubmitOptions]
    ) -> Job[Any]:
        """Begin a job, or attach to the one that is there.

        Raises:
            InvalidInput: the session was stopped, the name cannot be one, or workers cannot run it.
            ServerError: the data of its server were deleted.
            JobMismatch: the name belongs to a job over other items.
        """
        self._check_open()
        if lost := self.cluster.lost():
            raise ServerError(lost)
        return self._registry.submit(function, items, policy, **options)

    def job(self, name: str, *, on: On | None = None, pickle: bool = False) -> Job[Any]:
        """The job of that name; see `restate_nb.job`.

        Raises:
            InvalidInput: there is no such job, or there are two, not all of its items were submitted, or nothing may
                be unpickled here.

        Example:
            import restate_nb as rnb

            session = rnb.start()
            rnb.map(len, ["a", "bb"], name="two words").result()
            session.job("two words").status
        """
        self.check_process()
        return self._registry.job(name, on, pickle=pickle)

    def list_jobs(self) -> pd.DataFrame:
        """All jobs of this session's server; see `restate_nb.jobs`."""
        return self._registry.listing()

    # ------------------------------------------------------------ services

    def serve(self, *services: Definition) -> None:
        """Host your own Restate services, virtual objects and workflows in this process.

        Serve them again, changed, to replace them: what is running ends with the old code, unless it is replayed.

        Raises:
            InvalidInput: it is no Restate service, or has a name that restate_nb uses itself.
            ServerError: restate-server refused them; the message says why.

        Example:
            import restate
            import restate_nb as rnb

            greeter = restate.Service("greeter")

            @greeter.handler()
            async def greet(ctx: restate.Context, name: str) -> str:
                return f"Hello {name}"

            session = rnb.start()
            session.serve(greeter)
            session.call(greet, "Ada")
        """
        for service in services:
            if not isinstance(service, Definition):
                raise InvalidInput(f"serve takes restate.Service, VirtualObject or Workflow objects, not {service!r}.")
            if service.name.startswith("rnb-"):
                raise InvalidInput(
                    f"Names with rnb- in front are restate_nb's own: rename the service {service.name!r}."
                )
        self.endpoint.serve(*services)
        self.io.run(self.deployments.register())

    @overload
    def call(
        self, handler: Callable[[Any], Awaitable[T]], *, key: str | None = None, idempotency_key: str | None = None
    ) -> T: ...
    @overload
    def call(
        self,
        handler: Callable[[Any, I], Awaitable[T]],
        arg: I,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> T: ...
    def call(
        self, handler: Callable[..., Any], *arg: Any, key: str | None = None, idempotency_key: str | None = None
    ) -> Any:
        """Call a handler, and wait for what it returns. Ctrl-C ends the waiting; the invocation goes on.

        The call is one invocation, also when the server dies meanwhile: it goes on as soon as the server is back. A
        handler that raises is tried again by Restate, for ever. Either is printed after some seconds, and why.

        Args:
            handler: the handler function of a service, virtual object or workflow.
            arg: its input, where it takes one.
            key: of the virtual object or workflow. A workflow runs once a key: a further call of its run waits for
                that run, and returns what it returned, whatever the input.
            idempotency_key: a second call with the same key is the same invocation, in another process too, for as
                long as the service keeps results. By default each call is a new one.

        Raises:
            InvalidInput: it is no handler, or its key or its input is missing or too much.
            InvocationFailed: it ended with an error.
            ServerError: Restate refuses the call, or does not answer a connected session for longer than it waits.

        Example:
            import restate
            import restate_nb as rnb

            greeter = restate.Service("greeter")

            @greeter.handler()
            async def greet(ctx: restate.Context, name: str) -> str:
                return f"Hello {name}"

            session = rnb.start()
            session.serve(greeter)
            session.call(greet, "Ada")
        """
        self.io.run(self.deployments.register_if_reachable())
        return self._wait_for(
            handler_call(handler, arg, key=key, idempotency_key=idempotency_key).value(self.connection)
        )

    @overload
    def send(
        self,
        handler: Callable[[Any], Awaitable[T]],
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        delay: Seconds = 0,
    ) -> Invocation[T]: ...
    @overload
    def send(
        self,
        handler: Callable[[Any, I], Awaitable[T]],
        arg: I,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        delay: Seconds = 0,
    ) -> Invocation[T]: ...
    def send(
        self,
        handler: Callable[..., Any],
        *arg: Any,
        key: str | None = None,
        idempotency_key: str | None = None,
        delay: Seconds = 0,
    ) -> Invocation[Any]:
        """Invoke a handler without waiting for it. It is one invocation, also when the server dies meanwhile.

        Args:
            handler: the handler function of a service, virtual object or workflow.
            arg: its input, where it takes one.
            key: of the virtual object or workflow; a further send to the run of a workflow stands for the same run.
            idempotency_key: a second send or call with the same key is the same invocation, in another process too.
            delay: seconds (or a timedelta) after which the handler runs.

        Raises:
            InvalidInput: it is no handler, or its key or its input is missing or too much.
            ServerError: Restate refuses it, or does not answer a connected session for longer than it waits.

        Example:
            import restate
            import restate_nb as rnb

            greeter = restate.Service("greeter")

            @greeter.handler()
            async def greet(ctx: restate.Context, name: str) -> str:
                return f"Hello {name}"

            session = rnb.start()
            session.serve(greeter)
            greetings = [session.send(greet, name) for name in ["Ada", "Bob"]]
            [greeting.result() for greeting in greetings]
        """
        wait = seconds("delay", delay, zero=True) or None
        self.io.run(self.deployments.register_if_reachable())
        call = handler_call(handler, arg, key=key, idempotency_key=idempotency_key)
        return self._handle_of(call, self._wait_for(call.send(self.connection, wait)))

    def invocation(
        self,
        handler: Callable[..., Awaitable[T]],
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        id: str | None = None,
    ) -> Invocation[T]:
        """The handle of an invocation that was made before, also by another process.

        Args:
            handler: the handler function.
            key: of the virtual object or workflow.
            idempotency_key: with which it was made; the run of a workflow has its key alone.
            id: of the invocation, instead of what it was made with.

        Raises:
            InvalidInput: it is no handler, or nothing says which invocation.
            ServerError: Restate refuses it, or does not answer a connected session for longer than it waits.

        Example:
            import restate
            import restate_nb as rnb

            greeter = restate.Service("greeter")

            @greeter.handler()
            async def greet(ctx: restate.Context, name: str) -> str:
                return f"Hello {name}"

            session = rnb.start()
            session.serve(greeter)
            session.send(greet, "Ada", idempotency_key="greet Ada")
            session.invocation(greet, idempotency_key="greet Ada").result()
        """
        if id is not None:
            named = key if handler_of(handler).service_tag.kind == "service" else key or "?"
            return self._handle_of(handler_call(handler, None, key=named, idempotency_key=None), id)
        call = handler_call(handler, None, key=key, idempotency_key=idempotency_key)
        if idempotency_key is None and call.once is not None:
            raise InvalidInput(
                "Say which invocation: idempotency_key=..., or id=...; key=... for the run of a workflow."
            )
        return self._handle_of(call, self._wait_for(call.find(self.connection)))

    def _handle_of(self, call: HandlerCall, invocation_id: str) -> Invocation[Any]:
        return Invocation(invocation_id, call, self.connection, self._wait_for)

    def call_durable(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        idempotency_key: str | None = None,
    ) -> Any:
        """Run a durable function once, and wait for what it returns; see `restate_nb.call`."""
        call = DurableCall(fn, args, kwargs, idempotency_key)
        self.io.run(self.deployments.ensure_registered())
        call.provide(self.connection.functions)
        return self._wait_for(call.value(self.connection))

    def _wait_for(self, call: Coroutine[Any, Any, Any]) -> Any:
        future = self.io.start(call)
        self._calls.add(future)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
        except CancelledError:
            raise SessionStopped("The session was stopped. The invocation goes on where Restate can run it.") from None
        finally:
            self._calls.discard(future)

    # ------------------------------------------------------------ life

    @property
    def data_dir(self) -> Path | None:
        """Where the server's data are; None in a session that is connected to a Restate that others run."""
        return self.cluster.data_dir

    @property
    def server(self) -> ServerHandle:
        """The session's own restate-server.

        Raises:
            InvalidInput: it has none, being connected to a Restate that others run.
        """
        return self.cluster.server

    def check_process(self) -> None:
        """See that this is the process of the session, and no fork of it.

        Raises:
            InvalidInput: it is a fork.
        """
        self._home.check()

    @property
    def server_has_ended(self) -> bool:
        """Whether the session's own server was ended from outside; a connected session has none."""
        return self.data_dir is not None and not self.server.alive

    @property
    def live(self) -> bool:
        """Whether the session was not stopped; in a fork of its process it is not."""
        return not self._closed and self._home.is_here

    def keeps_values_in(self, store: StoreConfig | None) -> bool:
        """Whether that is the store which the session was given; None: it was given none."""
        return (None if store is None else store.url) == (None if self._store_at is None else self._store_at.url)

    @property
    def lost(self) -> str:
        """What became of its server's data, in words; empty while they are there."""
        return "" if self._closed else self.cluster.lost()

    @property
    def jobs(self) -> list[Job[Any]]:
        """The jobs that were submitted or attached to from this session: those that run, those whose handle is still in
        a variable, and the latest that have ended. `rnb.job(name)` finds all others."""
        return self._registry.jobs

    def stop(self) -> None:
        """End the session: its endpoint, threads and, if no other process uses it, the server.

        Items that run are cut off, and run again when the job is attached to in the next session; what is done stays.
        A second call does nothing.

        Example:
            import restate_nb as rnb

            session = rnb.start()
            session.stop()
        """
        if not self._home.is_here:  # a fork: the session is its parent's, and goes on there
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.stop)
        if lost := self.cluster.lost():
            print(lost.partition(". ")[0] + ".")
        interrupted: KeyboardInterrupt | None = None
        for stage in (
            self._note_provenance,
            self._end_items,
            self._end_following,
            self._end_server,
            self._end_endpoint,
            self._end_store,
        ):
            try:
                stage()
            except KeyboardInterrupt as error:  # what is left of it is bounded
                interrupted = error
            except Exception as error:  # the next stage frees what it can all the same
                _log.warning("The session %r was stopped, but not all went well: %r", self.name, error)
        if interrupted is not None:
            raise interrupted

    def _note_provenance(self) -> None:
        """Note what the functions of unfinished jobs have changed by now of what they name."""
        _answers(self.io, self._registry.note_before_stop(), NOTE_PATIENCE)

    def _end_items(self) -> None:
        """End the loop on which items run, and worker processes; a blocked one is left to itself."""
        runs = self.connection.runs
        runs.close()
        answers = _answers(self.items_loop, self.connection.item_ingress.close())
        blocked_at = "" if answers else self.items_loop.where()
        ended = self.items_loop.close(_PATIENCE if answers else 0.0)
        runs.kill(time.monotonic() + _PATIENCE)
        if not ended:
            _log.warning(
                "An `async def` function blocks the loop of the session %r%s: it runs on, in the background, until it "
                "returns. Use `await` in it, or a plain function, which runs in a thread.",
                self.name,
                f", at {blocked_at}" if blocked_at else "",
            )

    def _end_following(self) -> None:
        self._registry.stop_following()
        if self._watching is not None:
            self.io.loop.call_soon_threadsafe(self._watching.cancel)
        for call in list(self._calls):
            call.cancel()  # else it would wait for Restate over a connection that nobody closes
        self._io_answers = _answers(self.io, self._close_clients())

    async def _close_clients(self) -> None:
        async with AsyncExitStack() as parts:
            if (admin := self.connection.admin_if_any) is not None:
                parts.push_async_callback(admin.close)
            parts.push_async_callback(self.connection.ingress.close)
            parts.push_async_callback(self.sweeper.close)
            parts.push_async_callback(self.deployments.close)

    def _end_store(self) -> None:
        if self._store is not None:
            self._store.close()

    def _end_server(self) -> None:
        self.cluster.close()  # before the endpoint: a server that has ended sends it nothing more

    def _end_endpoint(self) -> None:
        answers = self._io_answers and _answers(self.io, self.endpoint.close(), _ENDPOINT_PATIENCE)
        self.io.close(_PATIENCE if answers else 0.0)
        self._registry.end_waiting()  # should the loop not have come to it

    # ------------------------------------------------------------ for tests

    def forget_handles(self) -> None:
        """Leave all jobs and know none of them, as another process does."""
        self._registry.forget_handles()

    def forget_job(self, job: Job[Any]) -> None:
        """Leave this job and know it no longer, nor what runs it here."""
        runner_of(job).stop_following()
        self._registry.forget(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        if not self._home.is_here:
            return f"<Session {self.name!r}: of the process that this one was forked from>"
        if self._closed:
            return f"<Session {self.name!r}: stopped>"
        count = len(self._registry)
        values = "" if self._store_at is None else f", values in {self._store_at.url}"
        return f"<Session {self.name!r}: live, {count} {'job' if count == 1 else 'jobs'}, {self.cluster}{values}>"

    def _repr_html_(self) -> str:
        ui_url = self.connection.ui_url if self.live else ""
        if not self.live:
            state = "stopped: rnb.start() goes on"
        else:
            state = "live, but its server has ended: rnb.start()" if self.server_has_ended else "live"
        return _html(self.name, state, self.jobs[::-1], ui_url)

    if not TYPE_CHECKING:  # whose readers would take every name for an attribute then

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(no_attribute("A session", name, SESSION, dir(self)))

    def __dir__(self) -> list[str]:
        return ["call", "data_dir", "job", "jobs", "live", "lost", "name", "serve", "server", "stop"]


def _open_store(cluster: Cluster, session: str, given: StoreConfig | None) -> Store | None:
    """The session's store: in the one that was given, or in the data directory of its own server.

    Raises:
        InvalidInput: it cannot be opened.
    """
    if given is not None:
        store = open_store(session_store(given, session))
        store.owner = cluster.store_owner(session)
        probe(store)
        return store
    if cluster.data_dir is None:
        return None
    return open_store(session_store(StoreConfig(str(cluster.data_dir / VALUES_FOLDER), private=True), session))


def _answers(loop: LoopThread, last: Coroutine[Any, Any, None], timeout: float = _PATIENCE) -> bool:
    """Run one of a loop's last coroutines there; whether the loop came to it."""
    try:
        return loop.finish(last, timeout)
    except Exception as error:  # what was to be closed is given up
        _log.info("Something could not be closed: %r", error)
    return True


def _html(name: str, state: str, jobs: list[Job[Any]], ui_url: str) -> str:
    """A session's state and its latest jobs, first; inline styles and opacity keep it readable in any theme."""
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(one_line(job.name, 80))}</td>'
        f'<td style="text-align:left">{escape(job.status)}</td>'
        f"<td>{count(len(job) - job.counts['pending'] - job.counts['running'])} of {count(len(job))}</td>"
        f"<td>{count(job.failed)}</td></tr>"
        for job in jobs[:_SHOWN]
    )
    head = '<tr><th style="text-align:left">job</th><th style="text-align:left">status</th><th>done</th><th>failed</th>'
    table = f"<table><thead>{head}</tr></thead><tbody>{rows}</tbody></table>" if jobs else ""
    more = f"<div>and {counted(len(jobs) - _SHOWN, 'earlier job')}: rnb.jobs()</div>" if len(jobs) > _SHOWN else ""
    return (
        f"<div><b>Session {escape(name)}</b> <span>{state}</span> "
        f'<span style="opacity:0.72">{counted(len(jobs), "job")}</span>{ui_anchor(ui_url)}{table}{more}</div>'
    )
