"""The outcomes of the items that a run of a cell is over, where its job has more: a ledger by row.

A keyed job keeps what it has done of items that its input has no more, or has otherwise by now. What is shown of it are
the rows of the input as it is, each of which has a position in the ledger; some may have the same.
"""

from __future__ import annotations

import functools
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from restate_nb.engine.record import CANCELLED, OK, Attempt, Failure
from restate_nb.results.failure_store import kind_of
from restate_nb.results.ledger import PENDING, Ledger, Snapshot
from restate_nb.results.progress import ErrorGroup

Positions = npt.NDArray[np.int64]


class Selected:
    """What a ledger tells of some of its items, by row: its methods are those of `Ledger`."""

    def __init__(self, ledger: Ledger, positions: Positions) -> None:
        """`positions`: of each row."""
        self.ledger = ledger
        self.places = positions
        self._since = time.time()

    @property
    def total(self) -> int:
        """How many rows there are."""
        return len(self.places)

    # ------------------------------------------------------------ rows and positions

    @functools.cached_property
    def _order(self) -> tuple[Positions, Positions]:
        """The rows by position, and the positions in that order."""
        rows = np.argsort(self.places, kind="stable")
        return rows, self.places[rows]

    def rows_of(self, positions: Iterable[int]) -> list[int]:
        """The rows of these positions, in their order: none, one or several of each."""
        rows, places = self._order
        wanted = np.fromiter(positions, dtype=np.int64)
        begins, ends = np.searchsorted(places, wanted), np.searchsorted(places, wanted, side="right")
        return [row for begin, end in zip(begins.tolist(), ends.tolist(), strict=True) for row in rows[begin:end]]

    def positions_of(self, rows: Sequence[int]) -> list[int]:
        """The positions of these rows, ascending, each once."""
        return list(map(int, np.unique(self.places[np.asarray(rows, dtype=np.int64)])))

    # ------------------------------------------------------------ counts

    @property
    def status(self) -> bytes:
        """The status of each row."""
        return self._statuses.tobytes()

    @property
    def _statuses(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.ledger.status, dtype=np.uint8)[self.places]

    @property
    def counts(self) -> Counter[int]:
        """How many rows have ended with each status."""
        found = np.bincount(self._statuses, minlength=PENDING + 1)
        return Counter({status: int(found[status]) for status in np.flatnonzero(found).tolist() if status != PENDING})

    @property
    def done(self) -> int:
        """How many rows have ended."""
        return int((self._statuses != PENDING).sum())

    @property
    def failed(self) -> int:
        """How many ended with an error or a timeout."""
        return sum(count for status, count in self.counts.items() if status not in (OK, CANCELLED))

    @property
    def complete(self) -> bool:
        """Whether all rows have ended."""
        return self.done == self.total

    @property
    def attached(self) -> int:
        """How many rows were done when the cell was run."""
        ended = self._statuses != PENDING
        ends = self.started + np.frombuffer(self.ledger.ran)[self.places]
        return int((ended & (ends < max(self._since, self.ledger.attached_at))).sum())

    @property
    def retries(self) -> int:
        """How many attempts were made after a first that failed, of all items of the job."""
        return self.ledger.retries

    @property
    def last_end(self) -> float:
        """When the last item of the job ended, in seconds since 1970."""
        return self.ledger.last_end

    @property
    def started(self) -> npt.NDArray[np.float64]:
        """When the last attempt at each row began."""
        return np.frombuffer(self.ledger.started)[self.places]

    def rate(self, now: float) -> float | None:
        """Items of the job that ended a second; see `Ledger.rate`."""
        return self.ledger.rate(now)

    def percentiles(self) -> tuple[float | None, float | None]:
        """See `Ledger.percentiles`."""
        return self.ledger.percentiles()

    def positions(self, *statuses: int) -> Iterator[int]:
        """The rows with one of these statuses."""
        return iter(np.flatnonzero(np.isin(self._statuses, statuses)).tolist())

    def ended_since(self, seen: int) -> tuple[list[int], int]:
        """The rows of what has ended since so many items of the job had; and how many have by now."""
        positions, seen = self.ledger.ended_since(seen)
        return self.rows_of(positions), seen

    def ended_upto(self, begin: int) -> int:
        """The first row from this one on that has not ended; the total where all have."""
        pending = np.flatnonzero(self._statuses[begin:] == PENDING)
        return begin + int(pending[0]) if len(pending) else self.total

    # ------------------------------------------------------------ what there is of each

    def last(self, row: int) -> Attempt:
        """The last attempt at a row that has ended, without its value and its traceback."""
        return msgspec.structs.replace(self.ledger.last(int(self.places[row])), position=row)

    def ran_for(self, row: int) -> float:
        """For how many seconds a row ran, all of its attempts together."""
        return self.ledger.ran_for(int(self.places[row]))

    def raws(self, rows: Sequence[int]) -> Iterator[bytes]:
        """The recorded values of rows that went well, encoded."""
        for part in self.raws_in_parts(rows):
            yield from part

    def raws_in_parts(self, rows: Sequence[int] | Positions) -> Iterator[list[bytes]]:
        """The same, many at a time, and never more than some MB."""
        return self.ledger.raws_in_parts(self.places[np.asarray(rows, dtype=np.int64)])

    def stored_bytes(self, rows: Positions) -> int:
        """How many bytes the values of these rows, which went well, have in the store."""
        return self.ledger.stored_bytes(self.places[rows])

    def value_sizes(self, rows: Positions) -> Positions:
        """See `Ledger.value_sizes`."""
        return self.ledger.value_sizes(self.places[rows])

    @property
    def failures(self) -> dict[int, Failure]:
        """The failures of rows, without their tracebacks."""
        bare = self.ledger.failures.all_bare()
        return self._by_row(bare) if bare else {}

    def whole_failure(self, row: int) -> Failure | None:
        """The failure of a row with its traceback; None where there is none."""
        return self.ledger.failures.get(int(self.places[row]))

    def _by_row(self, failures: dict[int, Failure]) -> dict[int, Failure]:
        rows = np.flatnonzero(np.isin(self.places, np.fromiter(failures, dtype=np.int64))).tolist()
        return {row: failures[int(self.places[row])] for row in rows}

    def error_groups(self, most: int = 5) -> tuple[ErrorGroup, ...]:
        """The most frequent kinds of failure."""
        kinds, examples = Counter[tuple[str, str]](), dict[tuple[str, str], str]()
        for failure in self.failures.values():
            kind = failure.type, kind_of(failure.message)
            kinds[kind] += 1
            examples.setdefault(kind, failure.message)
        return tuple(ErrorGroup(kind[0], examples[kind], count) for kind, count in kinds.most_common(most))

    def snapshot(self) -> Snapshot:
        """What is recorded by now, all of it of one moment."""
        return self._of(self.ledger.snapshot())

    @contextmanager
    def held(self) -> Iterator[Snapshot]:
        """A snapshot to look at here and now."""
        with self.ledger.held() as now:
            mine = self._of(now)
        yield mine

    def _of(self, now: Snapshot) -> Snapshot:
        first, started = self._column("d", now.first_started), self._column("d", now.started)
        ran, in_all = self._column("d", now.ran), self._column("d", now.ran_in_all)
        shown = set(self.places.tolist()) if now.earlier else set()
        return Snapshot(
            self.total,
            np.frombuffer(now.status, dtype=np.uint8)[self.places].tobytes(),
            self._column("i", now.attempts),
            first,
            started,
            ran,
            in_all,
            self._by_row(now.failures) if now.failures else {},
            [
                msgspec.structs.replace(each, position=row)
                for each in now.earlier
                if each.position in shown
                for row in self.rows_of([each.position])
            ],
        )

    def _column(self, kind: str, column: array[Any]) -> array[Any]:
        chosen = array(kind)
        chosen.frombytes(np.frombuffer(column, dtype=np.dtype(kind))[self.places].tobytes())
        return chosen


Recorded = Ledger | Selected
"""What is recorded of the items that are shown."""
