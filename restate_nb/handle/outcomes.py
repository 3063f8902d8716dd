"""What became of a job's items, as DataFrames and values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from restate_nb.engine.outbox import FAIL_FAST
from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT
from restate_nb.errors import InvalidInput, JobError
from restate_nb.formatting import size
from restate_nb.handle.items import Items
from restate_nb.handle.runner import JobData
from restate_nb.results.ledger import Ledger
from restate_nb.tracebacks import caller_level

if TYPE_CHECKING:
    import pandas as pd

    from restate_nb.results.values import ValuesOf

Where = type[BaseException] | str | tuple[type[BaseException] | str, ...] | Callable[[Any], Any] | Sequence[Any] | None
"""Which failed items: by error type, by a function of their frame, or by index labels; all for None."""


def frame_of(data: JobData, *, expand: bool = False, lazy: bool | None = None) -> pd.DataFrame:
    """The outcomes as they are now; see `Job.frame`."""
    from restate_nb.results.frame import expanded, job_frame, with_columns  # noqa: PLC0415 - loads pandas

    items, handles = data.items, _holds_handles(data, lazy)
    frame = job_frame(
        data.ledger,
        items.index(),
        _with_item_handles(items) if handles else items.originals,
        _reader(data, handles=handles),
        running=data.backend.running_positions(),
        submitted=data.manifest.created,
    )
    if hasattr(items.source, "array"):  # a Series: its dtype is kept
        frame["item"] = item_column(items, range(len(items))).set_axis(frame.index)
    return with_columns(expanded(frame) if expand else frame, further_columns(data))


def stored_bytes(data: JobData) -> int:
    """How many bytes a job's items and values have in the store."""
    ledger, encoded = data.ledger, data.items.encoded
    values = ledger.stored_bytes(np.fromiter(ledger.positions(OK), dtype=np.int64))
    return values + (0 if hasattr(data.items.source, "array") else encoded.stored_bytes(np.arange(len(encoded))))


def _holds_handles(data: JobData, lazy: bool | None) -> bool:
    """Whether a frame holds handles for what lies in the store: where `lazy` says so, or it is too much to be read."""
    from restate_nb.results.values import READ_BYTES  # noqa: PLC0415 - only where values are read

    if lazy is not None:
        return lazy
    stored = stored_bytes(data)
    if stored > READ_BYTES:
        warnings.warn(
            f"What the job {data.name!r} has in the store takes {size(stored)}, and up to {size(READ_BYTES)} are read "
            "at once: the frame has a rnb.Stored for each such value, whose load() reads it. lazy=True gives these "
            "without a word, lazy=False reads all; job.iter_values() and job.to_parquet(path) pass through all of "
            "them in little memory.",
            stacklevel=caller_level(),
        )
    return stored > READ_BYTES


def _reader(data: JobData, *, handles: bool) -> ValuesOf:
    from restate_nb.results.values import with_handles  # noqa: PLC0415 - only where values are read

    function = data.function
    return with_handles(function.value_column, function.value) if handles else function.value_column


def _with_item_handles(items: Items) -> Sequence[Any]:
    from restate_nb.store.stored import Stored  # noqa: PLC0415 - only where something is stored

    originals, stored = items.originals, items.encoded.references()
    if not stored:
        return originals

    def read(_: bytes, position: int) -> Any:
        return originals[position]

    return [
        Stored(stored[position], position, read) if position in stored else originals[position]
        for position in range(len(items))
    ]


def item_column(items: Items, positions: range) -> pd.Series[Any]:
    """The items at these positions, as they were given, as a column without an index of its own."""
    import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

    from restate_nb.results.columns import object_column, typed_column  # noqa: PLC0415

    originals, source = items.originals, items.source
    whole = len(positions) == len(items)
    some = originals if whole else originals[positions.start : positions.stop]
    if not hasattr(source, "array"):
        return pd.Series(typed_column(some if isinstance(some, (list, tuple, range)) else list(some)))
    if source.dtype == object:
        column: pd.Series[Any] = object_column(list(some), len(positions))
        return column
    kept: pd.Series[Any] = source.iloc[positions.start : positions.stop].reset_index(drop=True)
    return kept


def further_columns(data: JobData) -> dict[str, Any]:
    """What the backend tells of each item, and which code ran it, where that differs."""
    codes = data.provenance.codes(data.ledger)
    return {**data.backend.columns(), **({} if codes is None else {"code": codes})}


def workers_frame(data: JobData) -> pd.DataFrame:
    """Who ran a job on workers; see `Job.workers`."""
    import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

    return pd.DataFrame(list(data.backend.workers()), columns=["host", "process", "code", "shards", "items"])


def values_of(data: JobData, *, lazy: bool = False) -> list[Any]:
    """What the function returned for each item of a job that has ended.

    Raises:
        JobError: an item has no value, or its value cannot be read here.
    """
    check_values(data)
    read = _reader(data, handles=lazy)
    values: list[Any] = []
    for raws in data.ledger.raws_in_parts(range(data.ledger.total)):
        values += _read(data, read, raws, range(len(values), len(values) + len(raws)))
    return values


def values_at(data: JobData, raws: list[bytes], positions: Sequence[int]) -> list[Any]:
    """What was recorded of these items, of which each has a value.

    Raises:
        JobError: a value cannot be read here.
    """
    return _read(data, data.function.value_column, raws, positions)


def check_values(data: JobData) -> None:
    """See that no item has ended without a value.

    Raises:
        JobError: one has.
    """
    ledger = data.ledger
    without = ledger.done - ledger.counts[OK]
    if without:
        raise JobError(
            f"{without:,} of {ledger.total:,} items have no value ({kinds_of_failure(ledger)}). "
            "job.errors() groups them, job.retry_failed() runs them again, job.frame() has the others' values.",
            frame_of(data),
        )


def values_in_order(data: JobData, more: Callable[[int], int]) -> Iterator[Any]:
    """The value of one item after the other, of which few are in memory at once.

    Args:
        data: the job.
        more: waits, given a position, until items from there on have ended, and says where the first follows that has
            not.

    Raises:
        JobError: an item has no value, or its value cannot be read here.
    """
    from restate_nb.results.values import batches  # noqa: PLC0415 - only where values are read

    begin, total = 0, data.ledger.total
    while begin < total:
        upto = more(begin)
        check_values(data)
        for batch in batches(data.ledger, np.ones(upto, dtype=bool), begin):
            values = values_at(data, batch.raws, batch.positions)
            values.reverse()
            while values:
                yield values.pop()  # so that nothing here holds what the caller has let go of
        begin = upto


def _read(data: JobData, read: ValuesOf, raws: list[bytes], positions: Sequence[int]) -> list[Any]:
    try:
        return read(raws, positions, None)
    except Exception:  # one by one, to tell of which item
        return [_value(data, raw, position) for raw, position in zip(raws, positions, strict=True)]


def _value(data: JobData, raw: bytes, position: int) -> Any:
    try:
        return data.function.value(raw, position)
    except Exception as error:
        raise JobError(
            f"The value of item {position} (index {data.items.index()[position]!r}) is recorded and cannot be "
            f"read: {error} job.frame() has the others' values, and the reason in place of those that cannot be.",
            frame_of(data),
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
        chosen = where(frame_of(data, lazy=True).iloc[failed])
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
