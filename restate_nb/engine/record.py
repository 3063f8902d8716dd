"""The wire format of attempts: what the journal keeps of every item.

An item's story is a list of `Attempt` records, the last of which is final. Records travel in groups, which are columns:
see `Group`. `WIRE_VERSION` names the format; readers know every version that was released. In version 1 a group was a
JSON array of records, each a JSON array in the order of the fields of `Attempt`; since version 2 it is MessagePack, in
the order of the fields of `_Packed`, so the first byte tells them apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Final, Literal, overload

import msgspec

from restate_nb.engine import packed
from restate_nb.errors import NotEncodable
from restate_nb.tracebacks import LONGEST, MAX_MESSAGE, formatted, message_of, name_of, own_trace, where

WIRE_VERSION: Final = 2

OK: Final = 0
ERROR: Final = 1
TIMEOUT: Final = 2
CANCELLED: Final = 3

AttemptStatus = Literal["ok", "error", "timeout", "cancelled"]
STATUS_NAMES: Final[tuple[AttemptStatus, ...]] = ("ok", "error", "timeout", "cancelled")

_Seconds = Annotated[float, msgspec.Meta(ge=packed.SMALLEST_SECONDS, le=packed.LARGEST_SECONDS)]
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


@dataclass(frozen=True, slots=True)
class Group(Sequence[Attempt]):
    """Attempts in the order in which they ended, as columns. As a sequence it makes each record when it is asked for.

    Attributes:
        positions: of their items in the job's input.
        started: when each began, in seconds since 1970.
        ran: for how many seconds.
        ends: where the value of each ends in `values`; that of an attempt without one is empty.
        values: the values, one after the other.
        numbers: which attempt at its item each is; empty when all are first ones.
        statuses: indices into `STATUS_NAMES`, a byte each; empty when all went well.
        failures: why there is no value, by place in the columns.
    """

    positions: array[int]
    started: array[float]
    ran: array[float]
    ends: array[int]
    values: bytes
    numbers: array[int] = field(default_factory=lambda: packed.counts((), 0))
    statuses: bytes = b""
    failures: dict[int, Failure] = field(default_factory=dict)

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Group:
        """These attempts as columns.

        Raises:
            ValueError: a position is below 0, or past 63 bits.
        """
        positions = [each.position for each in attempts]
        numbers = [each.number for each in attempts]
        if positions and not 0 <= min(positions) <= max(positions) < 2**63:
            raise ValueError("an attempt is at a position that no item can have")
        values = [b"" if each.failure is not None else bytes(each.value) for each in attempts]
        ends = list(accumulate(map(len, values)))
        return cls(
            positions=packed.counts(positions, max(positions, default=0)),
            started=array("d", [each.started for each in attempts]),
            ran=array("d", [each.ran for each in attempts]),
            ends=packed.counts(ends, ends[-1] if ends else 0),
            values=b"".join(values),
            numbers=numbers_column(numbers),
            statuses=statuses_column([each.status for each in attempts]),
            failures={at: each.failure for at, each in enumerate(attempts) if each.failure is not None},
        )

    @property
    def is_plain(self) -> bool:
        """Whether each is its item's first attempt, and went well: nearly all of most jobs."""
        return not (self.failures or self.statuses or self.numbers)

    @property
    def final_count(self) -> int:
        """How many are the outcome of their item: no further attempt follows."""
        return len(self) - sum(1 for each in self.failures.values() if each.retry_in is not None)

    def finals(self) -> Collection[int]:
        """The positions of items of which this has the outcome."""
        again = {at for at, failure in self.failures.items() if failure.retry_in is not None}
        if not again:
            return self.positions
        return [position for at, position in enumerate(self.positions) if at not in again]

    def to_be_tried_again(self) -> dict[int, Attempt]:
        """The last attempt at each item that is followed by another, by position."""
        again = [at for at in sorted(self.failures) if self.failures[at].retry_in is not None]
        return {self.positions[at]: self.attempt(at) for at in again}

    def unusual(self) -> list[int]:
        """The places of attempts that are not plain: see `is_plain`."""
        found = set(self.failures)
        if self.statuses.strip(b"\0"):
            found.update(at for at, status in enumerate(self.statuses) if status != OK)
        if self.numbers:
            found.update(at for at, number in enumerate(self.numbers) if number != 1)
        return sorted(found)

    def raws(self) -> list[bytes]:
        """The values, each by itself."""
        return packed.each(self.values, self.ends)

    def attempt(self, at: int) -> Attempt:
        """The record at a place from 0."""
        failure = self.failures.get(at)
        value = self.values[self.ends[at - 1] if at else 0 : self.ends[at]]
        return Attempt(
            self.positions[at],
            self.numbers[at] if self.numbers else 1,
            self.statuses[at] if self.statuses else OK,
            self.started[at],
            self.ran[at],
            msgspec.Raw(value) if failure is None else _NO_VALUE,
            failure,
        )

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Attempt]:
        return map(self.attempt, range(len(self)))

    @overload
    def __getitem__(self, at: int) -> Attempt: ...
    @overload
    def __getitem__(self, at: slice) -> list[Attempt]: ...
    def __getitem__(self, at: int | slice) -> Attempt | list[Attempt]:
        places = range(len(self))[at]
        return self.attempt(places) if isinstance(places, int) else list(map(self.attempt, places))


