"""The failures of a job's items. What they have in common is kept once, and tracebacks like values: on disk when many.

A traceback is up to 6 kB: those of 100,000 failed items would take more memory than all else that a job keeps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from restate_nb.engine.record import Failure
from restate_nb.results.spool import Spool

_IN_MEMORY: Final = 2 * 1024 * 1024  # bytes of tracebacks
_ALIKE: Final = 100  # different tracebacks that are recognised when they come once more
_NONE: Final = -1


class Failures(Mapping[int, Failure]):
    """The last failure of items by position, in the order in which they came.

    It may be read while it grows: one that iterates sees what there was when it began.
    """

    def __init__(self) -> None:
        self._bare: dict[int, Failure] = {}
        self._at: dict[int, int] = {}  # where its traceback is
        self._tracebacks: Spool | None = None
        self._alike: dict[str, int] = {}

    def __setitem__(self, position: int, failure: Failure) -> None:
        self._at[position] = self._put(failure.traceback)
        self._bare[position] = bare(failure)

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
        return self._bare.pop(position, None)

    def bare(self, position: int) -> Failure | None:
        """One without its traceback; None when there is none."""
        return self._bare.get(position)

    def all_bare(self) -> dict[int, Failure]:
        """All of them without their tracebacks, as of now."""
        return self._bare.copy()


def bare(failure: Failure) -> Failure:
    """A failure without its traceback; texts that many have are one object."""
    kind, where = sys.intern(failure.type), sys.intern(failure.where)
    return msgspec.structs.replace(failure, type=kind, where=where, traceback="")
