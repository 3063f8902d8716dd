"""A keyed job is opened: the rows of the cell are compared with what the job has, and what is new is added to it.

The store has it first, then the record, in one change that says from which state of the job it starts: whoever else has
changed it meanwhile is taken into account, and nothing is in the record that is not in the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from restate_nb.backends.connection import Connection
from restate_nb.engine.keeping import loader, store_runs
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.handle.items import Items
from restate_nb.handle.keys import KeyedRows
from restate_nb.results.key_table import KeptItems, KeyTable, listed, read_selection, write_selection
from restate_nb.results.spool import Spool
from restate_nb.service.keyed import Grown, KeyedRun
from restate_nb.service.wire import Change, Manifest, Round
from restate_nb.store.base import NotStored, Store, StoreUnavailable
from restate_nb.values.reference import is_reference, reference_of

Positions = npt.NDArray[np.int64]

KEPT, NEW, CHANGED = range(3)
STATES: Final = ("kept", "new", "changed")
"""What a row is to its job: known, with a key that is new, or another item under its key."""

_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows of a cell beside what their job has.

    Attributes:
        positions: of each row; of new ones, those that they are to have.
        states: what each row is: `KEPT`, `NEW` or `CHANGED`.
        added: the rows that get new positions, in the order of these.
        dropped: how many keys of the run before are gone.
        counts: how many keys are kept, new and changed.
    """

    positions: Positions
    states: npt.NDArray[np.uint8]
    added: Positions
    dropped: int
    counts: tuple[int, int, int]

    def words(self) -> str:
        """The counts in words."""
        named = zip((*self.counts, self.dropped), (*STATES, "dropped"), strict=True)
        return ", ".join(f"{count:,} {what}" for count, what in named if count)


def first_comparison(rows: KeyedRows) -> Comparison:
    """Of a job that is about to begin: each key is new, and positions are in the order of rows."""
    singles = rows.singles
    positions = np.zeros(len(rows), dtype=np.int64)
    positions[singles] = np.arange(len(singles))
    states = np.full(len(rows), NEW, dtype=np.uint8)
    return Comparison(positions[rows.first], states, singles, 0, (0, len(singles), 0))


def compare(rows: KeyedRows, table: KeyTable, before: Positions) -> Comparison:
    """Compare rows with the table of their job.

    Args:
        rows: of the cell.
        table: of the job.
        before: the positions of the rows of the run before.
    """
    if (
        len(rows) == len(before)
        and np.array_equal(table.keys[before], rows.keys)
        and np.array_equal(table.items[before], rows.items)
    ):
        kept = len(rows.singles)
        nothing = np.zeros(0, dtype=np.int64)
        return Comparison(before, np.zeros(len(rows), dtype=np.uint8), nothing, 0, (kept, 0, 0))
    known = dict(zip(listed(table.keys, table.items), range(len(table)), strict=True))
    found = np.fromiter((known.get(each, -1) for each in listed(rows.keys, rows.items)), dtype=np.int64)
    singles = rows.singles
    added = singles[found[singles] < 0]
    states = np.full(len(rows), KEPT, dtype=np.uint8)
    keys = set(listed(table.keys)) if len(added) else set()
    states[added] = [CHANGED if each in keys else NEW for each in listed(rows.keys[added])]
    positions = found.copy()
    positions[added] = len(table) + np.arange(len(added))
    states, positions = states[rows.first], positions[rows.first]
    there = np.zeros(len(table) + len(added), dtype=bool)
    there[positions] = True
    missed = listed(table.keys[before[~there[before]]])
    gone = set(missed).difference(listed(rows.keys)) if missed else ()
    counts = np.bincount(states[singles], minlength=len(STATES)).tolist()
    return Comparison(positions, states, added, len(gone), (counts[KEPT], counts[NEW], counts[CHANGED]))


@dataclass(frozen=True, slots=True)
class Opened:
    """A keyed job that was opened.

    Attributes:
        manifest: as Restate has it.
        created: whether it was begun with this.
        table: its table.
        items: the rows of the cell as they lie in its folder.
        comparison: of these with what the job had.
    """

    manifest: Manifest
    created: bool
    table: KeyTable
    items: Items
    comparison: Comparison


Begin = Callable[[Manifest], Awaitable[tuple[Manifest, bool]]]
"""Begins a job, or says which one there is; and whether it was begun."""


