"""What became of a job's items, as DataFrames and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from restate_nb.engine.outbox import FAIL_FAST
from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT
from restate_nb.errors import InvalidInput, JobError
from restate_nb.handle.runner import JobData
from restate_nb.results.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

Where = type[BaseException] | str | tuple[type[BaseException] | str, ...] | Callable[[Any], Any] | Sequence[Any] | None
"""Which failed items: by error type, by a function of their frame, or by index labels; all for None."""


def frame_of(data: JobData, *, expand: bool = False) -> pd.DataFrame:
    """The outcomes as they are now; see `Job.frame`."""
    from restate_nb.results.columns import object_column  # noqa: PLC0415 - loads pandas
    from restate_nb.results.frame import expanded, job_frame, with_columns  # noqa: PLC0415

    items = data.items
    frame = job_frame(
        data.ledger,
        items.index(),
        items.originals,
        data.function.value_column,
        running=data.backend.running_positions(),
        submitted=data.manifest.created,
    )
    if hasattr(items.source, "array"):  # a Series: its dtype is kept
        source = items.source
        column = object_column(list(items.originals), len(frame)) if source.dtype == object else source
        frame["item"] = column.set_axis(frame.index)
    codes = data.provenance.codes(data.ledger)
    more = {**data.backend.columns(), **({} if codes is None else {"code": codes})}
    return with_columns(expanded(frame) if expand else frame, more)


def workers_frame(data: JobData) -> pd.DataFrame:
    """Who ran a job on workers; see `Job.workers`."""
    import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

    return pd.DataFrame(list(data.backend.workers()), columns=["host", "process", "code", "shards", "items"])


def values_of(data: JobData, frame: pd.DataFrame) -> list[Any]:
    """What the function returned for each item of a job that has ended.

    Raises:
        JobError: an item has no value, or its value cannot be read here; it has `frame`.
    """
    ledger = data.ledger
    without = ledger.total - ledger.counts[OK]
    if without:
        raise JobError(
            f"{without:,} of {ledger.total:,} items have no value ({kinds_of_failure(ledger)}). "
            "job.errors() groups them, job.retry_failed() runs them again, job.frame() has the others' values.",
            frame,
        )
    values: list[Any] = []
    for raws in ledger.raws_in_parts(range(ledger.total)):
        positions = range(len(values), len(values) + len(raws))
        try:
            values += data.function.value_column(raws, positions)
        except Exception:  # one by one, to tell of which item
            values += [_value(data, raw, position, frame) for raw, position in zip(raws, positions, strict=True)]
    return values


def _value(data: JobData, raw: bytes, position: int, frame: pd.DataFrame) -> Any:
    try:
        return data.function.value(raw, position)
    except Exception as error:
        raise JobError(
            f"The value of item {position} (index {data.items.index()[position]!r}) is recorded and cannot be "
            f"read: {error} job.frame() has the others' values, and the reason in place of those that cannot be.",
            frame,
        ) from error


def kinds_of_failure(ledger: Ledger) -> str:
    """The most frequent failures in words."""
    kinds = [each for each in ledger.error_groups() if each.error_type != FAIL_FAST]
    return "; ".join(f"{each.count:,} x {each.error_type}: {each.message}" for each in kinds[:3])


def positions_where(data: JobData, where: Where) -> list[int]:
    """The positions of the failed and cancelled items that `where` chooses.

    Raises:
        InvalidInput: it names an item that has not failed, or is a function of another form.
    """
    import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

    failed = list(data.ledger.positions(ERROR, TIMEOUT, CANCELLED))
    if where is None:
        return failed
    if isinstance(where, (type, str)) or (isinstance(where, tuple) and where and isinstance(where[0], (type, str))):
        kinds = where if isinstance(where, tuple) else (where,)
        names = {each if isinstance(each, str) else each.__qualname__ for each in kinds}
        return [position for position in failed if data.ledger.failures[position].type in names]
    if callable(where):
        chosen = where(frame_of(data).iloc[failed])
        mask = pd.Series(list(chosen), dtype="boolean").fillna(False)
        if len(mask) != len(failed):
            raise InvalidInput(
                f"where= was given {len(failed)} failed items and returned {len(mask)} values; it must return one "
                "truth value a row, such as: lambda failed: failed['error'].str.contains('429')."
            )
        return [position for position, take in zip(failed, mask, strict=True) if take]
    index = data.items.index()
    labels: dict[Any, list[int]] = {}
    for position in failed:
        labels.setdefault(index[position], []).append(position)
    wrong = [label for label in where if label not in labels]
    if wrong:
        raise InvalidInput(f"{wrong[0]!r} is not the index label of a failed item: job.frame() shows them.")
    return sorted({position for label in where for position in labels[label]})
