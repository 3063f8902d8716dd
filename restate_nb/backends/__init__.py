"""How the items of a job get through Restate: a backend for each kind of job."""

from __future__ import annotations

from typing import Final

from restate_nb.backends.base import Backend
from restate_nb.backends.deployed import DeployedBackend
from restate_nb.backends.durable import DurableBackend
from restate_nb.backends.local import LocalBackend
from restate_nb.backends.workers import WorkersBackend
from restate_nb.service.wire import JobKind

BACKENDS: Final[dict[JobKind, type[Backend]]] = {
    "local": LocalBackend,
    "durable": DurableBackend,
    "deployed": DeployedBackend,
    "workers": WorkersBackend,
}
