"""What can be told of an exception, whatever its class does: reading it never raises, never runs on for ever. And whose
code a frame is: restate_nb's own, a library's, or the user's.

An exception's `__str__`, properties and causes are the user's or a library's code. What they break must not cost an
item its outcome, so that all that Python keeps of an exception itself is read past its class, and the rest with care.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
import weakref
from collections.abc import Iterator
from os import sep
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Final

MAX_MESSAGE: Final = 2_000
LONGEST: Final = 100_000  # characters of a message that are looked at
_MAX_TRACEBACK: Final = 6_000
_MAX_NAME: Final = 200  # characters of a class's name
_MAX_CAUSES: Final = 50
_MAX_NESTED: Final = 200  # exceptions in groups, all together
_NOTES: Final = 20
_LEAVES: Final = 5

_PACKAGE: Final = str(Path(__file__).parent) + sep
_LIBRARIES: Final = (f"{sep}site-packages{sep}", f"{sep}dist-packages{sep}", str(Path(traceback.__file__).parent) + sep)
_STANDARD: Final = sysconfig.get_path("stdlib") + sep
_LOOPS: Final = (str(Path(traceback.__file__).parent / "asyncio") + sep, "nest_asyncio")

_CELL: Final = re.compile(r"ipykernel_\d+")
_CELL_FILE: Final = re.compile(r'\bFile "[^"\n]*ipykernel_\d+[^"\n]*"')
"""The file that a kernel makes believe a cell is, named after the process and a digest: it tells nobody anything."""

_slots: Final[dict[str, Any]] = {
    name: BaseException.__dict__[name] for name in ("__traceback__", "__cause__", "__context__")
}
_members: Final[Any] = BaseExceptionGroup.__dict__["exceptions"]
_name_of_class: Final[Any] = type.__dict__["__qualname__"]
_overriding: weakref.WeakKeyDictionary[type[BaseException], bool] = weakref.WeakKeyDictionary()
_READ: Final = (
    "__cause__",
    "__context__",
    "__suppress_context__",
    "__traceback__",
    "__notes__",
    "__getattribute__",
    "__class__",
    "exceptions",
)
"""What Python's own formatting reads of an exception, and may be another's code."""


# ---------------------------------------------------------------- whose code it is


def is_package_file(name: str) -> bool:
    """Whether a file is one of restate_nb's own."""
    return name.startswith(_PACKAGE)


def is_library_file(name: str) -> bool:
    """Whether a file is of an installed package, or of the standard library."""
    return any(part in name for part in _LIBRARIES)


def is_standard_file(name: str) -> bool:
    """Whether a file is of the standard library."""
    return name.startswith(_STANDARD) and "site-packages" not in name


def is_cell(name: str) -> bool:
    """Whether a file is what a kernel makes believe a cell is."""
    return _CELL.search(name) is not None


