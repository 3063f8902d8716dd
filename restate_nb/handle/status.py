"""What a job shows of itself: its state in words and counts, and what keeps it from going on."""

from __future__ import annotations

import time
from typing import Final

from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT
from restate_nb.errors import ServerError
from restate_nb.formatting import counted, duration
from restate_nb.handle.diagnosis import Diagnosis, running_lines
from restate_nb.handle.runner import JobRunner, SessionStopped
from restate_nb.results.progress import Progress

QUIET_SECONDS: Final = 5.0
LONG_SECONDS: Final = 60.0
_TIMES_AS_LONG: Final = 5
"""Without an outcome for so long, the panel says why nothing is started; or, after a minute and five times what 95 % of
the items took, that it cannot tell."""

WORTH_SENDING: Final = 0.0002
"""Seconds that an item computes for which a process is faster: what it costs to send one, with some to spare."""


def status_of(runner: JobRunner) -> str:
    """See `Job.status`."""
    data, ended = runner.data, runner.ended
    if ended.done():
        if ended.exception() is not None:
            return "stopped" if isinstance(ended.exception(), SessionStopped) else "failed"
        return "cancelled" if data.shown.counts[CANCELLED] else "finished"
    if not data.manifest.rounds[-1].submitted and runner.batches is None:
        return "submitting"
    if data.manifest.paused or runner.guard.unkept is not None:
        return "paused"
    return "running" if data.backend.running_positions() or data.ledger.done else "waiting"


def counts_of(runner: JobRunner) -> dict[str, int]:
    """See `Job.counts`."""
    ledger = runner.data.shown
    counts = ledger.counts
    ended = {"ok": counts[OK], "error": counts[ERROR], "timeout": counts[TIMEOUT], "cancelled": counts[CANCELLED]}
    open_items = ledger.total - sum(ended.values())
    running = min(len(runner.data.running_rows()), open_items)
    return {"pending": open_items - running, "running": running, **ended}


def summary_of(runner: JobRunner) -> str:
    """The job in a line."""
    total = runner.data.shown.total
    counts = ", ".join(f"{count:,} {what}" for what, count in counts_of(runner).items() if count)
    items = f"{total:,} {'item' if total == 1 else 'items'}"
    items += f" ({runner.growth})" if runner.growth else ""
    return f"<Job {runner.data.name!r}: {status_of(runner)}, {items}{': ' if counts else ''}{counts}>"


def progress_of(runner: JobRunner) -> Progress:
    """See `Job.progress`."""
    data, ledger, counts, now = runner.data, runner.data.shown, counts_of(runner), time.time()
    ended = runner.ended.done()
    rate = None if ended else ledger.rate(now)
    pauses = 0.0 if runner.batches is None else runner.batches.pauses_left(now)
    p50, p95 = ledger.percentiles()
    return Progress(
        name=data.name,
        function=data.function.name,
        status=status_of(runner),
        total=ledger.total,
        ok=counts["ok"],
        failed=ledger.failed,
        cancelled=counts["cancelled"],
        running=counts["running"],
        attached=ledger.attached,
        retries=ledger.retries,
        elapsed=elapsed_of(runner, now),
        rate=rate,
        eta=(ledger.total - ledger.done) / rate + pauses if rate else None,
        p50=p50,
        p95=p95,
        concurrency=data.backend.concurrency,
        note=_note(runner),
        hint=_hint(runner, counts["pending"], p50),
        errors=ledger.error_groups(),
        ui_url=data.record.connection.ui_url,
    )


def elapsed_of(runner: JobRunner, now: float) -> float:
    """For how many seconds the job's rounds went on; `now` in seconds since 1970."""
    return runner.elapsed(None if runner.ended.done() else now)


# ------------------------------------------------------------ in words


def _note(runner: JobRunner) -> str:
    """One line: what is awaited, and what to do."""
    data, ended = runner.data, runner.ended.done()
    if (mismatched := data.backend.mismatched) and not ended:
        return (
            f"{mismatched:,} in flight no longer match their journal, since {data.function.name} was changed. "
            "job.restart() runs them from the beginning"
        )
    if runner.guard.unkept is not None and not ended:
        return pause_reason(runner)
    if status_of(runner) == "stopped":
        return "the session was stopped, what is done is kept: rnb.start(), then run the job's cell again"
    if lost := data.record.connection.lost():
        return lost
    if ended:
        return "; ".join(filter(None, (_growth(runner), data.provenance.remark(data.shown))))
    if trouble := runner.stall.report(data.ledger.done):
        return f"nothing is recorded: {trouble}"
    batches = runner.batches
    if batches is not None and batches.until:
        until = time.strftime("%H:%M:%S", time.localtime(batches.until))
        return f"pausing until {until}, before batch {batches.number:,} of {batches.count:,}"
    return (
        runner.note
        or _why_quiet(runner)
        or _growth(runner)
        or _concurrency_on_workers(runner)
        or data.provenance.unseen_remark()
    )


