"""The table of a keyed job: of each position what tells its key and its item from others, and the items themselves.

It lies in the job's folder in the store, in parts. Each run of the cell appends the rows of its new items; parts of
like sizes become one, so that a job that grew a thousand times has few. A part is columns, and references to blocks of
items, which are read when they are asked for.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from restate_nb.engine.keeping import loader, store_plain
from restate_nb.store.base import Store
from restate_nb.values.parts import join, split
from restate_nb.values.reference import reference_of

DIGEST_BYTES: Final = 16
BLOCK_BYTES: Final = 4 * 1024 * 1024
_VERSION: Final = 1
_BLOCKS_KEPT: Final = 6
_HASHED: Final = 0x80
"""The bit of a digest's first byte that says that it is one: what is as short as a digest stands for itself, and JSON
begins with no such byte."""

Digests = npt.NDArray[Any]
"""A column of digests: `S16` of numpy has no zeros at the end, so that they are kept as pairs of numbers."""

_PAIR: Final[np.dtype[Any]] = np.dtype("<u8")
_LENGTH: Final[np.dtype[Any]] = np.dtype("<u4")
_POSITION: Final[np.dtype[Any]] = np.dtype("<i8")


class EncodedItems(Protocol):
    """The encoded items of a job, by position: a `Spool`, or what is read when it is asked for."""

    def __getitem__(self, position: int, /) -> bytes: ...

    def __len__(self) -> int: ...

    def take(self, positions: Sequence[int]) -> list[bytes]:
        """The items at these positions."""
        ...

    def size_of(self, positions: Sequence[int]) -> int:
        """How many bytes these have together."""
        ...

    def lengths(self, positions: Sequence[int]) -> Any:
        """How many bytes each of these has, as a column of numpy."""
        ...


def digests_of(raws: Sequence[bytes]) -> Digests:
    """What tells encoded keys or items from others: two numbers of 64 bits each."""
    lengths = np.fromiter(map(len, raws), dtype=np.int64, count=len(raws))
    if not len(raws) or lengths.max() <= DIGEST_BYTES:
        return np.array(raws, dtype=f"S{DIGEST_BYTES}").view(_PAIR).reshape(-1, 2)
    blake = hashlib.blake2b
    digests = [
        blake(raw, digest_size=DIGEST_BYTES).digest() if len(raw) > DIGEST_BYTES else raw.ljust(DIGEST_BYTES, b"\0")
        for raw in raws
    ]
    rows = np.frombuffer(bytearray().join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    rows[lengths > DIGEST_BYTES, 0] |= _HASHED
    return rows.view(_PAIR)


def listed(*columns: Digests) -> list[bytes]:
    """Each row of columns of digests as bytes, which can be looked up."""
    rows = np.ascontiguousarray(np.hstack(columns)).tobytes()
    width = DIGEST_BYTES * len(columns)
    return [rows[at : at + width] for at in range(0, len(rows), width)]


class _Head(msgspec.Struct):
    version: int
    first: int
    blocks: list[tuple[int, str]]  # how many items, and the reference of the block


class Part(NamedTuple):
    """A part of a table.

    Attributes:
        reference: of its columns.
        first: its first position.
        blocks: of its items: how many, and the reference of each.
    """

    reference: str
    first: int
    blocks: list[tuple[int, str]]


class KeyTable:
    """The table of one job as it is now. It does not change; `extended` gives a longer one.

    Attributes:
        keys: the digests of keys, by position.
        items: those of items.
        parts: where it lies.
    """

    def __init__(
        self, store: Store, keys: Digests, items: Digests, lengths: npt.NDArray[Any], parts: Sequence[Part]
    ) -> None:
        self.keys = keys
        self.items = items
        self.lengths = lengths
        self.parts = parts
        self.store = store
        self.begins = [0]
        self.blocks: list[str] = []
        for part in parts:
            for count, reference in part.blocks:
                self.begins.append(self.begins[-1] + count)
                self.blocks.append(reference)

    @classmethod
    def empty(cls, store: Store) -> KeyTable:
        """That of a job that is about to begin."""
        nothing = np.zeros((0, 2), dtype=_PAIR)
        return cls(store, nothing, nothing, np.zeros(0, dtype=_LENGTH), [])

    @classmethod
    def read(cls, store: Store, references: Sequence[str]) -> KeyTable:
        """The table whose parts lie there, in their order; blocks.

        Raises:
            NotStored: some of it is lost.
            StoreUnavailable: the store does not answer.
            ValueError: it is none, or was written by a newer version.
        """
        load, parts = loader(store), []
        columns: tuple[list[Any], ...] = ([], [], [])
        count = 0
        for reference in references:
            document, runs = split(load(reference_of(reference.encode())))
            head = msgspec.json.decode(bytes(document), type=_Head)
            if head.version != _VERSION or head.first != count or len(runs) != len(columns):
                raise ValueError(f"it is of the format {head.version}, and begins at {head.first} rather than {count}")
            for column, run, kind in zip(columns, runs, (_PAIR, _PAIR, _LENGTH), strict=True):
                column.append(np.frombuffer(run, dtype=kind))
            rows = len(columns[2][-1])
            if {2 * rows} != {len(columns[0][-1]), len(columns[1][-1])} or rows != sum(n for n, _ in head.blocks):
                raise ValueError("its columns are not of one length")
            count += rows
            parts.append(Part(reference, head.first, head.blocks))
        keys, items, lengths = (np.concatenate(column) if column else np.zeros(0) for column in columns)
        return cls(store, keys.reshape(-1, 2), items.reshape(-1, 2), lengths, parts)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def references(self) -> list[str]:
        """Of its parts."""
        return [part.reference for part in self.parts]

    def extended(self, folder: str, keys: Digests, items: Digests, raws: Iterator[list[bytes]]) -> KeyTable:
        """The table with further rows, which are written to the store with their items; blocks.

        Args:
            folder: of the job in the store.
            keys: the digests of their keys.
            items: and of the items.
            raws: the encoded items, many at a time.

        Raises:
            StoreUnavailable: the store takes nothing now.
        """
        blocks, lengths = self._write_items(folder, raws)
        first = len(self)
        columns = [
            np.concatenate([self.keys, keys]),
            np.concatenate([self.items, items]),
            np.concatenate([self.lengths, np.array(lengths, dtype=_LENGTH)]),
        ]
        parts = list(self.parts)
        while parts and first - parts[-1].first <= 2 * (len(columns[2]) - first):
            older = parts.pop()
            first, blocks = older.first, [*older.blocks, *blocks]
        document = msgspec.json.encode(_Head(_VERSION, first, blocks))
        written = join(document, [np.ascontiguousarray(column[first:]).view(np.uint8).data for column in columns])
        (reference,) = store_plain(self.store, folder, [written], "keys")
        return KeyTable(self.store, columns[0], columns[1], columns[2], [*parts, Part(reference, first, blocks)])

    def _write_items(self, folder: str, raws: Iterator[list[bytes]]) -> tuple[list[tuple[int, str]], list[int]]:
        blocks: list[tuple[int, str]] = []
        lengths: list[int] = []
        waiting: list[bytes] = []
        size = 0
        for part in raws:
            lengths += map(len, part)
            waiting += part
            size += sum(map(len, part))
            if size >= BLOCK_BYTES:
                blocks.append(self._write_block(folder, waiting))
                waiting, size = [], 0
        if waiting:
            blocks.append(self._write_block(folder, waiting))
        return blocks, lengths

    def _write_block(self, folder: str, raws: list[bytes]) -> tuple[int, str]:
        (reference,) = store_plain(self.store, folder, [b"".join(raws)], "items")
        return len(raws), reference


def write_selection(store: Store, folder: str, positions: npt.NDArray[Any]) -> str:
    """Write the positions of an input's rows; returns the reference, which is empty for 0, 1, 2, ...; blocks.

    Raises:
        StoreUnavailable: the store takes nothing now.
    """
    if np.array_equal(positions, np.arange(len(positions))):
        return ""
    steps = np.diff(positions, prepend=0).astype(_POSITION)  # nearly all of them 1
    (reference,) = store_plain(store, folder, [bytes((_VERSION,)) + zlib.compress(steps.tobytes(), 1)], "rows")
    return reference


def read_selection(store: Store, reference: str, rows: int, total: int) -> npt.NDArray[np.int64]:
    """The positions of an input's rows; blocks.

    Args:
        store: where they lie.
        reference: as `write_selection` gives it.
        rows: how many rows there are.
        total: how many positions the job has.

    Raises:
        NotStored: they are lost.
        StoreUnavailable: the store does not answer.
        ValueError: they are none, or were written by a newer version.
    """
    if not reference:
        return np.arange(rows, dtype=np.int64)
    raw = loader(store)(reference_of(reference.encode()))
    if raw[0] != _VERSION:
        raise ValueError(f"it is of the format {raw[0]}")
    size = rows * _POSITION.itemsize
    reading = zlib.decompressobj()
    try:
        steps = reading.decompress(raw[1:], size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    positions = np.cumsum(np.frombuffer(steps[:size], dtype=_POSITION), dtype=np.int64) if len(steps) == size else None
    if positions is None or (rows and not 0 <= positions.min() <= positions.max() < total):
        raise ValueError(f"it does not have {rows} positions among {total}")
    return positions


class KeptItems:
    """The encoded items of a keyed job, by position. Those that are asked for are read from the store, block by block.

    Attributes:
        table: of the job; it may become a longer one at any time.
    """

    def __init__(self, table: KeyTable) -> None:
        self.table = table
        self._load = loader(table.store)
        self._blocks: OrderedDict[int, tuple[bytes, npt.NDArray[np.int64]]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, position: int) -> bytes:
        return self.take([position])[0]

    def lengths(self, positions: Sequence[int]) -> npt.NDArray[np.int64]:
        """How many bytes each of these has."""
        if isinstance(positions, range) and positions.step == 1:
            return self.table.lengths[positions.start : positions.stop].astype(np.int64)
        return self.table.lengths[np.asarray(positions, dtype=np.int64)].astype(np.int64)

    def size_of(self, positions: Sequence[int]) -> int:
        """How many bytes these have together."""
        return int(self.lengths(positions).sum())

    def take(self, positions: Sequence[int]) -> list[bytes]:
        """The items at these positions; blocks.

        Raises:
            NotStored: some are lost.
            StoreUnavailable: the store does not answer.
        """
        table = self.table
        blocks = np.searchsorted(table.begins, np.asarray(positions, dtype=np.int64), side="right") - 1
        found: list[bytes] = []
        with self._lock:
            for number, position in zip(blocks.tolist(), positions, strict=True):
                content, ends = self._block(table, number)
                at = position - table.begins[number]
                found.append(content[ends[at] : ends[at + 1]])
        return found

    def in_parts(self, positions: npt.NDArray[np.int64]) -> Iterator[list[bytes]]:
        """The same, many at a time."""
        for begin in range(0, len(positions), _AT_ONCE):
            yield self.take(positions[begin : begin + _AT_ONCE].tolist())

    def _block(self, table: KeyTable, number: int) -> tuple[bytes, npt.NDArray[np.int64]]:
        known = self._blocks.get(number)
        if known is None:
            content = self._load(reference_of(table.blocks[number].encode()))
            begin, end = table.begins[number : number + 2]
            ends = np.concatenate([[0], np.cumsum(table.lengths[begin:end], dtype=np.int64)])
            if ends[-1] != len(content):
                raise ValueError(f"a block of items has {len(content)} bytes, and {ends[-1]} were written")
            known = self._blocks[number] = content, ends
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(number)
        return known


_AT_ONCE: Final = 10_000
