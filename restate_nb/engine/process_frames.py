"""What a worker process and its parent say to each other: frames over a socket, and a piece of shared memory.

A frame is its kind, its length, and as many bytes. The parent sends functions and batches of items, the worker sends
outcomes in groups. The shared memory says what no frame says in time: which item runs since when, and what has ended
and is in no frame yet. So it is known of a worker that dies, whatever it was about to write.

The parent trusts nothing of this: the function may write to any descriptor of its process.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from typing import Annotated, Final, NamedTuple

import msgspec

from restate_nb.engine.record import OK, Failure

FUNCTION: Final = 1
BATCH: Final = 2
FORGET: Final = 3
RECALL: Final = 4
OUTCOMES: Final = 5
RETURNED: Final = 6
STALE: Final = 7
GROWN: Final = 8
READY: Final = 9
LOADED: Final = 10
"""Kinds of frames; the first four are the parent's."""

_MARK: Final = b"rnb\xff"  # which nothing that a function writes by mistake begins with
_HEAD: Final = struct.Struct("<4sBQ")
_MOST: Final = 64 * 1024**3  # bytes of a frame of a worker: far more than one value has
_NUMBER: Final = struct.Struct("<Q")
_FUNCTION: Final = struct.Struct("<QQ")  # its id, and the number of its owner

Item = tuple[int, int, int, bytes]
"""Id of the function, position, number of the attempt, payload."""

