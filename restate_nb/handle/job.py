"""The handle on a job: what it is doing, its outcomes, its charts, and how to steer it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from restate_nb.engine.function import parse_executor
from restate_nb.environment import in_notebook, this_cell
from restate_nb.errors import InvalidInput
from restate_nb.handle import status
from restate_nb.handle.diagnosis import Diagnosis
from restate_nb.handle.outcomes import (
    Where,
    check_values,
    frame_of,
    positions_where,
    values_in_order,
    values_of,
    workers_frame,
)
from restate_nb.handle.runner import JobData, JobRunner
from restate_nb.handle.wait import (
    check_live,
    check_not_paused,
    result_of,
    until_ended,
    until_ended_from,
    wait_for_end,
    wait_for_result,
    waits_within,
)
from restate_nb.limits import Concurrency
from restate_nb.results.progress import Progress
from restate_nb.service.wire import job_key
from restate_nb.validation import concurrency_range
from restate_nb.words import JOB, checks_calls, no_attribute

if TYPE_CHECKING:
    import os

    import pandas as pd
    import polars
    import pyarrow as pa
    from matplotlib.axes import Axes

    from restate_nb.charts import Sort
    from restate_nb.handle.identity import JobIdentity

T = TypeVar("T")

CANCEL_SECONDS = 3.0  # that a cell waits until Restate knows that the job is cancelled
_CANCELLED_SECONDS = 30.0  # that it waits until all is recorded, then


@checks_calls
class Job(Generic[T]):
    """A running or finished job. Made by `restate_nb.map` and its kin.

    It goes on whether or not anyone looks. `result()` waits and gives the DataFrame, so does `await job`; `frame()`
    gives it as it is now.

    Example:
        import restate_nb as rnb

        rnb.start()
        job = rnb.map(len, ["a", "bb"], name="words")
        job.result()[["item", "value", "run_s"]]
    """

    def __init__(self, runner: JobRunner, forget: Callable[[Job[Any]], None]) -> None:
        """`forget`: is called when the job was deleted."""
        self._runner = runner
        self._data = runner.data
        self._forget = forget
        self._shown_in: int | None = None  # the number of the cell that has the live panel

    @property
    def _outcomes(self) -> JobData:
        """What is known of the items. While the job runs, a fork of the session's process hears nothing of them."""
        check_live(self._runner)
        return self._data

    # ------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """The job's name: with it, the same cell finds the job again."""
        return self._data.name

    @property
    def status(self) -> str:
        """One of `submitting`, `waiting` (nothing runs yet), `running`, `paused`, `finished`, `cancelled`, `stopped`,
        `failed`.

        A job with failed items is `finished`; one whose session was stopped is `stopped`, and goes on when its cell is
        run again; `failed` is a job that could not be followed to its end.
        """
        return status.status_of(self._runner)

    @property
    def counts(self) -> dict[str, int]:
        """How many items are `pending`, `running`, `ok`, `error`, `timeout` and `cancelled`; together, all of them."""
        check_live(self._runner)
        return status.counts_of(self._runner)

    @property
    def failed(self) -> int:
        """How many items ended with an error or a timeout."""
        return self._data.shown.failed

    @property
    def attached(self) -> int:
        """How many items were done already when this process attached to the job, or when its cell was run again."""
        return self._data.shown.attached

    def progress(self) -> Progress:
        """The job at this moment, as its panel shows it: counts, rates, and a line on what is awaited.

        Its fields are `name`, `function`, `status`; `total`, `ok`, `failed`, `cancelled`, `running`, `waiting`, `done`,
        `attached` and `retries` (items); `elapsed`, `eta`, `p50` and `p95` of the time that an item runs (seconds);
        `rate` (items that end a second), `concurrency`, `note`, `hint` (what would make it faster), `errors` (the most
        frequent first) and `ui_url`.

        Example:
            now = job.progress()
            print(f"{now.done} of {now.total}, {now.note}")
        """
        return status.progress_of(self._runner)

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

        return identity_of_job(self.name, self._data.manifest, self._data.provenance)

    def diagnose(self) -> Diagnosis:
        """What keeps the job from going on, and what to do: its function is not known here, a rate limit, failed items
        that wait for their next attempt, a server that does not answer, threads that hang, invocations that Restate has
        paused. With the items that run longest, and the line of code where each of them is.

        Example:
            job.diagnose()
        """
        return status.diagnose(self._runner)

    if not TYPE_CHECKING:  # whose readers would take every name for an attribute then

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(no_attribute("A job", name, JOB, dir(type(self))))

    def __len__(self) -> int:
        return self._data.shown.total

    def __repr__(self) -> str:
        return status.summary_of(self._runner)

    # ------------------------------------------------------------ the panel

    def show(self) -> None:
        """Show the live panel here, and keep it up to date until the job has ended.

        Example:
            job.show()
        """
        from restate_nb.panel import Updater, make_panel  # noqa: PLC0415 - not in scripts that show nothing

        self._runner.show_on(Updater(self.progress, make_panel(self.progress(), self)))
        self._shown_in = this_cell()

    def _ipython_display_(self) -> None:
        """What a cell that ends with the job shows: the panel as it is now, or nothing if the live one is above."""
        from restate_nb.panel import to_html  # noqa: PLC0415 - only where something is shown

        if not in_notebook():
            print(repr(self))
        elif self._shown_in is None or self._shown_in != this_cell():
            from IPython.display import display  # noqa: PLC0415 - only where a notebook is

            show: Any = display  # IPython has no types for it
            show({"text/html": to_html(self.progress()), "text/plain": repr(self)}, raw=True)

    # ------------------------------------------------------------ waiting

    def done(self) -> bool:
        """Whether every item has an outcome.

        Raises:
            InvalidInput: this process is a fork of the session's, in which nobody follows the job.

        Example:
            job.done() or job.frame()
        """
        check_live(self._runner)
        return self._runner.ended.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, or for `timeout` seconds; says whether it has ended.

        Ctrl-C ends the waiting; the job goes on. The waiting ends, too, when the job has paused itself, since a value
        cannot be kept; that is printed. An item that waits for another job lends its place in a shared limit.

        Raises:
            InvalidInput: an item of this job waits for it, or a coroutine on the items' loop, which would never end.

        Example:
            if not job.wait(timeout=0.5):
                print(job.counts)
        """
        ended = wait_for_end(self._runner, timeout)
        if not ended and self._runner.guard.stands_still:
            print(f"The job {self.name!r} is {status.pause_reason(self._runner)}.")
        return ended

    def result(self, timeout: float | None = None, *, lazy: bool | None = None) -> pd.DataFrame:
        """Wait until every item has an outcome, and return the frame. Failed items are rows, not exceptions.

        Args:
            timeout: the most to wait, in seconds; the job goes on after it.
            lazy: as in `frame`.

        Raises:
            TimeoutError: it took longer.
            JobError: the job could not be followed to its end, or gave up: see `fail_fast` of `rnb.map`; or it has
                paused itself, since what an item returned cannot be kept.
            InvalidInput: see `wait`.

        Example:
            frame = job.result(timeout=60)
        """
        if not wait_for_end(self._runner, timeout):
            check_not_paused(self._runner)
            raise TimeoutError(
                f"{self._data.shown.done:,} of {len(self):,} items are done after {timeout:g} s; the job goes on. "
                "job.frame() shows what is there."
            )
        return result_of(self._runner, lazy=lazy)

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        yield from until_ended(self._runner).__await__()
        return result_of(self._runner)

    def values(self, *, lazy: bool = False) -> list[T]:
        """Wait, and return what the function returned for each item, in input order.

        Args:
            lazy: in place of what lies in the store, a `Stored` whose `load()` reads it.

        Raises:
            JobError: an item failed or was cancelled, or its value cannot be read here; its `frame` has all outcomes.
            InvalidInput: see `wait`.

        Example:
            import restate_nb as rnb

            try:
                total = sum(job.values())
            except rnb.JobError as error:
                print(error.frame["status"].value_counts())
        """
        wait_for_result(self._runner)
        return values_of(self._data, lazy=lazy)

    def iter_values(self) -> Iterator[T]:
        """The values that `values()` returns, one after the other, in input order: few are in memory at once, however
        many there are. While the job runs it waits for the next item.

        `rnb.as_completed(job)` gives items as they end, with their labels, and failed ones, too.

        Raises:
            JobError: an item failed or was cancelled, or its value cannot be read here: as soon as that is known. Or
                the job could not be followed to its end, or has paused itself.
            InvalidInput: see `wait`.

        Example:
            import restate_nb as rnb

            rnb.start()
            total = 0
            for value in rnb.map(len, ["a", "bb"]).iter_values():
                total += value
        """
        data = self._outcomes
        return values_in_order(
            data,
            lambda begin: until_ended_from(self._runner, begin, lambda upto: True, lambda: check_values(data)),
        )

    def __iter__(self) -> Iterator[T]:
        """The same: `for value in job`, and `df["new"] = df["old"].restate.map(fn)`, which waits."""
        return self.iter_values()

    # ------------------------------------------------------------ steering

    @property
    def concurrency(self) -> int:
        """How many items may run at once; where that adapts itself, at present. Can be set while the job runs: to a
        number, a range such as `(2, 100)`, or "auto"."""
        return self._data.backend.concurrency

    @concurrency.setter
    def concurrency(self, value: Concurrency) -> None:
        self._data.backend.set_concurrency(concurrency_range("concurrency", value))
        self._runner.note_limits(time.time())

    @property
    def executor(self) -> str:  # no alias of Literal: jedi offers nothing of a class that has one
        """Where items run, as in `rnb.map`: "auto", "thread" or "process".

        Can be set while the job runs: what has not begun, and what is tried again, is run there from then on; what runs
        ends where it is. Processes are at most as many as there are processors, unless `job.concurrency` is set
        afterwards; in threads as many items run at once as before. Of a job that has ended it counts for
        `retry_failed()`. It holds until the job's cell is run again, whose own options count then.

        Raises:
            InvalidInput: the function cannot be sent to processes; or Restate or workers run it, so that this process
                has no say. Nothing was changed.

        Example:
            job.executor = "process"
        """
        return self._data.function.executor

    @executor.setter
    def executor(self, value: str) -> None:
        self._runner.set_executor(parse_executor(value))

    def cancel(self) -> None:
        """End the job: running coroutines are cancelled, threads are no longer waited for, the rest is not started.
        What is done stays. While Restate is away this returns after some seconds, and the job is cancelled as soon as
        it is back.

        Raises:
            InvalidInput: this process is a fork of the session's.

        Example:
            job.cancel()
        """
        if self.done():
            return
        cancelling = self._runner.io.start(self._runner.cancel())
        try:
            cancelling.result(CANCEL_SECONDS)
        except FutureTimeoutError:
            print(
                f"Cancelling {self.name!r} takes its time, and goes on by itself: "
                "job.diagnose() says whether Restate is away."
            )
            return
        if not waits_within(self._runner):
            with suppress(Exception):  # told by whoever asks for the result
                self._runner.ended.exception(_CANCELLED_SECONDS)
            wait_for_end(self._runner, 0)  # for the last panel

    def pause(self) -> None:
        """Start no more items, until `resume()`; what runs goes on. It holds when the kernel is restarted, too.

        Example:
            job.pause()
        """
        self._runner.io.run(self._runner.set_paused(True))

    def resume(self) -> None:
        """Go on after `pause()`, or after the job has paused itself: values that cannot be kept do not pause it again
        before its function changes.

        Example:
            job.resume()
        """
        if self._runner.guard.unkept is not None:
            self._runner.guard.resume().result()
        else:
            self._runner.io.run(self._runner.set_paused(False))

    def retry_failed(self, where: Where = None) -> Job[T]:
        """Run failed and cancelled items again, with the function as it is now. Returns this job.

        Args:
            where: which of them; all by default. An exception class or its name, or a tuple of these; a function of
                the frame of failed items, which returns one truth value a row; or a list of index labels.

        Raises:
            InvalidInput: the job still runs, or `where` names an item that has not failed.

        Example:
            job.retry_failed(TimeoutError)
            job.result()
            job.retry_failed(lambda failed: failed["error"].str.contains("429"))
        """
        if not self.done():
            if self._runner.guard.stands_still:
                raise InvalidInput(f"The job {self.name!r} is {status.pause_reason(self._runner)}.")
            raise InvalidInput("The job still runs. Retry when it has ended, or cancel it first: job.cancel().")
        if positions := self._data.positions_of(positions_where(self._data, where)):
            if self._data.provenance.now is None:
                raise InvalidInput(
                    f"The function {self._data.function.name} is not known here: run the cell that maps it first."
                )
            self._runner.retry(positions)
        return self

    def delete(self) -> None:
        """Drop the job and its outcomes from Restate, after cancelling it if it runs. What this handle has stays, but
        for what lies in the store, which is dropped, too.

        Example:
            job.delete()
        """
        self.cancel()
        self._runner.io.run(self._runner.delete())
        self._forget(self)

    def restart(self) -> int:
        """Run the invocations of a durable function that no longer match their journals from the beginning.

        That happens to those in flight when the function's steps are changed: Restate replays the steps that are
        recorded, and finds others. What they did before is done again. Returns how many there were.

        Example:
            job.restart()
        """
        return self._runner.io.run(self._data.backend.restart())

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

        function, items = self._data.function, self._data.items
        position = positions_of(items.index(), label)[0]
        if function.durable:
            raise InvalidInput(f"{function.name} takes a Restate context. Run it with rnb.call({function.name}, ...).")
        key = job_key(self.name, self._data.manifest.generation)
        place = self._data.positions_of([position])[0]
        return run_here(function, items.encoded[position], job=key, position=place, debug=debug)

    # ------------------------------------------------------------ frames

    def frame(self, *, expand: bool = False, lazy: bool | None = None) -> pd.DataFrame:
        """The outcomes as they are now, one row an item, in input order, on the input's own index.

        Args:
            expand: put the fields of dict, dataclass or model values in columns of their own, in place of `value`.
            lazy: whether the columns `value` and `item` hold a `Stored` in place of each that lies in the store, whose
                `load()` reads it. By default they do where these take more than 1 GB together, and a warning says so;
                False reads them all the same.

        Columns: `item`; `value` (what the function returned); `status` (pending, running, ok, error, timeout,
        cancelled); `error_type` and `error`; `attempts` (how many were made); `queued_s` (seconds from submission to
        the first start); `run_s` (seconds spent running, all attempts together); `started_at`, `finished_at` (UTC).
        Of a job of `rnb.invoke` also what Restate tells of each item's last invocation: `invocation_id`,
        `invocation_status`, `invocation_retries` (since it last made progress), `invocation_created_at`,
        `invocation_started_at`, `invocation_ended_at` (UTC). Where items were run by different code, or with different
        content of what it names, also `code`: which it was, as `job.identity()` lists them. Of a job with `key=` whose
        cell was run again, also `change`: whether the row was kept, or is new or changed.

        Example:
            job.frame()["status"].value_counts()
        """
        return frame_of(self._outcomes, expand=expand, lazy=lazy)

    def join(self, *, expand: bool = True) -> pd.DataFrame:
        """The input with what became of each row beside it, on the input's own index.

        A frame of another library than pandas, or a query, comes as one of pandas, with what the function was given in
        its columns; `polars.from_pandas(job.join())` makes one of polars of it.

        Args:
            expand: as in `frame`. A column that the input has, too, becomes `<column>_result`.

        Example:
            job.join().to_csv("cities_with_answers.csv")
        """
        from restate_nb.results.frame import joined  # noqa: PLC0415 - loads pandas

        items = self._data.items
        return joined(items.input_again(), self.frame(expand=expand), items.index())

    def errors(self) -> pd.DataFrame:
        """The failed items grouped by what went wrong, the most frequent first.

        Failures are of one kind when their type, the last line of your own code and their message agree, names and
        numbers in the message left aside. Columns: `count`, `error_type`, `error` (the first message), `where`,
        `first_at`, `last_at` (UTC), `example` (an index label), `traceback` (of the example).

        Example:
            job.errors()[["count", "error_type", "error", "where"]]
        """
        from restate_nb.results.error_groups import errors_frame  # noqa: PLC0415 - loads pandas

        return errors_frame(self._outcomes.shown, self._data.items.index())

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

        return traceback_text(self._outcomes.shown, self._data.items.index(), label)

    def attempts(self) -> pd.DataFrame:
        """Every attempt, one row each, on the input's index: `position, attempt, status, error_type, error, started_at,
        run_s, finished_at`.

        Example:
            job.attempts().groupby("attempt")["status"].value_counts()
        """
        from restate_nb.results.frame import attempts_frame  # noqa: PLC0415 - loads pandas

        return attempts_frame(self._outcomes.shown, self._data.items.index())

    def history(self) -> pd.DataFrame:
        """The runs of the cell of a job with `key=`, one row each that brought something, or left something out.

        Columns: `at` (UTC); `rows` (of the input); `kept` (keys whose items were known, and are not run again), `new`
        and `changed` (which were run), `dropped` (that the input no longer had); `runs` (how many runs the row is of:
        of very many, older ones become one); `code` (the digest of the function's code). Keys are counted, of which
        several rows may have the same with `unique=True`.

        Raises:
            InvalidInput: the job has no `key=`.

        Example:
            import restate_nb as rnb

            rnb.start()
            job = rnb.map(len, ["a", "bb"], name="lengths", key="item")
            job.history()[["at", "kept", "new", "changed", "dropped"]]
        """
        from restate_nb.handle.growth import history_of  # noqa: PLC0415 - few ask
        from restate_nb.results.frame import history_frame  # noqa: PLC0415 - loads pandas

        return history_frame(history_of(self._data.manifest))

    def workers(self) -> pd.DataFrame:
        """Who ran a job on workers, one row a process and version of its code, as known by now.

        Columns: `host`, `process` (its id there), `code` (the digest of the function's code there), `shards` and
        `items` (that it ended; what another worker began counts for the one that ended it). No
        rows where this process ran the job.

        Example:
            job.workers()["code"].nunique()  # more than 1: not all workers have the same code
        """
        return workers_frame(self._data)

    def steps(self) -> pd.DataFrame:
        """Every durable step of a job over a durable function, one row each, on the input's index.

        Columns: `position`; `step` (its name, or the target of a call) and `kind` (run, sleep, call, send, ...);
        `status` (ok, error, pending, or cancelled when its invocation ended first); `started_at`; `run_s` (seconds
        until its result was recorded, or its invocation ended); `finished_at`. Read from Restate's journals.

        Raises:
            InvalidInput: the function takes no Restate context, so it has no steps.
            ServerError: Restate cannot be asked.

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
        if not self._data.function.durable:
            raise InvalidInput(
                f"{self._data.function.name} is a plain function and has no durable steps; job.attempts() has its "
                "timings."
            )
        from restate_nb.backends.steps import read_steps  # noqa: PLC0415 - loads pandas

        data = self._data
        admin, invocations = data.record.connection.admin, data.record.invocations
        return self._runner.io.run(read_steps(admin, invocations, data.items.index(), data.rows_of))

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

        return logs_frame(self._data.printed(), self._data.items.index())

    # ------------------------------------------------------------ for other programs

    def concat(self) -> Any:
        """Wait, and put the DataFrames or Series that the function returned one below the other, as `pd.concat` does,
        with the item's index as the outer level of theirs.

        Items that failed are left out, and so is None; a warning says how many.

        Raises:
            JobError: a value cannot be read here; or the job could not be followed to its end, or has paused itself.
            InvalidInput: the values are no DataFrames or Series of pandas, all of one kind. Or see `wait`.

        Example:
            import pandas as pd
            import restate_nb as rnb

            def table_of(n):
                return pd.DataFrame({"n": range(n)})

            rnb.start()
            rnb.map(table_of, {"a": 2, "b": 3}).concat().loc["b"]
        """
        from restate_nb.handle.exports import concat  # noqa: PLC0415 - loads pyarrow

        return concat(self._runner)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        expand: bool = False,
        follow: bool = False,
        **options: Any,
    ) -> Path:
        """Write the frame as Parquet, batch after batch, so that it may be larger than memory.

        Numbers, text, bytes and times are columns of their own type, dicts and dataclasses structs, arrays and lists
        lists; what has no type in common becomes JSON text. Where the function returned DataFrames or Series, of polars
        or pyarrow, too, their rows are written, below one another, with the items' labels as columns in front. Of items
        that have not ended, rows say so, as in `frame`; a warning says how many they are, and the file's metadata under
        `restate_nb`.

        Args:
            path: the file; its directory must exist. It is there when all is written, and not before.
            columns: those columns of the frame that are wanted; what is not, is not read.
            expand: as in `frame`.
            follow: write while the job runs, and wait for its end. The rows are in input order all the same.
            options: for `pyarrow.parquet.ParquetWriter`, such as `compression="zstd"`.

        Raises:
            JobError: with `follow`, the job has paused itself, or could not be followed to its end.
            InvalidInput: the values are tables and other things; or a DataFrame has two columns of one name; or there
                is no such column. With `follow`, see `wait`.

        Example:
            job.to_parquet("answers.parquet")
        """
        from restate_nb.handle.exports import Export, to_parquet  # noqa: PLC0415 - loads pyarrow

        return to_parquet(Export(self._runner, columns=columns, expand=expand, follow=follow), path, options)

    def to_arrow(self, *, columns: Sequence[str] | None = None, expand: bool = False) -> pa.Table:
        """The frame as it is now as a `pyarrow.Table`, with the columns that `to_parquet` writes.

        DuckDB, polars and others read the job itself, too: it has Arrow's PyCapsule interface, a stream of batches.

        Args:
            columns: as in `to_parquet`.
            expand: as in `frame`.

        Raises:
            InvalidInput: see `to_parquet`.

        Example:
            job.to_arrow().schema
        """
        from restate_nb.handle.exports import Export, to_arrow  # noqa: PLC0415 - loads pyarrow

        return to_arrow(Export(self._runner, columns=columns, expand=expand))

    def to_polars(self, *, columns: Sequence[str] | None = None, expand: bool = False) -> polars.DataFrame:
        """The same as a DataFrame of polars.

        Args:
            columns: as in `to_parquet`.
            expand: as in `frame`.

        Raises:
            InvalidInput: polars is not installed; or see `to_parquet`.

        Example:
            job.to_polars(columns=["item", "value"])
        """
        from restate_nb.handle.exports import Export, to_polars  # noqa: PLC0415 - loads pyarrow

        return to_polars(Export(self._runner, columns=columns, expand=expand))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The frame as it is now as a stream of Arrow, for other libraries."""
        from restate_nb.handle.exports import Export, arrow_stream  # noqa: PLC0415 - loads pyarrow

        return arrow_stream(Export(self._runner), requested_schema)

    def to_csv(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the frame as CSV; items and values that are no plain column become JSON text.

        Args:
            path: the file; its directory must exist.
            options: for `pandas.DataFrame.to_csv`.

        Raises:
            InvalidInput: items or values are tables, or take more than is read at once.

        Example:
            job.to_csv("answers.csv")
        """
        from restate_nb.handle.exports import read_at_once  # noqa: PLC0415 - loads pyarrow
        from restate_nb.results.exports import plain_columns  # noqa: PLC0415 - loads pandas

        plain_columns(read_at_once(self._runner)).to_csv(path, **options)
        return Path(path)

    def to_json(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the frame as JSON: a list of objects, one an item, the index among their fields.

        Args:
            path: the file; its directory must exist.
            options: for `pandas.DataFrame.to_json`, such as `lines=True` for an object a line.

        Raises:
            InvalidInput: items or values are tables, or take more than is read at once.

        Example:
            job.to_json("answers.jsonl", lines=True)
        """
        from restate_nb.handle.exports import read_at_once  # noqa: PLC0415 - loads pyarrow
        from restate_nb.results.exports import records  # noqa: PLC0415 - loads pandas

        known: dict[str, Any] = {"orient": "records", "date_format": "iso", "date_unit": "us"}
        records(read_at_once(self._runner)).to_json(path, **(known | options))
        return Path(path)

    # ------------------------------------------------------------ charts

    def timeline(
        self,
        *,
        sort: Sort = "start",
        label: str | Sequence[object] | None = None,
        ax: Axes | None = None,
        title: str | None = None,
        steps: bool = False,
    ) -> Axes:
        """Draw when each item waited, ran and failed.

        Args:
            sort: the order of rows: by "start", "duration" or "index", or "lane" for rows shared as items end.
            label: what names the rows: a column of the frame, or one value an item.
            ax: where to draw; a new figure by default.
            title: the chart's title; the job's name by default.
            steps: draw the durable steps of each item in place of its attempts; for durable functions.

        Raises:
            InvalidInput: `sort` is none of these; or `label` is no column, or has too few or too many values.

        Example:
            job.timeline(sort="duration", label="item").figure.savefig("timeline.png")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        frame = self.frame(lazy=True)
        if steps:
            done = self.steps().dropna(subset=["finished_at"])
            attempts = done.assign(attempt=done.groupby("position").cumcount() + 1, error_type=None, error=None)
        else:
            attempts = self.attempts()
        return charts.timeline(
            frame,
            attempts,
            sort=sort,
            label=label,
            ax=ax,
            title=title,
            submitted_at=self._data.manifest.created,
        )

    def durations(
        self, *, label: str | Sequence[object] | None = None, ax: Axes | None = None, title: str | None = None
    ) -> Axes:
        """Draw how long items ran: histogram, cumulative share, and the percentiles 50, 95 and 99.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            ax: where to draw; a new figure by default.
            title: the chart's title.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.durations().figure.savefig("durations.png")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        return charts.durations(self.frame(lazy=True), label=label, ax=ax, title=title)

    def throughput(
        self, *, label: str | Sequence[object] | None = None, ax: Axes | None = None, title: str | None = None
    ) -> Axes:
        """Draw how many items ended a second over time, how many ran at once, and the limits on both.

        The limits are those that were in force while this process ran the job: the concurrency as it adapted itself or
        was changed by hand, and the rate.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            ax: where to draw; a new figure by default.
            title: the chart's title.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.throughput()
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        limits, submitted_at = self._data.limits.frame(), self._data.manifest.created
        return charts.throughput(
            self.frame(lazy=True),
            self.attempts(),
            limits=limits,
            label=label,
            ax=ax,
            title=title,
            submitted_at=submitted_at,
        )

    def failures(
        self, *, label: str | Sequence[object] | None = None, ax: Axes | None = None, title: str | None = None
    ) -> Axes:
        """Draw failed attempts by type over time.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            ax: where to draw; a new figure by default.
            title: the chart's title.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.failures(title="What went wrong")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        submitted_at = self._data.manifest.created
        return charts.failures(
            self.frame(lazy=True), self.attempts(), label=label, ax=ax, title=title, submitted_at=submitted_at
        )

    def overview(self, *, label: str | Sequence[object] | None = None, title: str | None = None) -> Any:
        """Draw the four charts on one figure, and return their Axes as a 2 by 2 array.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            title: over the figure; the job's name by default.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.overview()[0, 0].figure.savefig("overview.png")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        limits, submitted_at = self._data.limits.frame(), self._data.manifest.created
        title = title or self.name
        return charts.overview(
            self.frame(lazy=True), self.attempts(), limits=limits, label=label, title=title, submitted_at=submitted_at
        )


def runner_of(job: Job[Any]) -> JobRunner:
    """What runs a job: for those parts of this package that follow, list or steer jobs."""
    return job._runner
