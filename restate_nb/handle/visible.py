"""What a job shows of itself: its state in words and counts, its panel, its representation in a cell."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future
from typing import Any

from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT
from restate_nb.errors import ServerError
from restate_nb.formatting import duration
from restate_nb.handle.diagnosis import Diagnosis, running_lines
from restate_nb.handle.drawn import Drawn
from restate_nb.handle.value_guard import ValueGuard
from restate_nb.results.progress import Progress

_QUIET_SECONDS = 5.0
_LONG_SECONDS = 60.0
_TIMES_AS_LONG = 5
"""Without an outcome for so long, the panel says why nothing is started; or, after a minute and five times what 95 % of
the items took, that it cannot tell."""


class SessionStopped(RuntimeError):
    """Nobody follows the job any longer; it stays where it is."""


class Visible(Drawn):
    """The side of a job that people look at."""

    _ended: Future[None]
    _guard: ValueGuard
    _note: str
    _shown_in: int | None = None  # the number of the cell that has the live panel

    # ------------------------------------------------------------ what it is

    @property
    def status(self) -> str:
        """One of `submitting`, `waiting` (nothing runs yet), `running`, `paused`, `finished`, `cancelled`, `stopped`,
        `failed`.

        A job with failed items is `finished`; one whose session was stopped is `stopped`, and goes on when its cell is
        run again; `failed` is a job that could not be followed to its end.
        """
        if self._ended.done():
            if self._ended.exception() is not None:
                return "stopped" if isinstance(self._ended.exception(), SessionStopped) else "failed"
            return "cancelled" if self._ledger.counts[CANCELLED] else "finished"
        if not self._driver.manifest.rounds[-1].submitted and self._driver.batches is None:
            return "submitting"
        if self._driver.manifest.paused or self._guard.found is not None:
            return "paused"
        return "running" if self._driver.work.running_positions() or self._ledger.done else "waiting"

    @property
    def counts(self) -> dict[str, int]:
        """How many items are `pending`, `running`, `ok`, `error`, `timeout` and `cancelled`; together, all of them."""
        counts = self._ledger.counts
        ended = {"ok": counts[OK], "error": counts[ERROR], "timeout": counts[TIMEOUT], "cancelled": counts[CANCELLED]}
        open_items = self._ledger.total - sum(ended.values())
        running = min(len(self._driver.work.running_positions()), open_items)
        return {"pending": open_items - running, "running": running, **ended}

    @property
    def failed(self) -> int:
        """How many items ended with an error or a timeout."""
        return self._ledger.failed

    @property
    def attached(self) -> int:
        """How many items were done already when this process attached to the job, or when its cell was run again."""
        return self._ledger.attached

    # ------------------------------------------------------------ the panel

    def _ipython_display_(self) -> None:
        """What a cell that ends with the job shows: the panel as it is now, or nothing if the live one is above."""
        from restate_nb.environment import in_notebook  # noqa: PLC0415
        from restate_nb.panel import to_html  # noqa: PLC0415 - only where something is shown

        if not in_notebook():
            print(repr(self))
        elif self._shown_in is None or self._shown_in != this_cell():
            from IPython.display import display  # noqa: PLC0415 - only where a notebook is

            show: Any = display  # IPython has no types for it
            show({"text/html": to_html(self._progress()), "text/plain": repr(self)}, raw=True)

    def _remark(self) -> str:
        stuck = self._driver.work.mismatched
        if stuck and not self._ended.done():
            return (
                f"{stuck:,} in flight no longer match their journal, since {self._target.name} was changed. "
                "job.restart() runs them from the beginning"
            )
        if self._guard.found is not None and not self._ended.done():
            return self._paused_itself()
        if self.status == "stopped":
            return "the session was stopped, what is done is kept: rnb.start(), then run the job's cell again"
        if lost := self._driver.lost():
            return lost
        trouble = "" if self._ended.done() else self._driver.lookout.report(self._ledger.done)
        if trouble:
            return f"nothing is recorded: {trouble}"
        batches = self._driver.batches
        if batches is not None and batches.until:
            until = time.strftime("%H:%M:%S", time.localtime(batches.until))
            return f"pausing until {until}, before batch {batches.number:,} of {batches.count:,}"
        if self._ended.done():
            return self._which.remark(self._ledger)
        return self._note or self._standstill() or self._driver.manner or self._which.unseen_remark()

    def _paused_itself(self) -> str:
        """Why the job has paused itself, and what to do."""
        found = self._guard.found
        if found is None:
            return "paused: job.resume() goes on"
        label, left = self._items.index()[found.position], self._ledger.total - self._ledger.done
        return (
            f"paused: what item {label!r} returned cannot be kept. {found.why.rstrip('.')}. {left:,} of "
            f"{self._ledger.total:,} items are still to be run, and none is started, since they would be paid for in "
            f"vain. Change {self._target.name}, and run its cell again: a job that has a name= goes on, and then "
            "job.retry_failed() runs what failed. job.resume() goes on with the function as it is"
        )

    def _standstill(self) -> str:
        """A word on why nothing ends, when that takes longer than it should."""
        quiet = self._driver.lookout.quiet
        obstacles = self._driver.work.obstacles() if quiet > _QUIET_SECONDS else []
        if obstacles:
            return obstacles[0]
        if shortage := self._driver.shortage:
            return shortage
        _, p95 = self._ledger.percentiles()
        if quiet < max(_LONG_SECONDS, _TIMES_AS_LONG * (p95 or 0.0)) or self.status == "paused":
            return ""
        return f"nothing has ended for {duration(quiet)}: job.diagnose() says what it does"

    def diagnose(self) -> Diagnosis:
        """What keeps the job from going on, and what to do: its function is not known here, a rate limit, failed items
        that wait for their next attempt, a server that does not answer, threads that hang, invocations that Restate has
        paused. With the items that run longest, and the line of code where each of them is.

        Example:
            job.diagnose()
        """
        ended = self._ended.done()
        counts = self.counts
        state = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        state = f"{self.status}; {state}" if state else self.status
        reasons: list[str] = []
        running: list[str] = []
        if lost := self._driver.lost():
            reasons = [lost]
        elif not ended:
            if self._ledger.last_end:
                state += f"; the last item ended {duration(time.time() - self._ledger.last_end)} ago"
            if trouble := self._driver.trouble():
                reasons = [f"Nothing is recorded: {trouble}."]
            else:
                try:
                    reasons, _ = self._io.run(self._driver.held_by_restate())
                except ServerError as error:  # gone in this moment
                    reasons = [f"Restate does not say what it holds: {error}"]
            obstacles = self._driver.work.obstacles()
            if self._guard.found is not None:
                reasons.insert(0, f"It is {self._paused_itself()}.")
                obstacles = [each for each in obstacles if not each.startswith("It is paused")]
            reasons += obstacles
            running = running_lines(self._driver.work.running_items(), self._items.index())
        return Diagnosis(self.name, state, reasons, running, ended)

    def _elapsed(self, now: float) -> float:
        """For how many seconds the job's rounds went on; `now` in seconds since 1970."""
        return self._driver.busy(None if self._ended.done() else now)

    def _progress(self) -> Progress:
        ledger, counts, now = self._ledger, self.counts, time.time()
        rate = None if self._ended.done() else ledger.rate(now)
        left = ledger.total - ledger.done
        pauses = 0.0 if self._driver.batches is None else self._driver.batches.pauses_left(now)
        p50, p95 = ledger.percentiles()
        return Progress(
            name=self.name,
            function=self._target.name,
            status=self.status,
            total=ledger.total,
            ok=counts["ok"],
            failed=ledger.failed,
            cancelled=counts["cancelled"],
            running=counts["running"],
            attached=ledger.attached,
            retries=ledger.retries,
            elapsed=self._elapsed(now),
            rate=rate,
            eta=left / rate + pauses if rate else None,
            p50=p50,
            p95=p95,
            concurrency=self._driver.work.concurrency,
            note=self._remark(),
            errors=ledger.error_groups(),
            ui_url=self._driver._connection.ui_url,
        )


def this_cell() -> int | None:
    """The number of the cell that runs; None outside of IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell.execution_count if shell is not None else None