def _growth(runner: JobRunner) -> str:
    """What the cell of a keyed job brought when it was run last, and what still runs of what it has no more."""
    data, out_of_sight = runner.data, 0
    if data.items.positions is None:
        return ""
    if not runner.ended.done():
        shown = data.shown
        hidden = data.ledger.total - len(set(data.items.positions.tolist())) if shown.complete else 0
        out_of_sight = hidden and data.ledger.total - data.ledger.done
    words = [runner.growth] if runner.growth else []
    if out_of_sight:
        words.append(f"{counted(out_of_sight, 'item')} that the input has no more still to end")
    return f"{'; '.join(words)} (job.history())" if words else ""


def pause_reason(runner: JobRunner) -> str:
    """Why the job has paused itself, and what to do."""
    unkept, data = runner.guard.unkept, runner.data
    if unkept is None:
        return "paused: job.resume() goes on"
    left = data.shown.total - data.shown.done
    return (
        f"paused: what {data.named(unkept.position)} returned cannot be kept. {unkept.why.rstrip('.')}. {left:,} of "
        f"{data.shown.total:,} items are still to be run, and none is started, since they would be paid for in "
        f"vain. Change {data.function.name}, and run its cell again: a job that has a name= goes on, and then "
        "job.retry_failed() runs what failed. job.resume() goes on with the function as it is"
    )


def _why_quiet(runner: JobRunner) -> str:
    """Why nothing ends, when that takes longer than it should."""
    backend, quiet = runner.data.backend, runner.stall.quiet
    obstacles = backend.obstacles() if quiet > QUIET_SECONDS else []
    if obstacles:
        return obstacles[0]
    if shortage := backend.shortage:
        return shortage
    _, p95 = runner.data.ledger.percentiles()
    if quiet < max(LONG_SECONDS, _TIMES_AS_LONG * (p95 or 0.0)) or status_of(runner) == "paused":
        return ""
    return f"nothing has ended for {duration(quiet)}: job.diagnose() says what it does"


def _hint(runner: JobRunner, pending: int, seconds: float | None) -> str:
    """One line: what would make a running job faster, with so many items to begin, of so many seconds each."""
    data = runner.data
    if not pending or seconds is None or seconds < WORTH_SENDING or status_of(runner) != "running":
        return ""
    return runner.advice.hint(data.function, data.backend.cores_in_processes)


def _concurrency_on_workers(runner: JobRunner) -> str:
    """How the job's concurrency is kept, where that is not in this process; else empty."""
    return runner.data.backend.concurrency_note


def diagnose(runner: JobRunner) -> Diagnosis:
    """See `Job.diagnose`."""
    data, ended = runner.data, runner.ended.done()
    state = ", ".join(f"{count:,} {what}" for what, count in counts_of(runner).items() if count)
    state = f"{status_of(runner)}; {state}" if state else status_of(runner)
    reasons: list[str] = []
    running: list[str] = []
    if lost := data.record.connection.lost():
        reasons = [lost]
    elif not ended:
        if data.ledger.last_end:
            state += f"; the last item ended {duration(time.time() - data.ledger.last_end)} ago"
        reasons = _reasons(runner)
        running = running_lines(data.running_items(), data.items.index())
    return Diagnosis(data.name, state, reasons, running, ended)


def _reasons(runner: JobRunner) -> list[str]:
    """What holds up a job that has not ended, each with what to do."""
    data = runner.data
    if trouble := data.record.connection.trouble():
        reasons = [f"Nothing is recorded: {trouble}."]
    else:
        try:
            reasons, _ = runner.io.run(data.record.stopped_by_restate())
        except ServerError as error:  # gone in this moment
            reasons = [f"Restate does not say what it holds: {error}"]
    obstacles = data.backend.obstacles()
    if runner.guard.unkept is not None:
        reasons.insert(0, f"It is {pause_reason(runner)}.")
        obstacles = [each for each in obstacles if not each.startswith("It is paused")]
    now = progress_of(runner)
    if now.hint:
        obstacles.append(runner.advice.reason(data.function, now.waiting + now.running, now.eta))
    return [each for each in reasons + obstacles if each]
