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
    from restate_nb.api.as_completed import as_completed
    from restate_nb.api.batch import batch
    from restate_nb.api.call import call
    from restate_nb.api.connect import connect
    from restate_nb.api.fan_out import fan_out
    from restate_nb.api.files import files
    from restate_nb.api.invoke import invoke
    from restate_nb.api.jobs import compare, compare_chart, job, jobs
    from restate_nb.api.map import map, starmap
    from restate_nb.api.start import start
    from restate_nb.engine.seeds import item_seed
    from restate_nb.engine.waiting import run
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
        UnknownOption,
        UnsupportedSdk,
        WorkerDied,
    )
    from restate_nb.handle.job import Job
    from restate_nb.policy import Limit, Retry, RunPolicy
    from restate_nb.results.unreadable import Unreadable
    from restate_nb.session.session import Session
    from restate_nb.store.stored import Stored
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
    "Stored",
    "UnknownOption",
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
    "files",
    "invoke",
    "item_seed",
    "job",
    "jobs",
    "map",
    "run",
    "show_versions",
    "starmap",
    "start",
]

_HOME_OF = {name: "errors" if name[0].isupper() else f"api.{name}" for name in __all__} | {
    "Job": "handle.job",
    "Limit": "policy",
    "Retry": "policy",
    "RunPolicy": "policy",
    "Session": "session.session",
    "Stored": "store.stored",
    "Unreadable": "results.unreadable",
    "compare": "api.jobs",
    "compare_chart": "api.jobs",
    "item_seed": "engine.seeds",
    "job": "api.jobs",
    "load_ipython_extension": "api.magics",  # called by %load_ext, and no one else, as is its counterpart
    "run": "engine.waiting",
    "show_versions": "versions",
    "starmap": "api.map",
    "unload_ipython_extension": "api.magics",
}
"""The module of each name: an error's is `errors`, a verb's its own in `api`, unless it says otherwise."""


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562): `import restate_nb` loads neither pandas nor restate."""
    home = _HOME_OF.get(name)
    if home is None:
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        words = importlib.import_module(f"{__name__}.words")
        raise AttributeError(words.no_attribute("restate_nb", name, words.PACKAGE, __all__))
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
