"""Durable fan-out and batch work from a notebook, on Restate.

import restate_nb as rnb

rnb.start()
job = rnb.map(fetch, urls, concurrency=50)
df = job.result()
job.timeline()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restate_nb.errors import (
        CannotAsk,
        InvalidInput,
        InvocationFailed,
        ItemTimeout,
        JobError,
        JobMismatch,
        JournalMismatch,
        NotDurable,
        NotEncodable,
        NotReadable,
        OlderResults,
        RestateNbError,
        ServerError,
        UnsupportedSdk,
        WorkerDied,
    )
    from restate_nb.limit import Limit
    from restate_nb.notebook.completed import as_completed
    from restate_nb.notebook.connect import connect
    from restate_nb.notebook.invoke import invoke
    from restate_nb.notebook.job import Job
    from restate_nb.notebook.loops import run
    from restate_nb.notebook.session import Session
    from restate_nb.notebook.start import compare, compare_chart, job, jobs, start
    from restate_nb.notebook.unreadable import Unreadable
    from restate_nb.notebook.verbs import batch, call, fan_out, map, starmap
    from restate_nb.policy import Retry, RunPolicy
    from restate_nb.versions import show_versions

__version__ = "0.1.0"

__all__ = [
    "CannotAsk",
    "InvalidInput",
    "InvocationFailed",
    "ItemTimeout",
    "Job",
    "JobError",
    "JobMismatch",
    "JournalMismatch",
    "Limit",
    "NotDurable",
    "NotEncodable",
    "NotReadable",
    "OlderResults",
    "RestateNbError",
    "Retry",
    "RunPolicy",
    "ServerError",
    "Session",
    "Unreadable",
    "UnsupportedSdk",
    "WorkerDied",
    "as_completed",
    "batch",
    "call",
    "compare",
    "compare_chart",
    "connect",
    "fan_out",
    "invoke",
    "job",
    "jobs",
    "map",
    "run",
    "show_versions",
    "starmap",
    "start",
]

_HOMES = {
    "errors": (
        "CannotAsk",
        "InvalidInput",
        "InvocationFailed",
        "ItemTimeout",
        "JobError",
        "JobMismatch",
        "JournalMismatch",
        "NotDurable",
        "NotEncodable",
        "NotReadable",
        "OlderResults",
        "RestateNbError",
        "ServerError",
        "UnsupportedSdk",
        "WorkerDied",
    ),
    "limit": ("Limit",),
    "policy": ("Retry", "RunPolicy"),
    "versions": ("show_versions",),
    "notebook.completed": ("as_completed",),
    "notebook.connect": ("connect",),
    "notebook.invoke": ("invoke",),
    "notebook.job": ("Job",),
    "notebook.loops": ("run",),
    "notebook.magics": ("load_ipython_extension", "unload_ipython_extension"),  # called by %load_ext, and no one else
    "notebook.session": ("Session",),
    "notebook.start": ("compare", "compare_chart", "job", "jobs", "start"),
    "notebook.unreadable": ("Unreadable",),
    "notebook.verbs": ("batch", "call", "fan_out", "map", "starmap"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562): `import restate_nb` loads neither pandas nor restate."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
