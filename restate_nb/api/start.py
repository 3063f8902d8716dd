"""`start`: a session on a restate-server of its own."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Literal

from restate_nb.errors import InvalidInput, ServerError
from restate_nb.names import check_session_name, default_session_name
from restate_nb.session.current import live_or_new
from restate_nb.session.session import RETENTION, Session
from restate_nb.store.opening import parse_store
from restate_nb.validation import check_retention
from restate_nb.words import checks_call


@checks_call
def start(
    name: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    listen: Literal["unix", "tcp"] | None = None,
    retention: timedelta | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Session:
    """Start the session of this process, or return the one that is live.

    Finds restate-server, installs it when it is not there, and starts it; it ends when this process does.

    Args:
        name: separates the jobs of notebooks that share a server; the notebook's or script's name by default.
        data_dir: where the server keeps everything; `.restate` in the current directory by default.
        listen: `unix` sockets, which other users of the machine cannot reach (the default), or loopback `tcp` for
            other tools.
        retention: how long a job is kept after its end; 30 days by default.
        store: where values and items lie that are too large for Restate: a directory that workers reach, too, or the
            address of a bucket, such as `s3://bucket/prefix`; by default beside the server's data.

    Raises:
        ServerError: restate-server cannot be found, installed or started; the message says what to do.
        InvalidInput: a session is live that is not what is asked for, the name has characters it cannot have, or values
            cannot be kept where `store` says.

    Example:
        import restate_nb as rnb

        session = rnb.start()
    """
    try:
        directory = Path(data_dir or ".restate").expanduser().absolute()
    except RuntimeError as error:  # a user of no account, without HOME
        raise ServerError(f"data_dir={str(data_dir)!r} cannot be found: {error} Give an absolute path.") from error

    if listen not in (None, "unix", "tcp"):
        raise InvalidInput(f"listen is 'unix' or 'tcp', not {listen!r}.")
    if retention is not None:
        check_retention(retention)
    values = None if store is None else parse_store(store)

    def make() -> Session:
        chosen = default_session_name() if name is None else check_session_name(name)
        kept = RETENTION if retention is None else retention
        return Session(chosen, directory, listen=listen or "unix", retention=kept, store=values)

    def differs(live: Session) -> str:
        if name not in (None, live.name):
            return f"its name is not {name!r}"
        if data_dir and directory != live.data_dir:
            return f"its data are not in {directory}"
        if values is not None and not live.keeps_values_in(values):
            return f"it does not keep values in {values.url}"
        if listen is not None and live.data_dir is not None and live.server.listen != listen:
            return f"its server listens on {live.server.listen}"
        if retention is not None and live.retention != retention:
            return f"it keeps jobs for {live.retention}"
        return ""

    session = live_or_new(make, differs)
    from restate_nb.api.accessor import register_for_polars  # noqa: PLC0415 - loads pandas, so not before it is asked for

    register_for_polars()
    return session
