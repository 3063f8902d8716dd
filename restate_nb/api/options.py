"""The options of the verbs, spelled once for type checkers, and what they mean together.

A verb has them in its own signature, too: that is what `fn?`, the tab key and `inspect` show. Its overloads take them
from here; they are decorated as `typing.overload`, since jedi, which completes in notebooks, shows those that it knows
by the bare name in place of the signature. `tests/api/test_options.py` holds all to be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Literal, Protocol, TypedDict

from restate_nb.backends.worker_functions import function_named
from restate_nb.engine.cpus import cpus
from restate_nb.engine.function import Executor, Function, Passing, name_of, parse_executor
from restate_nb.errors import InvalidInput
from restate_nb.handle.advice import warn_of_copied_generators
from restate_nb.handle.provenance import Fresh
from restate_nb.limits import Concurrency, PerSecond, Seconds
from restate_nb.policy import DEFAULT_CONCURRENCY, Limit, Retry, RunPolicy
from restate_nb.service.durable_handler import no_executor, takes_context
from restate_nb.session.session import Session

On = Literal["workers"] | None
"""Where the items of a job run: on the session's workers, or in this process."""

Key = str | Callable[[Any], Hashable] | Iterable[Hashable]
"""The keys of objects or workflows: a column or field, a function of the input, or one key an input."""


class ArrowStream(Protocol):
    """A table, a query or a frame, whose rows are read through Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """A capsule with the stream."""


class JobOptions(TypedDict, total=False):
    """What every verb that makes a job takes; `map` explains each."""

    name: str | None
    max_per_second: PerSecond | None
    limit: Limit | None
    retry: Retry
    timeout: Seconds | None
    fail_fast: bool | float
    show: bool
    session: Session | None


class FunctionOptions(JobOptions, total=False):
    """What `fan_out` and `batch` take, too: how functions of this process are run."""

    concurrency: Concurrency | None
    executor: Executor
    version: str | int | None
    fresh: Fresh
    pickle: bool


class MapOptions(FunctionOptions, total=False):
    """What `map` and `starmap` take."""

    on: On


class InvokeOptions(JobOptions, total=False):
    """What `invoke` takes, whose handlers run elsewhere."""

    key: Key | None
    concurrency: Concurrency
    fresh: bool


def concurrency_of(
    concurrency: Concurrency | None, executor: Executor, default: int = DEFAULT_CONCURRENCY
) -> Concurrency:
    """How many items run at once, unless told otherwise.

    Raises:
        InvalidInput: there is no such executor.
    """
    executor = parse_executor(executor)
    if concurrency is None:
        return cpus() if executor == "process" else default
    if concurrency == "auto" and executor == "process":
        return 1, cpus()
    return concurrency


def runs_on_workers(fn: object, on: On) -> bool:
    """Whether workers run the job: it says so, or its function is given by name.

    Raises:
        InvalidInput: there is no such place.
    """
    if on not in (None, "workers"):
        raise InvalidInput(f'on is "workers", or left out for this process, not {on!r}.')
    return on == "workers" or isinstance(fn, str)


def function_of(
    fn: Callable[..., Any] | str,
    passing: Passing,
    policy: RunPolicy,
    executor: Executor,
    version: str | int | None,
    *,
    pickle: bool = False,
) -> Function:
    """The function of a job over items. `pickle`: what has no other form is pickled.

    Raises:
        InvalidInput: it is none, or does not go with the options.
    """
    check_version(version)
    if isinstance(fn, str):
        return function_named(fn, passing, executor, version)
    durable = callable(fn) and takes_context(fn)
    if durable:
        check_durable(fn, policy, executor)
    function = Function(fn, passing, durable=durable, executor=executor, version=version)
    check_function(function, policy, pickle=pickle)
    return function


def check_function(function: Function, policy: RunPolicy, *, pickle: bool) -> None:
    """See that a function, or several, can be run like that; `pickle`: what has no other form is pickled.

    Raises:
        InvalidInput: it cannot be sent to a worker process, or has no value that could be recorded.
    """
    if not pickle:
        function.check_value()
    if function.executor == "process":
        function.item_call(policy.retry)
        warn_of_copied_generators(function)


def check_version(version: object) -> None:
    """See that it is a version.

    Raises:
        InvalidInput: it is neither text nor a whole number.
    """
    if version is not None and (isinstance(version, bool) or not isinstance(version, (str, int))):
        raise InvalidInput(
            f"version is text or a whole number, such as version=2 or version='2026-05', not {version!r}."
        )


def check_durable(fn: Callable[..., Any], policy: RunPolicy, executor: Executor) -> None:
    """See that the options are some that a durable function can have.

    Raises:
        InvalidInput: one is not.
    """
    if executor != "auto":
        raise no_executor(name_of(fn))
    if policy.timeout is not None:
        raise InvalidInput(
            f"{name_of(fn)} is a durable function, which can outlive this process; its timeouts are written in it: "
            "await restate_nb.patterns.with_timeout(ctx, operation, seconds)."
        )
    if policy.rate is not None or policy.limit is not None or policy.bounds.low != policy.bounds.high:
        raise InvalidInput(
            f"{name_of(fn)} is a durable function: Restate starts its steps, here or elsewhere. Limit it by a number, "
            "concurrency=10, and calls inside it by concurrency limits of the service that they go to."
        )
