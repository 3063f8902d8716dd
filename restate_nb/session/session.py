"""The session: a restate-server, the endpoint of this kernel, and the jobs that were submitted from here."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from restate_nb.backends.connection import Connection
from restate_nb.backends.job_store import job_store_of
from restate_nb.engine.forked import Home
from restate_nb.engine.function import Function
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.handle.batches import Batch
from restate_nb.handle.items import Items
from restate_nb.handle.job import Job
from restate_nb.handle.provenance import Fresh
from restate_nb.handle.visible import SessionStopped
from restate_nb.policy import RunPolicy
from restate_nb.server.lifecycle import ServerHandle
from restate_nb.server.ui_link import ui_link
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.durable_handler import DurableFunctions, add_durable_handler
from restate_nb.service.endpoint import Definition, Endpoint
from restate_nb.service.job_object import jobs_object, shard_service
from restate_nb.session.calls import DurableCall, call_handler
from restate_nb.session.cluster import Cluster, LocalCluster
from restate_nb.session.deployments import deployments_of
from restate_nb.session.registry import On, Registry
from restate_nb.session.run import LoopThread
from restate_nb.session.sweeper import Sweeper

if TYPE_CHECKING:
    import pandas as pd

RETENTION = timedelta(days=30)
_PATIENCE: Final = 0.5  # seconds for each of a loop's last tasks: stop() takes at most 5 s in all
_ENDPOINT_PATIENCE: Final = 1.0
_NOTE_PATIENCE: Final = 1.0
_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 2.0  # between two looks whether the server's data are there
_STANDS_SECONDS: Final = 8.0  # without an outcome until a job whose data are gone is given up


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
        restate: Path | Cluster,
        *,
        listen: Literal["unix", "tcp"] = "unix",
        retention: timedelta = RETENTION,
        patient: bool = True,
        server_env: dict[str, str] | None = None,
    ) -> None:
        """`restate`: where to run jobs; a directory stands for a server of our own with its data there."""
        self.name = name
        self._home = Home()
        self._closing = threading.Lock()
        self._closed = False
        self._io_answers = True
        self._calls: set[Future[Any]] = set()  # that somebody waits for
        self._restate = LocalCluster(restate, listen=listen, env=server_env) if isinstance(restate, Path) else restate
        self._io = LoopThread("rnb-io")
        self._work = LoopThread("rnb-work")
        try:
            self._runs = JobRuns(self._work.loop)
            self._io.run(self._open(retention, patient))
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)

    async def _open(self, retention: timedelta, patient: bool) -> None:
        self._functions = DurableFunctions()
        items = shard_service(self.name, self._runs, retention=retention, patient=patient)
        add_durable_handler(items, self._functions)
        restate = self._restate
        self._ingress, self._item_ingress, self._admin = restate.ingress(), restate.ingress(), restate.admin()
        self._endpoint = Endpoint(restate.exposure)
        self._sweeper = Sweeper(self._admin, self._ingress, self.name, retention)
        dropped = self._sweeper.when_recorded
        self._endpoint.serve(items, jobs_object(self.name, retention=retention, dropped=dropped))
        await self._endpoint.open()
        self._attendance = deployments_of(self._admin, self._endpoint, self._go_on, local=restate.data_dir is not None)
        self._connection = Connection(
            self.name,
            self._ingress,
            self._item_ingress,
            self._admin,
            self._runs,
            self._functions,
            self._attendance.take,
            job_store_of(self._ingress, self.name, self._attendance.take, reachable=self._attendance.reachable),
            restate.trouble,
            ui_link(self._admin.address, restate.data_dir) if self._admin is not None else "",
            self._sweeper.soon,
            restate.lost,
        )
        self._registry = Registry(self._connection, self._io, private=restate.private)
        here = await self._attendance.take_if_free() if restate.shared else True
        if not restate.shared:
            await self._attendance.register(alone=True)
        self._attendance.watch()
        self._sweeper.watch()
        self._watching = asyncio.create_task(self._watch_data())
        if here:
            await self._go_on()

    async def _watch_data(self) -> None:
        """End the waiting for jobs whose data were deleted, when nothing of them is recorded any more."""
        stands: dict[Job[Any], tuple[int, float]] = {}
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not (lost := self._restate.lost()):
                continue
            now = time.monotonic()
            for job in self.jobs:
                done, since = stands.get(job, (-1, now))
                stands[job] = (job._ledger.done, since if job._ledger.done == done else now)
                if now - stands[job][1] > _STANDS_SECONDS:
                    job._give_up(ServerError(lost))

    async def _go_on(self) -> None:
        await self._registry.go_on()  # which needs the attendance before it is there

    def revive(self) -> None:
        """Start the server again if someone ended it, as `restate-nb server stop` does; jobs find it where it was."""
        if self._restate.revive():
            self._io.run(self._attendance.register())

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
            InvalidInput: the session was stopped, the name cannot be one, or workers cannot run it.
            ServerError: the data of its server were deleted.
            JobMismatch: the name belongs to a job over other items.
        """
        self._home.check()
        if self._closed:
            raise InvalidInput("This session was stopped. Run rnb.start() again.")
        if lost := self._restate.lost():
            raise ServerError(lost)
        return self._registry.submit(target, items, policy, name=name, fresh=fresh, batch=batch, on_workers=on_workers)

    def job(self, name: str, *, on: On | None = None) -> Job[Any]:
        """The job of that name; see `restate_nb.job`.

        Raises:
            InvalidInput: there is no such job, or there are two, or not all of its items were submitted.

        Example:
            import restate_nb as rnb

            session = rnb.start()
            rnb.map(len, ["a", "bb"], name="two words").result()
            session.job("two words").status
        """
        self._home.check()
        return self._registry.job(name, on)

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
        self._endpoint.serve(*services)
        self._io.run(self._attendance.register())

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
        self._io.run(self._attendance.take_if_able())
        return self._wait_for(call_handler(self._connection, handler, arg, key=key, idempotency_key=idempotency_key))

    def call_durable(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        idempotency_key: str | None = None,
    ) -> Any:
        """Run a durable function once, and wait for what it returns; see `restate_nb.call`."""
        call = DurableCall(fn, args, kwargs, idempotency_key)
        self._io.run(self._attendance.take())
        call.provide(self._functions)
        return self._wait_for(call.value(self._connection))

    def _wait_for(self, call: Coroutine[Any, Any, Any]) -> Any:
        future = self._io.start(call)
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
        return self._restate.data_dir

    @property
    def server(self) -> ServerHandle:
        """The session's own restate-server.

        Raises:
            InvalidInput: it has none, being connected to a Restate that others run.
        """
        return self._restate.server

    @property
    def live(self) -> bool:
        """Whether the session was not stopped; in a fork of its process it is not."""
        return not self._closed and self._home.is_here

    @property
    def lost(self) -> str:
        """What became of its server's data, in words; empty while they are there."""
        return "" if self._closed else self._restate.lost()

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
        if lost := self._restate.lost():
            print(lost.partition(". ")[0] + ".")
        interrupted: KeyboardInterrupt | None = None
        for stage in (
            self._look_once_more,
            self._end_items,
            self._end_following,
            self._end_server,
            self._end_endpoint,
        ):
            try:
                stage()
            except KeyboardInterrupt as error:  # what is left of it is bounded
                interrupted = error
            except Exception as error:  # the next stage frees what it can all the same
                _log.warning("The session %r was stopped, but not all went well: %r", self.name, error)
        if interrupted is not None:
            raise interrupted

    def _look_once_more(self) -> None:
        """Note what the functions of unfinished jobs have changed by now of what they name."""
        if hasattr(self, "_registry"):  # there is none when the start was broken off
            _answers(self._io, self._registry.look_once_more(), _NOTE_PATIENCE)

    def _end_items(self) -> None:
        """End the loop on which items run, and worker processes; a blocked one is left to itself."""
        if hasattr(self, "_runs"):
            self._runs.close()
        answers = _answers(self._work, self._close("_item_ingress"))
        blocked_at = "" if answers else self._work.where()
        ended = self._work.close(_PATIENCE if answers else 0.0)
        if hasattr(self, "_runs"):
            self._runs.kill(time.monotonic() + _PATIENCE)
        if not ended:
            _log.warning(
                "An `async def` function blocks the loop of the session %r%s: it runs on, in the background, until it "
                "returns. Use `await` in it, or a plain function, which runs in a thread.",
                self.name,
                f", at {blocked_at}" if blocked_at else "",
            )

    def _end_following(self) -> None:
        if hasattr(self, "_registry"):  # there is none when the start was broken off
            for job in self._registry.jobs:
                job._leave()
        if hasattr(self, "_watching"):
            self._io.loop.call_soon_threadsafe(self._watching.cancel)
        for call in list(self._calls):
            call.cancel()  # else it would wait for Restate over a connection that nobody closes
        self._io_answers = _answers(self._io, self._close("_attendance", "_sweeper", "_ingress", "_admin"))

    def _end_server(self) -> None:
        self._restate.close()  # before the endpoint: a server that has ended sends it nothing more

    def _end_endpoint(self) -> None:
        answers = self._io_answers and _answers(self._io, self._close("_endpoint"), _ENDPOINT_PATIENCE)
        self._io.close(_PATIENCE if answers else 0.0)
        if hasattr(self, "_registry"):
            for job in self._registry.jobs:
                job._let_go()  # should the loop not have come to it

    async def _close(self, *parts: str) -> None:
        for name in parts:
            part = getattr(self, name, None)  # there is none when the start was broken off
            if part is not None:
                await part.close()

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
        return f"<Session {self.name!r}: live, {count} {'job' if count == 1 else 'jobs'}, {self._restate}>"

    def _repr_html_(self) -> str:
        from restate_nb.session.about import session_html  # noqa: PLC0415 - only where a notebook is

        return session_html(self)

    def __dir__(self) -> list[str]:
        return ["call", "data_dir", "job", "jobs", "live", "lost", "name", "serve", "server", "stop"]


def _answers(loop: LoopThread, last: Coroutine[Any, Any, None], timeout: float = _PATIENCE) -> bool:
    """Run one of a loop's last coroutines there; whether the loop came to it."""
    try:
        return loop.finish(last, timeout)
    except Exception as error:  # what was to be closed is given up
        _log.info("Something could not be closed: %r", error)
    return True
