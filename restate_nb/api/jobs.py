"""`jobs`, `job`, `compare` and `compare_chart`: jobs that are there, by name, and two of them side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from restate_nb.handle.job import Job
from restate_nb.session.current import current
from restate_nb.session.session import Session
from restate_nb.words import checks_call

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@checks_call
def jobs(session: Session | None = None) -> pd.DataFrame:
    """All jobs of the server, those of other notebooks included, the latest first.

    Columns: `name`, `session`, `function`, `status`, `total`, `ok`, `failed`, `cancelled` (missing for unfinished jobs
    of other processes), `started_at`, `finished_at`, `elapsed_s` (the time between the end of a round and the next left
    out; of unfinished jobs of other processes that of the last round), `rounds` (1 and the retries).

    Args:
        session: whose server; that of the live session by default.

    Raises:
        InvalidInput: there is no session.

    Example:
        import restate_nb as rnb

        rnb.start()
        rnb.jobs()[["name", "status", "total", "failed"]]
    """
    return (session or current()).list_jobs()


@checks_call
def job(
    name: str,
    session: Session | None = None,
    *,
    on: Literal["here", "workers"] | None = None,
    pickle: bool = False,
) -> Job[Any]:
    """The job of that name, without its cell: its outcomes, charts and controls.

    An unfinished job goes on once its function is known here, that is, when the cell that maps it is run. The index of
    the input is not kept: the frame has positions instead. Objects with fields are dicts.

    Args:
        name: as `restate_nb.jobs` lists it, of this session.
        session: the session; the live one by default.
        on: which of two jobs of that name: the one that the session runs ("here"), or the one on its "workers".
        pickle: read what a job with `pickle=True` has pickled; see `map`.

    Raises:
        InvalidInput: there is no such job, or there are two, not all of its items were submitted, or nothing may be
            unpickled here.

    Example:
        import restate_nb as rnb

        rnb.start()
        rnb.map(str, [1, 2], name="texts").result()
        rnb.job("texts").frame()
    """
    return (session or current()).job(name, on=on, pickle=pickle)


@checks_call
def compare(a: Job[Any], b: Job[Any]) -> pd.DataFrame:
    """Two jobs side by side: what changed, what newly failed, what was fixed, what got faster.

    Rows are matched by index label; by item where an index has a label twice.

    Args:
        a: the job before.
        b: the job after.

    Returns:
        Columns `change` (same, changed, fixed, newly failed, still failing, only a, only b), `status_a`, `status_b`,
        `value_a`, `value_b`, `run_s_a`, `run_s_b` and `speedup` (`run_s_a / run_s_b`).

    Example:
        import restate_nb as rnb

        rnb.start()
        before, after = rnb.map(str, [1, 2], name="before"), rnb.map(float, [1, 2], name="after")
        before.result(), after.result()
        print(rnb.compare(before, after)["change"].value_counts())
    """
    from restate_nb.results.frame import compared  # noqa: PLC0415 - loads pandas

    return compared(a.frame(), b.frame())


@checks_call
def compare_chart(a: Job[Any], b: Job[Any], *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw two jobs side by side: each item at its run time in the one and in the other, marked by what changed.

    What got faster is under the line, what got slower above it. An interactive backend tells the item under the mouse.

    Args:
        a: the job before.
        b: the job after.
        ax: where to draw; a new figure by default.
        title: the chart's title.

    Example:
        import restate_nb as rnb

        rnb.start()
        before, after = rnb.map(str, [1, 2], name="before"), rnb.map(float, [1, 2], name="after")
        before.result(), after.result()
        rnb.compare_chart(before, after)
    """
    from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

    return charts.compare(compare(a, b), (a.name, b.name), ax=ax, title=title)
