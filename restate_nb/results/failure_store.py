"""The failures of a job's items. What they have in common is kept once, and tracebacks like values: on disk when many.

A traceback is up to 6 kB: those of 100,000 failed items would take more memory than all else that a job keeps. Failures
are of one kind when they are of one type and have the same message but for names, numbers and places.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from restate_nb.engine.record import Failure
from restate_nb.results.progress import ErrorGroup
from restate_nb.results.spool import Spool

_IN_MEMORY: Final = 2 * 1024 * 1024  # bytes of tracebacks
_ALIKE: Final = 100  # different tracebacks that are recognised when they come once more
_NONE: Final = -1
MAX_KINDS: Final = 2_000  # that are counted: what the panel shows must cost the same at a million items
_VARYING: Final = re.compile(
    r"""(                                   # kept: a status of HTTP, which tells a 404 from a 429
          ^[45]\d\d(?=,|:|\ [A-Z])         # 429, message=...; 429 Client Error
        | ['"][45]\d\d\ [A-Z][\w -]*['"]   # '429 Too Many Requests'
        | \b(?:HTTP(?:/[\d.]+)?|[Ss]tatus|[Cc]ode|[Ee]rror)[\s:=]{1,2}[45]\d\d\b
      )
    | \s*\([^()]*\bline\ \d+\)            # where a SyntaxError was found: (file.py, line 3)
    | '[^'\n]{1,80}' | "[^"\n]{1,80}"       # what is quoted
    | \binv_[0-9A-Za-z]{10,}                # invocations
    | \b0x[0-9a-fA-F]+\b                    # addresses
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4,12}){1,4}\b   # UUIDs
    | (?:[\w.-]*/)+[\w.-]+                  # paths, URLs
    | \d+(?:[.,:]\d+)*                      # numbers, versions, times
    """,
    re.VERBOSE,
)
_LOOKED_AT: Final = 500  # characters; the rest of a message seldom says what kind it is


class FailureStore(Mapping[int, Failure]):
    """The last failure of items by position, in the order in which they came.

    It may be read while it grows: one that iterates sees what there was when it began.
    """

    def __init__(self) -> None:
        self._bare: dict[int, Failure] = {}
        self._at: dict[int, int] = {}  # where its traceback is
        self._tracebacks: Spool | None = None
        self._alike: dict[str, int] = {}
        self._kinds = Counter[tuple[str, str]]()
        self._examples: dict[tuple[str, str], str] = {}  # the first message of a kind

    def __setitem__(self, position: int, failure: Failure) -> None:
        self._at[position] = self._put(failure.traceback)
        self._bare[position] = bare(failure)
        kind = failure.type, kind_of(failure.message)
        if len(self._kinds) < MAX_KINDS or kind in self._kinds:
            self._kinds[kind] += 1
            self._examples.setdefault(kind, failure.message)

    def _put(self, text: str) -> int:
        if not text:
            return _NONE
        at = self._alike.get(text)
        if at is None:
            if self._tracebacks is None:
                self._tracebacks = Spool(in_memory=_IN_MEMORY)
            if len(self._alike) == _ALIKE:
                del self._alike[next(iter(self._alike))]
            at = self._alike[text] = self._tracebacks.append(text.encode())
        return at

    def __getitem__(self, position: int) -> Failure:
        failure, at = self._bare[position], self._at[position]
        if at == _NONE or self._tracebacks is None:
            return failure
        return msgspec.structs.replace(failure, traceback=self._tracebacks[at].decode())

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._bare))

    def __len__(self) -> int:
        return len(self._bare)

    def __contains__(self, position: object) -> bool:
        return position in self._bare

    def pop(self, position: int) -> Failure | None:
        """Take one out, if it is there; without its traceback."""
        self._at.pop(position, None)
        failure = self._bare.pop(position, None)
        if failure is not None:
            self._kinds[failure.type, kind_of(failure.message)] -= 1
        return failure

    def bare(self, position: int) -> Failure | None:
        """One without its traceback; None when there is none."""
        return self._bare.get(position)

    def all_bare(self) -> dict[int, Failure]:
        """All of them without their tracebacks, as of now."""
        return self._bare.copy()

    def groups(self, most: int) -> tuple[ErrorGroup, ...]:
        """The most frequent kinds."""
        common = self._kinds.most_common(most)
        return tuple(ErrorGroup(kind[0], self._examples[kind], count) for kind, count in common if count > 0)


def kind_of(message: str) -> str:
    """The message with `…` for what differs from item to item. The status of an HTTP answer stays.

    Example:
        >>> kind_of("No user 'ada' (id 17)") == kind_of("No user 'bob' (id 9)")
        True
        >>> kind_of("404 Not Found for url: http://a/1") == kind_of("429 Too Many Requests for url: http://a/1")
        False
    """
    return _VARYING.sub(lambda found: found[1] or "…", message[:_LOOKED_AT]).strip()


def bare(failure: Failure) -> Failure:
    """A failure without its traceback; texts that many have are one object."""
    kind, where = sys.intern(failure.type), sys.intern(failure.where)
    return msgspec.structs.replace(failure, type=kind, where=where, traceback="")
