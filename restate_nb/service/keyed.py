"""What the record of a job tells of its keys: by what they are made, where their table lies, and the runs of its cell.

The positions of a keyed job are never given to another item: an item that is new, or is another one under its key, gets
a position at the end. A run of the cell is a selection of positions.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

MOST_RUNS: Final = 200
"""Runs of a cell that a record tells apart. Of more, those that follow the first are told of as one."""


class KeyedRun(msgspec.Struct, kw_only=True):
    """One run of a keyed job's cell, that brought something or left something out.

    Attributes:
        id: a number of whoever ran it.
        at: when, in seconds since 1970 (UTC).
        code: the digest of the function's code.
        rows: how many rows its input had.
        kept: keys whose items were known.
        new: keys that were not.
        changed: keys that had other items.
        dropped: keys that the run before had, and this one had not.
        total: how many positions there were after it.
        selection: the positions of its rows, as a reference to the store; empty for all positions in order.
        max_attempts: how often an item was tried at most.
        runs: how many runs are told of here.
    """

    id: str
    at: float
    code: str
    rows: _Count
    kept: _Count
    new: _Count
    changed: _Count
    dropped: _Count
    total: _Count
    selection: str = ""
    max_attempts: int = 1
    runs: Annotated[int, msgspec.Meta(ge=1)] = 1


class Keyed(msgspec.Struct, kw_only=True):
    """The keys of a job.

    Attributes:
        by: what makes them, in words: a column, a function, or the items themselves.
        tables: where the table of keys lies, as references to the store, in the order of positions.
        runs: of its cell, the first one first.
    """

    by: str
    tables: list[str]
    runs: Annotated[list[KeyedRun], msgspec.Meta(min_length=1)]


class Grown(msgspec.Struct, kw_only=True):
    """A further run of a keyed job's cell, as a change of its record.

    Attributes:
        before: how many positions there were when it was compared with the job.
        after: the run that it was compared with.
        run: the run.
        tables: as in `Keyed`, from now on.
    """

    before: _Count
    after: str
    run: KeyedRun
    tables: list[str]

    def fits(self, keyed: Keyed | None, total: int) -> bool:
        """Whether the job is still as it was when this was compared with it.

        Args:
            keyed: the keys of the job.
            total: how many positions it has.
        """
        return keyed is not None and (total, keyed.runs[-1].id) == (self.before, self.after)


def add_run(keyed: Keyed, grown: Grown) -> None:
    """Note a further run; when there are many, the older ones become fewer."""
    keyed.tables = grown.tables
    keyed.runs.append(grown.run)
    if len(keyed.runs) > MOST_RUNS:
        older, newer = keyed.runs[1:3]
        keyed.runs[1:3] = [
            msgspec.structs.replace(
                newer,
                kept=older.kept,
                new=older.new + newer.new,
                changed=older.changed + newer.changed,
                dropped=older.dropped + newer.dropped,
                runs=older.runs + newer.runs,
            )
        ]
