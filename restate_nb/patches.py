"""All that this package changes of what belongs to others, at run time: what, why, and for which versions.

Each stands here since its owner has no hook for it. Of a version that is not known yet nothing is changed, which is
logged once: then what the patch was for is missing, and nothing else. (The SDK's own objects are `patterns/sdk.py`'s.)

What is changed, and why no hook would do:
- `write` of `sys.stdout` and `sys.stderr`, to know which item has written. Another file in their place would miss what
  handlers of `logging` and others write, since these hold on to the file that they found; ipykernel's
  `OutStream.register_hook` is called in another thread, where nobody knows who has written.
- `sys.stdout` and `sys.stderr` in a terminal's IPython, where another file stands for each and writes through it: of
  the file itself IPython sets `write` back when a cell has ended, and tells nobody.
- `prompt_toolkit.patch_stdout.StdoutProxy.write`: IPython in a terminal makes a new one for each prompt.
- `input` and, in a kernel, `raw_input` and `getpass`, to refuse them to items. Python's audit event of `input` is not
  raised by a kernel's. (`sys.breakpointhook` is a hook.)
- `hypercorn.protocol.H2Protocol`, to say how many streams a connection takes, and to end one. hypercorn's option for
  the number also refuses what was sent before the client had heard of it.
- asyncio, by nest_asyncio, to wait within a cell for what has to run on the cell's own loop. It is applied when it is
  needed, and never before.
"""

from __future__ import annotations

import builtins
import functools
import io
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from restate_nb.environment import in_notebook, ipython_shell, jupyter_kernel

if TYPE_CHECKING:
    import asyncio

_KNOWN: Final = {"hypercorn": (0, 19), "ipykernel": (8,), "ipython": (10,), "prompt_toolkit": (4,)}
"""The first version of each that is not known."""

_CELL_ENDS: Final = 0.05  # seconds in which IPython puts back what it found
_log = logging.getLogger(__name__)


@functools.cache
def is_known(distribution: str) -> bool:
    """Whether the installed version is one that was tried; it is logged where it is not."""
    from importlib import metadata  # noqa: PLC0415 - few processes patch anything but files

    try:
        text = metadata.version(distribution)
    except metadata.PackageNotFoundError:  # it is there all the same, without its record
        return True
    known = tuple(map(int, re.findall(r"\d+", text)[:2])) < _KNOWN[distribution]
    if not known:
        _log.warning(
            "This version of restate_nb does not know %s %s, and leaves it as it is. Install an older one, or a newer "
            "restate_nb: see restate_nb/patches.py for what is missing until then.",
            distribution,
            text,
        )
    return known


# ---------------------------------------------------------------- what is written


class Writes(Protocol):
    """Takes what is written to a file."""

    def write(self, stream: str, text: str, show: Callable[[str], Any]) -> None:
        """Take the text that was written to `stdout` or `stderr`; `show` writes to the file."""


FindWrites = Callable[[], Writes | None]
"""Gives who takes what is written here and now; None for nobody."""

_showing = threading.local()


class _Write:
    """The `write` of a file that is watched."""

    __slots__ = ("find", "stream", "write")

    def __init__(self, stream: str, write: Callable[[str], Any], find: FindWrites) -> None:
        self.stream = stream
        self.write = write
        self.find = find

    def __call__(self, text: str) -> int:
        writes = self.find()
        if writes is None or getattr(_showing, "now", False):
            return int(self.write(text) or 0)
        _showing.now = True  # what is shown may pass through here once more, when one `write` wraps another
        try:
            writes.write(self.stream, text, self.write)
        finally:
            _showing.now = False
        return len(text)


def watch_writes(find: FindWrites) -> None:
    """From now on, what is written to `sys.stdout` and `sys.stderr` goes to who is found, if somebody is."""
    for stream in ("stdout", "stderr"):
        _watch(getattr(sys, stream), stream, find)
    shell = ipython_shell()
    if shell is not None and not in_notebook():
        _watch_terminal(shell, find)


def _watch(file: Any, stream: str, find: FindWrites) -> None:
    kind = type(file)
    if file is None or isinstance(getattr(file, "write", None), _Write):
        return

    try:  # the file stays the same object
        file.__class__ = _watched(kind, stream, lambda file: functools.partial(kind.write, file), find)
    except TypeError:  # the file of a terminal, whose class is not written in Python
        file.write = _Write(stream, file.write, find)


def _watched(kind: type, stream: str, plain: Callable[[Any], Callable[[str], Any]], find: FindWrites) -> type:
    """The same kind of file with a `write` that is watched, whatever is set in its place.

    While a cell runs, IPython sets a `write` of its own, and afterwards what it found: it must not be ours that is
    replaced.

    Args:
        plain: gives what a file is written with as long as nothing was set.
    """

    def get(file: Any) -> _Write:
        return _Write(stream, vars(file).get("write") or plain(file), find)

    def put(file: Any, write: Callable[[str], Any]) -> None:
        while isinstance(write, _Write):
            write = write.write
        vars(file)["write"] = write

    return type(kind.__name__, (kind,), {"write": property(get, put), "__module__": kind.__module__})


