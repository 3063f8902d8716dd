"""What is kept of how a job is run, so that it goes on without its cell: functions that can be imported, by name.

Nothing but names and numbers is kept. A function of a notebook has no name that another process could import: its job
waits for its cell.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any, cast

import msgspec

from restate_nb.engine.function import Executor, Function, Passing
from restate_nb.errors import InvalidInput
from restate_nb.limits import Rate, concurrency_range, rate
from restate_nb.policy import Limit, Retry, RunPolicy, seconds


class _Retry(msgspec.Struct, kw_only=True, frozen=True):
    max_attempts: int
    initial_interval: float
    factor: float
    max_interval: float
    jitter: float
    retry_on: tuple[str, ...]
    give_up_on: tuple[str, ...]


class _Limit(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    concurrency: int | None
    per_second: tuple[int, float] | None


class RunSpec(msgspec.Struct, kw_only=True, frozen=True):
    """How a job's items are run.

    Attributes:
        function: `package.module:name`.
        passing: see `Target`.
        executor: see `Target`.
        version: the version that was given for the function's code.
        pause: seconds between batches.
        concurrency: and all that follows: see `RunPolicy`.
    """

    function: str
    passing: str
    executor: str
    version: str | int | None
    pause: float
    concurrency: int | tuple[int, int] | str
    retry: _Retry
    timeout: float | None
    max_per_second: tuple[int, float] | None
    limit: _Limit | None
    fail_fast: bool | int | float


def run_spec_of(target: Function, policy: RunPolicy, pause: float = 0.0) -> str | None:
    """The recipe of a job, as JSON; None when its function, or an exception of its retry, has no importable name."""
    if type(target) is not Function:
        return None  # several functions, which may be anything
    if target.classes.given and target.known_as is None:
        return None  # another process would not know the classes of its items
    retry = policy.retry
    function = target.known_as or name_of_import(target.fn)
    retry_on, give_up_on = _names(retry.retry_on), _names(retry.give_up_on)
    if function is None or retry_on is None or give_up_on is None:
        return None
    limit = policy.limit
    recipe = RunSpec(
        function=function,
        passing=target.passing,
        executor=target.executor,
        version=target.version,
        pause=pause,
        concurrency=policy.concurrency,
        retry=_Retry(
            max_attempts=retry.max_attempts,
            initial_interval=seconds("initial_interval", retry.initial_interval, zero=True),
            factor=retry.factor,
            max_interval=seconds("max_interval", retry.max_interval, zero=True),
            jitter=retry.jitter,
            retry_on=retry_on,
            give_up_on=give_up_on,
        ),
        timeout=None if policy.timeout is None else seconds("timeout", policy.timeout),
        max_per_second=_rate(policy.max_per_second),
        limit=None
        if limit is None
        else _Limit(name=limit.name, concurrency=limit.concurrency, per_second=_rate(limit.per_second)),
        fail_fast=policy.fail_fast,
    )
    return msgspec.json.encode(recipe).decode()


def share_of(text: str, lanes: int, lane: int) -> str:
    """The recipe of one lane of a job: its concurrency is that lane's part of the whole.

    Args:
        text: the recipe of the job.
        lanes: how many lanes there are.
        lane: which one, from 0.
    """
    recipe = _decoder.decode(text)
    whole = concurrency_range("concurrency", cast("Any", recipe.concurrency))
    low, high = (max(1, each // lanes + (lane < each % lanes)) for each in (whole.low, whole.high))
    return msgspec.json.encode(
        msgspec.structs.replace(recipe, concurrency=low if low == high else (low, high))
    ).decode()


def import_by_name(name: str) -> Any:
    """What `module:name` names, imported.

    Raises:
        InvalidInput: it cannot be imported.
    """
    module, _, attributes = name.partition(":")
    try:
        return attrgetter(attributes)(importlib.import_module(module))
    except Exception as error:  # a module may raise anything when it is imported
        raise InvalidInput(f"{name} cannot be imported here: {type(error).__name__}: {error}.") from error


def read_run_spec(
    text: str, *, durable: bool, find: Callable[[str], Any] = import_by_name
) -> tuple[Function, RunPolicy, float]:
    """The function, how it is run, and the pause between batches.

    Args:
        text: the recipe.
        durable: see `Target`.
        find: brings the function, and the exceptions of its retry, given as `module:name`.

    Raises:
        InvalidInput: it cannot be imported any more, or the recipe is none.
    """
    try:
        recipe = _decoder.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidInput(f"How the job is run cannot be read: {error}.") from error
    kept = recipe.retry
    retry = Retry(
        max_attempts=kept.max_attempts,
        initial_interval=kept.initial_interval,
        factor=kept.factor,
        max_interval=kept.max_interval,
        jitter=kept.jitter,
        retry_on=tuple(map(find, kept.retry_on)),
        give_up_on=tuple(map(find, kept.give_up_on)),
    )
    limit = None
    if recipe.limit is not None:
        limit = Limit(recipe.limit.name, recipe.limit.concurrency, recipe.limit.per_second)
    policy = RunPolicy(
        cast("Any", recipe.concurrency), retry, recipe.timeout, recipe.max_per_second, limit, recipe.fail_fast
    )
    target = Function(
        find(recipe.function),
        cast("Passing", recipe.passing),
        durable=durable,
        executor=cast("Executor", recipe.executor),
        version=recipe.version,
    )
    return target, policy, recipe.pause


_decoder = msgspec.json.Decoder(RunSpec)


def _rate(value: Any) -> tuple[int, float] | None:
    if value is None:
        return None
    found: Rate = rate("max_per_second", value)
    return found.starts, found.seconds


def _names(types: Any) -> tuple[str, ...] | None:
    names = [name_of_import(each) for each in (types if isinstance(types, tuple) else (types,))]
    return None if None in names else tuple(name for name in names if name is not None)


def name_of_import(thing: Any) -> str | None:
    """`module:name`, where an import in another process would find the same."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or module not in sys.modules:
        return None
    try:
        return f"{module}:{name}" if attrgetter(name)(sys.modules[module]) is thing else None
    except AttributeError:  # it was made in a function, or renamed
        return None
