"""The verbs of the notebook: `map` and `starmap` over many items, `call` once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, cast, overload

from restate_nb.engine.processes import cpus
from restate_nb.engine.target import Executor, Passing, Target, name_of
from restate_nb.errors import InvalidInput
from restate_nb.limit import Concurrency, PerSecond, concurrency_range
from restate_nb.notebook.inputs import passing_of, read_items
from restate_nb.notebook.job import Job
from restate_nb.notebook.session import Session
from restate_nb.notebook.start import current
from restate_nb.policy import DEFAULT_CONCURRENCY, NO_RETRY, Limit, Retry, RunPolicy, Seconds
from restate_nb.service.durable import takes_context

T = TypeVar("T")


@overload
def map(
    fn: Callable[..., Awaitable[T]],
    items: Iterable[Any],
    *,
    name: str | None = None,
    concurrency: Concurrency | None = None,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    executor: Executor = "auto",
    fresh: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[T]: ...
@overload
def map(
    fn: Callable[..., T],
    items: Iterable[Any],
    *,
    name: str | None = None,
    concurrency: Concurrency | None = None,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    executor: Executor = "auto",
    fresh: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[T]: ...
def map(
    fn: Callable[..., Any],
    items: Iterable[Any],
    *,
    name: str | None = None,
    concurrency: Concurrency | None = None,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    executor: Executor = "auto",
    fresh: bool = False,
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
        items: a list or another iterable, a Series (its index is kept), a DataFrame (each row is passed as keyword
            arguments, the index is kept) or a dict (its keys become the index).
        name: the job. Without it the job is known by the function's code and the items, so that any change of either
            makes a new one.
        concurrency: how many items run at once: a number, or a range such as `(2, 100)`, or "auto", to find out while
            it runs. By default 50; with processes, as many as there are processors. A range grows as long as that
            helps, and falls when answers take longer or say "slow down" (an error with `retry_after`, HTTP 429 or
            503); an answer with `Retry-After` holds up all items for so long, at most a minute.
        max_per_second: how many attempts start in any second, or `(count, seconds)`, retries included; evenly spaced.
        limit: a limit that several jobs share, such as `rnb.Limit("openai", concurrency=20, per_second=5)`.
        retry: when a failed item is tried again; not at all by default.
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
        fresh: drop the job of this name and its outcomes, and start again.
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
    policy = RunPolicy(_concurrency(concurrency, executor), retry, timeout, max_per_second, limit, fail_fast)
    target = _target(fn, passing_of(items), policy, executor)
    job = (session or current()).submit(target, read_items(items, target), policy, name=name, fresh=fresh)
    if show:
        job.show()
    return job


def starmap(
    fn: Callable[..., Any],
    items: Iterable[tuple[Any, ...] | list[Any]],
    *,
    name: str | None = None,
    concurrency: Concurrency | None = None,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    executor: Executor = "auto",
    fresh: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[Any]:
    """Like `map`, with each item, a tuple or a list, spread over the function's parameters. Options are those of `map`.

    Raises:
        InvalidInput: something does not fit; nothing was started.
        JobMismatch: the name belongs to a job over other items.

    Example:
        import restate_nb as rnb

        rnb.start()
        job = rnb.starmap(pow, [(2, 3), (3, 2)])
        frame = job.result()
    """
    policy = RunPolicy(_concurrency(concurrency, executor), retry, timeout, max_per_second, limit, fail_fast)
    target = _target(fn, "args", policy, executor)
    job = (session or current()).submit(target, read_items(items, target), policy, name=name, fresh=fresh)
    if show:
        job.show()
    return job


def _concurrency(concurrency: Concurrency | None, executor: Executor) -> Concurrency:
    if executor not in ("auto", "thread", "process"):
        raise InvalidInput(
            'executor is "auto" (coroutine functions on a loop, plain functions in threads), "thread" or "process", '
            f"not {executor!r}."
        )
    if concurrency is None:
        return cpus() if executor == "process" else DEFAULT_CONCURRENCY
    if concurrency == "auto" and executor == "process":
        return 1, cpus()
    return concurrency


def _target(fn: Callable[..., Any], passing: Passing, policy: RunPolicy, executor: Executor) -> Target:
    if not callable(fn) or not takes_context(fn):
        target = Target(fn, passing, executor=executor)
        if executor == "process":
            target.work(policy.retry)  # refuses what cannot be sent there
        return target
    if executor != "auto":
        raise InvalidInput(
            f"{name_of(fn)} is a durable function: it runs where Restate calls it, so it takes no executor. Send what "
            'is CPU-bound in it to a thread, or map it as a plain function with executor="process".'
        )
    if policy.timeout is not None:
        raise InvalidInput(
            f"{name_of(fn)} is a durable function, which can outlive this process; its timeouts are written in it: "
            "await restate_nb.patterns.with_timeout(ctx, operation, seconds)."
        )
    bounds = concurrency_range("concurrency", policy.concurrency)
    if policy.max_per_second is not None or policy.limit is not None or bounds.low != bounds.high:
        raise InvalidInput(
            f"{name_of(fn)} is a durable function: Restate starts its steps, here or elsewhere. Limit it by a number, "
            "concurrency=10, and calls inside it by concurrency limits of the service that they go to."
        )
    return Target(fn, passing, durable=True)


def call(fn: Callable[..., Awaitable[T]], *args: Any, session: Session | None = None, **kwargs: Any) -> T:
    """Run a durable function once, as an invocation of its own, and wait for what it returns.

    A durable function takes a Restate context first and may take many durable steps: `ctx.run_typed`, `ctx.sleep`,
    calls, and the helpers of `restate_nb.patterns`. It needs no service: the cell that defines it is enough, and
    running that cell again replaces it. Ctrl-C ends the waiting; the invocation goes on.

    Args:
        fn: `async def fn(ctx, ...)`.
        args: its arguments after the context; or else `kwargs`.
        session: the session to use; the live one by default.
        kwargs: its arguments by name.

    Raises:
        InvalidInput: it is no durable function, or the arguments do not fit.
        InvocationFailed: it raised; the message has the traceback.

    Example:
        import restate
        import restate_nb as rnb
        from restate_nb.patterns import map_concurrent

        async def total(ctx: restate.Context, numbers: list[int]) -> int:
            return sum(await map_concurrent(ctx, numbers, lambda n: ctx.run_typed("square", lambda: n * n)))

        rnb.start()
        rnb.call(total, [1, 2, 3])
    """
    if not callable(fn) or not takes_context(fn):
        raise InvalidInput(
            "rnb.call runs a durable function: async def fn(ctx, ...), whose first parameter is named ctx or annotated "
            f"restate.Context. {fn!r} is none; for plain functions use rnb.map."
        )
    return cast("T", (session or current()).call_durable(fn, args, kwargs))
