"""What a job's panel and progress bar show: a snapshot of counts and rates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failures of one kind."""

    error_type: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A job at one moment. Counts are items, durations seconds.

    `ok`, `failed` (errors, timeouts), `cancelled`, `running` and `waiting` add up to `total`.
    """

    name: str
    function: str
    status: str  # submitting | waiting | running | paused | finished | cancelled | stopped | failed
    total: int
    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    running: int = 0
    attached: int = 0  # items that were done already when this process attached
    retries: int = 0
    elapsed: float = 0.0
    rate: float | None = None  # finished items per second of late
    eta: float | None = None
    p50: float | None = None
    p95: float | None = None
    concurrency: int = 0
    note: str = ""  # one line in words: what is awaited, what to do
    hint: str = ""  # one line in words: what would make it faster
    errors: tuple[ErrorGroup, ...] = ()  # the most frequent, first
    ui_url: str = ""  # where this job is seen in the Restate UI, as the reader's browser can reach it

    @property
    def final(self) -> bool:
        """Whether the job has ended, or nobody follows it any longer: nothing changes unless it is begun again."""
        return self.status in {"finished", "cancelled", "stopped", "failed"}

    @property
    def done(self) -> int:
        """Items that have ended, whatever the outcome."""
        return self.ok + self.failed + self.cancelled

    @property
    def waiting(self) -> int:
        """Items that have not been started."""
        return self.total - self.done - self.running
