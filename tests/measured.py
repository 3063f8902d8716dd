"""A plugin of coverage: it lets coverage start in the scripts that the package runs with `python -I -S`.

The supervisor and what runs npm are started without site-packages, where the `.pth` file is that starts coverage in a
process. In measured processes, and only there, they are started without `-S`.

It is a plugin of pytest as well (`-p tests.measured`): what the tests ran is saved as soon as they end, since
pytest-xdist kills processes that take long to go. Coverage imports it first: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import coverage
from coverage.plugin_support import Plugins

ALONE = [sys.executable, "-I", "-S"]


def coverage_init(_plugins: Plugins, _options: dict[str, Any]) -> None:
    """Called by coverage in each process that it measures."""
    start = subprocess.Popen.__init__

    def init(popen: subprocess.Popen[Any], args: Any, *rest: Any, **options: Any) -> None:
        if isinstance(args, list) and args[:3] == ALONE:
            args = [*ALONE[:2], *args[3:]]
        start(popen, args, *rest, **options)

    subprocess.Popen.__init__ = init  # type: ignore[assignment]


def pytest_sessionfinish() -> None:
    """Save what this process measured."""
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.save()
