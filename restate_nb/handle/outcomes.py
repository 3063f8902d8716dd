"""What became of a job's items: as DataFrames, files and charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restate_nb.backends.base import WorkerShare
from restate_nb.engine.function import Function
from restate_nb.engine.record import CANCELLED, ERROR, TIMEOUT
from restate_nb.errors import InvalidInput
from restate_nb.handle.items import Items, own_source
from restate_nb.handle.provenance import Provenance
from restate_nb.handle.runner import JobRunner
from restate_nb.results.ledger import Ledger
from restate_nb.results.limit_history import LimitHistory
from restate_nb.session.run import LoopThread

if TYPE_CHECKING:
    import os

    import pandas as pd

    from restate_nb.handle.identity import JobIdentity

Where = type[BaseException] | str | tuple[type[BaseException] | str, ...] | Callable[[Any], Any] | Sequence[Any] | None
"""Which failed items: by error type, by a function of their frame, or by index labels; all for None."""


class Outcomes:
    """The readable side of a job: all of it can be asked at any time, and shows what is recorded by then."""

    _driver: JobRunner
    _io: LoopThread
    _ledger: Ledger
    _items: Items
    _target: Function
    _limits: LimitHistory
    _which: Provenance

    @property
    def name(self) -> str:
        """The job's name: with it, the same cell finds the job again."""
        return self._driver.manifest.name

    @property
    def _created(self) -> float:
        return self._driver.manifest.created

    # ------------------------------------------------------------ frames

    def frame(self, *, expand: bool = False) -> pd.DataFrame:
        """The outcomes as they are now, one row an item, in input order, on the input's own index.

        Args:
            expand: put the fields of dict, dataclass or model values in columns of their own, in place of `value`.

        Columns: `item`; `value` (what the function returned); `status` (pending, running, ok, error, timeout,
        cancelled); `error_type` and `error`; `attempts` (how many were made); `queued_s` (seconds from submission to
        the first start); `run_s` (seconds spent running, all attempts together); `started_at`, `finished_at` (UTC).
        Of a job of `rnb.invoke` also what Restate tells of each item's last invocation: `invocation_id`,
        `invocation_status`, `invocation_retries` (since it last made progress), `invocation_created_at`,
        `invocation_started_at`, `invocation_ended_at` (UTC). Where items were run by different code, or with different
        content of what it names, also `code`: which it was, as `job.identity()` lists them.

        Example:
            job.frame()["status"].value_counts()
        """
        from restate_nb.results.columns import objects  # noqa: PLC0415 - loads pandas
        from restate_nb.results.frame import expanded, job_frame, with_columns  # noqa: PLC0415

        frame = job_frame(
            self._ledger,
            self._items.index(),
            self._items.originals,
            self._target.value,
            running=self._driver.work.running_positions(),
            submitted=self._created,
        )
        if hasattr(self._items.source, "array"):  # a Series: its dtype is kept
            source = self._items.source
            items = objects(list(self._items.originals), len(frame)) if source.dtype == object else source
            frame["item"] = items.set_axis(frame.index)
        codes = self._which.codes(self._ledger)
        more = {**self._driver.work.columns(), **({} if codes is None else {"code": codes})}
        return with_columns(expanded(frame) if expand else frame, more)

    def join(self, *, expand: bool = True) -> pd.DataFrame:
        """The input with what became of each row beside it, on the input's own index.

        Args:
            expand: as in `frame`. A column that the input has, too, becomes `<column>_result`.

        Example:
            job.join().to_csv("cities_with_answers.csv")
        """
        from restate_nb.results.frame import joined  # noqa: PLC0415 - loads pandas

        return joined(own_source(self._items.source), self.frame(expand=expand), self._items.index())

    def errors(self) -> pd.DataFrame:
        """The failed items grouped by what went wrong, the most frequent first.

        Failures are of one kind when their type, the last line of your own code and their message agree, names and
        numbers in the message left aside. Columns: `count`, `error_type`, `error` (the first message), `where`,
        `first_at`, `last_at` (UTC), `example` (an index label), `traceback` (of the example).

        Example:
            job.errors()[["count", "error_type", "error", "where"]]
        """
        from restate_nb.results.error_groups import errors_frame  # noqa: PLC0415 - loads pandas

        return errors_frame(self._ledger, self._items.index())

    def traceback(self, label: Any) -> str:
        """The traceback of a failed item; `print` it.

        Args:
            label: the item's index label; its position where the index has none.

        Raises:
            InvalidInput: there is no such item, or it has not failed.

        Example:
            print(job.traceback(job.errors()["example"].iloc[0]))
        """
        from restate_nb.results.error_groups import traceback_text  # noqa: PLC0415 - loads pandas

        return traceback_text(self._ledger, self._items.index(), label)

    def rerun_locally(self, label: Any, *, debug: bool = False) -> Any:
        """Run one item here and now, in this cell: nothing is recorded. Returns what the function returns.

        Args:
            label: the item's index label.
            debug: open the debugger where it raises.

        Raises:
            InvalidInput: there is no such item, or the function takes a Restate context; `rnb.call` runs it.
            Whatever the function raises.

        Example:
            job.rerun_locally(job.frame().index[0])
        """
        __tracebackhide__ = True  # IPython and pytest leave this frame out
        from restate_nb.results.error_groups import positions_of, run_here  # noqa: PLC0415 - loads pandas

        position = positions_of(self._items.index(), label)[0]
        if self._target.durable:
            raise InvalidInput(
                f"{self._target.name} takes a Restate context. Run it with rnb.call({self._target.name}, ...)."
            )
        return run_here(self._target, self._items.encoded[position], debug=debug)

    def identity(self) -> JobIdentity:
        """Which job it is: what counted, what could not be seen, and what has changed since its items ran.

        Example:
            import restate_nb as rnb

            rnb.start()
            FACTOR = 3

            def times(n):
                return FACTOR * n

            job = rnb.map(times, [1, 2])
            job.identity().frame()  # one row a part: `times` and `FACTOR`
        """
        from restate_nb.handle.identity import identity_of_job  # noqa: PLC0415 - loads pandas

        return identity_of_job(self.name, self._driver.manifest, self._which)

    def attempts(self) -> pd.DataFrame:
        """Every attempt, one row each, on the input's index: `position, attempt, status, error_type, error, started_at,
        run_s, finished_at`.

        Example:
            job.attempts().groupby("attempt")["status"].value_counts()
        """
        from restate_nb.results.frame import attempts_frame  # noqa: PLC0415 - loads pandas

        return attempts_frame(self._ledger, self._items.index())

    def workers(self) -> pd.DataFrame:
        """Who ran a job on workers, one row a process and version of its code, as known by now.

        Columns: `host`, `process` (its id there), `code` (the digest of the function's code there), `shards` and
        `items` (that it ended; what another worker began counts for the one that ended it). No
        rows where this process ran the job.

        Example:
            job.workers()["code"].nunique()  # more than 1: not all workers have the same code
        """
        import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

        return pd.DataFrame(list(self._driver.work.workers()), columns=list(WorkerShare._fields))

    def steps(self) -> pd.DataFrame:
        """Every durable step of a job over a durable function, one row each, on the input's index.

        Columns: `position`; `step` (its name, or the target of a call) and `kind` (run, sleep, call, send, ...);
        `status` (ok, error, pending, or cancelled when its invocation ended first); `started_at`; `run_s` (seconds
        until its result was recorded, or its invocation ended); `finished_at`. Read from Restate's journals.

        Raises:
            InvalidInput: the function takes no Restate context, so it has no steps.

        Example:
            from datetime import timedelta

            import restate_nb as rnb

            async def nap(ctx, item):
                await ctx.sleep(timedelta(milliseconds=10), name="nap")
                return item

            rnb.start()
            job = rnb.map(nap, [1, 2])
            job.result()
            job.steps()[["step", "status", "run_s"]]
        """
        if not self._target.durable:
            raise InvalidInput(
                f"{self._target.name} is a plain function and has no durable steps; job.attempts() has its timings."
            )
        return self._io.run(self._driver.steps(self._items.index()))

    def logs(self) -> pd.DataFrame:
        """What the items printed and logged in this process and its workers, one row a line, on the input's index.

        It is shown under the cell that submitted the job, too, as long as that takes more output. The last 50,000 lines
        are kept, until this process ends. What threads of your own print, and programs that run in no worker process,
        is not known to be an item's: it shows up in the cell that runs.

        Columns: `position`, `stream` (stdout, stderr), `at` (UTC), `text`.

        Example:
            print(*job.logs()["text"])
            job.logs().loc["Bonn"]  # what the item with this index label printed
        """
        from restate_nb.results.frame import logs_frame  # noqa: PLC0415 - loads pandas

        return logs_frame(self._driver.work.prints.lines(), self._items.index())

    def _chosen(self, where: Where) -> list[int]:
        """The positions of the failed and cancelled items that `where` chooses."""
        import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

        failed = list(self._ledger.positions(ERROR, TIMEOUT, CANCELLED))
        if where is None:
            return failed
        if isinstance(where, (type, str)) or (isinstance(where, tuple) and where and isinstance(where[0], (type, str))):
            kinds = where if isinstance(where, tuple) else (where,)
            names = {each if isinstance(each, str) else each.__qualname__ for each in kinds}
            return [position for position in failed if self._ledger.failures[position].type in names]
        if callable(where):
            chosen = where(self.frame().iloc[failed])
            mask = pd.Series(list(chosen), dtype="boolean").fillna(False)
            if len(mask) != len(failed):
                raise InvalidInput(
                    f"where= was given {len(failed)} failed items and returned {len(mask)} values; it must return one "
                    "truth value a row, such as: lambda failed: failed['error'].str.contains('429')."
                )
            return [position for position, take in zip(failed, mask, strict=True) if take]
        index = self._items.index()
        labels: dict[Any, list[int]] = {}
        for position in failed:
            labels.setdefault(index[position], []).append(position)
        wrong = [label for label in where if label not in labels]
        if wrong:
            raise InvalidInput(f"{wrong[0]!r} is not the index label of a failed item: job.frame() shows them.")
        return sorted({position for label in where for position in labels[label]})

    # ------------------------------------------------------------ files

    def to_parquet(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the frame as Parquet (needs pyarrow); items and values that are no plain column become JSON text.

        Args:
            path: the file; its directory must exist.
            options: for `pandas.DataFrame.to_parquet`.

        Example:
            job.to_parquet("answers.parquet")
        """
        from restate_nb.results.exports import plain_columns  # noqa: PLC0415 - loads pandas

        plain_columns(self.frame()).to_parquet(path, **options)
        return Path(path)

    def to_csv(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the frame as CSV; items and values that are no plain column become JSON text.

        Args:
            path: the file; its directory must exist.
            options: for `pandas.DataFrame.to_csv`.

        Example:
            job.to_csv("answers.csv")
        """
        from restate_nb.results.exports import plain_columns  # noqa: PLC0415 - loads pandas

        plain_columns(self.frame()).to_csv(path, **options)
        return Path(path)

    def to_json(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the frame as JSON: a list of objects, one an item, the index among their fields.

        Args:
            path: the file; its directory must exist.
            options: for `pandas.DataFrame.to_json`, such as `lines=True` for an object a line.

        Example:
            job.to_json("answers.jsonl", lines=True)
        """
        from restate_nb.results.exports import records  # noqa: PLC0415 - loads pandas

        known: dict[str, Any] = {"orient": "records", "date_format": "iso", "date_unit": "us"}
        records(self.frame()).to_json(path, **(known | options))
        return Path(path)
