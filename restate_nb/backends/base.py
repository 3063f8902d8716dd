"""What every backend offers to a job: an abstract base class, whose defaults are those of a job that Restate runs."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from restate_nb.backends.connection import Connection
from restate_nb.backends.introspection import JobInvocations
from restate_nb.engine.function import Function
from restate_nb.engine.output import OutputCapture
from restate_nb.engine.pool import OnUnkept
from restate_nb.engine.record import Attempt, is_unkept
from restate_nb.engine.stacks import RunningItem
from restate_nb.limits import Range, StopRule
from restate_nb.policy import RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.results.spool import Spool
from restate_nb.service.wire import Manifest, job_key

CANCELLED_CODE: Final = 409
"""Of the failure of an invocation that was cancelled; a handler may raise errors of that code, too."""


def waits_for_store(trouble: str) -> str:
    """Why nothing is recorded while the store takes no values, in words.

    Args:
        trouble: what it says.
    """
    return f"{trouble} What has ended is kept in memory, and recorded once the store takes it."


class WorkerShare(NamedTuple):
    """What one worker has ended of a job, with one version of the function's code."""

    host: str
    process: int
    code: str
    shards: int
    items: int


class Backend(ABC):
    """One way of running a job's items. The coroutines belong to the session's own loop, the rest to any thread.

    A subclass brings the abstract methods, and of the others what it does in another way.

    Attributes:
        prints: what the items print.
        invocations: what Restate knows of the job's invocations.
    """

    def __init__(self, connection: Connection, manifest: Manifest, encoded: Spool, ledger: Ledger) -> None:
        """`encoded`: the items; `ledger`: takes their outcomes."""
        self.prints = OutputCapture()
        self.invocations = JobInvocations.of(connection.session, manifest)
        self._connection = connection
        self._manifest = manifest
        self._encoded = encoded
        self._ledger = ledger
        self._key = job_key(manifest.name, manifest.generation)
        self._loop = asyncio.get_running_loop()
        self._rule: StopRule | None = None
        self._stopped_by_rule: str | None = None
        self._cancelled = False
        self._on_unkept: OnUnkept | None = None
        self._watches_since = 0.0

    # ------------------------------------------------------------ how it is run

    @abstractmethod
    def set_function(self, function: Function, policy: RunPolicy) -> None:
        """Bring the function, and how it is run."""

    @property
    @abstractmethod
    def concurrency(self) -> int:
        """How many items may run at once; 0 while that is not known."""

    @abstractmethod
    def set_concurrency(self, bounds: Range) -> None:
        """Change it; what runs is not stopped."""

    @abstractmethod
    def set_executor(self, function: Function) -> None:
        """Have the executor of this function run what has not begun; it is otherwise the one that is there.

        Raises:
            InvalidInput: that cannot be. Nothing was changed.
        """

    @property
    def concurrency_note(self) -> str:
        """How the concurrency is kept, where that is not in this process; else empty."""
        return ""

    def connect_ledger(self) -> None:  # noqa: B027 - few need it
        """Have the ledger take outcomes as they are recorded, where they do not come as the answers of invocations."""

    # ------------------------------------------------------------ rounds

    @abstractmethod
    async def run_round(
        self,
        round_: int,
        positions: Sequence[int],
        submitted: Callable[[], Awaitable[None]] | None,
        first: int = 0,
    ) -> None:
        """See the items of a round to their outcomes, wherever they stand.

        Args:
            round_: the round's number.
            positions: its items.
            submitted: to be called once Restate has all of them; None when it has them already.
            first: where the first of these stands among all of the round's items, when they are not all.
        """

    def is_stopping(self, round_: int) -> bool:
        """Whether items of this round that have not begun will end as cancelled."""
        self._check_rule(round_)
        return self._cancelled or self._stopped_by_rule is not None

    def _check_rule(self, round_: int) -> None:
        if self._stopped_by_rule is None:
            self._stopped_by_rule = self._broken_rule(round_)

    def _broken_rule(self, round_: int) -> str | None:
        """Why nothing more is to be started, since too many items have failed (`fail_fast`); None while it is."""
        return None if self._rule is None else self._rule.broken(*self._ledger.tally(round_))

    @abstractmethod
    def pause(self) -> None:
        """Start nothing more, until `resume`; what runs goes on."""

    @abstractmethod
    def resume(self) -> None:
        """Go on after `pause`."""

    @abstractmethod
    async def cancel(self) -> None:
        """End the items that have no outcome."""

    def reopen(self) -> None:
        """Take `cancel` back, for a further round."""
        self._cancelled, self._stopped_by_rule = False, None

    def notify_unkept(self, callback: OnUnkept | None) -> None:
        """Call back when what an item returned cannot be kept; with None never. Items that began before this do not
        count. A pool in this process starts nothing more then, until `resume`."""
        self._on_unkept, self._watches_since = callback, time.time()

    def _look_for_unkept(self, attempts: Iterable[Attempt]) -> None:
        if self._on_unkept is None:
            return
        for each in attempts:
            if each.failure is not None and each.started >= self._watches_since and is_unkept(each.failure):
                self._on_unkept(each)
                return

    @property
    def mismatched(self) -> int:
        """How many invocations no longer match their journals, since their function was changed."""
        return 0  # the journal of a shard holds outcomes, whatever the function does

    async def restart(self) -> int:
        """Run those from the beginning, with the function as it is now; return how many."""
        return 0

    # ------------------------------------------------------------ what is to be seen of it

    @abstractmethod
    def obstacles(self) -> list[str]:
        """What keeps items from being started, in words."""

    @property
    def shortage(self) -> str:
        """What the machine has too little of, in words; empty when it has enough, or when that is not known."""
        return ""

    @property
    def cores_in_processes(self) -> int:
        """On how many processors its items, which keep one busy now, would compute in processes; 0 where processes
        would change nothing."""
        return 0

    @property
    def busy(self) -> bool:
        """Whether items run in this process, or have run and are not recorded."""
        return False

    def running_positions(self) -> frozenset[int]:
        """Where the items that run now stand in the input, as far as that is known here."""
        return frozenset()

    def running_items(self) -> list[RunningItem]:
        """What the items that run are doing, the longest first; nothing of those that run elsewhere."""
        return []

    def columns(self) -> Mapping[str, Sequence[Any]]:
        """What the frame tells besides the usual of each item, in the order of the input."""
        return {}

    def workers(self) -> Sequence[WorkerShare]:
        """Who has run what, of a job on workers."""
        return ()
