"""`map` and `starmap`: one function over many items."""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar, Unpack

from restate_nb.api.options import ArrowStream, MapOptions, On, concurrency_of, function_of, runs_on_workers
from restate_nb.engine.function import Executor
from restate_nb.handle.items import passing_of, read_items
from restate_nb.handle.job import Job
from restate_nb.handle.provenance import Fresh
from restate_nb.limits import Concurrency, PerSecond, Seconds
from restate_nb.policy import NO_RETRY, Limit, Retry, RunPolicy
from restate_nb.session.current import current
from restate_nb.session.session import Session
from restate_nb.words import checks_call

T = TypeVar("T")


@typing.overload
def map(
    fn: Callable[..., Awaitable[T]], items: Iterable[Any] | ArrowStream, **options: Unpack[MapOptions]
) -> Job[T]: ...
@typing.overload
def map(fn: Callable[..., T], items: Iterable[Any] | ArrowStream, **options: Unpack[MapOptions]) -> Job[T]: ...
@typing.overload
def map(fn: str, items: Iterable[Any] | ArrowStream, **options: Unpack[MapOptions]) -> Job[Any]: ...
@checks_call
def map(
    fn: Callable[..., Any] | str,
    items: Iterable[Any] | ArrowStream,
    *,
    name: str | None = None,
    concurrency: Concurrency | None = None,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    executor: Executor = "auto",
    on: On = None,
    version: str | int | None = None,
    fresh: Fresh = False,
    pickle: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[Any]:
    """Run a function over items, each of them durable, and return the job at once.

    What an item returned is recorded in Restate before the job counts it, and it is not run again after that, whatever
    dies. Run the same cell again, in this process or after a crash, to attach to the job. An item that was running when
    the process died is run again, so its effects should bear that.

    Args:
        fn: a coroutine function, which runs on an event loop in the background, or a plain function, which runs in a
            thread. Items reach it as JSON does it, rebuilt to its annotations.
        items: a list or another iterable, a Series (its index is kept), a DataFrame of pandas or polars, an Arrow table
            or a query (each row is passed as keyword arguments, the index is kept), the groups of a groupby (each of
            them an item, their keys become the index) or a dict (its keys become the index). It may be changed
            afterwards: the job has its own.
        name: the job. Without it the job is known by the function's code and the items, so that any change of either
            makes a new one.
        concurrency: how many items run at once: a number, or a range such as `(2, 100)`, or "auto", to find out while
            it runs. By default 50; with processes, as many as there are processors. A range grows as long as that
            helps, and falls when answers take longer or say "slow down" (an error with `retry_after`, HTTP 429 or
            503); an answer with `Retry-After` holds up all items for so long, at most a minute.
        max_per_second: how many attempts start in any second, or `(count, seconds)`, retries included; evenly spaced.
        limit: a limit that several jobs share, such as `rnb.Limit("openai", concurrency=20, per_second=5)`.
        retry: when a failed item is tried again; not at all by default, and never when what it returned cannot be
            kept: the first such value pauses the job, and `job.resume()` goes on.
        timeout: seconds (or a timedelta) that one attempt may take.
        fail_fast: when to give up on the items that have not begun: True for the first failure, a number of failures,
            or their share of the items that have ended, such as 0.05 (looked at from 20 items on). Items that run are
            let end, the rest are cancelled, and `result()` raises `JobError`, which has the frame.
            `job.retry_failed()` goes on from there.
        executor: where items run. "auto": a coroutine function on a background loop, a plain function in a thread.
            "thread": a coroutine function in a thread too, with a loop of its own for each item. "process": in worker
            processes, for CPU-bound work and for calls that hang or crash: a worker that dies fails the attempt that
            was in it, and a timeout ends it. What the function uses of the notebook is pickled when the cell runs;
            changes that it makes to globals stay in the worker, and context variables of the cell are not seen there.
            A coroutine function runs on a loop that its worker keeps.
        on: "workers" has the items run by the session's workers, which `restate-nb worker` starts on this machine or
            others; they go on without this process. The function must be one of a module that workers serve, or its
            name, "package.module:function", where only they have it. `concurrency` is divided over shards that run at
            once, up to 32 on all workers, and holds over all of them; `max_per_second` and `limit` count within one
            process, so they are refused. `fail_fast` holds while this process looks.
        version: stands for the function's code, so that no change of the code makes another job or is announced. The
            digest that it replaces covers the function and what it names: functions, classes and modules of yours, and
            data by content. What `functools.partial` binds counts all the same. `job.identity()` shows what counted,
            and what could not be seen, such as a client.
        fresh: True drops the job of this name and its outcomes, and starts again. "changed" runs again what older code
            made, or other content of what it names; the rest stays.
        pickle: keep values and items that have no other form by pickling them, such as models; they come back for a
            cell that says so, too. To unpickle is to run code of whoever wrote it, so it takes a Restate and a store
            that are your own alone, as `rnb.start()` has them. What JSON, Arrow and numpy have a form for is not
            pickled.
        show: show the live panel (in a terminal, a progress bar).
        session: the session to use; the live one by default.

    Raises:
        InvalidInput: something does not fit; nothing was started.
        JobMismatch: the name belongs to a job over other items.

    Example:
        import restate_nb as rnb

        rnb.start()
        job = rnb.map(len, ["a", "bb", "ccc"])
        frame = job.result()
    """
    on_workers = runs_on_workers(fn, on)
    policy = RunPolicy(concurrency_of(concurrency, executor), retry, timeout, max_per_second, limit, fail_fast)
    function = function_of(fn, passing_of(items), policy, executor, version, pickle=pickle)
    session = session or current()
    folder = session.prepare(function, on_workers=on_workers, pickle=pickle)
    job = session.submit_job(
        function,
        read_items(items, function, folder),
        policy,
        name=name,
        fresh=fresh,
        on_workers=on_workers,
        pickle=pickle,
    )
    if show:
        job.show()
    return job


@typing.overload
def starmap(
    fn: Callable[..., Awaitable[T]],
    items: Iterable[tuple[Any, ...] | list[Any] | Mapping[str, Any]],
    **options: Unpack[MapOptions],
) -> Job[T]: ...
@typing.overload
def starmap(
    fn: Callable[..., T],
    items: Iterable[tuple[Any, ...] | list[Any] | Mapping[str, Any]],
    **options: Unpack[MapOptions],
) -> Job[T]: ...
@typing.overload
def starmap(
    fn: str, items: Iterable[tuple[Any, ...] | list[Any] | Mapping[str, Any]], **options: Unpack[MapOptions]
) -> Job[Any]: ...
@checks_call
def starmap(
    fn: Callable[..., Any] | str,
    items: Iterable[tuple[Any, ...] | list[Any] | Mapping[str, Any]],
    *,
    name: str | None = None,
    concurrency: Concurrency | None = None,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    executor: Executor = "auto",
    on: On = None,
    version: str | int | None = None,
    fresh: Fresh = False,
    pickle: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[Any]:
    """Like `map`, with each item spread over the function's parameters: a tuple or a list by place, a dict by name.

    Of a groupby it passes each key and its group. Options are those of `map`.

    Raises:
        InvalidInput: something does not fit; nothing was started.
        JobMismatch: the name belongs to a job over other items.

    Example:
        import restate_nb as rnb

        rnb.start()
        job = rnb.starmap(pow, [(2, 3), (3, 2)])  # or [{"base": 2, "exp": 3}, {"base": 3, "exp": 2}]
        frame = job.result()
    """
    on_workers = runs_on_workers(fn, on)
    policy = RunPolicy(concurrency_of(concurrency, executor), retry, timeout, max_per_second, limit, fail_fast)
    function = function_of(fn, "args", policy, executor, version, pickle=pickle)
    session = session or current()
    folder = session.prepare(function, on_workers=on_workers, pickle=pickle)
    job = session.submit_job(
        function,
        read_items(items, function, folder),
        policy,
        name=name,
        fresh=fresh,
        on_workers=on_workers,
        pickle=pickle,
    )
    if show:
        job.show()
    return job
