"""Items cannot ask a person: `input()` and `breakpoint()` in many threads at once hang the kernel, and wait for ever.

What asks is wrapped, and looks whether it is an item that does. A cell of the user's own, a plain thread, and
`job.rerun_locally(..., debug=True)` ask as before.
"""

from __future__ import annotations

import builtins
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from restate_nb.engine.output import position
from restate_nb.environment import jupyter_kernel
from restate_nb.errors import CannotAsk


def refuse_in_items() -> None:
    """From now on items get an error where they ask. What replaces it later is wrapped with the next job."""
    builtins.input = _guarded(builtins.input, "input()")
    if sys.breakpointhook is sys.__breakpointhook__ or "IPython" in str(getattr(sys.breakpointhook, "__module__", "")):
        # another debugger that is attached, such as that of an editor, stops where it is asked to
        sys.breakpointhook = _guarded(sys.breakpointhook, "breakpoint()", unless=_has_other_debugger)
    kernel = jupyter_kernel()
    if kernel is not None:  # which puts these in the place of `input` and `getpass` in every cell
        for name, what in (("raw_input", "input()"), ("getpass", "getpass()")):
            setattr(kernel, name, _guarded(getattr(kernel, name), what))


def refuse() -> None:
    """The same in a worker process, which runs nothing but items."""
    builtins.input = functools.partial(_refused, "input()")
    sys.breakpointhook = functools.partial(_refused, "breakpoint()")


def _has_other_debugger() -> bool:
    return bool(os.environ.get("PYTHONBREAKPOINT"))


def _never() -> bool:
    return False


def _guarded(ask: Callable[..., Any], what: str, unless: Callable[[], bool] = _never) -> Callable[..., Any]:
    if hasattr(ask, "restate_nb_guards"):
        return ask

    @functools.wraps(ask)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if position() >= 0 and not unless():
            _refused(what)
        return ask(*args, **kwargs)

    guarded.restate_nb_guards = True  # type: ignore[attr-defined]
    return guarded


def _refused(what: str, *_: Any, **__: Any) -> Any:
    raise CannotAsk(
        f"{what} waits for a person, and items run many at once, in the background: nobody can answer them. Ask in the "
        "cell before, and pass the answer with the items; to look into a failed item: "
        "job.rerun_locally(label, debug=True)."
    )
