"""What a worker process has around its functions: modules, `sys.path`, environment, directory. Functions of another job
must find it as a new process would, or they would depend on who came before.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a process is.

    Attributes:
        path: `sys.path`.
        directory: the current one; None when it is gone.
        environment: the variables.
    """

    path: tuple[object, ...]
    directory: str | None
    environment: dict[str, str]


def here() -> Place:
    """The place of this process, now."""
    try:
        directory: str | None = os.getcwd()  # noqa: PTH109 - text
    except OSError:
        directory = None
    return Place(tuple(sys.path), directory, dict(os.environ))


_Stamp = tuple[int, int]  # time of the last change, in nanoseconds, and size


class Surroundings:
    """What there was, to be compared with what there is."""

    def __init__(self) -> None:
        self._place = self._before = here()
        self._files: dict[str, _Stamp | None] = {}
        self._seen = 0  # when, in nanoseconds since 1970
        self._see_modules()

    def before_loading(self) -> None:
        """A function is about to be loaded."""
        self._before = here()

    def after_loading(self) -> None:
        """What has changed with that was needed, and is no harm."""
        if self._before == self._place:
            self._place = here()
        self._see_modules()

    def changed(self, *, modules: bool) -> bool:
        """Whether it is another place by now; with `modules` also whether files of modules were edited since they were
        imported."""
        if here() != self._place:
            return True
        if not modules:
            return False
        before, seen = set(self._files), self._seen
        self._see_modules()
        for file, stamp in self._files.items():
            if file in before:
                if _stamp(file) != stamp:
                    return True
            elif stamp is not None and stamp[0] > seen:  # imported by an item, and edited before that or after it
                return True
        return False

    def _see_modules(self) -> None:
        self._seen = time.time_ns()
        for module in list(sys.modules.values()):
            file = _file_of(module)
            if file is not None and file not in self._files:
                self._files[file] = _stamp(file)


def _file_of(module: Any) -> str | None:
    try:
        file = vars(module).get("__file__")
    except TypeError:  # something else was put in its place
        return None
    return file if isinstance(file, str) else None


def _stamp(file: str) -> _Stamp | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - of hundreds
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def own_memory() -> int:
    """Bytes of memory that this process has for itself; where the system does not say, the most that it ever had."""
    try:
        status = Path("/proc/self/status").read_bytes()
        return int(status.partition(b"RssAnon:")[2].split(maxsplit=1)[0]) * 1024
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
