"""What the options of the verbs mean together, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from restate_nb.backends.worker_functions import function_named
from restate_nb.engine.function import Executor, Function, Passing, name_of
from restate_nb.engine.process_runner import cpus
from restate_nb.errors import InvalidInput
from restate_nb.limits import Concurrency
from restate_nb.policy import DEFAULT_CONCURRENCY, RunPolicy
from restate_nb.service.durable_handler import takes_context


def concurrency_of(
    concurrency: Concurrency | None, executor: Executor, default: int = DEFAULT_CONCURRENCY
) -> Concurrency:
    """How many items run at once, unless told otherwise.

    Raises:
        InvalidInput: there is no such executor.
    """
    if executor not in ("auto", "thread", "process"):
        raise InvalidInput(
            'executor is "auto" (coroutine functions on a loop, plain functions in threads), "thread" or "process", '
            f"not {executor!r}."
        )
    if concurrency is None:
        return cpus() if executor == "process" else default
    if concurrency == "auto" and executor == "process":
        return 1, cpus()
    return concurrency


On = Literal["workers"] | None
"""Where the items of a job run: on the session's workers, or in this process."""


def is_for_workers(fn: object, on: On) -> bool:
    """Whether workers run the job: it says so, or its function is given by name.

    Raises:
        InvalidInput: there is no such place.
    """
    if on not in (None, "workers"):
        raise InvalidInput(f'on is "workers", or left out for this process, not {on!r}.')
    return on == "workers" or isinstance(fn, str)


def target_of(
    fn: Callable[..., Any] | str, passing: Passing, policy: RunPolicy, executor: Executor, version: str | int | None
) -> Function:
    """The function of a job over items.

    Raises:
        InvalidInput: it is none, or does not go with the options.
    """
    check_version(version)
    if isinstance(fn, str):
        return function_named(fn, passing, executor, version)
    if callable(fn) and takes_context(fn):
        check_durable(fn, policy, executor)
        target = Function(fn, passing, durable=True, version=version)
        target.check_value()
        return target
    target = Function(fn, passing, executor=executor, version=version)
    target.check_value()
    if executor == "process":
        target.item_call(policy.retry)  # refuses what cannot be sent there
    return target


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
        raise InvalidInput(
            f"{name_of(fn)} is a durable function: it runs where Restate calls it, so it takes no executor. Send what "
            'is CPU-bound in it to a thread, or map it as a plain function with executor="process".'
        )
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
