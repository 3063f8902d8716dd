"""The handler of durable functions: each run of an `async def fn(ctx, ...)` is an invocation of its own."""

from __future__ import annotations

import contextvars
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec
from restate import Context, Service, TerminalError
from restate.exceptions import RetryableError, SdkInternalBaseException
from restate.serde import BytesSerde

from restate_nb.engine import output, seeds
from restate_nb.engine.function import Function, Passing, is_async, name_of
from restate_nb.engine.keeping import Keeper
from restate_nb.engine.record import CANCELLED, ERROR, OK, Attempt, is_unkept
from restate_nb.errors import InvalidInput, JournalMismatch
from restate_nb.patterns.outcome import OperationFailed
from restate_nb.patterns.scheduler import scheduler_of
from restate_nb.patterns.sdk import Tap, VMException, is_of_the_attempt
from restate_nb.policy import NO_RETRY, Retry
from restate_nb.service.durable_context import describe_safely, guard_context
from restate_nb.service.steps_in_flight import StepsInFlight
from restate_nb.service.wire import JSON_VERSION
from restate_nb.values.classes import Classes
from restate_nb.values.parts import is_joined
from restate_nb.values.structure import classes_of, parameter_annotations

DURABLE_HANDLER: Final = "durable"
OUTCOME_STEP: Final = "rnb outcome"
"""The last step of each invocation: what came of the function."""

WAITING: Final = "Waiting for the function"
"""How the failure of an attempt begins whose function is not known here."""

_MISSING_RETRY: Final = timedelta(seconds=1)
_CANCELLED_CODE: Final = 409
_MISMATCH: Final = "(570)"  # https://docs.restate.dev/references/errors#rt0016
_CONTEXTS: Final = {"Context", "ObjectContext", "ObjectSharedContext", "WorkflowContext", "WorkflowSharedContext"}


class DurableRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The input of one run of a durable function.

    Attributes:
        function: under which key the function is known in its session.
        call: under which key the process that made a single call knows the very function; empty in a job.
        name: the function's name, for people.
        position: where the item stands in the job's input; 0 for a single call.
        passing: how the item becomes arguments.
        item: as `codec.encode` wrote it.
    """

    version: int = JSON_VERSION
    function: str
    name: str
    position: int = 0
    passing: Passing
    item: msgspec.Raw
    call: str = ""


request_decoder: Final = msgspec.json.Decoder(DurableRequest)
attempt_decoder: Final = msgspec.json.Decoder(Attempt)


def takes_context(fn: Callable[..., Any]) -> bool:
    """Whether a function is a durable one: its first parameter is annotated as a Restate context, or named `ctx`.

    Raises:
        InvalidInput: it is, but it is no `async def`.
    """
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (ValueError, TypeError):
        return False
    if not parameters or parameters[0].kind not in (parameters[0].POSITIONAL_ONLY, parameters[0].POSITIONAL_OR_KEYWORD):
        return False
    annotation = parameters[0].annotation
    named = annotation.rpartition(".")[2] if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    is_context = parameters[0].name == "ctx" or named in _CONTEXTS
    if is_context and not (is_async(fn) or is_async(inspect.unwrap(fn))):  # a wrapper may pass the coroutine on
        raise InvalidInput(f"{name_of(fn)} takes a Restate context, so it must be `async def {name_of(fn)}(ctx, ...)`.")
    return is_context


def no_executor(name: str) -> InvalidInput:
    """The error of an executor that was given for a durable function of this name."""
    return InvalidInput(
        f"{name} is a durable function: it runs where Restate calls it, so it takes no executor. Send what "
        'is CPU-bound in it to a thread, or map it as a plain function with executor="process".'
    )


@dataclass(frozen=True, slots=True)
class _Known:
    fn: Callable[..., Any]
    retry: Retry
    context: contextvars.Context
    classes: Classes
    keeper: Keeper | None


class DurableFunctions:
    """The durable functions that this process can run, by key, and what it knows of their invocations."""

    def __init__(self) -> None:
        self._functions: dict[str, _Known] = {}
        self._failed: dict[str, int] = {}  # how many attempts of an invocation failed in this process
        self._mismatched: dict[str, dict[str, int]] = {}  # by key: invocations and their positions
        self._steps: dict[str, StepsInFlight] = {}  # by invocation

    def provide(
        self,
        key: str,
        fn: Callable[..., Any],
        retry: Retry = NO_RETRY,
        classes: Classes | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """Set the function of that key; what it prints is printed in the context of the caller.

        Args:
            key: as requests name it.
            fn: the function.
            retry: when it is run again after an error.
            classes: those that its items and values may be of; those that it names by default.
            keeper: stores values that are too large for a journal; None where there are none.
        """
        if classes is None:
            classes = classes_of(fn, parameter_annotations(fn))
        self._functions[key] = _Known(fn, retry, contextvars.copy_context(), classes, keeper)

    def forget(self, key: str, fn: Callable[..., Any] | None = None) -> None:
        """Remove the function of that key; with `fn`, only if it is that one."""
        known = self._functions.get(key)
        if known is not None and (fn is None or known.fn is fn):
            del self._functions[key]
            self._mismatched.pop(key, None)

    def knows(self, key: str) -> bool:
        """Whether the function of that key is there."""
        return key in self._functions

    def __len__(self) -> int:
        return len(self._functions)

    @property
    def invocations(self) -> frozenset[str]:
        """The ids of the invocations that are under way here, or whose steps are kept for their next attempt."""
        return frozenset(self._steps)

    def forget_invocation(self, key: str, invocation: str) -> None:
        """Forget what is known of an invocation, since it was ended from outside."""
        self._mismatched.get(key, {}).pop(invocation, None)
        self._failed.pop(invocation, None)
        self._close_steps(invocation)

    def mismatched(self, key: str) -> dict[str, int]:
        """The invocations of a function that no longer match their journals, since it was changed; their positions."""
        return dict(self._mismatched.get(key, {}))

    async def run(self, ctx: Context, request: DurableRequest) -> bytes:
        """Run the function in one attempt of its invocation.

        Exceptions of the function are its outcome, or fail the attempt, which is then made again.

        Returns:
            The outcome, an encoded `Attempt`, as the journal has it: clocks, addresses in a traceback and whatever else
            the function did not take from its steps differ in a replay, whose output has to be the same.

        Raises:
            RetryableError: the function is not known here yet, or its retry policy wants another attempt.
            TerminalError: the invocation was cancelled.
        """
        known = self._functions.get(request.call) or self._functions.get(request.function)
        if known is None:
            raise RetryableError(_waiting(request), retry_after=_MISSING_RETRY)
        function = Function(functools.partial(known.fn, ctx), request.passing, classes=known.classes)
        output.capture_from_here(known.context, request.position)
        seeds.enter(request.call or request.function)
        invocation = ctx.request().id
        steps = self._steps.setdefault(invocation, StepsInFlight())
        tap = guard_context(ctx, steps, steps.begin_attempt())
        try:
            recorded = await self._run(ctx, tap, request, function, known)
        except BaseException:
            steps.end_attempt(functools.partial(self._close_steps, invocation))  # the next attempt finds them
            raise
        self._close_steps(invocation)
        self._failed.pop(invocation, None)
        self._mismatched.get(request.function, {}).pop(invocation, None)
        if attempt_decoder.decode(recorded).status == CANCELLED:
            raise TerminalError("cancelled", status_code=_CANCELLED_CODE)
        return recorded

    def _close_steps(self, invocation: str) -> None:
        steps = self._steps.pop(invocation, None)
        if steps is not None:
            steps.close()

    async def _run(self, ctx: Context, tap: Tap, request: DurableRequest, function: Function, known: _Known) -> bytes:
        try:
            attempt = await self._attempt(ctx, tap, request, function, known.retry)
            return await tap.record(OUTCOME_STEP, functools.partial(_kept, attempt, known.keeper))
        except (VMException, JournalMismatch, SdkInternalBaseException) as error:
            if _MISMATCH in f"{error} {error.__cause__}":
                self._mismatched.setdefault(request.function, {})[ctx.request().id] = request.position
            raise

    async def _attempt(
        self, ctx: Context, tap: Tap, request: DurableRequest, function: Function, retry: Retry
    ) -> Attempt:
        """Call the function, and return its value or its exception as an attempt."""
        invocation = ctx.request().id
        number = self._failed.get(invocation, 0) + 1
        scheduler_of(ctx).is_final = lambda error: _is_outcome(error) and _wait(retry, number, error) is None
        started, clock = time.time(), time.perf_counter()
        try:
            value = await function.caller()(bytes(request.item))
            raw = msgspec.Raw(function.encode(value))
            return Attempt(request.position, number, OK, started, time.perf_counter() - clock, raw)
        except BaseException as error:
            if not _is_outcome(error):
                raise
            failure, status = describe_safely(error), ERROR
            if tap.cancelled and _is_cancellation(error):
                status = CANCELLED
            elif (wait := _wait(retry, number, error)) is not None:
                self._failed[invocation] = number
                again = f"{failure.type}: {failure.message}"
                raise RetryableError(again, retry_after=timedelta(seconds=wait)) from None
            ran = time.perf_counter() - clock
            return Attempt(request.position, number, status, started, ran, failure=failure)


async def _kept(attempt: Attempt, keeper: Keeper | None) -> bytes:
    """An attempt for the journal; a value that is too large for it is stored first."""
    if keeper is not None and is_joined(attempt.value):
        (reference,) = await keeper.keep([bytes(attempt.value)])
        attempt = msgspec.structs.replace(attempt, value=msgspec.Raw(reference))
    return msgspec.json.encode(attempt)


def _waiting(request: DurableRequest) -> str:
    if not request.call:
        return f"{WAITING} {request.name}: run the cell that defines and uses it."
    return (
        f"{WAITING} {request.name}: run the cell that defines and calls it, as it was; or cancel this "
        "invocation, if nobody needs it any more."
    )


def _is_cancellation(error: BaseException) -> bool:
    """Whether it is what the SDK raises when Restate cancels, and not a TerminalError of the user's own."""
    while isinstance(error, OperationFailed):
        error = error.cause
    return isinstance(error, TerminalError) and error.status_code == _CANCELLED_CODE and error.message == "cancelled"


