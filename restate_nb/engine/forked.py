"""A fork of this process, by `os.fork` or multiprocessing, has its memory and none of its threads.

A session there would wait for ever for loops that do not run. So in a child it counts as that of another process: what
is asked of it is refused at once, and its end is that of its parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from restate_nb.errors import InvalidInput

_AFTER: Final[list[Callable[[], None]]] = []


class Home:
    """The process in which something was made.

    Example:
        >>> Home().is_here
        True
    """

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process, and no fork of it."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Refuse what cannot be done in a fork.

        Raises:
            InvalidInput: this is one.
        """
        if not self.is_here:
            raise InvalidInput(
                f"This process was forked from the one that has the session (process {self._pid}), and the session's "
                "threads are not in it. Run jobs in that process; or have the child be a process of its own "
                "(multiprocessing.get_context('spawn')) with an rnb.start() of its own; or, to compute in several "
                'processes, rnb.map(..., executor="process").'
            )


def in_children(do: Callable[[], None]) -> None:
    """Have this done in forks, first of all."""
    _AFTER.append(do)


def _after_fork() -> None:
    for do in _AFTER:
        do()


os.register_at_fork(after_in_child=_after_fork)
