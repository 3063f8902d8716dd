"""`batch`: one function over many items, so many at a time."""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, Unpack

from restate_nb.api.options import ArrowStream, FunctionOptions, concurrency_of, function_of
from restate_nb.engine.function import Executor
from restate_nb.handle.batches import Batch
from restate_nb.handle.items import passing_of, read_items
from restate_nb.handle.job import Job
from restate_nb.handle.provenance import Fresh
from restate_nb.limits import Concurrency, PerSecond, Seconds
from restate_nb.policy import NO_RETRY, Limit, Retry, RunPolicy
from restate_nb.session.current import current
from restate_nb.session.session import Session
from restate_nb.validation import positive_int, seconds
from restate_nb.words import checks_call

T = TypeVar("T")


@typing.overload
def batch(
    fn: Callable[..., Awaitable[T]],
    items: Iterable[Any] | ArrowStream,
    *,
    batch_size: int,
    pause: Seconds = 0,
    **options: Unpack[FunctionOptions],
) -> Job[T]: ...
@typing.overload
def batch(
    fn: Callable[..., T],
    items: Iterable[Any] | ArrowStream,
    *,
    batch_size: int,
    pause: Seconds = 0,
    **options: Unpack[FunctionOptions],
) -> Job[T]: ...
@checks_call
def batch(
    fn: Callable[..., Any],
    items: Iterable[Any] | ArrowStream,
    *,
    batch_size: int,
    pause: Seconds = 0,
    name: str | None = None,
    concurrency: Concurrency | None = None,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    executor: Executor = "auto",
    version: str | int | None = None,
    fresh: Fresh = False,
    pickle: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[Any]:
    """Run a function over items in batches, each of them durable, and return the job at once.

    The items of a batch run at once; the next batch begins when all of them have ended, well or not, and the pause has
    passed. The pause is durable: after a crash in the middle of it, running the cell again waits for what remains.

    Args:
        fn: called with one item, as in `map`.
        items: as in `map`.
        batch_size: how many items make a batch. It is part of the job: with another one it is another job.
        pause: seconds (or a timedelta) from the end of a batch to the start of the next. Run the cell again with
            another pause to change it, while the job runs too.
        name: as in `map`.
        concurrency: how many items of a batch run at once; all of them by default, and with processes as many as there
            are processors.
        max_per_second: as in `map`.
        limit: as in `map`.
        retry: as in `map`; a batch has ended when its last attempt has. `job.retry_failed()` makes batches of the items
            that it runs.
        timeout: as in `map`.
        fail_fast: as in `map`; no further batch begins.
        executor: as in `map`.
        version: as in `map`.
        fresh: as in `map`.
        pickle: as in `map`.
        show: as in `map`.
        session: as in `map`.

    Raises:
        InvalidInput: something does not fit; nothing was started.
        JobMismatch: the name belongs to a job over other items or other batches.

    Example:
        import restate_nb as rnb

        rnb.start()
        job = rnb.batch(len, ["a", "bb", "ccc", "dddd"], batch_size=2, pause=0.5)
        frame = job.result()
    """
    batches = Batch(positive_int("batch_size", batch_size), seconds("pause", pause, zero=True))
    at_once = concurrency_of(concurrency, executor, default=batches.size)
    policy = RunPolicy(at_once, retry, timeout, max_per_second, limit, fail_fast)
    function = function_of(fn, passing_of(items), policy, executor, version, pickle=pickle)
    session = session or current()
    read = read_items(items, function, session.prepare(function, pickle=pickle))
    job = session.submit_job(function, read, policy, name=name, fresh=fresh, batch=batches, pickle=pickle)
    if show:
        job.show()
    return job
