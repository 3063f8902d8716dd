"""`map` and `starmap`: one function over many items, each item durable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, overload

from restate_nb.engine.target import Target
from restate_nb.notebook.inputs import passing_of, read_items
from restate_nb.notebook.job import Job
from restate_nb.notebook.session import Session, current
from restate_nb.policy import DEFAULT_CONCURRENCY, NO_RETRY, Retry, RunPolicy, Seconds

T = TypeVar("T")


@overload
def map(
    fn: Callable[..., Awaitable[T]],
    items: Iterable[Any],
    *,
    name: str | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
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
    concurrency: int = DEFAULT_CONCURRENCY,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fresh: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[T]: ...
def map(
    fn: Callable[..., Any],
    items: Iterable[Any],
    *,
    name: str | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
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
        concurrency: how many items run at once.
        retry: when a failed item is tried again; not at all by default.
        timeout: seconds (or a timedelta) that one attempt may take.
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
    policy = RunPolicy(concurrency, retry, timeout)
    target = Target(fn, passing_of(items))
    job = (session or current()).submit(target, read_items(items, target), policy, name=name, fresh=fresh)
    if show:
        job.show()
    return job


def starmap(
    fn: Callable[..., Any],
    items: Iterable[tuple[Any, ...] | list[Any]],
    *,
    name: str | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fresh: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[Any]:
    """Like `map`, with each item, a tuple or a list, spread over the function's parameters.

    Raises:
        InvalidInput: something does not fit; nothing was started.
        JobMismatch: the name belongs to a job over other items.

    Example:
        import restate_nb as rnb

        rnb.start()
        job = rnb.starmap(pow, [(2, 3), (3, 2)])
        frame = job.result()
    """
    policy = RunPolicy(concurrency, retry, timeout)
    target = Target(fn, "args")
    job = (session or current()).submit(target, read_items(items, target), policy, name=name, fresh=fresh)
    if show:
        job.show()
    return job