def _is_outcome(error: BaseException) -> bool:
    """Whether an exception is the function's own, and not what ends an attempt."""
    return not (is_of_the_attempt(error) or isinstance(error, (VMException, JournalMismatch)))


def _wait(retry: Retry, number: int, error: BaseException) -> float | None:
    """The seconds after which the function is tried again; None if the error is its outcome."""
    if not isinstance(error, Exception) or retry.max_attempts == 1 or is_unkept(describe_safely(error)):
        return None
    return retry.delay_after(number, error)


def add_durable_handler(service: Service, functions: DurableFunctions) -> None:
    """Let a service run durable functions."""

    @service.handler(DURABLE_HANDLER, accept="*/*", input_serde=BytesSerde(), output_serde=BytesSerde())
    async def durable(ctx: Context, body: bytes) -> bytes:
        try:
            request = request_decoder.decode(body)
        except (ValueError, RecursionError) as error:
            raise TerminalError(f"This is no call that restate_nb can read: {error}.", status_code=400) from error
        return await functions.run(ctx, request)


def arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Passing, Any]:
    """The arguments of a single call, as one item and the way it is passed.

    Raises:
        InvalidInput: both positional and keyword arguments: name all of them, or none.
    """
    if args and kwargs:
        raise InvalidInput("Pass all arguments by position, or all by name.")
    return ("kwargs", dict(kwargs)) if kwargs else ("args", tuple(args))
