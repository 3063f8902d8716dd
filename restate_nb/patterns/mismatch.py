"""What to tell when a handler no longer does what its journal has."""

from __future__ import annotations

import re
from typing import Final

from restate_nb.errors import JournalMismatch

_ANOTHER: Final = re.compile(
    r"recorded the following: '(?P<recorded>[^']+)' \(index '(?P<index>\d+)'\)"
    r"\s+- The current execution attempts to perform the following: '(?P<asked>[^']+)'"
)
_DIFFERENT: Final = re.compile(
    r"happened while executing '(?P<kind>[^']+)' \(index '(?P<index>\d+)'\)"
    r"\s+- Difference:(?P<difference>(?:\n {3}.*)+)"
)
_WHY: Final = (
    "Either its code was changed while this invocation was under way, or it does not do the same each time (a clock, "
    "random numbers, the order of a set). Put the code back as it was, or cancel the invocation and begin anew. (570)"
)


def mismatch_of(who: str, steps: int, error: Exception) -> JournalMismatch:
    """The error for an operation of whose step the journal has another one.

    Args:
        who: the operation, for people.
        steps: how many steps it has been through.
        error: what the native core says, which is an English text.
    """
    told = JournalMismatch(f"{who}, after {steps} of its steps: {_sentence(str(error))}")
    told.__cause__ = error
    return told


def _sentence(text: str) -> str:
    if another := _ANOTHER.search(text):
        return (
            f"the journal has a {another['recorded']!r} there (entry {another['index']}), and the code now asks for a "
            f"{another['asked']!r}. {_WHY}"
        )
    if different := _DIFFERENT.search(text):
        difference = "; ".join(line.strip() for line in different["difference"].strip().splitlines())
        return (
            f"its {different['kind']!r} (entry {different['index']}) is another one than in the journal, where the "
            f"first is recorded: {difference}. {_WHY}"
        )
    return text
