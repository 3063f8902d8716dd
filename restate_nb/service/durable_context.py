"""Checks what a durable function gives to Restate: what cannot be recorded fails its step, once.

Without that it would fail the attempt, again and again: restate-server retries a message that is too large, and the SDK
a step whose result its serde cannot write, a failure that is no UTF-8, and an exception that it does not expect; the
step runs again each time, and nobody is told.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn

from restate import TerminalError
from restate.exceptions import RetryableError
from restate.serde import Serde

from restate_nb.engine.record import Failure, describe
from restate_nb.errors import InvalidInput, NotEncodable
from restate_nb.patterns.sdk import Failure as SdkFailure
from restate_nb.patterns.sdk import Tap, is_of_the_attempt
from restate_nb.patterns.typed_values import use_typed_values
from restate_nb.service.steps_in_flight import StepsInFlight

MAX_STEP_BYTES: Final = 32 * 1024 * 1024 - 128 * 1024
"""The largest result of a step, argument of a call or payload: restate-server moves messages of 32 MiB, and there are a
name and headers beside it."""

_LONGEST_MESSAGE: Final = 100_000  # characters of a failure

_NO_STATE: Final = ("get", "set", "clear", "clear_all", "state_keys", "promise")

_HINTS: Final = {
    "DataFrame": "value.to_dict('records')",
    "Series": "value.to_list()",
    "ndarray": "value.tolist()",
    "datetime": "value.isoformat()",
    "date": "value.isoformat()",
    "time": "value.isoformat()",
    "Timestamp": "value.isoformat()",
    "timedelta": "value.total_seconds()",
    "Decimal": "str(value)",
    "UUID": "str(value)",
    "set": "sorted(value)",
    "frozenset": "sorted(value)",
    "bytes": "value.decode(), or keep bytes with RunOptions(serde=restate.serde.BytesSerde())",
}


def guard_context(context: object, steps: StepsInFlight, attempt: int) -> Tap:
    """Have the context of a durable function refuse what Restate cannot keep; to be called once an attempt.

    Args:
        context: of this attempt.
        steps: of its invocation.
        attempt: which one of these it is.
    """

    def guarded(handle: int, name: str, action: Callable[..., Any], serde: Serde[Any]) -> tuple[Any, Serde[Any]]:
        recordable = _recordable_coroutine if inspect.iscoroutinefunction(action) else _recordable_function
        return steps.once(attempt, handle, name, recordable(action)), _CheckedSerde(name, serde)

    use_typed_values(context)
    tap = Tap(context)
    tap.replace_methods(_NO_STATE, _no_state)
    tap.check_payloads(_check_size)
    tap.repair_failures(_repaired)
    tap.guard_steps(guarded, lambda error: f"{type(error).__name__}: {_text(error)}", steps.drop)
    return tap


def _no_state(*_: object, **__: object) -> NoReturn:
    raise InvalidInput(
        "A durable function is an invocation of its own: it has no state and no promises. Keep what is needed in "
        "variables, or call a handler of a restate.VirtualObject or restate.Workflow that session.serve(...) hosts."
    )


def _check_size(payload: bytes | str) -> None:
    if len(payload) > MAX_STEP_BYTES:
        raise TerminalError(
            f"{len(payload) / 1e6:,.1f} MB are too much for Restate, which keeps up to {MAX_STEP_BYTES / 1e6:,.1f} MB "
            "of a step's result or a call's argument. Write it to a file or an object store, and return or pass the "
            "path."
        )


def _recordable_coroutine(action: Callable[..., Any]) -> Callable[..., Any]:
    async def run() -> Any:
        try:
            return await action()
        except BaseException as error:
            if is_of_the_attempt(error):
                raise
            raise _recordable(error) from error

    return run


def _recordable_function(action: Callable[..., Any]) -> Callable[..., Any]:
    def run() -> Any:
        try:
            return action()
        except BaseException as error:  # there are some that a future cannot hold, and would never end for
            raise _recordable(error) from error

    return run


def describe_safely(error: BaseException) -> Failure:
    """What is kept of an exception, whatever it does when it is looked at."""
    try:
        return describe(error)
    except BaseException as broken:
        return Failure(type(error).__qualname__, f"(it cannot be described: {type(broken).__name__})")


def _recordable(error: BaseException) -> Exception:
    """The error, in a form that the SDK can record: what is no Exception is not tried again."""
    if isinstance(error, (TerminalError, RetryableError)):
        return error
    if not isinstance(error, Exception):
        return TerminalError(f"{type(error).__name__}: {_text(error)}")
    try:
        traceback.format_exception(error)
        repr(error)
    except BaseException:
        return RuntimeError(f"{type(error).__name__}: {_text(error)}")
    return RuntimeError(f"StopIteration: {_text(error)}") if isinstance(error, StopIteration) else error


class _CheckedSerde(Serde[Any]):
    """A step's serde, whose trouble is the step's error."""

    def __init__(self, name: str, serde: Serde[Any]) -> None:
        self._name = name
        self._serde = serde

    def deserialize(self, buf: bytes) -> Any:
        return self._serde.deserialize(buf)

    def serialize(self, obj: Any) -> bytes:
        try:
            written = self._serde.serialize(obj)
        except TerminalError as error:
            if not isinstance(error.__cause__, NotEncodable):
                raise
            raise TerminalError(self._refusal(obj, str(error.__cause__))) from error
        except BaseException as error:
            raise TerminalError(self._refusal(obj, f"{type(error).__name__}: {_text(error)}")) from error
        if isinstance(written, (bytes, bytearray, memoryview)):
            return bytes(written)
        raise TerminalError(
            f"The serde of step {self._name!r} wrote no bytes, but an object of class {type(written).__name__}: its "
            "serialize(...) has to return bytes."
        )

    def _refusal(self, value: Any, why: str) -> str:
        kind = type(value).__name__
        begins = f"Step {self._name!r} returned an object of class {kind}, which cannot be recorded ({why[:300]})."
        if inspect.iscoroutine(value):
            value.close()  # nobody awaits it, which Python would warn of
            return (
                f"{begins} It has to be awaited: pass the coroutine function itself, as in "
                f"ctx.run_typed({self._name!r}, fetch, url=url)."
            )
        hint = _HINTS.get(kind)
        if hint is None and type(value).__module__.partition(".")[0] == "numpy":
            hint = "value.item()"
        plain = f"Return plain data instead, here {hint}" if hint else "Return plain data: numbers, text, lists, dicts"
        return f"{begins} {plain}; or give the step a serde of its own: RunOptions(serde=...)."


def _repaired(failure: SdkFailure) -> SdkFailure:
    """A failure that the core takes."""
    code = failure.code if type(failure.code) is int and 0 < failure.code < 2**16 else 500
    metadata = failure.metadata
    if metadata:
        metadata = {_utf8(name): _utf8(value) for name, value in metadata.items()}
    stack = failure.stacktrace and _utf8(failure.stacktrace)
    return SdkFailure(code, _utf8(failure.message), stack, metadata)


def _utf8(text: object) -> str:
    written = text if isinstance(text, str) else _text(text)
    return written[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException as broken:
        return f"(its text could not be read: {type(broken).__name__})"
