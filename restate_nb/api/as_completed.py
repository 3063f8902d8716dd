"""`as_completed`: the items of a job, or of several, as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from restate_nb.engine.record import OK, STATUS_NAMES, Attempt, AttemptStatus
from restate_nb.environment import this_cell
from restate_nb.errors import InvalidInput
from restate_nb.formatting import short_repr
from restate_nb.handle.job import Job, runner_of
from restate_nb.handle.wait import check_live, check_not_paused, print_that_it_goes_on, wait_for_end
from restate_nb.results.ledger import PENDING
from restate_nb.results.unreadable import unreadable
from restate_nb.words import checks_call

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
        job: the name of its job.
    """

    index: Any
    item: Any
    value: Any
    status: AttemptStatus
    error_type: str | None
    error: str | None
    attempts: int
    run_s: float
    job: str


class Completed:
    """Iterates over the items of jobs in the order in which they ended; see `restate_nb.as_completed`."""

    def __init__(self, jobs: Sequence[Job[Any]]) -> None:
        self._jobs = jobs

    def __len__(self) -> int:
        return sum(map(len, self._jobs))

    def __repr__(self) -> str:
        counts = [job.counts for job in self._jobs]
        ended = len(self) - sum(each["pending"] + each["running"] for each in counts)
        names = ", ".join(repr(job.name) for job in self._jobs)
        what = f"the job {names}" if len(self._jobs) == 1 else f"the jobs {names}"
        return f"<items of {what} as they end: {ended:,} of {len(self):,} by now>"

    def __iter__(self) -> Iterator[Row]:
        left = [*map(_Ended, self._jobs)]
        while left:
            found = False
            for each in left:
                for row in each.rows():
                    found = True
                    yield row
            left = [each for each in left if not each.over]
            if left and not found:
                wait_for_end(_that_goes_on(left).runner, _LOOK_SECONDS)

    async def __aiter__(self) -> AsyncIterator[Row]:
        left = [*map(_Ended, self._jobs)]
        while left:
            found = False
            for each in left:
                for row in each.rows():
                    found = True
                    yield row
            left = [each for each in left if not each.over]
            if left and not found:
                runner = _that_goes_on(left).runner
                check_live(runner)
                try:
                    await asyncio.sleep(_LOOK_SECONDS)
                except asyncio.CancelledError:
                    if this_cell() is not None:  # in a notebook that is Ctrl-C
                        print_that_it_goes_on(runner)
                    raise


class _Ended:
    """What has ended of one job, as it comes.

    Attributes:
        over: whether the job had ended before the last look, so that nothing more comes.
        stands_still: whether it had paused itself by then.
    """

    def __init__(self, job: Job[Any]) -> None:
        self.over = self.stands_still = False
        self.runner = runner_of(job)
        self._job = job
        self._data = self.runner.data
        self._seen = 0

    def rows(self) -> list[Row]:
        """What has ended since the last call."""
        self.over = self._job.done()  # before the look, or what ends in between would be missed
        self.stands_still = self.runner.guard.stands_still
        positions = self._data.ledger.order[self._seen :]
        self._seen += len(positions)
        index = self._data.items.index()
        ended = [(position, self._data.ledger.last(position)) for position in positions]
        # An item that runs again by now comes when it has ended.
        return [self._row(position, index[position], last) for position, last in ended if last.status != PENDING]

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
            self._data.name,
        )

    def _value(self, position: int) -> Any:
        raw = next(self._data.ledger.raws([position]))
        try:
            return self._data.function.value(raw, position)
        except Exception as error:  # a class of the user's own may do anything when it is made again
            return unreadable(error, raw)


def _that_goes_on(left: list[_Ended]) -> _Ended:
    """One of those from which more comes by itself.

    Raises:
        JobError: all of them have paused themselves.
    """
    for each in left:
        if not each.stands_still:
            return each
    check_not_paused(left[0].runner)
    return left[0]


@checks_call
def as_completed(job: Job[Any] | Iterable[Job[Any]]) -> Completed:
    """Iterate over a job's items as they end: `for row in rnb.as_completed(job)`, or `async for`.

    Rows come in the order in which items ended; those that are done already come first. An item that `retry_failed`
    runs again comes once more.

    Args:
        job: a job, or several, whose items come as they end in any of them; `row.job` is the name of its job.

    Raises:
        InvalidInput: it is neither.

    Example:
        import restate_nb as rnb

        rnb.start()
        for row in rnb.as_completed(rnb.map(str, [1, 2, 3])):
            print(row.index, row.value)
    """
    if isinstance(job, Job):
        return Completed([job])
    jobs: list[object] = [*job] if isinstance(job, Iterable) else [job]
    for each in jobs:
        if not isinstance(each, Job):
            raise InvalidInput(
                f"as_completed takes a job of rnb.map and its kin, or a list of jobs, not {short_repr(each)}."
            )
    return Completed([each for each in jobs if isinstance(each, Job)])
