"""What would make a job faster, for the person who waits for it."""

from __future__ import annotations

import time
import warnings
from typing import Final

from restate_nb.engine.cpus import cpus
from restate_nb.engine.function import Function
from restate_nb.engine.seeds import copied_generators
from restate_nb.errors import InvalidInput
from restate_nb.formatting import duration
from restate_nb.handle.function_changes import listed
from restate_nb.tracebacks import caller_level

HELD_SECONDS: Final = 5.0
"""For how long what was seen last is said."""

_IN_USE: Final = "during iteration"
"""How Python says that something changed while it was pickled: a moment later it may be still."""


class ProcessAdvice:
    """Says of items that compute in threads, one at a time, what processes would bring."""

    def __init__(self) -> None:
        self._function: Function | None = None  # that the rest is about
        self._cores = 0  # when that was seen last to be more than one
        self._seen = 0.0  # on time.monotonic
        self._obstacle: str | None = None  # to sending it; None while that is not known

    def hint(self, function: Function, cores: int) -> str:
        """One line; empty when the items would not be faster.

        Args:
            function: the job's.
            cores: on how many processors they would compute; 0 for no more than now. A machine that has other things to
                do makes that come and go, so what was seen holds for some seconds.
        """
        cores = self._held(function, cores)
        if not cores:
            return ""
        would = f'These items compute, one at a time: executor="process" would use {_named(cores)}'
        if obstacle := self._why_not(function):
            return f"{would}, but {obstacle}"
        return f'{would} (job.executor = "process" now)'

    def reason(self, function: Function, left: int, eta: float | None) -> str:
        """The same for a diagnosis, with what it would bring; for items of which there is a hint.

        Args:
            function: the job's.
            left: how many items have no outcome.
            eta: seconds until the job has ended, as it runs now.
        """
        cores = self._held(function, 0)
        times = min(cores, left)
        if times < 2:
            return ""
        brings = f"up to {times} times as fast"
        if eta is not None:
            brings += f", about {duration(eta / times)} left in place of {duration(eta)}"
        says = (
            "These items compute, one at a time, since Python lets one thread compute: more of them at once do not "
            f"help. In processes they use {_named(cores)}, {brings}"
        )
        if obstacle := self._why_not(function):
            return f"{says}. But {obstacle}"
        return f'{says}: job.executor = "process" moves what has not begun.'

    def _held(self, function: Function, cores: int) -> int:
        now = time.monotonic()
        if function is not self._function:
            self._function, self._cores, self._obstacle = function, 0, None
        if cores:
            self._cores, self._seen = cores, now
        elif now - self._seen > HELD_SECONDS:
            self._cores = 0
        return self._cores

    def _why_not(self, function: Function) -> str:
        if self._obstacle is None:
            try:
                function.check_sendable()
            except InvalidInput as error:
                if _IN_USE in str(error):
                    return ""
                self._obstacle = str(error)
            else:
                self._obstacle = ""
        return self._obstacle


def warn_of_copied_generators(function: Function) -> None:
    """Warn that a function draws from random generators of which each of its processes has a copy."""
    names = list(dict.fromkeys(name for fn in function.functions for name in copied_generators(fn)))
    if names:
        warnings.warn(
            f"{function.name} uses the random generator {listed(names)}, and each worker process has a copy of it: all "
            "draw the same numbers. Make one for each item, inside the function: "
            "numpy.random.default_rng(rnb.item_seed()).",
            UserWarning,
            stacklevel=caller_level(),
        )


def _named(cores: int) -> str:
    return f"all {cores} cores" if cores == cpus() else f"{cores} cores"
