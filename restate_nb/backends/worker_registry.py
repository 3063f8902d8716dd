"""What a session knows of its workers: that there are some, which functions they can be sent, and who they are."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from restate_nb.backends.base import Connection
from restate_nb.backends.job_store import ObjectJobStore
from restate_nb.engine.function import Executor, Function, Passing
from restate_nb.engine.objects import Classes
from restate_nb.errors import InvalidInput
from restate_nb.policy import RunPolicy
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.wire import ShardOutput, WorkerName, jobs_service, workers_of

if TYPE_CHECKING:
    import pandas as pd

MAX_LANES: Final = 32
"""How many shards of a job run at once, at most: enough for the cores of some machines. One shard has the concurrency
of its lane, so more lanes mean fewer items at once in each."""

_NAME: Final = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:(?:[^\W\d]\w*\.)*[^\W\d]\w*")


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

    async def there() -> None:
        """Workers come and go by themselves."""

    return dataclasses.replace(
        connection,
        session=workers,
        runs=runs,
        attend=there,
        records=ObjectJobStore(connection.ingress, workers, there),
        on_workers=True,
    )


def named(name: str, passing: Passing, executor: Executor, version: str | int | None) -> Function:
    """A function that only workers know. What it takes and returns is plain data here.

    Args:
        name: `package.module:function`.
        passing: and the others: see `Target`.

    Raises:
        InvalidInput: the name has another form.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"A function is named as 'package.module:function', and {name!r} is not.")
    elsewhere = functools.partial(_elsewhere, name)
    target = Function(elsewhere, passing, executor=executor, version=version, classes=Classes(plain=True))
    target.name, target.known_as = name.rpartition(":")[2], name
    return target


def _elsewhere(name: str, *_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(f"{name} is known here by its name alone: workers run it.")


def check_for_workers(target: Function, policy: RunPolicy, spec: str | None) -> None:
    """See that workers can run a job.

    Args:
        target: its function.
        policy: how it is run.
        spec: the same as a run spec, if there can be one.

    Raises:
        InvalidInput: its function cannot be found by them, or it has limits that hold within one process only.
    """
    if policy.max_per_second is not None or policy.limit is not None:
        raise InvalidInput(
            "max_per_second= and limit= count in one process, and workers are several: run this job here, without "
            'on="workers", or limit it by concurrency=, which is divided among them.'
        )
    if target.durable:
        raise InvalidInput(
            f"{target.name} takes a Restate context: deploy it as a handler of a Restate service, and rnb.invoke runs "
            "it over items, on whatever machines serve it."
        )
    if target.classes.given and target.known_as is None:
        raise InvalidInput(
            f"Workers would not know the classes of the items, since {target.name} does not name them: annotate its "
            "parameters, such as def work(point: Point), or pass plain data."
        )
    if spec is None:
        raise InvalidInput(
            f"Workers find functions by name, and {target.name} is of this notebook, or of another function: put it "
            'at the top of a module, such as jobs.py, import it from there, and start "restate-nb worker jobs ...". '
            "The exceptions of retry= need such a place, too."
        )


def lanes_for(policy: RunPolicy, total: int) -> int:
    """How many lanes a job of so many items has."""
    return max(1, min(policy.bounds.high, MAX_LANES, total))


def how_it_is_kept(concurrency: int, lanes: int) -> str:
    """What the panel says of a job's concurrency, which nobody counts in one place."""
    if lanes >= concurrency:
        return f"on workers: Restate runs {concurrency:,} shards at once, one item at a time in each"
    low, rest = divmod(concurrency, lanes)
    each = f"{low:,} or {low + 1:,}" if rest else f"{low:,}"
    return f"on workers: Restate runs {lanes} shards at once, and {each} items at a time in each"


class WorkerStats:
    """Which worker ended which shards."""

    def __init__(self) -> None:
        self._shards: dict[WorkerName, int] = {}
        self._items: dict[WorkerName, int] = {}

    def note(self, output: ShardOutput) -> None:
        """Take a shard's output in."""
        if (worker := output.worker) is not None:
            ended = sum(attempt.final for group in output.groups for attempt in group)
            self._shards[worker] = self._shards.get(worker, 0) + 1
            self._items[worker] = self._items.get(worker, 0) + ended

    def frame(self) -> pd.DataFrame:
        """One row a worker and version of its code."""
        import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

        rows = [
            (each.host, each.process, each.code, shards, self._items[each]) for each, shards in self._shards.items()
        ]
        return pd.DataFrame(rows, columns=["host", "process", "code", "shards", "items"])
