"""Many encoded items or values, kept compactly: in memory while they are small, in an unnamed file when they grow."""

from __future__ import annotations

import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Final, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from restate_nb.values.reference import PREFIX, is_reference, reference_of

IN_MEMORY: Final = 64 * 1024 * 1024
"""Bytes up to which a spool needs no file."""

TAIL_BYTES: Final = 1024 * 1024
"""Bytes that gather before they are written to the file."""

AT_ONCE: Final = 10_000  # byte strings that are taken under one lock

FOUR_GB: Final = 2**32 - 1
"""Up to here four bytes are enough to tell where a byte string ends."""

LONGEST_REFERENCE: Final = 4096
"""What has more bytes is a value by itself."""

_FEW: Final = 16  # below it, numpy takes longer


class Spool(Sequence[bytes]):
    """Byte strings in the order in which they were appended; a million small ones cost little more than their bytes.

    The file has no name, so it is gone with the process. Without room for it, memory has to do.
    """

    def __init__(self, raws: Iterable[bytes] = (), *, in_memory: int = IN_MEMORY) -> None:
        self._limit = in_memory
        self._ends: array[int] = array("I")
        self._farthest = FOUR_GB
        self.tail = bytearray()  # what follows the `_written` bytes that are in the file
        self._written = 0
        self.file: IO[bytes] | None = None
        self._lock = threading.Lock()  # handlers append while cells read
        for raw in raws:
            self.append(raw)

    def append(self, raw: bytes | memoryview) -> int:
        """Add a byte string; return its position."""
        with self._lock:
            self.tail += raw
            end = self._written + len(self.tail)
            if end > self._farthest:
                self._widen()
            self._ends.append(end)
            if len(self.tail) > self._limit:
                self._write()
            return len(self._ends) - 1

    def extend(self, run: bytes | memoryview, ends: Any) -> None:
        """Add byte strings that lie one after the other in `run`; `ends`, of numpy, has where each ends there."""
        with self._lock:
            before = self._written + len(self.tail)
            self.tail += run
            if before + len(run) > self._farthest:
                self._widen()
            self._ends.frombytes((ends + before).astype(self._ends.typecode).tobytes())
            if len(self.tail) > self._limit:
                self._write()

    def _widen(self) -> None:
        self._ends = array("Q", self._ends)
        self._farthest = 2**64 - 1

    def _write(self) -> None:
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="restate-nb-", buffering=0)  # noqa: SIM115 - closed below
                weakref.finalize(self, self.file.close)
            self.file.seek(self._written)
            for start in range(0, len(self.tail), TAIL_BYTES):
                self._write_all(memoryview(self.tail)[start : start + TAIL_BYTES])
        except OSError:
            self._limit = len(self.tail) * 2  # the disk is full: tried again when as much has come once more
            return
        self._written += len(self.tail)
        self.tail = bytearray()
        self._limit = TAIL_BYTES

    def _write_all(self, part: memoryview) -> None:
        assert self.file is not None
        while part:
            part = part[self.file.write(part) :]

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: SupportsIndex) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: SupportsIndex | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return self.take(range(*at.indices(len(self))))
        position = at.__index__()
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return self.take([position % len(self)])[0]

    def take(self, positions: Sequence[int]) -> list[bytes]:
        """The byte strings at these positions."""
        with self._lock:
            if len(positions) > _FEW:
                return self._take_many(_column(positions))
            ends = self._ends
            return [self._bytes(ends[position - 1] if position else 0, ends[position]) for position in positions]

    def _take_many(self, positions: Any) -> list[bytes]:
        starts, ends = self._bounds(positions)
        first, last = int(starts.min()), int(ends.max())
        if last - first > 2 * int((ends - starts).sum()) + TAIL_BYTES:  # they lie far apart
            return list(map(self._bytes, starts.tolist(), ends.tolist()))
        run = self._bytes(first, last)
        return [run[start:end] for start, end in zip((starts - first).tolist(), (ends - first).tolist(), strict=True)]

    def _bounds(self, positions: Any) -> tuple[Any, Any]:
        """Where the byte strings at these positions begin and end, as columns of numpy."""
        ends = np.frombuffer(self._ends, dtype=self._ends.typecode)  # gone when this returns: what is looked at
        found = ends[positions].astype(np.int64)  # so does not grow
        starts = ends[positions - 1].astype(np.int64)
        starts[positions == 0] = 0
        return starts, found

    def _bytes(self, start: int, end: int) -> bytes:
        middle = min(max(start, self._written), end)
        head = self._read(start, middle) if start < middle else b""
        if middle == end:
            return head
        with memoryview(self.tail) as tail, tail[middle - self._written : end - self._written] as part:
            return head + bytes(part) if head else bytes(part)

    def each(self, positions: Iterable[int]) -> Iterator[bytes]:
        """The same one by one: only few, or a MiB, of them are in memory."""
        for part in self.in_parts(np.fromiter(positions, dtype=np.int64)):
            yield from part

    def __iter__(self) -> Iterator[bytes]:
        return self.each(range(len(self)))

    def in_parts(self, positions: Any) -> Iterator[list[bytes]]:
        """The same many at a time.

        Args:
            positions: a column of numpy.
        """
        for begin in range(0, len(positions), AT_ONCE):
            some = positions[begin : begin + AT_ONCE]
            with self._lock:
                starts, ends = self._bounds(some)
            sizes = np.cumsum(ends - starts)
            at, taken = 0, 0
            while at < len(some):
                upto = max(int(np.searchsorted(sizes, taken + TAIL_BYTES, side="right")), at + 1)
                yield self.take(some[at:upto])
                at, taken = upto, int(sizes[upto - 1])

    def _read(self, start: int, end: int) -> bytes:
        assert self.file is not None
        self.file.seek(start)
        parts = []
        while start < end:
            part = self.file.read(end - start)
            if not part:
                raise OSError("The temporary file with the job's data was cut short.")
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def size(self, position: int) -> int:
        """How long one is."""
        return self._ends[position] - (self._ends[position - 1] if position else 0)

    def size_of(self, positions: Sequence[int]) -> int:
        """How long these are together."""
        if isinstance(positions, range) and positions.step == 1 and positions:
            return self._ends[positions[-1]] - (self._ends[positions[0] - 1] if positions[0] else 0)
        return int(self.lengths(positions).sum())

    def lengths(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Any:
        """How long each of these is, as a column of numpy."""
        places = _column(positions)
        with self._lock:
            starts, ends = self._bounds(places) if len(places) else (places, places)
        return ends - starts

    def stored_bytes(self, positions: npt.NDArray[np.int64]) -> int:
        """How many bytes those of these that are references have in the store."""
        return sum(reference_of(raw).size for _, raw in self._references(positions, self.lengths(positions)))

    def sizes_when_read(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many bytes each of these has, here or in the store, as a column of numpy."""
        lengths: npt.NDArray[np.int64] = self.lengths(positions)
        for place, raw in [*self._references(positions, lengths)]:
            lengths[place] = reference_of(raw).size
        return lengths

    def references(self) -> dict[int, bytes]:
        """Those that are references, by position."""
        everywhere = np.arange(len(self))
        return dict(self._references(everywhere, self.lengths(everywhere)))

    def _references(self, positions: npt.NDArray[np.int64], lengths: Any) -> Iterator[tuple[int, bytes]]:
        """Those of these that are references, with their places among them."""
        places = np.flatnonzero((lengths > len(PREFIX)) & (lengths <= LONGEST_REFERENCE))
        at = 0
        for part in self.in_parts(positions[places]):
            for place, raw in zip(places[at : at + len(part)].tolist(), part, strict=True):
                if is_reference(raw):
                    yield place, raw
            at += len(part)

    def sizes(self) -> Iterator[int]:
        """How long each byte string is."""
        start = 0
        for end in self._ends:
            yield end - start
            start = end

    def chunks(self) -> Iterator[bytes]:
        """All bytes in order, in pieces of at most a MiB."""
        end = self._ends[-1] if self._ends else 0
        for start in range(0, end, TAIL_BYTES):
            yield self._span(start, min(start + TAIL_BYTES, end))

    def _span(self, start: int, end: int) -> bytes:
        with self._lock:
            return self._bytes(start, end)


def _column(positions: Sequence[int] | npt.NDArray[np.int64]) -> Any:
    if isinstance(positions, range):
        return np.arange(positions.start, positions.stop, positions.step, dtype=np.int64)
    return np.asarray(positions, dtype=np.int64)