class _Through(io.TextIOWrapper):
    """Stands for a file of the same kind: what is written goes through that one, so that all is in order."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        super().__init__(file.buffer, encoding=file.encoding, errors=file.errors, line_buffering=file.line_buffering)
        self.file = file
        vars(self)["mode"] = file.mode

    def write_through_file(self, text: str) -> int:
        return self.file.write(text)  # looked up each time: IPython may have replaced it

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Leave the file open: its bytes are those of the process."""
        self.flush()

    def reconfigure(self, **options: Any) -> None:
        self.file.reconfigure(**options)
        super().reconfigure(**options)


def _stand_in(stream: str, find: FindWrites) -> None:
    """Have another file stand for `sys.stdout` or `sys.stderr`, if it is the one of the terminal."""
    file = getattr(sys, stream)
    if type(file) is io.TextIOWrapper:
        setattr(sys, stream, _watched(_Through, stream, lambda file: file.write_through_file, find)(file))


def _watch_terminal(shell: Any, find: FindWrites) -> None:
    """Go on in a terminal's IPython, where others take the place of what is watched: it puts back the `write` of before
    when a cell has ended, and has a file of another kind while it waits at the prompt. Those who hold on to the file
    that was there are watched, too, but for the moments in which a cell ends."""
    if not (is_known("ipython") and is_known("prompt_toolkit")):
        return
    again = _watches_again(find)
    for stream in ("stdout", "stderr"):
        _stand_in(stream, find)
    if again not in shell.events.callbacks["post_run_cell"]:
        shell.events.register("post_run_cell", again)
    at_prompt = sys.modules.get("prompt_toolkit.patch_stdout")
    if at_prompt is not None and not isinstance(at_prompt.StdoutProxy.write, property):
        plain = at_prompt.StdoutProxy.write
        at_prompt.StdoutProxy.write = property(lambda file: _Write("stdout", functools.partial(plain, file), find))


@functools.cache
def _watches_again(find: FindWrites) -> Callable[[object], None]:
    """Watches what was watched before: a cell of a terminal's IPython is about to end, and tells nobody when it has."""

    def watch(files: list[tuple[Any, str]]) -> None:
        end = time.monotonic() + _CELL_ENDS
        while time.monotonic() < end:
            for file, stream in files:
                _watch(file, stream, find)
            time.sleep(0.001)

    def after_cell(_result: object) -> None:
        now = [(sys.stdout, "stdout"), (sys.stderr, "stderr")]
        files = [(file.file if isinstance(file, _Through) else file, stream) for file, stream in now]
        with suppress(RuntimeError):  # the machine gives no more threads
            threading.Thread(target=watch, args=(files,), name="rnb-prints", daemon=True).start()

    return after_cell


# ---------------------------------------------------------------- questions to a person

OnQuestion = Callable[[str], None]
"""Called with what asks, such as `input()`, before it does; it may raise."""


def guard_questions(on_question: OnQuestion) -> None:
    """From now on, who asks a person is looked at before. What replaces `input` later is guarded by the next call."""
    builtins.input = _guarded(builtins.input, "input()", on_question)
    if sys.breakpointhook is sys.__breakpointhook__ or "IPython" in str(getattr(sys.breakpointhook, "__module__", "")):
        # another debugger that is attached, such as that of an editor, stops where it is asked to
        sys.breakpointhook = _guarded(sys.breakpointhook, "breakpoint()", on_question, unless=_has_other_debugger)
    kernel = jupyter_kernel()
    if kernel is not None and is_known("ipykernel"):  # which puts these in the place of `input` and `getpass`
        for name, what in (("raw_input", "input()"), ("getpass", "getpass()")):
            setattr(kernel, name, _guarded(getattr(kernel, name), what, on_question))


def replace_questions(on_question: OnQuestion) -> None:
    """The same in a process that nobody can answer: asking does nothing but that."""
    builtins.input = lambda *_, **__: on_question("input()")  # type: ignore[assignment]
    sys.breakpointhook = lambda *_, **__: on_question("breakpoint()")


def _has_other_debugger() -> bool:
    return bool(os.environ.get("PYTHONBREAKPOINT"))


def _never() -> bool:
    return False


def _guarded(
    ask: Callable[..., Any], what: str, on_question: OnQuestion, unless: Callable[[], bool] = _never
) -> Callable[..., Any]:
    if hasattr(ask, "restate_nb_guards"):
        return ask

    @functools.wraps(ask)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not unless():
            on_question(what)
        return ask(*args, **kwargs)

    guarded.restate_nb_guards = True  # type: ignore[attr-defined]
    return guarded


# ---------------------------------------------------------------- loops and servers


def allow_nesting(loop: asyncio.AbstractEventLoop) -> None:
    """Let `loop.run_until_complete` be called while the loop runs."""
    try:
        import nest_asyncio  # noqa: PLC0415 - patches asyncio, so never before it is needed
    except ImportError:
        import nest_asyncio2 as nest_asyncio  # noqa: PLC0415 - Python 3.14, which the original does not support
    nest_asyncio.apply(loop)


def use_h2_protocol(protocol: type) -> None:
    """Have hypercorn make its HTTP/2 connections of this class, derived from its own, in all of this process."""
    import hypercorn.protocol  # noqa: PLC0415 - whoever calls this has loaded it

    if is_known("hypercorn"):
        module: Any = hypercorn.protocol
        module.H2Protocol = protocol
