"""`as_completed`: the items of a job as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from restate_nb.engine.record import OK, STATUS_NAMES, Attempt, AttemptStatus
from restate_nb.environment import this_cell
from restate_nb.handle.job import Job, runner_of
from restate_nb.handle.wait import check_live, check_not_paused, print_that_it_goes_on, wait_for_end
from restate_nb.results.ledger import PENDING
from restate_nb.results.unreadable import unreadable

_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One item that has ended.

    Attributes:
        index: its label in the input's index.
        item: as it was given.
        value: what the function returned; None when it failed; an `Unreadable` when it cannot be brought back here.
        status: `ok`, `error`, `timeout` or `cancelled`.
        error_type: the exception's class name; None when there was none.
        error: its message.
        attempts: how many were made.
        run_s: seconds spent running, all attempts together.
    """

    index: Any
    item: Any
    value: Any
    status: AttemptStatus
    error_type: str | None
    error: str | None
    attempts: int
    run_s: float


class Completed:
    """Iterates over a job's items in the order in which they ended; see `restate_nb.as_completed`."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._runner = runner_of(job)
        self._data = self._runner.data

    def __len__(self) -> int:
        return len(self._job)

    def __repr__(self) -> str:
        counts = self._job.counts
        ended = len(self) - counts["pending"] - counts["running"]
        return f"<items of the job {self._job.name!r} as they end: {ended:,} of {len(self):,} by now>"

    def __iter__(self) -> Iterator[Row]:
        seen = 0
        while True:
            over = self._job.done()  # before the look, or what ends in between would be missed
            stands_still = self._runner.guard.stands_still
            seen, rows = self._since(seen)
            yield from rows
            if over:
                return
            if not rows:
                if stands_still:
                    check_not_paused(self._runner)
                wait_for_end(self._runner, _LOOK_SECONDS)

    async def __aiter__(self) -> AsyncIterator[Row]:
        seen = 0
        while True:
            over = self._job.done()
            stands_still = self._runner.guard.stands_still
            seen, rows = self._since(seen)
            for row in rows:
                yield row
            if over:
                return
            if not rows:
                check_live(self._runner)
                if stands_still:
                    check_not_paused(self._runner)
                try:
                    await asyncio.sleep(_LOOK_SECONDS)
                except asyncio.CancelledError:
                    if this_cell() is not None:  # in a notebook that is Ctrl-C
                        print_that_it_goes_on(self._runner)
                    raise

    def _since(self, seen: int) -> tuple[int, list[Row]]:
        """What has ended after the first `seen` items: how many there are now, and their rows."""
        positions = self._data.ledger.order[seen:]
        index = self._data.items.index()
        ended = [(position, self._data.ledger.last(position)) for position in positions]
        # An item that runs again by now comes when it has ended.
        rows = [self._row(position, index[position], last) for position, last in ended if last.status != PENDING]
        return seen + len(positions), rows

    def _row(self, position: int, label: Any, last: Attempt) -> Row:
        failure = last.failure
        return Row(
            label,
            self._data.items.originals[position],
            self._value(position) if last.status == OK else None,
            STATUS_NAMES[last.status],
            failure.type if failure is not None else None,
            failure.message if failure is not None else None,
            last.number,
            self._data.ledger.ran_in_all[position],
        )

    def _value(self, position: int) -> Any:
        raw = next(self._data.ledger.raws([position]))
        try:
            return self._data.function.value(raw, position)
        except Exception as error:  # a class of the user's own may do anything when it is made again
            return unreadable(error, raw)


def as_completed(job: Job[Any]) -> Completed:
    """Iterate over a job's items as they end: `for row in rnb.as_completed(job)`, or `async for`.

    Rows come in the order in which items ended; those that are done already come first. An item that `retry_failed`
    runs again comes once more.

    Example:
        import restate_nb as rnb

        rnb.start()
        for row in rnb.as_completed(rnb.map(str, [1, 2, 3])):
            print(row.index, row.value)
    """
    return Completed(job)
