"""`fan_out`: different functions side by side."""

from __future__ import annotations

import inspect
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

from restate_nb.api.options import FunctionOptions, check_durable, check_function, check_version, concurrency_of
from restate_nb.engine.function import Executor, name_of
from restate_nb.engine.function_table import FunctionTable
from restate_nb.errors import InvalidInput, NotEncodable
from restate_nb.handle.items import Items
from restate_nb.handle.job import Job
from restate_nb.handle.provenance import Fresh
from restate_nb.handle.reading import Reading
from restate_nb.limits import Concurrency, PerSecond, Seconds
from restate_nb.policy import NO_RETRY, Limit, Retry, RunPolicy
from restate_nb.results.spool import Spool
from restate_nb.service.durable_handler import takes_context
from restate_nb.session.current import current
from restate_nb.session.session import Session
from restate_nb.values.codec import encode
from restate_nb.words import checks_call

T = TypeVar("T")


@typing.overload
def fan_out(
    operations: Iterable[Callable[..., Awaitable[T]]] | Mapping[Any, Callable[..., Awaitable[T]]],
    **options: Unpack[FunctionOptions],
) -> Job[T]: ...
@typing.overload
def fan_out(
    operations: Iterable[Callable[..., T]] | Mapping[Any, Callable[..., T]], **options: Unpack[FunctionOptions]
) -> Job[T]: ...
@checks_call
def fan_out(
    operations: Iterable[Callable[..., Any]] | Mapping[Any, Callable[..., Any]],
    *,
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
    """Run different functions side by side, each of them durable, and return the job at once.

    It is the job that `map` makes, with one row for each operation: a failing one is a row too, and never stops the
    others. Run the same cell again to attach to it; what has ended is not run again.

    Args:
        operations: functions without arguments, in a list or a dict, whose keys become the index. Give a function its
            arguments by `functools.partial(fetch, url)`, which stays right in a loop, where a lambda sees the last
            `url` only. Coroutine functions run on the loop in the background, plain ones in threads. Functions
            that take a Restate context, and nothing else, run as an invocation each; then all have to be such.
        name: the job. Without it the job is known by the code of all functions, what is bound to them, and their keys;
            in a list by their names and order. With a name, changed functions go on where the job stands.
        concurrency: as in `map`.
        max_per_second: as in `map`.
        limit: as in `map`.
        retry: as in `map`.
        timeout: as in `map`.
        fail_fast: as in `map`: `fail_fast=True` starts nothing more after the first failure.
        executor: as in `map`.
        version: stands for the code of all operations; see `map`.
        fresh: as in `map`.
        pickle: as in `map`.
        show: as in `map`.
        session: as in `map`.

    Raises:
        InvalidInput: an operation is none, or an option does not fit; nothing was started.
        JobMismatch: the name belongs to a job over other operations.

    Example:
        from functools import partial

        import restate_nb as rnb

        rnb.start()
        job = rnb.fan_out({"largest": partial(max, [3, 5, 4]), "pi": lambda: 22 / 7})
        frame = job.result()
    """
    check_version(version)
    functions, labels = _functions(operations)
    policy = RunPolicy(concurrency_of(concurrency, executor), retry, timeout, max_per_second, limit, fail_fast)
    durable = _durable(list(functions.values()), policy, executor)
    table = FunctionTable(functions, durable=durable, executor=executor, version=version)
    check_function(table, policy, pickle=pickle)
    names = [name_of(fn) for fn in functions.values()]
    session = session or current()
    folder = session.prepare(table, pickle=pickle)
    items = Items(names, Spool(map(encode, functions)), labels, folder=folder)
    job = session.submit_job(table, items, policy, name=name, fresh=fresh, pickle=pickle)
    if show:
        job.show()
    return job


def _functions(operations: object) -> tuple[dict[Hashable, Callable[..., Any]], list[Hashable] | None]:
    """The operations by what makes them items: their keys, or else their names; and the index."""
    if isinstance(operations, Mapping):
        functions, labels = dict(operations), list(operations)
        _check_all(functions)
        _check_keys(labels)
        return functions, labels
    if callable(operations) or not isinstance(operations, Iterable) or isinstance(operations, (str, set, frozenset)):
        raise InvalidInput(
            f"fan_out takes a list or a dict of functions, such as [prices, partial(fetch, url)], not {operations!r}."
        )
    with Reading(operations) as reading:
        given = dict(enumerate(reading))
    _check_all(given)
    named: dict[Hashable, Callable[..., Any]] = {}
    counts = Counter[str]()
    for fn in given.values():
        name = name_of(fn)
        counts[name] += 1
        while (key := name if counts[name] == 1 else f"{name} #{counts[name]}") in named:
            counts[name] += 1
        named[key] = fn
    return named, None


def _check_all(functions: Mapping[Any, object]) -> None:
    for key, fn in functions.items():
        if callable(fn):
            continue
        for each in functions.values():
            if inspect.iscoroutine(each):
                each.close()  # nobody will await it, and Python would warn of that
        what = f"a {type(fn).__name__} of {fn.__name__}" if inspect.iscoroutine(fn) else repr(fn)
        raise InvalidInput(
            f"Operation {key!r} is {what}. An operation is a function without arguments:\n"
            "    wrong: rnb.fan_out([fetch(1), fetch(2)])\n"
            "    right: rnb.fan_out([partial(fetch, 1), partial(fetch, 2)])"
        )


def _check_keys(keys: list[Hashable]) -> None:
    seen: dict[bytes, Hashable] = {}
    for key in keys:
        try:
            other = seen.setdefault(encode(key), key)
        except NotEncodable as error:
            raise InvalidInput(f"The key {key!r} cannot be sent: {error}") from None
        if other is not key:
            raise InvalidInput(f"The keys {other!r} and {key!r} are the same as JSON. Rename one of them.")


def _durable(functions: Sequence[Callable[..., Any]], policy: RunPolicy, executor: Executor) -> bool:
    """Whether the operations are durable functions."""
    durable = [fn for fn in functions if takes_context(fn)]
    plain = [fn for fn in functions if not takes_context(fn)]
    if durable and plain:
        name = name_of(plain[0]).replace("lambda", "operation")
        raise InvalidInput(
            f"{name_of(durable[0])} takes a Restate context and {name} takes none, so they cannot run in one job. "
            "Make the second a durable step:\n"
            f"    async def {name}_step(ctx): return await ctx.run_typed({name!r}, {name})"
        )
    for fn in durable:
        check_durable(fn, policy, executor)
    return bool(durable)
