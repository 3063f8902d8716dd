"""`%load_ext restate_nb`: the line magic `%restate status`, `%restate jobs` and `%restate stop`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from restate_nb.errors import InvalidInput
from restate_nb.session.current import current

if TYPE_CHECKING:
    import pandas as pd

_COMMANDS = {
    "status": "the session, its server and the jobs of this notebook",
    "jobs": "all jobs of the server as a DataFrame, like rnb.jobs()",
    "stop": "end the session and its server; what is done is kept",
}
HELP = "\n".join(f"%restate {name:<7} {does}" for name, does in _COMMANDS.items())


def load_ipython_extension(shell: Any) -> None:
    """Register `%restate`; what `%load_ext restate_nb` calls."""
    shell.register_magic_function(restate, "line", "restate")
    shell.set_hook("complete_command", lambda _shell, _event: list(_COMMANDS), str_key="%restate")


def unload_ipython_extension(shell: Any) -> None:
    """Take `%restate` away; what `%unload_ext restate_nb` calls."""
    shell.magics_manager.magics["line"].pop("restate", None)


def restate(line: str) -> pd.DataFrame | None:
    """`%restate status`, `%restate jobs` or `%restate stop`; `%restate` alone lists them.

    Example:
        %load_ext restate_nb
        %restate jobs
    """
    command = line.strip()
    if command in ("", "help"):
        print(HELP)
        return None
    from IPython.core.error import UsageError  # noqa: PLC0415 - IPython calls this

    if command not in _COMMANDS:
        raise UsageError(f"%restate knows no {command!r}. There are:\n{HELP}")
    try:
        session = current()
    except InvalidInput as error:
        raise UsageError(str(error)) from None
    if command == "jobs":
        return session.list_jobs()
    if command == "stop":
        session.stop()
        print(f"The session {session.name!r} was stopped. What is done is kept: rnb.start() goes on with it.")
        return None
    print(session)
    if session.data_dir is not None:
        ended = session.server_has_ended
        print(f"restate-server {'has ended: rnb.start() starts it again' if ended else 'runs'}")
    for job in session.jobs:
        print(f"  {job!r}")
    return None
