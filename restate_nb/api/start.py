"""Start a session, and what it is asked for by name."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from restate_nb.errors import ServerError
from restate_nb.names import check_session_name, default_session_name
from restate_nb.session.current import current, only_one
from restate_nb.session.session import RETENTION, Session

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from restate_nb.handle.job import Job


def start(
    name: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    listen: Literal["unix", "tcp"] = "unix",
    retention: timedelta = RETENTION,
) -> Session:
    """Start the session of this process, or return the one that is live.

    Finds restate-server, installs it when it is not there, and starts it; it ends when this process does.

    Args:
        name: separates the jobs of notebooks that share a server; the notebook's or script's name by default.
        data_dir: where the server keeps everything; `.restate` in the current directory by default.
        listen: `unix` sockets, which other users of the machine cannot reach, or loopback `tcp` for other tools.
        retention: how long a job is kept after its end.

    Raises:
        ServerError: restate-server cannot be found, installed or started; the message says what to do.
        InvalidInput: a session with another name or directory is live, or the name has characters it cannot have.

    Example:
        import restate_nb as rnb

        session = rnb.start()
    """
    try:
        directory = Path(data_dir or ".restate").expanduser().absolute()
    except RuntimeError as error:  # a user of no account, without HOME
        raise ServerError(f"data_dir={str(data_dir)!r} cannot be found: {error} Give an absolute path.") from error

    def make() -> Session:
        chosen = default_session_name() if name is None else check_session_name(name)
        return Session(chosen, directory, listen=listen, retention=retention)

    def fits(live: Session) -> bool:
        return name in (None, live.name) and (not data_dir or directory == live.data_dir)

    session = only_one(make, fits)
    import restate_nb.api.accessor  # noqa: F401, PLC0415 - df.restate; loads pandas, so not before it is asked for

    return session


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


def job(name: str, session: Session | None = None, *, on: Literal["here", "workers"] | None = None) -> Job[Any]:
    """The job of that name, without its cell: its outcomes, charts and controls.

    An unfinished job goes on once its function is known here, that is, when the cell that maps it is run. The index of
    the input is not kept: the frame has positions instead. Objects with fields are dicts.

    Args:
        name: as `restate_nb.jobs` lists it, of this session.
        session: the session; the live one by default.
        on: which of two jobs of that name: the one that the session runs ("here"), or the one on its "workers".

    Raises:
        InvalidInput: there is no such job, or there are two, or not all of its items were submitted.

    Example:
        import restate_nb as rnb

        rnb.start()
        rnb.map(str, [1, 2], name="texts").result()
        rnb.job("texts").frame()
    """
    return (session or current()).job(name, on=on)


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
