"""What a job needs of its session to get to Restate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from restate_nb.backends.job_store import JobStore, ObjectJobStore
from restate_nb.errors import InvalidInput
from restate_nb.server.admin import Admin
from restate_nb.server.ingress import Ingress
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.durable_handler import DurableFunctions
from restate_nb.service.wire import jobs_service, workers_of
from restate_nb.store.base import Store


@dataclass(frozen=True, slots=True)
class Connection:
    """What a job needs of its session: its name, the way to Restate, and what runs in this process.

    Attributes:
        ingress: for the session's own loop.
        item_ingress: for the loop on which items run.
        register: has Restate send what is new to this process; see `session/deployments.py`.
        job_store: keeps the manifests of jobs.
        trouble: what is wrong with the server, in words; empty when nothing is.
        ui_url: where the reader's browser finds the Restate UI; empty where it cannot.
        store: where values and items lie that are too large for a journal; None where they stay in it.
        lost: what became of the server's data, in words; empty while they are there. It takes microseconds.
        sweep: has what dropped jobs left be purged soon; see `backends/sweeper.py`.
    """

    session: str
    ingress: Ingress
    item_ingress: Ingress
    admin_if_any: Admin | None
    runs: JobRuns
    functions: DurableFunctions
    register: Callable[[], Awaitable[None]]
    job_store: JobStore
    trouble: Callable[[], str]
    ui_url: str = ""
    sweep: Callable[[], None] = lambda: None
    lost: Callable[[], str] = lambda: ""
    store: Store | None = None

    @property
    def admin(self) -> Admin:
        """The admin interface.

        Raises:
            InvalidInput: there is no way to it.
        """
        if self.admin_if_any is None:
            raise InvalidInput(
                "This needs Restate's admin API, which tells of jobs, journals and deployments, and the session was "
                "connected without it. Connect with it: rnb.connect(..., admin_url='http://host:9070')."
            )
        return self.admin_if_any


async def connection_to_workers(connection: Connection, runs: JobRuns) -> Connection:
    """The session's connection, for a job that its workers run. Their services keep the job's manifest, too.

    Raises:
        InvalidInput: there are no workers.
    """
    workers = workers_of(connection.session)
    if jobs_service(workers) not in await connection.ingress.services():
        raise InvalidInput(
            f"The session {connection.session!r} has no workers. Start one where Restate can reach it, and run the "
            f"cell again:\n  restate-nb worker MODULE --session {connection.session} --bind HOST:PORT --admin URL "
            "--identity-key KEY"
        )

    store = connection.store

    async def register() -> None:
        """Workers come and go by themselves."""

    return replace(
        connection,
        session=workers,
        runs=runs,
        register=register,
        job_store=ObjectJobStore(connection.ingress, workers, register),
        store=store if store is not None and store.config.shared else None,  # else none that they could reach
    )
