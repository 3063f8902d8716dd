"""What things are called in other libraries, and here: whoever brings such a word is told ours.

A call with an option that is not there, or an attribute that is not there, is answered with the option or attribute
that does it, with the value that was given where that can be. Without an entry here the nearest name is offered.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from restate_nb.errors import UnknownOption

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type[Any])

Advice = str | Callable[[Any], str]
"""What to write instead, as a fixed text or made of the value that was given."""


def _attempts(more: int) -> Callable[[Any], str]:
    def advice(value: Any) -> str:
        count = value + more if type(value) is int and value >= 0 else 3
        return f"retry=rnb.Retry(max_attempts={count})"

    return advice


def _at_once(value: Any) -> str:
    if type(value) is int and value > 0:
        return f'concurrency={value} (and executor="process" for work that computes)'
    return 'concurrency=50, or executor="process" for one item a processor'


def _processes(value: Any) -> str:
    count = f", concurrency={value}" if type(value) is int and not isinstance(value, bool) and value > 0 else ""
    return f'executor="process"{count}'


def _executor(value: Any) -> str:
    return f'executor="{"process" if "proc" in str(value).lower() or str(value) == "loky" else "thread"}"'


def _rate(value: Any) -> str:
    return f"max_per_second={value if type(value) in (int, float) else 5}"


def _named(value: Any) -> str:
    return f"name={value!r}" if isinstance(value, str) else 'name="..."'


_FAILURES: Final = (
    "leave it out: what fails is a row of job.result() with its error, and job.values() raises; fail_fast=True starts "
    "nothing more after the first failure"
)
_PROGRESS: Final = "show=False for no panel; by default there is one"
_SIZES: Final = (
    "leave it out: items are grouped by themselves; rnb.batch(fn, items, batch_size=...) waits between batches"
)
_AS_THEY_END: Final = "for row in rnb.as_completed(job)"
_ORDER: Final = "job.values() for the order of the input, rnb.as_completed(job) for that in which items end"
_BIND: Final = "functools.partial(fn, ...) to give the function more arguments"

OPTIONS: Final[Mapping[str, Advice]] = {
    **dict.fromkeys(("retries", "max_retries", "num_retries", "retry_count", "n_retries"), _attempts(1)),
    **dict.fromkeys(("attempts", "max_attempts", "tries", "max_tries"), _attempts(0)),
    **dict.fromkeys(
        (
            "max_workers", "n_jobs", "workers", "num_workers", "n_workers", "nb_workers", "max_concurrency",
            "max_concurrent", "concurrency_limit", "parallelism", "pool_size", "num_threads", "n_threads", "threads",
        ),
        _at_once,
    ),
    **dict.fromkeys(("processes", "num_proc", "num_processes", "n_processes", "use_processes"), _processes),
    **dict.fromkeys(("backend", "prefer", "pool", "scheduler", "mode"), _executor),
    **dict.fromkeys(("chunksize", "chunk_size", "pre_dispatch", "buffersize"), _SIZES),
    **dict.fromkeys(
        ("return_exceptions", "raise_exceptions", "ignore_errors", "on_error", "return_outcome", "raise_on_error"),
        _FAILURES,
    ),
    **dict.fromkeys(
        ("progress", "progress_bar", "show_progress", "pbar", "verbose", "tqdm", "disable", "leave", "total"), _PROGRESS
    ),
    **dict.fromkeys(("desc", "label", "title", "job_name", "id", "job_id"), _named),
    **dict.fromkeys(
        ("rate", "rate_limit", "rps", "qps", "requests_per_second", "calls_per_second", "throttle"), _rate
    ),
    **dict.fromkeys(("force", "overwrite", "refresh", "rerun", "recompute", "restart", "ignore_cache"), "fresh=True"),
    **dict.fromkeys(("cache", "memoize", "checkpoint", "persist", "durable"), "leave it out: what is done is kept"),
    **dict.fromkeys(("callback", "on_done", "on_result", "on_complete", "error_callback"), _AS_THEY_END),
    **dict.fromkeys(("stop_on_error", "failfast", "max_failures", "max_errors"), "fail_fast=True, or a number"),
    **dict.fromkeys(("ordered", "in_order", "keep_order", "preserve_order"), _ORDER),
    **dict.fromkeys(("args", "kwargs", "fn_kwargs", "func_args", "initargs", "initializer"), _BIND),
    **dict.fromkeys(("seed", "random_state", "rng"), "rnb.item_seed() in the function"),
    **dict.fromkeys(("axis", "result_type", "raw"), "leave it out: the rows of a DataFrame are its items"),
    "time_limit": "timeout=...",
    "figsize": "ax=, of plt.subplots(figsize=...)",
}  # fmt: skip
"""Options of pools, of joblib, Dask, tqdm, asyncio and pandas."""

_SEVERAL: Final = {
    "map": "rnb.starmap(fn, zip(a, b)), which calls it with an element of each",
    "fan_out": "rnb.map(fn, items) for one function and many items; fan_out takes a list of functions",
    "starmap": "rnb.starmap(fn, zip(a, b)), whose items are tuples",
}
"""What to do instead of giving more arguments by position."""

JOB: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("results", "get", "output", "outputs", "collect", "compute", "gather", "fetch", "to_list", "tolist"),
        "job.values() waits, and gives what the function returned; job.result() gives the DataFrame",
    ),
    **dict.fromkeys(
        ("df", "dataframe", "to_frame", "to_pandas", "to_df", "table", "data"),
        "job.frame() gives the DataFrame as it is now, job.result() waits for it",
    ),
    **dict.fromkeys(
        ("stop", "terminate", "kill", "abort", "shutdown", "close"), "job.cancel() ends it, job.pause() holds it up"
    ),
    **dict.fromkeys(
        ("ready", "finished", "is_done", "completed", "is_finished", "successful"),
        "job.done() says whether every item has ended; job.counts, how they did",
    ),
    **dict.fromkeys(("running", "is_running", "state"), "job.status"),
    **dict.fromkeys(("retry", "rerun", "retries", "resubmit", "run_again"), "job.retry_failed()"),
    **dict.fromkeys(("exceptions", "exception", "failed_items", "errored"), "job.errors()"),
    **dict.fromkeys(("add_done_callback", "as_completed", "iter", "stream"), "for row in rnb.as_completed(job)"),
    **dict.fromkeys(("plot", "chart", "gantt"), "job.timeline()"),
    **dict.fromkeys(("total", "n", "size", "n_items"), "len(job)"),
    **dict.fromkeys(("id", "job_id", "key"), "job.name"),
    **dict.fromkeys(("stdout", "log", "prints"), "job.logs()"),
    **dict.fromkeys(("unpause", "continue_", "start", "run"), "job.resume()"),
}
"""What is asked of a job."""

SESSION: Final[Mapping[str, str]] = {
    **{
        verb: f"rnb.{verb}(...), which uses the live session, or session= another"
        for verb in ("map", "starmap", "batch", "fan_out", "invoke", "as_completed")
    },
    **dict.fromkeys(
        ("submit", "apply", "apply_async", "spawn"),
        "rnb.fan_out([partial(fn, ...)]) runs functions in the background, rnb.map(fn, items) one function over items",
    ),
    **dict.fromkeys(("imap", "imap_unordered", "map_async"), "rnb.map(fn, items), then rnb.as_completed(job)"),
    **dict.fromkeys(("close", "shutdown", "terminate", "end", "disconnect"), "session.stop()"),
    **dict.fromkeys(("restart", "reconnect", "connect"), "rnb.start()"),
    **dict.fromkeys(("register", "deploy", "bind"), "session.serve(service)"),
}
"""What is asked of a session."""

PACKAGE: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "imap", "imap_unordered", "pmap", "thread_map", "process_map", "parallel", "Parallel", "Pool", "pool",
            "Executor", "ThreadPoolExecutor", "ProcessPoolExecutor", "apply", "foreach", "for_each", "run_map",
        ),
        "rnb.map(fn, items)",
    ),
    **dict.fromkeys(("gather", "all", "wait_all", "race"), "rnb.fan_out([fn, partial(other, 1)])"),
    **dict.fromkeys(("submit", "spawn", "delayed", "create_task"), "rnb.fan_out([partial(fn, ...)])"),
    **dict.fromkeys(("stop", "shutdown", "close", "end"), "rnb.start().stop()"),
    **dict.fromkeys(("init", "session", "setup", "launch", "Client", "client"), "rnb.start()"),
    **dict.fromkeys(("wait", "results", "result"), "job.result()"),
    **dict.fromkeys(("retry", "limit"), "rnb.Retry(...) and rnb.Limit(...)"),
    **dict.fromkeys(("seed", "set_seed"), "rnb.item_seed()"),
    **dict.fromkeys(("list_jobs", "status", "ls"), "rnb.jobs()"),
    **dict.fromkeys(("serve", "register"), "rnb.start().serve(service)"),
}  # fmt: skip
"""What is asked of the package."""


def no_attribute(of: str, name: str, ours: Mapping[str, str], known: Iterable[str]) -> str:
    """What to say of an attribute that is not there.

    Args:
        of: what was asked, as "a Job".
        name: what is not there.
        ours: our words for those of others.
        known: the attributes that there are.
    """
    text = f"{of} has no {name!r}."
    if name.startswith("_"):
        return text
    if name in ours:
        return f"{text} Instead: {ours[name]}."
    near = difflib.get_close_matches(name, [each for each in known if not each.startswith("_")], n=1)
    return f"{text} Did you mean {near[0]!r}?" if near else text


def checks_call(verb: F) -> F:
    """Have a function say what to write instead of an option that it does not have. Not for one that takes secrets:
    its arguments are seen in one more frame of a traceback."""
    parameters = inspect.signature(verb).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return verb
    known = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]
    by_place = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    most = len(by_place) if all(each.kind is not each.VAR_POSITIONAL for each in parameters) else None

    @functools.wraps(verb)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs.keys() - set(known):
            raise UnknownOption(_no_option(verb.__name__, name, kwargs[name], known))
        if most is not None and len(args) > most:
            raise UnknownOption(_too_many(verb.__name__, [each.name for each in by_place], known))
        return verb(*args, **kwargs)

    return checked  # type: ignore[return-value]


def checks_calls(cls: C) -> C:
    """The same for all public methods of a class."""
    for name, method in list(vars(cls).items()):
        if not name.startswith("_") and inspect.isfunction(method):
            setattr(cls, name, checks_call(method))
    return cls


def _no_option(verb: str, name: str, value: Any, known: list[str]) -> str:
    text = f"{verb} has no option {name!r}."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if near:
        return f"{text} Did you mean {near[0]!r}?"
    advice = OPTIONS.get(name)
    if advice is not None:
        return f"{text} Instead: {advice(value) if callable(advice) else advice}."
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"{text} Did you mean {near[0]!r}?"
    options = [each for each in known if each not in ("self", "fn", "items")]
    return f"{text} It has {', '.join(options)}." if options else f"{text} It has none."


def _too_many(verb: str, by_place: list[str], known: list[str]) -> str:
    places = [each for each in by_place if each != "self"]
    text = f"{verb} takes {' and '.join(places) or 'nothing'} by position."
    if verb in _SEVERAL:
        return f"{text} Instead: {_SEVERAL[verb]}."
    options = [each for each in known if each not in by_place]
    return f"{text} Name the others: {', '.join(f'{each}=' for each in options)}." if options else text