_Seconds = Annotated[float, msgspec.Meta(ge=-9.2e9, le=9.2e9)]
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Outcome(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one item ended in a worker.

    Attributes:
        position: the item's.
        number: of the attempt.
        stdout: the size of what the worker had printed by then.
        stderr: the same of its errors.
        started: when it began, in seconds since 1970.
        ran: for how many seconds.
        value: what the function returned, encoded.
        status: an index into `record.STATUS_NAMES`.
        failure: None when it went well.
        pushback: see `Report.pushback`.
    """

    position: _Natural
    number: _Natural
    stdout: _Natural
    stderr: _Natural
    started: _Seconds
    ran: _Seconds
    value: bytes = b""
    status: Annotated[int, msgspec.Meta(ge=OK, le=3)] = OK
    failure: Failure | None = None
    pushback: float | None = None


class Outcomes(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A group of outcomes.

    Attributes:
        first: the serial number of the first one; items are counted as they are sent to a worker.
        ended: one after the other.
    """

    first: _Natural
    ended: list[Outcome]


_encoder = msgspec.msgpack.Encoder()
_items = msgspec.msgpack.Decoder(list[Item])
_ids = msgspec.msgpack.Decoder(list[int])
_outcome = msgspec.msgpack.Decoder(Outcome)
_outcomes = msgspec.msgpack.Decoder(Outcomes)


class BadFrame(ValueError):
    """What a worker has written is no frame of its own."""


# ---------------------------------------------------------------- frames


def framed(kind: int, *parts: bytes) -> bytes:
    """A frame as it is written."""
    return b"".join((_HEAD.pack(_MARK, kind, sum(map(len, parts))), *parts))


class Reader:
    """Cuts what was read from a socket into frames."""

    def __init__(self, first: int = OUTCOMES) -> None:
        """`first`: the lowest kind of frame that may come. Those of a worker by default."""
        self._first = first
        self._read = bytearray()

    def feed(self, data: bytes) -> None:
        """This was read."""
        self._read += data

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """The frames that are complete: kind and content.

        Raises:
            BadFrame: it is none.
        """
        at, read = 0, self._read
        try:
            while len(read) - at >= _HEAD.size:
                mark, kind, length = _HEAD.unpack_from(read, at)
                if mark != _MARK or not self._first <= kind <= LOADED or (kind >= OUTCOMES and length > _MOST):
                    raise BadFrame(f"a frame of kind {kind} and {length} bytes")
                end = at + _HEAD.size + length
                if len(read) < end:
                    break
                content = bytes(memoryview(read)[at + _HEAD.size : end])
                at = end
                yield kind, content
        finally:
            del read[:at]


def function_frame(function: int, owner: int, pickled: bytes) -> bytes:
    """A function, before its first item."""
    return framed(FUNCTION, _FUNCTION.pack(function, owner), pickled)


def read_function(content: bytes) -> tuple[int, int, bytes]:
    """Id, owner, and the function pickled."""
    return *_FUNCTION.unpack_from(content), content[_FUNCTION.size :]


def batch_frame(items: list[Item]) -> bytes:
    """Items to be run one after the other."""
    return framed(BATCH, _encoder.encode(items))


def read_batch(content: bytes) -> list[Item]:
    """The items of a batch."""
    return _items.decode(content)


def forget_frame(functions: list[int]) -> bytes:
    """Functions that are needed no longer."""
    return framed(FORGET, _encoder.encode(functions))


def read_forget(content: bytes) -> list[int]:
    """Which they are."""
    return _ids.decode(content)


def number_frame(kind: int, number: int) -> bytes:
    """A frame that is one number: how many items to keep (RECALL), or were given back (RETURNED); by how many bytes the
    worker has grown (GROWN); which function it has loaded (LOADED)."""
    return framed(kind, _NUMBER.pack(number))


def read_number(content: bytes) -> int:
    """The number.

    Raises:
        BadFrame: it is none.
    """
    if len(content) != _NUMBER.size:
        raise BadFrame(f"{len(content)} bytes for a number")
    return int(_NUMBER.unpack(content)[0])


def encode_outcome(outcome: Outcome) -> bytes:
    """One outcome, to be joined by `outcomes_frame`."""
    return _encoder.encode(outcome)


def outcomes_frame(first: int, encoded: list[bytes]) -> bytes:
    """A group of encoded outcomes."""
    head = b"\x92" + _encoder.encode(first) + b"\xdd" + len(encoded).to_bytes(4, "big")
    return framed(OUTCOMES, head, *encoded)


def read_outcomes(content: bytes) -> Outcomes:
    """The outcomes of a group.

    Raises:
        BadFrame: they are none.
    """
    try:
        return _outcomes.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadFrame(str(error)) from error


# ---------------------------------------------------------------- shared memory

_SIZE: Final = 256 * 1024
_BOX: Final = 128  # where the box begins
_BEGUN: Final = struct.Struct("=ddQQ")
_LENGTH: Final = struct.Struct("<I")

# Words of eight bytes:
_HOLD, _RUNNING, _LOADING, _EPOCH, _WRITTEN, _FIRST, _COUNT = range(7)
_SLOTS: Final = 8, 12  # of the item that runs: began (wall clock, monotonic), stdout, stderr; two, used in turn


class Begun(NamedTuple):
    """The item that a worker is in.

    Attributes:
        serial: its number among those that were sent to this worker.
        started: when it began, in seconds since 1970.
        clock: the same moment on `time.monotonic`.
        stdout: the size of what the worker had printed before.
        stderr: the same of its errors.
    """

    serial: int
    started: float
    clock: float
    stdout: int
    stderr: int


def anonymous_file(name: str) -> int:
    """A descriptor of a file without a name, which is gone with the last process that has it open. In memory where the
    system can do that."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile(prefix=name, buffering=0) as file:
        return os.dup(file.fileno())


class SharedMemory:
    """What both sides look at. Each word is written by one of them, but for `hold`, where they take turns."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: of the parent's memory, in the worker; it is closed, and the memory stays."""
        self.descriptor = anonymous_file("rnb-worker") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, _SIZE)
        self._map = mmap.mmap(self.descriptor, _SIZE)
        self._bytes = memoryview(self._map)
        self._words = self._bytes[:_BOX].cast("Q")

    def close_descriptor(self) -> None:
        """The memory stays, and cannot be passed on any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        """Give the memory back."""
        self.close_descriptor()
        for view in (self._words, self._bytes):
            view.release()
        self._map.close()

    # ------------------------------------------------------------ which item runs

    @property
    def hold(self) -> bool:
        """Whether the worker is to begin nothing. The parent sets it when it recalls items, the worker takes it back
        when it has returned them."""
        return self._words[_HOLD] != 0

    @hold.setter
    def hold(self, value: bool) -> None:
        self._words[_HOLD] = value

    @property
    def loading(self) -> int | None:
        """The id of the function that is being loaded; None when none is."""
        return self._words[_LOADING] - 1 if self._words[_LOADING] else None

    @loading.setter
    def loading(self, function: int | None) -> None:
        self._words[_LOADING] = 0 if function is None else function + 1

    def begin(self, serial: int, stdout: int, stderr: int) -> None:
        """The item with that serial number begins now."""
        words = self._words
        _BEGUN.pack_into(self._map, _SLOTS[serial & 1] * 8, time.time(), time.monotonic(), stdout, stderr)
        words[_COUNT] = words[_RUNNING] = serial + 1

    def end(self) -> None:
        """No item runs."""
        self._words[_RUNNING] = 0

    def begun(self) -> Begun | None:
        """The item that runs now, read while it may change; None when none does."""
        while running := self._words[_RUNNING]:
            slot = _SLOTS[(running - 1) & 1]
            found = Begun(running - 1, *_BEGUN.unpack_from(self._map, slot * 8))
            if self._words[_RUNNING] == running:
                return found
        return None

    @property
    def count(self) -> int:
        """How many items have begun in all; the serial number of the last one is less by one."""
        return self._words[_COUNT]

    # ------------------------------------------------------------ what has ended and is in no frame yet

    def keep(self, serial: int, encoded: bytes) -> bool:
        """Keep an outcome until its frame is written; says whether there is room for it."""
        words = self._words
        written = words[_WRITTEN]
        at = _BOX + written
        end = at + _LENGTH.size + len(encoded)
        if end > _SIZE:
            return False
        _LENGTH.pack_into(self._map, at, len(encoded))
        self._bytes[at + _LENGTH.size : end] = encoded
        if not written:
            words[_FIRST] = serial
        words[_WRITTEN] = end - _BOX
        return True

    def drop_kept(self) -> None:
        """The frame is written."""
        if self._words[_WRITTEN]:
            self._words[_EPOCH] += 1
            self._words[_WRITTEN] = 0
            self._words[_EPOCH] += 1

    def kept(self) -> Outcomes | None:
        """What is kept now, read while it may change; None when nothing is, or it has just changed.

        Raises:
            BadFrame: it cannot be read.
        """
        words = self._words
        epoch, written = words[_EPOCH], words[_WRITTEN]
        if not written or epoch & 1:
            return None
        first, data = words[_FIRST], bytes(self._bytes[_BOX : min(_BOX + written, _SIZE)])
        if words[_EPOCH] != epoch:
            return None
        ended, at = [], 0
        try:
            while at < len(data):
                (length,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size + length
                ended.append(_outcome.decode(data[at - length : at]))
        except (msgspec.DecodeError, struct.error, RecursionError, UnicodeDecodeError) as error:
            raise BadFrame(str(error)) from error
        return Outcomes(first, ended)
