"""Items cannot ask a person: `input()` and `breakpoint()` in many threads at once hang the kernel, and wait for ever.

A cell of the user's own, a plain thread, and `job.rerun_locally(..., debug=True)` ask as before.
"""

from __future__ import annotations

from restate_nb.engine.output import position
from restate_nb.errors import CannotAsk
from restate_nb.patches import guard_questions, replace_questions


def refuse_in_items() -> None:
    """From now on items get an error where they ask. What replaces `input` later is guarded with the next job."""
    guard_questions(_refuse_item)


def refuse() -> None:
    """In a worker process, which runs nothing but items, all code gets an error where it asks."""
    replace_questions(_refuse)


def _refuse_item(what: str) -> None:
    if position() >= 0:
        _refuse(what)


def _refuse(what: str) -> None:
    raise CannotAsk(
        f"{what} waits for a person, and items run many at once, in the background: nobody can answer them. Ask in the "
        "cell before, and pass the answer with the items; to look into a failed item: "
        "job.rerun_locally(label, debug=True)."
    )