class Growth:
    """Opens one keyed job for one run of its cell.

    Args:
        connection: the way to Restate, and to the store.
        wanted: the job as it would begin.
        items: the rows of the cell.
        rows: their keys.
        max_attempts: how often an item is tried at most.

    Attributes:
        max_attempts: the same.
        retries_more: whether items may be tried again, and were not before; known when it is open.
        selects_anew: whether there are other rows than before, and none of them is new; known then, too.
    """

    def __init__(
        self, connection: Connection, wanted: Manifest, items: Items, rows: KeyedRows, max_attempts: int
    ) -> None:
        assert connection.store is not None
        self._connection = connection
        self._store: Store = connection.store
        self._wanted = wanted
        self._items = items
        self._rows = rows
        self.max_attempts = max_attempts
        self.retries_more = self.selects_anew = False

    async def begin(self, begin: Begin) -> Opened | Manifest:
        """Begin it; the manifest of the one that is there by now, where somebody was faster."""
        wanted, comparison = self._wanted, first_comparison(self._rows)
        keyed, folder = wanted.keyed, wanted.folder
        assert keyed is not None
        table, selection = await asyncio.to_thread(
            self._write, folder, KeyTable.empty(self._store), comparison, self._items.encoded
        )
        run = keyed.runs[0]
        run.selection, run.max_attempts, keyed.tables = selection, self.max_attempts, table.references
        try:
            manifest, created = await begin(wanted)
        except BaseException:
            await self._drop(folder)
            raise
        if not created:
            return manifest
        return Opened(manifest, True, table, self._placed(self._items.encoded, comparison), comparison)

    async def attach(self, there: Manifest) -> Opened:
        """Compare with the job that there is, and add what is new.

        Raises:
            InvalidInput: its table cannot be read.
            StoreUnavailable: the store does not answer.
        """
        while True:
            opened = await self._attach_once(there)
            if isinstance(opened, Opened):
                if there.folder != self._wanted.folder:
                    await self._drop(self._wanted.folder)
                return opened
            there = opened

    async def _attach_once(self, there: Manifest) -> Opened | Manifest:
        """The manifest, where the job has become another one meanwhile."""
        assert there.keyed is not None
        last = there.keyed.runs[-1]
        table, before, comparison = await asyncio.to_thread(self._compared, there)
        encoded = await asyncio.to_thread(self._in_folder, there.folder, table, comparison)
        self.retries_more = last.max_attempts == 1 < self.max_attempts
        if not len(comparison.added) and np.array_equal(before, comparison.positions):
            items = self._placed(encoded, comparison)
            return Opened(there, False, table, items, comparison)
        if len(comparison.added):
            table, selection = await asyncio.to_thread(self._write, there.folder, table, comparison, encoded)
        else:
            self.selects_anew = True
            selection = await asyncio.to_thread(write_selection, self._store, there.folder, comparison.positions)
        change = self._change(there, table, comparison, selection, last.max_attempts if self.retries_more else None)
        assert change.grown is not None
        after = await self._connection.job_store.change(there, change)
        runs = [] if after.keyed is None else after.keyed.runs
        if change.grown.run.id not in [run.id for run in runs]:
            return after
        return Opened(after, False, table, self._placed(encoded, comparison), comparison)

    def _change(
        self, there: Manifest, table: KeyTable, comparison: Comparison, selection: str, max_attempts: int | None
    ) -> Change:
        assert there.keyed is not None
        assert self._wanted.keyed is not None
        total, now, code = there.total + len(comparison.added), time.time(), self._wanted.rounds[0].code
        kept, new, changed = comparison.counts
        run = KeyedRun(
            id=self._wanted.keyed.runs[0].id,
            at=now,
            code=code,
            rows=len(self._rows),
            kept=kept,
            new=new,
            changed=changed,
            dropped=comparison.dropped,
            total=total,
            selection=selection,
            max_attempts=self.max_attempts if max_attempts is None else max_attempts,
        )
        added = total > there.total
        round_ = Round(positions=None, code=code, started=now, total=total, first=there.total) if added else None
        grown = Grown(before=there.total, after=there.keyed.runs[-1].id, run=run, tables=table.references)
        return Change(generation=there.generation, add_round=round_, grown=grown)

    # ------------------------------------------------------------ what blocks

    def _compared(self, there: Manifest) -> tuple[KeyTable, Positions, Comparison]:
        table, before = table_of(self._store, there)
        return table, before, compare(self._rows, table, before)

    def _in_folder(self, folder: str, table: KeyTable, comparison: Comparison) -> Spool:
        """The rows, with those that lie in the store as they lie in the job's folder."""
        encoded, own = self._items.encoded, self._items.folder
        if own is None or not own.count or own.name == folder:
            return encoded
        kept, load = KeptItems(table), loader(self._store)
        homed = Spool()
        for row, raw in enumerate(encoded):
            place = int(comparison.positions[row])
            if not is_reference(raw):
                homed.append(raw)
            elif place < len(table):
                homed.append(kept[place])
            elif self._rows.first[row] < row:
                homed.append(homed[int(self._rows.first[row])])
            else:
                homed.append(store_runs(self._store, folder, [load(reference_of(raw))])[0])
        return homed

    def _write(self, folder: str, table: KeyTable, comparison: Comparison, encoded: Spool) -> tuple[KeyTable, str]:
        """Write the new rows, and where all of them stand."""
        added = comparison.added

        def raws() -> Iterator[list[bytes]]:
            for begin in range(0, len(added), _AT_ONCE):
                yield encoded.take(added[begin : begin + _AT_ONCE].tolist())

        try:
            if len(added):
                table = table.extended(folder, self._rows.keys[added], self._rows.items[added], raws())
            return table, write_selection(self._store, folder, comparison.positions)
        except StoreUnavailable as error:
            raise InvalidInput(
                f"The keys cannot be put where they are kept: {error} Nothing was started. Make room there, and run "
                "the cell again."
            ) from error

    def _placed(self, encoded: Spool, comparison: Comparison) -> Items:
        return replace(self._items.over(encoded), positions=comparison.positions, states=comparison.states)

    async def _drop(self, folder: str) -> None:
        with suppress(StoreUnavailable):  # it is swept away later
            await asyncio.to_thread(self._store.drop, folder)


