"""What can be sent to workers: functions that they find by name, and how their items are run."""

from __future__ import annotations

import re
from typing import Final

from restate_nb.engine.function import Executor, Function, Passing, not_here
from restate_nb.errors import InvalidInput
from restate_nb.policy import RunPolicy
from restate_nb.values.classes import Classes

_NAME: Final = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:(?:[^\W\d]\w*\.)*[^\W\d]\w*")


def function_named(name: str, passing: Passing, executor: Executor, version: str | int | None) -> Function:
    """A function that only workers know. What it takes and returns is plain data here.

    Args:
        name: `package.module:function`.
        passing: and the others: see `Function`.

    Raises:
        InvalidInput: the name has another form.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"A function is named as 'package.module:function', and {name!r} is not.")
    absent = not_here(NotImplementedError, f"{name} is known here by its name alone: workers run it.")
    function = Function(absent, passing, executor=executor, version=version, classes=Classes(plain=True))
    function.name, function.known_as = name.rpartition(":")[2], name
    return function


def check_for_workers(function: Function, policy: RunPolicy, spec: str | None) -> None:
    """See that workers can run a job.

    Args:
        function: what it runs.
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
    if function.durable:
        raise InvalidInput(
            f"{function.name} takes a Restate context: deploy it as a handler of a Restate service, and rnb.invoke "
            "runs it over items, on whatever machines serve it."
        )
    if function.classes.given and function.known_as is None:
        raise InvalidInput(
            f"Workers would not know the classes of the items, since {function.name} does not name them: annotate its "
            "parameters, such as def work(point: Point), or pass plain data."
        )
    if spec is None:
        raise InvalidInput(
            f"Workers find functions by name, and {function.name} is of this notebook, or of another function: put it "
            'at the top of a module, such as jobs.py, import it from there, and start "restate-nb worker jobs ...". '
            "The exceptions of retry= need such a place, too."
        )