def users_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first line on that is neither of this package nor of what drives a loop; all of it where
    there is none."""
    own = trace
    while own is not None and _drives(own.tb_frame.f_code.co_filename):
        own = own.tb_next
    return own or trace


def _drives(name: str) -> bool:
    return is_package_file(name) or any(part in name for part in _LOOPS)


def before_package(trace: TracebackType | None) -> TracebackType | None:
    """The lines of a cell that lead to this package: without IPython's own before them, and the package's after."""
    while trace is not None and "IPython" in Path(trace.tb_frame.f_code.co_filename).parts:
        trace = trace.tb_next
    return _until_package(trace)


def _until_package(trace: TracebackType | None) -> TracebackType | None:
    if trace is None or is_package_file(trace.tb_frame.f_code.co_filename):
        return None
    return TracebackType(_until_package(trace.tb_next), trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def caller_level() -> int:
    """The `stacklevel` of a warning that is to name the line which called this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and is_package_file(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    return level


# ---------------------------------------------------------------- what an exception says


def plain(text: str, most: int) -> str:
    """The text as it can be written as UTF-8, cut at so many characters. Never raises, whatever kind of str it is."""
    return str.encode(str.__getitem__(text, slice(0, most)), "utf-8", "replace").decode()


def name_of(error: BaseException) -> str:
    """The class's name, cut at 200 characters."""
    return plain(_name_of_class.__get__(type(error)), _MAX_NAME)


def message_of(error: BaseException, most: int = MAX_MESSAGE) -> str:
    """The exception's text, cut at so many characters."""
    try:
        return plain(str(error), most)
    except BaseException as broken:  # SystemExit too: nothing that a message does may end what reads it
        return f"(its message could not be read: {name_of(broken)})"


def own_trace(error: BaseException) -> TracebackType | None:
    """The traceback, without restate_nb's own frames at the top."""
    trace: TracebackType | None = _slots["__traceback__"].__get__(error)
    while trace is not None and is_package_file(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def where(trace: TracebackType | None) -> str:
    """The innermost line that belongs to the user rather than to a library."""
    found: TracebackType | None = None
    while trace is not None:
        if not is_library_file(trace.tb_frame.f_code.co_filename):
            found = trace
        trace = trace.tb_next
    if found is None:
        return ""
    code = found.tb_frame.f_code
    return plain(f"{file_name(code)}:{found.tb_lineno} in {code.co_name}", MAX_MESSAGE)


def file_name(code: CodeType) -> str:
    """The name of the file that some code is in, without its folder; "cell" for a notebook's."""
    return "cell" if is_cell(code.co_filename) else Path(code.co_filename).name


def formatted(error: BaseException, trace: TracebackType | None, text: str) -> str:
    """The traceback as Python prints it, its last 6,000 characters; where the exception breaks that, what is left.

    Args:
        error: the exception.
        trace: what to show of its traceback.
        text: its message; of one that is out of all proportion only the beginning is shown.
    """
    try:
        usual = len(text) < LONGEST and _is_ordinary(error)
        whole = "".join(traceback.format_exception(type(error), error, trace)) if usual else ""
    except BaseException:  # of its own code, which runs while it is formatted
        whole = ""
    if not whole:
        whole = "".join(_in_parts(error, trace))
    whole = str.encode(whole, "utf-8", "replace").decode()
    return _CELL_FILE.sub('File "cell"', whole)[-_MAX_TRACEBACK:]


def _is_ordinary(error: BaseException) -> bool:
    """Whether nothing in it overrides what Python's formatting reads, and it is not made of too many exceptions."""
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if len(seen) > _MAX_NESTED or _overrides(type(each)):
            return False
        left += [other for name in ("__cause__", "__context__") if (other := _slots[name].__get__(each)) is not None]
        if issubclass(type(each), BaseExceptionGroup):
            left += _members.__get__(each)[: _MAX_NESTED + 1]
    return True


def _overrides(kind: type[BaseException]) -> bool:
    known = _overriding.get(kind)
    if known is None:
        known = _overriding[kind] = _looks_overriding(kind)
    return known


def _looks_overriding(kind: type[BaseException]) -> bool:
    for base in type.__dict__["__mro__"].__get__(kind):
        names = type.__dict__["__dict__"].__get__(base)
        if names.get("__module__", "builtins") != "builtins" and any(name in names for name in _READ):
            return True
    return False


def _in_parts(error: BaseException, trace: TracebackType | None) -> Iterator[str]:
    """The exception and its causes, the first one first, read past their classes."""
    chain = [(error, trace)]
    for each in _causes(error):
        chain.append((each, own_trace(each)))
    for each, its_trace in reversed(chain):
        if its_trace is not None:
            yield "Traceback (most recent call last):\n"
            yield from _lines(its_trace)
        yield f"{name_of(each)}: {message_of(each)}\n"
        yield from _notes(each)
        yield from (f"  + {name_of(leaf)}: {message_of(leaf)}\n" for leaf in _leaves(each))
        if each is not error:
            yield "\n(which led to)\n\n"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    each: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        each = _slots["__cause__"].__get__(each) or _slots["__context__"].__get__(each)
        if each is None or id(each) in seen:
            return
        seen.add(id(each))
        yield each


def _leaves(error: BaseException) -> list[BaseException]:
    """The first exceptions in a group that are no groups themselves."""
    leaves: list[BaseException] = []
    left = [error] if issubclass(type(error), BaseExceptionGroup) else []
    while left and len(leaves) < _LEAVES:
        each = left.pop()
        if issubclass(type(each), BaseExceptionGroup):
            left += reversed(_members.__get__(each)[:_LEAVES])
        else:
            leaves.append(each)
    return leaves


def _lines(trace: TracebackType) -> list[str]:
    try:
        return traceback.format_tb(trace, limit=-_MAX_CAUSES)
    except BaseException:  # a module's own loader gives its source, or fails to
        return [f"  {where(trace)}\n"]


def _notes(error: BaseException) -> list[str]:
    try:
        notes = object.__getattribute__(error, "__dict__").get("__notes__", ())
        return [f"{plain(note, MAX_MESSAGE)}\n" for note in list.__getitem__(notes, slice(0, _NOTES))]
    except BaseException:  # it is no list, or not of texts
        return []