def table_of(store: Store, manifest: Manifest) -> tuple[KeyTable, Positions]:
    """The table of a keyed job, and the positions of the rows of its cell's last run; blocks.

    Raises:
        InvalidInput: they are lost, or were written by a newer version.
        StoreUnavailable: the store does not answer.
    """
    assert manifest.keyed is not None
    last = manifest.keyed.runs[-1]
    try:
        table = KeyTable.read(store, manifest.keyed.tables)
        if len(table) != manifest.total:
            raise ValueError(f"it has {len(table):,} rows, and the job {manifest.total:,}")
        return table, read_selection(store, last.selection, last.rows, manifest.total)
    except (NotStored, ValueError, msgspec.MsgspecError) as error:
        raise InvalidInput(
            f"The keys of the job {manifest.name!r} cannot be read in the store {store.config.url}: {error} "
            "With fresh=True it begins anew."
        ) from error


async def kept_items(connection: Connection, manifest: Manifest) -> tuple[KeptItems, Spool, Positions]:
    """What is kept of a keyed job's items; those of the rows of the last run of its cell, and their positions.

    Raises:
        InvalidInput: the session has no store, or they are lost.
        ServerError: the store does not answer.
    """
    store = connection.store
    if store is None:
        raise InvalidInput(
            f"The items of {manifest.name!r}, which has key=, lie in a store, and this session has none: "
            "rnb.connect(..., store=...)."
        )

    def read() -> tuple[KeptItems, Spool, Positions]:
        table, positions = table_of(store, manifest)
        kept, encoded = KeptItems(table), Spool()
        for part in kept.in_parts(positions):
            for raw in part:
                encoded.append(raw)
        return kept, encoded, positions

    try:
        return await asyncio.to_thread(read)
    except (StoreUnavailable, NotStored) as error:
        raise ServerError(f"The items of {manifest.name!r} cannot be read: {error}") from error


def history_of(manifest: Manifest) -> list[dict[str, Any]]:
    """The runs of a keyed job's cell, the first one first.

    Raises:
        InvalidInput: it has no keys.
    """
    if manifest.keyed is None:
        raise InvalidInput(
            f"The job {manifest.name!r} was made without key=, so all of its items are of its first run. With key= a "
            "job grows with its input."
        )
    return [
        {
            "at": run.at,
            "rows": run.rows,
            "kept": run.kept,
            "new": run.new,
            "changed": run.changed,
            "dropped": run.dropped,
            "runs": run.runs,
            "code": run.code,
        }
        for run in manifest.keyed.runs
    ]
