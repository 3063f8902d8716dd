"""What tests of every folder use: a job without a panel, waiting for a condition, code and processes of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any, TypeVar

import restate_nb as rnb
from restate_nb.session.session import Session

Found = TypeVar("Found")


def submit(session: Session, fn: Callable[..., Any], items: Any, **options: Any) -> rnb.Job[Any]:
    """The job of `rnb.map(fn, items, **options)` on this session, without a panel."""
    return rnb.map(fn, items, session=session, show=False, **options)


def eventually(
    condition: Callable[[], Found], within: float = 20.0, shows: Callable[[], object] | None = None
) -> Found:
    """Wait until a condition is true.

    Args:
        condition: it is looked at every 5 ms.
        within: seconds.
        shows: what the error shall show, called when the time is over.

    Returns:
        What the condition gave, which is true.

    Raises:
        AssertionError: it was not true in time.
    """
    end = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < end, f"not true within {within:g} s: {shows() if shows else condition!r}"
        time.sleep(0.005)
    return found


def defined(source: str, *, file: str = "<string>", **names: Any) -> dict[str, Any]:
    """The namespace of `__main__`, as after a cell with this source.

    Args:
        source: may be indented.
        file: where tracebacks say that the code is from.
        names: what is defined before.
    """
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), file, "exec"), space)
    return space


def run_python(
    code: str, *arguments: object, check: bool = True, timeout: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, to its end.

    Args:
        code: may be indented.
        arguments: its `sys.argv[1:]`.
        check: whether it must end well.
        timeout: seconds.
        options: others of `subprocess.run`, as `cwd`.

    Raises:
        AssertionError: it ended with an error, which is shown.
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


def start_python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Begin to run code in an interpreter of its own, as a second kernel would; what it prints can be read by the line.

    Args:
        code: may be indented.
        arguments: its `sys.argv[1:]`.
        options: others of `subprocess.Popen`, as `cwd`.
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
