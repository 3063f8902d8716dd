"""Waiting for a job's end, from a cell, a thread or a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from restate_nb.engine import nesting
from restate_nb.engine.loop_thread import blocked_by_waiting
from restate_nb.engine.record import CANCELLED, OK
from restate_nb.engine.waiting import until_done
from restate_nb.environment import this_cell
from restate_nb.errors import InvalidInput, JobError
from restate_nb.handle.outcomes import frame_of, kinds_of_failure
from restate_nb.handle.runner import JobRunner
from restate_nb.handle.status import pause_reason

if TYPE_CHECKING:
    import pandas as pd

_LOOK_SECONDS: Final = 0.05
_LAST_PANEL_SECONDS: Final = 1.0  # a cell that has ended may store no more output, so the last panel goes first


def wait_for_end(runner: JobRunner, timeout: float | None) -> bool:
    """Wait until a job has ended, or has paused itself, or for `timeout` seconds; says whether it has ended.

    Raises:
        InvalidInput: an item of the job waits for it, or a coroutine on the items' loop, which would never end.
    """
    check_live(runner)
    try:
        if not runner.ended.done() and (timeout is None or timeout > 0):
            _check_waiting(runner)
            with nesting.lent():
                runner.guard.wait_ended(runner.ended, timeout)
        if not runner.ended.done():
            return False
    except KeyboardInterrupt:
        print_that_it_goes_on(runner)
        raise
    if runner.panel is not None:
        runner.panel.join(_LAST_PANEL_SECONDS)
    return True


async def until_ended(runner: JobRunner) -> None:
    """The same in a coroutine, without a limit of time.

    Raises:
        InvalidInput: an item of the job waits for it.
        JobError: the job has paused itself.
    """
    check_live(runner)
    try:
        if not runner.ended.done():
            _check_waiting(runner, blocks=False)
            async with nesting.lent_while_awaited():
                await until_done(runner.ended, lambda: runner.guard.stands_still)
        if runner.ended.done():
            runner.ended.result()
    except asyncio.CancelledError:
        if this_cell() is not None:  # in a notebook that is Ctrl-C; elsewhere a caller's own timeout
            print_that_it_goes_on(runner)
        raise
    except InvalidInput:
        if not runner.ended.done():
            raise
    except Exception:  # told with its cause by result_of
        runner.ended.exception()
    check_not_paused(runner)
    wait_for_end(runner, None)  # for the last panel; the job has ended


def check_live(runner: JobRunner) -> None:
    """See that a job that has not ended is followed here.

    Raises:
        InvalidInput: its session is that of the process that this one was forked from.
    """
    if not runner.ended.done():
        runner.io.check()


def check_not_paused(runner: JobRunner) -> None:
    """See that whoever waits for more does not wait for ever.

    Raises:
        JobError: the job has paused itself.
    """
    if runner.guard.stands_still and not runner.ended.done():
        raise JobError(f"The job {runner.data.name!r} is {pause_reason(runner)}.", frame_of(runner.data))


def print_that_it_goes_on(runner: JobRunner) -> None:
    """Say, to whoever stopped waiting, that the job goes on."""
    print(f"Stopped waiting; the job goes on. {runner.data.name!r}: job.result() waits again, job.cancel() ends it.")


def waits_within(runner: JobRunner) -> bool:
    """Whether what runs here is what the job waits for: one of its items, or the loop on which they run."""
    return blocked_by_waiting() or nesting.is_within(runner.data.backend.prints.job)


def _check_waiting(runner: JobRunner, *, blocks: bool = True) -> None:
    """See that whoever waits here is not what the job waits for.

    Raises:
        InvalidInput: it is an item of this job, or of one that such an item has begun; or it blocks the loop.
    """
    name = runner.data.name
    if nesting.is_within(runner.data.backend.prints.job):
        raise InvalidInput(
            f"An item of {name!r} waits for its own job, or for one that waits for it: it cannot end before "
            "this item does. Begin a job of another name, over other items."
        )
    if blocks and blocked_by_waiting():
        raise InvalidInput(
            f"This waits for the job {name!r} in an `async def` function, and so blocks the loop on which "
            "items run: the job could never end. Write `await job` (or `async for` over rnb.as_completed(job)), "
            "or make the function a plain `def`, which runs in a thread."
        )


def until_ended_from(
    runner: JobRunner, begin: int, enough: Callable[[int], bool], check: Callable[[], None] = lambda: None
) -> int:
    """Wait until items from this position on have ended; returns where the first follows that has not.

    Args:
        runner: the job's.
        begin: the position.
        enough: says, of where that is, whether the waiting may end before all items have ended.
        check: is called with every look, and may raise.

    Raises:
        JobError: the job has paused itself, or could not be followed to its end.
        InvalidInput: see `wait_for_end`.
    """
    ledger = runner.data.ledger
    while True:
        over, stands_still = runner.ended.done(), runner.guard.stands_still  # before the look
        check()
        upto = ledger.ended_upto(begin)
        if upto == ledger.total or (upto > begin and enough(upto)):
            return upto
        if over:
            check_followed(runner)
        if stands_still:
            check_not_paused(runner)
        wait_for_end(runner, _LOOK_SECONDS)


def wait_for_result(runner: JobRunner) -> None:
    """Wait until a job has its result.

    Raises:
        JobError: it could not be followed to its end, gave up, or has paused itself.
        InvalidInput: see `wait_for_end`.
    """
    if not wait_for_end(runner, None):
        check_not_paused(runner)
    check_result(runner)


def result_of(runner: JobRunner, *, lazy: bool | None = None) -> pd.DataFrame:
    """The frame of a job that has ended.

    Raises:
        JobError: it could not be followed to its end, or gave up.
    """
    check_result(runner)
    return frame_of(runner.data, lazy=lazy)


def check_followed(runner: JobRunner) -> None:
    """See that a job whose following has ended was followed to its end.

    Raises:
        JobError: it was not.
    """
    data, error = runner.data, runner.ended.exception()
    if error is not None:
        kept = "" if data.record.connection.lost() else " What is recorded is safe; run its cell again."
        raise JobError(
            f"The job could not be followed to its end: {str(error).rstrip('.')}.{kept}", frame_of(data)
        ) from error


def check_result(runner: JobRunner) -> None:
    """See that a job that has ended was followed to its end, and did not give up.

    Raises:
        JobError: it could not be followed to its end, or gave up.
    """
    check_followed(runner)
    data = runner.data
    last = len(data.manifest.rounds) - 1
    gave_up = data.ledger.gave_up(last)
    if gave_up is None and runner.stop_rule is not None:
        gave_up = runner.stop_rule.broken(*data.ledger.tally(last))  # with nothing left to cancel
    if gave_up is not None:
        counts = data.ledger.counts
        raise JobError(
            f"{gave_up} {counts[OK]:,} have a value, {counts[CANCELLED]:,} were cancelled. "
            f"{kinds_of_failure(data.ledger)}\n"
            "job.errors() groups the failures; the frame is job.frame(), and `frame` of this error. "
            "Repair what failed, run the cell of the function, and job.retry_failed() goes on.",
            frame_of(data),
        )
