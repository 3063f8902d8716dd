"""The wire format of attempts: what the journal keeps of every item.

An item's story is a list of `Attempt` records, the last of which is final. Records travel in groups, a JSON array of
records, each record a JSON array in the order of the fields below. `WIRE_VERSION` names the format; readers know every
version that was released.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec

from restate_nb.errors import NotEncodable
from restate_nb.tracebacks import LONGEST, MAX_MESSAGE, formatted, message_of, name_of, own_trace, where

WIRE_VERSION: Final = 1

OK: Final = 0
ERROR: Final = 1
TIMEOUT: Final = 2
CANCELLED: Final = 3

AttemptStatus = Literal["ok", "error", "timeout", "cancelled"]
STATUS_NAMES: Final[tuple[AttemptStatus, ...]] = ("ok", "error", "timeout", "cancelled")

_Seconds = Annotated[float, msgspec.Meta(ge=-9.2e9, le=9.2e9)]  # what pandas can show as a time
_Status = Annotated[int, msgspec.Meta(ge=OK, le=CANCELLED)]
_NO_VALUE = msgspec.Raw(b"null")


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Why an attempt gave no value.

    Attributes:
        type: the exception's class name.
        message: its text, cut at 2,000 characters.
        where: the last line of the user's own code, as `file:line in function`; empty when there is none.
        traceback: the formatted traceback, its last 6,000 characters.
        retry_in: seconds until the next attempt; None when there is none.
    """

    type: str
    message: str
    where: str = ""
    traceback: str = ""
    retry_in: float | None = None


def is_unkept(failure: Failure) -> bool:
    """Whether the function returned, and what it returned cannot be kept: raised here, and not in the user's code."""
    return failure.type == NotEncodable.__name__ and not failure.where


class Attempt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One attempt at one item.

    Attributes:
        position: the item's position in the job's input, from 0.
        number: which attempt, from 1.
        status: an index into `STATUS_NAMES`.
        started: when, in seconds since 1970 (UTC); 0 when the item was cancelled before this attempt began.
        ran: for how many seconds.
        value: what the function returned, as `codec.encode` wrote it.
        failure: None when it went well.
    """

    position: int
    number: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    status: _Status
    started: _Seconds
    ran: _Seconds
    value: msgspec.Raw = _NO_VALUE
    failure: Failure | None = None

    @property
    def final(self) -> bool:
        """Whether this is the item's outcome: no further attempt follows."""
        return self.failure is None or self.failure.retry_in is None


class Recorded(msgspec.Struct, frozen=True):
    """What a pool's call returns of an attempt that was made, and is kept, elsewhere. It never travels.

    Attributes:
        started: when the attempt began, in seconds since 1970.
        ran: for how many seconds.
        value: what came of it, encoded.
        failure: why nothing did, where that is final.
        error: why nothing did, where another attempt may follow.
        status: an index into `STATUS_NAMES`.
    """

    started: float
    ran: float
    value: msgspec.Raw = _NO_VALUE
    failure: Failure | None = None
    error: Exception | None = None
    status: int = OK


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Attempt])


def encode_group(attempts: Iterable[Attempt]) -> bytes:
    """Write records as one group."""
    return _encoder.encode(list(attempts))


def decode_group(raw: bytes | msgspec.Raw) -> list[Attempt]:
    """Read a group.

    Raises:
        ValueError: it is none (msgspec.ValidationError or msgspec.DecodeError, which are ValueErrors).
    """
    return _decoder.decode(raw)


def describe(error: BaseException, retry_in: float | None = None) -> Failure:
    """What is kept of an exception: restate_nb's own frames at the top of the traceback are left out. Never raises."""
    trace, text = own_trace(error), message_of(error, LONGEST)
    return Failure(name_of(error), text[:MAX_MESSAGE], where(trace), formatted(error, trace, text), retry_in)
