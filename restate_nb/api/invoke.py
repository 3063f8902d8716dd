"""`invoke`: a handler that is deployed in Restate, called for many inputs."""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, Unpack

from restate_nb.api.options import ArrowStream, InvokeOptions, Key
from restate_nb.backends.deployed_handler import DeployedHandler
from restate_nb.handle.items import read_inputs
from restate_nb.handle.job import Job
from restate_nb.limits import Concurrency, PerSecond, Seconds
from restate_nb.patterns.clients import ObjectClient, ServiceClient, WorkflowClient
from restate_nb.policy import DEFAULT_CONCURRENCY, NO_RETRY, Limit, Retry, RunPolicy
from restate_nb.session.current import current
from restate_nb.session.session import Session
from restate_nb.words import checks_call

O = TypeVar("O")  # noqa: E741 - the SDK's name for a handler's output


@typing.overload
def invoke(
    client: ServiceClient[Any, O] | ObjectClient[Any, O] | WorkflowClient[Any, O],
    inputs: Iterable[Any] | ArrowStream,
    **options: Unpack[InvokeOptions],
) -> Job[O]: ...
@typing.overload
def invoke(
    client: Callable[..., Awaitable[O]], inputs: Iterable[Any] | ArrowStream, **options: Unpack[InvokeOptions]
) -> Job[O]: ...
@checks_call
def invoke(
    client: Any,
    inputs: Iterable[Any] | ArrowStream,
    *,
    key: Key | None = None,
    name: str | None = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    max_per_second: PerSecond | None = None,
    limit: Limit | None = None,
    retry: Retry = NO_RETRY,
    timeout: Seconds | None = None,
    fail_fast: bool | float = False,
    fresh: bool = False,
    show: bool = True,
    session: Session | None = None,
) -> Job[Any]:
    """Call a handler that is deployed in Restate for each input: one durable invocation each. Returns the job at once.

    Restate keeps each result under a key of the job and the input's place in it. So running the cell again, in any
    process, attaches to the invocations that are there, and starts only those that are not: for as long as the service
    keeps results, which is 24 hours unless its `idempotency_retention` says otherwise. They run where the handler is
    deployed: nothing of this notebook is needed there, and they go on when it is closed.

    Args:
        client: a `ServiceClient`, `ObjectClient` or `WorkflowClient` of `restate_nb.patterns`, which names a handler,
            or a handler function of the SDK.
        inputs: as the items of `restate_nb.map`; a row of a DataFrame is one JSON object with a field a column. None is
            no input.
        key: for objects and workflows, which object or workflow: a column or field, such as `"id"`, a function of the
            input, or one key an input. The run of a workflow happens once a key, whoever asked for it.
        name: the job. Without it the job is known by the handler and the inputs.
        concurrency: how many invocations are open at once; see `restate_nb.map`, for the next three, too.
        max_per_second: how many start in any second.
        limit: a limit that several jobs share.
        retry: when a further invocation is made for an input whose invocation ended with a terminal error; not at all
            by default, and never for the run of a workflow. Restate itself retries errors that are not terminal.
        timeout: seconds (or a timedelta) that one invocation may take from when it was sent; then it is cancelled.
        fail_fast: when to give up on the inputs that have not been sent; see `restate_nb.map`.
        fresh: drop the job that is there under this name.
        show: show the live panel.
        session: the session to use; the live one by default.

    Returns:
        The job. Its frame has further columns, from Restate's own introspection: see `Job.frame`. Without the admin API
        they hold the `invocation_id` only, `job.cancel()` and `timeout` end the waiting and not the invocations, and
        calls are timed here.

    Raises:
        InvalidInput: something does not fit; nothing was sent.
        JobMismatch: the name belongs to a job over other inputs.

    Example:
        import restate
        import restate_nb as rnb

        greeter = restate.Service("Greeter")

        @greeter.handler()
        async def greet(ctx: restate.Context, name: str) -> str:
            return f"Hello {name}"

        session = rnb.start()
        session.serve(greeter)
        job = rnb.invoke(greet, ["Ada", "Alan"])
        print(job.values())
    """
    policy = RunPolicy(concurrency, retry, timeout, max_per_second, limit, fail_fast)
    function = DeployedHandler(client)
    items = read_inputs(inputs, function.body)
    function.set_keys(key, items.originals)
    job = (session or current()).submit_job(function, items, policy, name=name, fresh=fresh)
    if show:
        job.show()
    return job
