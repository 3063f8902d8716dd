"""Durable functions: `async def fn(ctx, ...)` from a cell, each run an invocation of its own."""

from __future__ import annotations

import contextvars
import functools
import inspect
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec
from restate import Context, Service, TerminalError
from restate.exceptions import RetryableError, SdkInternalBaseException
from restate.serde import BytesSerde

from restate_nb.engine import prints
from restate_nb.engine.codec import encode
from restate_nb.engine.record import ERROR, OK, WIRE_VERSION, Attempt, describe, is_unkept
from restate_nb.engine.target import Passing, Target, is_async, name_of
from restate_nb.errors import InvalidInput
from restate_nb.patterns.sdk import PASS_THROUGH, VMException
from restate_nb.policy import NO_RETRY, Retry

DURABLE_HANDLER: Final = "durable"

_MISSING_AGAIN: Final = timedelta(seconds=1)


class DurableRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The input of one run of a durable function.

    Attributes:
        function: under which key the function is known in its session.
        name: the function's name, for people.
        position: where the item stands in the job's input; 0 for a single call.
        passing: how the item becomes arguments.
        item: as `codec.encode` wrote it.
    """

    version: int = WIRE_VERSION
    function: str
    name: str
    position: int = 0
    passing: Passing
    item: msgspec.Raw


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


_CONTEXTS = {"Context", "ObjectContext", "ObjectSharedContext", "WorkflowContext", "WorkflowSharedContext"}


class DurableFunctions:
    """The durable functions that this process knows; those to come replace those that are there."""

    def __init__(self) -> None:
        self._functions: dict[str, tuple[Callable[..., Any], Retry, contextvars.Context]] = {}
        self._failed: dict[str, int] = {}  # how many attempts of an invocation failed in this process
        self._mismatched: dict[str, dict[str, int]] = {}  # by key: invocations and their positions

    def provide(self, key: str, fn: Callable[..., Any], retry: Retry = NO_RETRY) -> None:
        """Set the function of that key; what it prints is printed in the context of the caller."""
        self._functions[key] = fn, retry, contextvars.copy_context()

    def knows(self, key: str) -> bool:
        """Whether the function of that key is there."""
        return key in self._functions

    def ended(self, key: str, invocation: str) -> None:
        """The invocation was ended from outside."""
        self._mismatched.get(key, {}).pop(invocation, None)

    def mismatched(self, key: str) -> dict[str, int]:
        """The invocations of a function that no longer match their journals, since it was changed; their positions."""
        return dict(self._mismatched.get(key, {}))

    async def run(self, ctx: Context, request: DurableRequest) -> Attempt:
        """One run, up to its outcome. Exceptions of the function are its outcome, or fail the attempt to be retried.

        Raises:
            RetryableError: the function is not known here yet, or its retry policy wants another attempt.
            TerminalError: the invocation was cancelled.
        """
        known = self._functions.get(request.function)
        if known is None:
            raise RetryableError(
                f"Waiting for the function {request.name}: run the cell that defines and uses it.",
                retry_after=_MISSING_AGAIN,
            )
        fn, retry, context = known
        prints.enter(context, request.position)
        invocation = ctx.request().id
        started, clock = time.time(), time.perf_counter()
        number = self._failed.get(invocation, 0) + 1
        mismatched = self._mismatched.setdefault(request.function, {})
        try:
            value = await Target(functools.partial(fn, ctx), request.passing).caller()(bytes(request.item))
            attempt = Attempt(request.position, number, OK, started, 0.0, msgspec.Raw(encode(value)))
        except PASS_THROUGH:
            raise
        except (VMException, SdkInternalBaseException) as error:
            if _MISMATCH in f"{error} {error.__cause__}":
                mismatched[invocation] = request.position
            raise
        except Exception as error:
            if isinstance(error, TerminalError) and error.status_code == _CANCELLED:
                raise
            failure = describe(error)
            wait = None if is_unkept(failure) else retry.delay_after(number, error)
            if wait is not None:
                self._failed[invocation] = number
                raise RetryableError(f"{type(error).__name__}: {error}", retry_after=timedelta(seconds=wait)) from error
            attempt = Attempt(request.position, number, ERROR, started, 0.0, failure=failure)
        self._failed.pop(invocation, None)
        mismatched.pop(invocation, None)
        return msgspec.structs.replace(attempt, ran=time.perf_counter() - clock)


_CANCELLED: Final = 409
_MISMATCH: Final = "(570)"  # https://docs.restate.dev/references/errors#rt0016


def add_durable_handler(service: Service, functions: DurableFunctions) -> None:
    """Let a service run durable functions."""

    @service.handler(DURABLE_HANDLER, accept="*/*", input_serde=BytesSerde(), output_serde=BytesSerde())
    async def durable(ctx: Context, body: bytes) -> bytes:
        try:
            request = request_decoder.decode(body)
        except (ValueError, RecursionError) as error:
            raise TerminalError(f"This is no call that restate_nb can read: {error}.", status_code=400) from error
        return msgspec.json.encode(await functions.run(ctx, request))


def arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Passing, Any]:
    """The arguments of a single call, as one item and the way it is passed.

    Raises:
        InvalidInput: both positional and keyword arguments: name all of them, or none.
    """
    if args and kwargs:
        raise InvalidInput("Pass all arguments by position, or all by name.")
    return ("kwargs", dict(kwargs)) if kwargs else ("args", tuple(args))
