"""What a job asks of the way in which its items are run: `shards.py`, `lanes.py`, `invocations.py` or
`deployed_calls.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from restate_nb.backends.job_store import JobStore
from restate_nb.engine.function import Function
from restate_nb.engine.output import OutputCapture
from restate_nb.engine.pool import OnUnkept
from restate_nb.engine.stacks import RunningItem
from restate_nb.errors import InvalidInput
from restate_nb.limits import Range
from restate_nb.policy import RunPolicy
from restate_nb.server.admin import Admin
from restate_nb.server.ingress import Ingress
from restate_nb.service.active_jobs import JobRuns
from restate_nb.service.durable_handler import DurableFunctions


@dataclass(frozen=True, slots=True)
class Connection:
    """What a job needs of its session: its name, the way to Restate, and what runs in this process.

    Attributes:
        ingress: for the session's own loop.
        item_ingress: for the loop on which items run.
        attend: has Restate send what is new to this process; see `attendance.py`.
        records: keeps the manifests of jobs.
        trouble: what is wrong with the server, in words; empty when nothing is.
        ui_url: where the reader's browser finds the Restate UI; empty where it cannot.
        lost: what became of the server's data, in words; empty while they are there. It takes microseconds.
        sweep: has what dropped jobs left be purged soon; see `sweeper.py`.
        on_workers: whether workers run the items, and none of them this process.
    """

    session: str
    ingress: Ingress
    item_ingress: Ingress
    admin_if_any: Admin | None
    runs: JobRuns
    functions: DurableFunctions
    attend: Callable[[], Awaitable[None]]
    records: JobStore
    trouble: Callable[[], str]
    ui_url: str = ""
    sweep: Callable[[], None] = lambda: None
    lost: Callable[[], str] = lambda: ""
    on_workers: bool = False

    @property
    def admin(self) -> Admin:
        """The admin interface.

        Raises:
            InvalidInput: there is no way to it.
        """
        if self.admin_if_any is None:
            raise InvalidInput(
                "This needs Restate's admin API, which tells of jobs, journals and deployments, and the session was "
                "connected without it. Connect with it: rnb.connect(..., admin_url='http://host:9070')."
            )
        return self.admin_if_any


class Backend(Protocol):
    """One way of running a job's items. The coroutines belong to the session's own loop, the rest to any thread.

    Attributes:
        prints: what the items print.
    """

    prints: OutputCapture

    @property
    def concurrency(self) -> int:
        """How many items may run at once."""
        ...

    def set_concurrency(self, bounds: Range) -> None:
        """Change it; what runs is not stopped."""

    def running_positions(self) -> frozenset[int]:
        """Where the items that run now stand in the input."""
        ...

    def obstacles(self) -> list[str]:
        """What keeps items from being started, in words."""
        ...

    def running_items(self) -> list[RunningItem]:
        """What the items that run are doing, the longest first; nothing of those that run elsewhere."""
        ...

    def provide(self, target: Function, policy: RunPolicy) -> None:
        """Bring the function, and how it is run."""

    def listen(self) -> None:
        """Let the ledger hear of outcomes as they are recorded."""

    async def finish(
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

    def gives_up(self, round_: int) -> bool:
        """Whether items of this round that have not begun will end as cancelled."""
        ...

    @property
    def mismatched(self) -> int:
        """How many invocations no longer match their journals, since their function was changed."""
        ...

    async def restart(self) -> int:
        """Run those from the beginning, with the function as it is now; return how many."""
        ...

    def pause(self) -> None:
        """Start nothing more, until `resume`; what runs goes on."""

    def resume(self) -> None:
        """Go on after `pause`."""

    def hold(self, told: OnUnkept | None) -> None:
        """Tell when what an item returned cannot be kept; with None never. Items that began before this do not count.
        A pool in this process starts nothing more then, until `resume`."""

    @property
    def busy(self) -> bool:
        """Whether items run in this process, or have run and are not recorded."""
        ...

    async def cancel(self) -> None:
        """End the items that have no outcome."""

    def reopen(self) -> None:
        """Take `cancel` back, for a further round."""

    def columns(self) -> Mapping[str, Sequence[Any]]:
        """What the frame tells besides the usual of each item, in the order of the input."""
        ...
