"""The failures of a job as people look into them: in groups, one by one, and run again in the cell."""

from __future__ import annotations

import contextvars
import inspect
from typing import Any, Final

import pandas as pd

from restate_nb.engine import seeds
from restate_nb.engine.function import Function
from restate_nb.engine.record import STATUS_NAMES, Failure
from restate_nb.engine.waiting import run
from restate_nb.errors import InvalidInput
from restate_nb.results.columns import as_frame, typed_column
from restate_nb.results.failure_store import kind_of
from restate_nb.results.ledger import PENDING
from restate_nb.results.selected import Recorded
from restate_nb.tracebacks import users_part

COLUMNS: Final = ["count", "error_type", "error", "where", "first_at", "last_at", "example", "traceback"]


def errors_frame(ledger: Recorded, index: pd.Index[Any]) -> pd.DataFrame:
    """One row a kind of failure, the most frequent first; see `Job.errors`."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    now = ledger.snapshot()
    for position, failure in sorted(now.failures.items()):
        groups.setdefault((failure.type, kind_of(failure.message), failure.where), []).append(position)
    rows = []
    for positions in sorted(groups.values(), key=len, reverse=True):
        ends = [now.started[each] + now.ran[each] for each in positions]
        failure = _whole(ledger, now.failures[positions[0]], positions[0])
        about = failure.type, failure.message, failure.where, min(ends), max(ends), index[positions[0]]
        rows.append((len(positions), *about, failure.traceback))
    by_name = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(COLUMNS, ())
    columns = {name: list(values) for name, values in by_name.items()}
    columns["example"] = typed_column(columns["example"])
    frame = as_frame(columns, pd.RangeIndex(len(rows)))
    for name in ("first_at", "last_at"):
        frame[name] = pd.to_datetime(frame[name], unit="s", utc=True).astype("datetime64[us, UTC]")
    texts = dict.fromkeys(("error_type", "error", "where", "traceback"), "string")
    return frame.astype({"count": "int64", **texts})


def traceback_text(ledger: Recorded, index: pd.Index[Any], label: Any) -> str:
    """The traceback of a failed item.

    Raises:
        InvalidInput: there is no such item, or it has not failed.
    """
    positions = positions_of(index, label)
    now = ledger.snapshot()
    failed = next((position for position in positions if position in now.failures), None)
    if failed is None:
        code = now.status[positions[0]]
        status = "not done yet" if code == PENDING else STATUS_NAMES[code]
        raise InvalidInput(
            f"The item {label!r} has not failed: it is {status}. job.errors() has an example of each kind of failure."
        )
    failure = _whole(ledger, now.failures[failed], failed)
    return failure.traceback or f"{failure.type}: {failure.message}"


def _whole(ledger: Recorded, failure: Failure, position: int) -> Failure:
    """With its traceback, which a snapshot leaves where it is; without one when the item runs again by now."""
    return ledger.whole_failure(position) or failure


def positions_of(index: pd.Index[Any], label: Any) -> list[int]:
    """Where the items with this index label stand.

    Raises:
        InvalidInput: there is none.
    """
    if isinstance(index, pd.RangeIndex):
        found = [range(index.start, index.stop, index.step).index(label)] if label in index else []
    else:
        found = [position for position, each in enumerate(index) if _is_label(each, label)]
    if not found:
        few = ", ".join(repr(each) for each in index[:3])
        raise InvalidInput(f"There is no item {label!r}. Items go by their index label in job.frame(): {few}, ...")
    return found


def _is_label(each: Any, label: Any) -> bool:
    if each is label:
        return True
    try:
        return bool(each == label)
    except (TypeError, ValueError):  # pd.NA is neither equal nor not
        return False


def run_here(target: Function, raw: bytes, *, job: str, position: int, debug: bool) -> Any:
    """Run one item in this cell; what it raises is shown as of the user's own code.

    Args:
        target: the function.
        raw: the encoded item.
        job: the key of its job, for its seed.
        position: where it stands.
        debug: open the debugger where it raises.
    """
    __tracebackhide__ = True  # IPython and pytest leave this frame out
    try:
        context = contextvars.copy_context()
        context.run(seeds.enter, job, position)
        value = context.run(target.caller(), raw)
        return context.run(run, value) if inspect.isawaitable(value) else value
    except Exception as error:
        error.__traceback__ = users_part(error.__traceback__)
        if debug:
            import pdb  # noqa: PLC0415 - asked for

            pdb.post_mortem(error.__traceback__)
        raise
