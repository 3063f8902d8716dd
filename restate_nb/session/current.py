"""The one session of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from restate_nb.engine.forked import in_children
from restate_nb.errors import InvalidInput

if TYPE_CHECKING:
    from restate_nb.session.session import Session

live_session: Session | None = None
_making = threading.Lock()


def _forked() -> None:
    global _making  # noqa: PLW0603 - a thread that is not in the fork may have it
    _making = threading.Lock()


in_children(_forked)


def live_or_new(make: Callable[[], Session], differs: Callable[[Session], str]) -> Session:
    """The live session if it is the one that is asked for, its server started again if need be; else one that is made.

    Args:
        make: makes it.
        differs: in what the live one is not what is asked for, in words; empty where it will do.

    Raises:
        InvalidInput: another one is live.
    """
    global live_session  # noqa: PLW0603 - what this module is about
    with _making:
        if live_session is not None and live_session.live and live_session.lost:
            live_session.stop()
        if live_session is None or not live_session.live:
            live_session = make()
        elif difference := differs(live_session):
            raise InvalidInput(
                f"{live_session!r} is live, and {difference}. Use it as it is, or stop it first: rnb.start().stop()."
            )
        else:
            live_session.revive()
        return live_session


def current() -> Session:
    """The live session.

    Raises:
        InvalidInput: there is none.
    """
    if live_session is not None:
        live_session.check_process()
    if live_session is None or not live_session.live:
        raise InvalidInput("There is no session yet. Run this first: rnb.start()")
    return live_session
