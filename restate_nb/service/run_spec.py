"""What is kept of how a job is run, so that it goes on without its cell: functions that can be imported, by name.

Nothing but names and numbers is kept. A function of a notebook has no name that another process could import: its job
waits for its cell.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from restate_nb.engine.function import Executor, Function, Passing
from restate_nb.errors import InvalidInput
from restate_nb.limits import Concurrency, Rate
from restate_nb.policy import Limit, Retry, RunPolicy
from restate_nb.validation import concurrency_range


class _Limit(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    concurrency: int | None
    per_second: Rate | None


class RunSpec(msgspec.Struct, kw_only=True, frozen=True):
    """How a job's items are run. Exceptions of `retry` are written by name, as the function is.

    Attributes:
        function: `package.module:name`.
        passing: see `Function`.
        executor: see `Function`.
        version: the version that was given for the function's code.
        pause: seconds between batches.
        concurrency: and all that follows: see `RunPolicy`.
    """

    function: str
    passing: Passing
    executor: Executor
    version: str | int | None
    pause: float
    concurrency: Concurrency
    retry: Retry
    timeout: float | None
    max_per_second: Rate | None
    limit: _Limit | None
    fail_fast: bool | int | float

    def policy(self) -> RunPolicy:
        """The policy, checked like one that a user gives: the record may come from anywhere.

        Raises:
            InvalidInput: a value is out of range.
        """
        limit = self.limit
        return RunPolicy(
            self.concurrency,
            dataclasses.replace(self.retry),
            self.timeout,
            self.max_per_second,
            None if limit is None else Limit(limit.name, limit.concurrency, limit.per_second),
            self.fail_fast,
        )


def run_spec_of(target: Function, policy: RunPolicy, pause: float = 0.0) -> str | None:
    """The run spec of a job, as JSON; None when its function, or an exception of its retry, has no importable name."""
    if type(target) is not Function:
        return None  # several functions, which may be anything
    if target.classes.given and target.known_as is None:
        return None  # another process would not know the classes of its items
    function = target.known_as or name_of_import(target.fn)
    if function is None:
        return None
    limit = policy.limit
    spec = RunSpec(
        function=function,
        passing=target.passing,
        executor=target.executor,
        version=target.version,
        pause=pause,
        concurrency=policy.concurrency,
        retry=policy.retry,
        timeout=policy.timeout,
        max_per_second=policy.rate,
        limit=None if limit is None else _Limit(name=limit.name, concurrency=limit.concurrency, per_second=limit.rate),
        fail_fast=policy.fail_fast,
    )
    try:
        return msgspec.json.encode(spec, enc_hook=_write_class).decode()
    except LookupError:
        return None


def _write_class(kind: Any) -> str:
    name = name_of_import(kind)
    if name is None:
        raise LookupError(f"{kind!r} cannot be imported by a name.")
    return name


def share_of(text: str, lanes: int, lane: int) -> str:
    """The run spec of one lane of a job: its concurrency is that lane's part of the whole.

    Args:
        text: the run spec of the job.
        lanes: how many lanes there are.
        lane: which one, from 0.
    """
    spec = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    whole = concurrency_range("concurrency", msgspec.json.decode(spec["concurrency"], type=Concurrency))
    low, high = (max(1, each // lanes + (lane < each % lanes)) for each in whole)
    spec["concurrency"] = msgspec.Raw(msgspec.json.encode(low if low == high else (low, high)))
    return msgspec.json.encode(spec).decode()


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
        text: the run spec, as JSON.
        durable: see `Function`.
        find: brings the function, and the exceptions of its retry, given as `module:name`.

    Raises:
        InvalidInput: it cannot be imported any more, or the run spec is none.
    """

    def read_class(_: type, name: Any) -> Any:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is not the name of an exception")
        return find(name)

    try:
        spec = msgspec.json.decode(text, type=RunSpec, dec_hook=read_class)
    except (msgspec.MsgspecError, RecursionError) as error:
        if isinstance(error.__cause__, InvalidInput):  # what `find` said
            raise error.__cause__ from None
        raise InvalidInput(f"How the job is run cannot be read: {error}.") from error
    policy = spec.policy()
    target = Function(find(spec.function), spec.passing, durable=durable, executor=spec.executor, version=spec.version)
    return target, policy, spec.pause


def name_of_import(thing: Any) -> str | None:
    """`module:name`, where an import in another process would find the same."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or module not in sys.modules:
        return None
    try:
        return f"{module}:{name}" if attrgetter(name)(sys.modules[module]) is thing else None
    except AttributeError:  # it was made in a function, or renamed
        return None
