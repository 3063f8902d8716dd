"""Many encoded items or values, kept compactly: in memory while they are small, in an unnamed file when they grow."""

from __future__ import annotations

import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Final, SupportsIndex, overload

IN_MEMORY: Final = 64 * 1024 * 1024
"""Bytes up to which a spool needs no file."""

TAIL_BYTES: Final = 1024 * 1024
"""Bytes that gather before they are written to the file."""

AT_ONCE: Final = 1_000  # byte strings that are taken under one lock


class Spool(Sequence[bytes]):
    """Byte strings in the order in which they were appended; a million small ones cost little more than their bytes.

    The file has no name, so it is gone with the process. Without room for it, memory has to do.
    """

    def __init__(self, raws: Iterable[bytes] = (), *, in_memory: int = IN_MEMORY) -> None:
        self._limit = in_memory
        self._ends = array("Q")
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
            self._ends.append(self._written + len(self.tail))
            if len(self.tail) > self._limit:
                self._write()
            return len(self._ends) - 1

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

    def take(self, positions: Iterable[int]) -> list[bytes]:
        """The byte strings at these positions."""
        found = []
        with self._lock:
            ends, tail, written = self._ends, self.tail, self._written
            for position in positions:
                start, end = ends[position - 1] if position else 0, ends[position]
                found.append(
                    bytes(tail[start - written : end - written]) if start >= written else self._read(start, end)
                )
        return found

    def each(self, positions: Iterable[int]) -> Iterator[bytes]:
        """The same one by one: only few, or a MiB, of them are in memory."""
        some: list[int] = []
        room = TAIL_BYTES
        for position in positions:
            some.append(position)
            room -= self.size(position)
            if room <= 0 or len(some) == AT_ONCE:
                yield from self.take(some)
                some.clear()
                room = TAIL_BYTES
        yield from self.take(some)

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
            middle = min(max(start, self._written), end)
            head = self._read(start, middle) if start < middle else b""
            return head + self.tail[middle - self._written : end - self._written]