def numbers_column(numbers: Sequence[int]) -> array[int]:
    """The numbers of attempts; empty when all are first ones."""
    if numbers.count(1) == len(numbers):
        return packed.counts((), 0)
    return packed.counts(numbers, max(numbers))


def statuses_column(statuses: Sequence[int]) -> bytes:
    """The statuses of attempts; empty when all went well."""
    return bytes(statuses) if any(statuses) else b""


class _Packed(msgspec.Struct, array_like=True):
    version: int
    positions: bytes
    started: bytes
    ran: bytes
    ends: bytes
    values: bytes
    numbers: bytes
    statuses: bytes
    failures: dict[int, Failure]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Packed)
_records_encoder = msgspec.json.Encoder()
_records_decoder = msgspec.json.Decoder(list[Attempt])
_ARRAYS: Final = range(0x90, 0xA0)  # first bytes of MessagePack: arrays of up to 15
_MOST_ATTEMPTS: Final = 2**31 - 1


def encode_group(group: Group) -> bytes:
    """Write a group."""
    pack = packed.pack
    return _encoder.encode(
        _Packed(
            WIRE_VERSION,
            pack(group.positions),
            pack(group.started),
            pack(group.ran),
            pack(group.ends),
            group.values,
            pack(group.numbers),
            group.statuses,
            group.failures,
        )
    )


def encode_records(attempts: Iterable[Attempt]) -> bytes:
    """Write records as version 1 did, for those who ask in that version."""
    return _records_encoder.encode(list(attempts))


def decode_group(raw: bytes | msgspec.Raw) -> Group:
    """Read a group, of any version.

    Raises:
        ValueError: it is none.
    """
    raw = bytes(raw)
    if raw[:1] and raw[0] in _ARRAYS:
        return _unpacked(_decoder.decode(raw))
    return Group.of(_records_decoder.decode(raw))


def _unpacked(read: _Packed) -> Group:
    if read.version != WIRE_VERSION:
        raise ValueError(f"it was written by a newer restate_nb (format {read.version})")
    started, ran = packed.unpack_seconds(read.started), packed.unpack_seconds(read.ran)
    count = len(started)
    if len(ran) != count or (read.statuses and len(read.statuses) != count):
        raise ValueError("columns of different lengths")
    if max(read.statuses, default=OK) > CANCELLED:
        raise ValueError("there is no such status")
    if read.failures and not 0 <= min(read.failures) <= max(read.failures) < count:
        raise ValueError("a failure of no attempt")
    numbers = packed.unpack_counts(read.numbers, count if read.numbers else 0)
    if max(numbers, default=1) > _MOST_ATTEMPTS:
        raise ValueError("there cannot be so many attempts")
    return Group(
        positions=packed.unpack_counts(read.positions, count),
        started=started,
        ran=ran,
        ends=packed.unpack_ends(read.ends, count, len(read.values)),
        values=read.values,
        numbers=numbers,
        statuses=read.statuses,
        failures=read.failures,
    )


def describe(error: BaseException, retry_in: float | None = None) -> Failure:
    """What is kept of an exception: restate_nb's own frames at the top of the traceback are left out. Never raises."""
    trace, text = own_trace(error), message_of(error, LONGEST)
    return Failure(name_of(error), text[:MAX_MESSAGE], where(trace), formatted(error, trace, text), retry_in)
