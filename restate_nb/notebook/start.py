"""`start`: the one session of this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from restate_nb.errors import InvalidInput
from restate_nb.notebook.names import check_session_name, default_session_name
from restate_nb.notebook.session import RETENTION, Session

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from restate_nb.notebook.job import Job

_current: Session | None = None
_starting = threading.Lock()


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
        retention: how long finished jobs are kept.

    Raises:
        ServerError: restate-server cannot be found, installed or started; the message says what to do.
        InvalidInput: a session with another name or directory is live, or the name has characters it cannot have.

    Example:
        import restate_nb as rnb

        session = rnb.start()
    """
    global _current  # noqa: PLW0603 - the one session of this process
    with _starting:
        directory = Path(data_dir or ".restate").expanduser().absolute()
        if _current is not None and _current.live:
            if (name is not None and name != _current.name) or (data_dir and directory != _current.data_dir):
                raise InvalidInput(
                    f"The session {_current.name!r}, {_current._restate}, is live. "
                    "Use it, or stop it first: rnb.start().stop()."
                )
            _current.revive()
            return _current
        name = default_session_name() if name is None else check_session_name(name)
        _current = Session(name, directory, listen=listen, retention=retention)
    import restate_nb.notebook.accessor  # noqa: F401, PLC0415 - df.restate; loads pandas, so not before it is asked for

    return _current


def only_one(make: Callable[[], Session], name: str, restate: object) -> Session:
    """The session of this process: the live one if it is the one that is asked for, or one that is made.

    Args:
        make: makes it.
        name: its name.
        restate: what it works on; one that equals that of the live session is the same.

    Raises:
        InvalidInput: another one is live.
    """
    global _current  # noqa: PLW0603 - the one session of this process
    with _starting:
        if _current is not None and _current.live:
            if name != _current.name or restate != _current._restate:
                raise InvalidInput(f"{_current!r} is live. Use it, or stop it first: rnb.start().stop().")
            return _current
        _current = make()
    import restate_nb.notebook.accessor  # noqa: F401, PLC0415 - see `start`

    return _current


def current() -> Session:
    """The live session.

    Raises:
        InvalidInput: there is none.
    """
    if _current is None or not _current.live:
        raise InvalidInput("There is no session yet. Run this first: rnb.start()")
    return _current


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


def job(name: str, session: Session | None = None) -> Job[Any]:
    """The job of that name, without its cell: its outcomes, charts and controls.

    An unfinished job goes on once its function is known here, that is, when the cell that maps it is run. The index of
    the input is not kept: the frame has positions instead. Objects with fields are dicts.

    Args:
        name: as `restate_nb.jobs` lists it, of this session.
        session: the session; the live one by default.

    Raises:
        InvalidInput: there is no such job, or not all of its items were submitted.

    Example:
        import restate_nb as rnb

        rnb.start()
        rnb.map(str, [1, 2], name="texts").result()
        rnb.job("texts").frame()
    """
    return (session or current()).job(name)


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
    from restate_nb.notebook.frame import compared  # noqa: PLC0415 - loads pandas

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
    from restate_nb.notebook import charts  # noqa: PLC0415 - loads matplotlib

    return charts.compare(compare(a, b), (a.name, b.name), ax=ax, title=title)
