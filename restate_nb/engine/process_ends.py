"""What follows from the end of a worker process: for the item that it was in, or the function if it was in none."""

from __future__ import annotations

from typing import Final

from restate_nb.engine.attempt import Ended, RunningAttempt
from restate_nb.engine.process_feed import Feed, all_raised, remote_of
from restate_nb.engine.process_worker import Worker
from restate_nb.errors import WorkerDied

_TRIES: Final = 3  # workers that end before an item begins
_KILLED: Final = "was killed"  # how a worker has ended: it may be another matter in a moment


def ended(worker: Worker, attempt: RunningAttempt, how: str) -> Ended | None:
    """What becomes of the attempt that a worker was in; nothing, where that is known already."""
    if attempt.over:
        return None
    if attempt.expired:
        feed: Feed = worker.feed
        return feed.context.timed_out(attempt)
    return attempt.raised(WorkerDied(worker.fault or f"The worker process {how}. Only this item was in it."))


def note_early(
    worker: Worker, first: list[RunningAttempt], loading: int | None, how: str
) -> list[tuple[RunningAttempt, Ended | None]]:
    """A worker has ended by itself, in no item. If that was with a function, it is counted; after a few times in a row
    the function is given up.

    Args:
        worker: which.
        first: the attempt that was to be the next one, if there is one.
        loading: the id of the function that it was loading; None when it was not.
        how: it has ended.

    Returns:
        How that attempt ends, if it does.
    """
    functions = [each for each in worker.functions if each.id == loading]
    if not functions and first and worker.feed is not None:
        functions = [worker.feed.function(remote_of(first[0].call))]
    found: list[tuple[RunningAttempt, Ended | None]] = []
    for function in functions:
        function.deaths += 1
        if function.deaths < _TRIES:
            continue
        if not how.startswith(_KILLED):
            function.broken = _says(how)
        elif first:
            function.deaths = 0
            found = all_raised(first, WorkerDied(_says(how)))
    return found


def note_not_started(worker: Worker, how: str) -> Feed:
    """A worker has ended before it could get items; after a few times in a row no more are started. Returns the feed
    that it was to be for."""
    feed: Feed = worker.starts_for
    feed.starting -= 1
    feed.deaths += worker.ends == "gone"
    if feed.deaths >= _TRIES:
        feed.broken, feed.deaths, feed.once = _says(how), 0, how.startswith(_KILLED)
    return feed


def _says(how: str) -> str:
    return (
        f"{_TRIES} worker processes in a row ended before they could begin; the last one {how}. What it printed is in "
        "job.logs(). Other items of this function are not tried: see that what it imports can be imported, and run its "
        "cell again."
    )
