"""The folder of a job that is about to begin, and its items on their way there.

Items that are too large for a journal are written while the cell still reads the others, some MB at a time; what is
kept of them are references. The folder is the job's own once Restate has a manifest that names it. If there turns out
to be such a job already, its folder has the same items, and this one is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from restate_nb.engine.keeping import loader, store_runs
from restate_nb.errors import InvalidInput
from restate_nb.results.spool import Spool
from restate_nb.store.base import NotStored, Store, StoreUnavailable
from restate_nb.values.bulk import Run
from restate_nb.values.parts import LARGE_BYTES, is_joined, join, split
from restate_nb.values.reference import is_reference, reference_of

AT_ONCE_BYTES: Final = 16 * 1024 * 1024
_AT_ONCE: Final = 10_000
"""Bytes of items that are written at once, and how many items may wait for that."""

_SHORTEST: Final = 64  # bytes: an item with parts has more
_LATEST: Final = 32  # items, by whose sizes it is decided how many are encoded at once


class ItemFolder:
    """A folder in the store, for a job that is about to begin.

    Attributes:
        name: of the folder.
        store: in which it is.
        count: how many items lie there.
        placed: the reference of the list of their references; empty before `finish`, and where there are none.
    """

    def __init__(self, store: Store) -> None:
        self.name = store.new_folder()
        self.store = store
        self.count = 0
        self.placed = ""
        self._references: list[bytes] = []

    def write(self, raws: list[bytes]) -> list[bytes]:
        """Write items with parts; return what stands for each.

        Raises:
            InvalidInput: they cannot be written now.
        """
        try:
            written = store_runs(self.store, self.name, raws)
        except StoreUnavailable as error:
            raise InvalidInput(
                f"The items cannot be put where they are kept: {error} Nothing was started. Make room there, and run "
                "the cell again."
            ) from error
        self._references += written
        self.count += len(written)
        return written

    def finish(self) -> None:
        """All items are written: write where each of them lies, for who reads the same items again.

        Raises:
            InvalidInput: it cannot be written now.
        """
        if self._references:
            listed = join(b"\n".join(self._references), ())
            (reference,) = self.write([listed])
            self.count -= 1
            self.placed, self._references = reference.decode(), []

    def drop(self) -> None:
        """Another folder has the items, or nobody needs them. What cannot be dropped now is swept away later."""
        if self.count:
            with suppress(StoreUnavailable):
                self.store.drop(self.name)

    def same_in(self, folder: str, placed: str, items: Spool) -> Spool:
        """These items with the references of another folder, which has the same ones; blocks.

        Args:
            folder: the other one.
            placed: where in it the list of them is, as a reference.
            items: of which some lie in this folder.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        there = self._listed(placed, items)
        if there is None:  # a copy of a data directory, say, of which something is lost: they are written anew
            load = loader(self.store)
            there = []
            for some in _in_parts([raw for raw in items if is_reference(raw)]):
                there += store_runs(self.store, folder, [load(reference_of(raw)) for raw in some])
        others = iter(there)
        return Spool(next(others) if is_reference(raw) else raw for raw in items)

    def _listed(self, placed: str, items: Spool) -> list[bytes] | None:
        """The references in a list of them; None where it is lost, or is not of these items."""
        try:
            document, _ = split(loader(self.store)(reference_of(placed.encode())))
            listed = document.tobytes().split(b"\n")
            mine = (reference_of(raw).sum for raw in items if is_reference(raw))
            return listed if [reference_of(raw).sum for raw in listed] == [*mine] else None
        except (NotStored, ValueError):
            return None


def _in_parts(references: Sequence[bytes]) -> Iterator[list[bytes]]:
    """References in parts of so many bytes of items as are written at once."""
    part: list[bytes] = []
    size = 0
    for raw in references:
        part.append(raw)
        size += reference_of(raw).size
        if size > AT_ONCE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


class ItemWriter:
    """Takes encoded items in their order, and puts those that are too large for a journal into the job's folder.

    Attributes:
        spool: the items that were taken; complete once `finish` was called.
    """

    def __init__(self, folder: ItemFolder | None) -> None:
        """`folder`: None where all items go into the journal."""
        self.spool = Spool()
        self._folder = folder
        self._waiting: list[bytes] = []  # since the first one that is to be written
        self._waiting_bytes = 0
        self._sizes: deque[int] = deque(maxlen=_LATEST)

    def __len__(self) -> int:
        return len(self.spool) + len(self._waiting)

    @property
    def latest_bytes(self) -> int:
        """How many bytes the last few items have."""
        return sum(self._sizes)

    def append(self, raw: bytes) -> None:
        """Take one.

        Raises:
            InvalidInput: it cannot be written now.
        """
        self._sizes.append(len(raw))
        large = len(raw) >= _SHORTEST and is_joined(raw)
        if not large and not self._waiting:
            self.spool.append(raw)
            return
        self._waiting.append(raw)
        self._waiting_bytes += len(raw)
        if self._waiting_bytes >= AT_ONCE_BYTES or len(self._waiting) >= _AT_ONCE:
            self._write()

    def extend(self, run: Run) -> None:
        """Take many that were encoded at once.

        Raises:
            InvalidInput: one cannot be written now.
        """
        if self._waiting or (self._folder is not None and run.largest() >= LARGE_BYTES):
            for raw in run.raws():
                self.append(join(raw, ()) if self._folder is not None and len(raw) >= LARGE_BYTES else raw)
            return
        joined, ends = run.joined()
        self.spool.extend(joined, ends)
        self._sizes.extend(np.diff(ends[-_LATEST - 1 :], prepend=0)[-_LATEST:].tolist())

    def finish(self) -> None:
        """There are no more.

        Raises:
            InvalidInput: the last ones cannot be written now.
        """
        self._write()
        if self._folder is not None:
            self._folder.finish()

    def _write(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        joined = [raw for raw in waiting if is_joined(raw)]
        written: Iterator[bytes] = iter(())
        if joined:
            assert self._folder is not None
            written = iter(self._folder.write(joined))
        for raw in waiting:
            self.spool.append(next(written) if is_joined(raw) else raw)
