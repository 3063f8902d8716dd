"""A session as a cell shows it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from restate_nb.formatting import count, counted, one_line
from restate_nb.panel.render import ui_anchor

if TYPE_CHECKING:
    from restate_nb.session.session import Session

_SHOWN = 20  # jobs


def session_html(session: Session) -> str:
    """The session's state and its latest jobs; styled inline and by opacity, so that any theme keeps it readable."""
    jobs = session.jobs[::-1]
    link = ui_anchor(session._connection.ui_url) if session.live else ""
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(one_line(job.name, 80))}</td>'
        f'<td style="text-align:left">{escape(job.status)}</td>'
        f"<td>{count(len(job) - job.counts['pending'] - job.counts['running'])} of {count(len(job))}</td>"
        f"<td>{count(job.failed)}</td></tr>"
        for job in jobs[:_SHOWN]
    )
    head = '<tr><th style="text-align:left">job</th><th style="text-align:left">status</th><th>done</th><th>failed</th>'
    table = f"<table><thead>{head}</tr></thead><tbody>{rows}</tbody></table>" if jobs else ""
    more = f"<div>and {counted(len(jobs) - _SHOWN, 'earlier job')}: rnb.jobs()</div>" if len(jobs) > _SHOWN else ""
    return (
        f"<div><b>Session {escape(session.name)}</b> <span>{_state(session)}</span> "
        f'<span style="opacity:0.72">{counted(len(jobs), "job")}</span>{link}{table}{more}</div>'
    )


def _state(session: Session) -> str:
    if not session.live:
        return "stopped: rnb.start() goes on"
    return "live, but its server has ended: rnb.start()" if server_has_ended(session) else "live"


def server_has_ended(session: Session) -> bool:
    """Whether the session's own server was ended from outside; a connected session has none."""
    return session.data_dir is not None and not session.server.alive
