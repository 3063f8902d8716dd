"""Many values at once, each of them written as `codec.encode` writes it alone: lists of items, and rows of columns."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from restate_nb.values.classes import Classes
from restate_nb.values.codec import MAX_VALUE_BYTES
from restate_nb.values.parts import LARGE_BYTES, encode_inline_lines, encode_small_lines
from restate_nb.values.plain import is_plain_list
from restate_nb.values.tags import TAG
from restate_nb.values.writing import MAX_DEPTH, writer_for

_NEWLINE: Final = ord("\n")


@dataclass(frozen=True, slots=True)
class Run:
    """Encoded values.

    Attributes:
        lines: each of them, and a newline after it, which no value has in it.
    """

    lines: bytes

    def joined(self) -> tuple[bytes, Any]:
        """The values without anything between them, and where each ends, as a column of numpy."""
        return self.lines.replace(b"\n", b""), self._newlines() - np.arange(self.lines.count(b"\n"))

    def raws(self) -> list[bytes]:
        """Each value by itself."""
        raws = self.lines.split(b"\n")
        raws.pop()
        return raws

    def _newlines(self) -> Any:
        return np.flatnonzero(np.frombuffer(self.lines, dtype=np.uint8) == _NEWLINE)

    def largest(self) -> int:
        """How many bytes the longest value has."""
        return int(np.diff(self._newlines(), prepend=-1).max(initial=1)) - 1


def encode_many(values: list[Any], classes: Classes | None) -> Run | None:
    """Write many values; None where one of them cannot be kept, or needs a look at itself: a large one is written with
    parts, see `Classes.parts`."""
    written = _elements(values, classes, MAX_DEPTH + 1)
    return None if written is None else _as_lines(written, classes)


class Rows:
    """Writes rows, each as `codec.encode` writes a dict of its columns' names."""

    def __init__(self, names: Sequence[str], classes: Classes | None) -> None:
        self._classes = classes
        self._row: Any = None
        if TAG not in names and set(map(type, names)) == {str}:
            fields = [f"field_{place}" for place in range(len(names))]
            with contextlib.suppress(ValueError):  # names with quotes, or that are not Unicode
                self._row = msgspec.defstruct(
                    "Row", [(each, Any) for each in fields], rename=dict(zip(fields, names, strict=True)), gc=False
                )

    def encode(self, columns: Sequence[list[Any]]) -> Run | None:
        """Write the rows of these columns; None where one of them cannot be kept, or needs a look at itself."""
        if self._row is None:
            return None
        written = [_elements(column, self._classes, MAX_DEPTH) for column in columns]
        return None if None in written else _as_lines(list(map(self._row, *written)), self._classes)


def _elements(values: list[Any], classes: Classes | None, room: int) -> Any:
    """The elements of a list that has so much room, as they are written; None where one cannot be."""
    try:
        return values if is_plain_list(values, room) else writer_for(classes).elements(values, room)
    except Exception:  # whatever it is: who looks at each by itself comes upon it again
        return None


def _as_lines(written: list[Any], classes: Classes | None) -> Run | None:
    parts = classes is not None and classes.parts
    most = LARGE_BYTES - 1 if parts else MAX_VALUE_BYTES
    try:
        run = Run((encode_small_lines if parts else encode_inline_lines)(written))
    except Exception:  # as above
        return None
    return run if len(run.lines) <= most or run.largest() <= most else None
