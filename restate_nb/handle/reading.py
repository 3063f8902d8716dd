"""Reads an iterable to its end, once, and tells how far it is; what never ends is refused."""

from __future__ import annotations

import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from restate_nb.errors import InvalidInput

MAX_ITEMS: Final = 100_000_000
"""So many items a job may have: what is kept of each of them would fill the memory of most machines."""

_FIRST_REPORT: Final = 3.0
_LONGEST_INTERVAL: Final = 60.0
"""Seconds until the first report of how many were read, and at most between two."""


class Reading:
    """A context in which an iterable is read once: `for item in reading`.

    Attributes:
        count: how many items were read by now.

    Raises:
        InvalidInput: the iterable never ends, has too many items, or raises.
    """

    def __init__(
        self,
        items: Iterable[Any],
        *,
        first_report: float = _FIRST_REPORT,
        size_of: Callable[[Any], int] | None = None,
        ends: bool = False,
    ) -> None:
        """`size_of`: how many items one is that is read; each is one without it. `ends`: whether it ends for sure."""
        self._items = items
        self._ends = ends
        self._size_of = size_of
        self._iterator: Iterator[Any] | None = None
        self._sized = isinstance(items, Sequence)
        self._interval = first_report
        self._timer: threading.Timer | None = None
        self._ended = False
        self.count = 0

    def __enter__(self) -> Self:
        refuse_endless(self._items)
        if not self._sized:
            self._report_later()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if error is None:
            return
        if self._iterator is not None and self._iterator is not self._items:
            close = getattr(self._iterator, "close", None)  # of a generator: a progress bar around the items ends
            if callable(close):
                close()
        if isinstance(error, KeyboardInterrupt):
            print(f"Stopped while the items were read, after {self.count:,} of them. Nothing was started.")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items) if self._sized else self._each()

    def _each(self) -> Iterator[Any]:
        try:
            iterator = self._iterator = iter(self._items)
        except Exception as error:
            raise InvalidInput(f"The items cannot be read: {type(error).__name__}: {error}.") from error
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except Exception as error:
                raise InvalidInput(
                    f"Reading the items ended after {self.count:,} of them, at position {self.count}: "
                    f"{type(error).__name__}: {error}. Nothing was started."
                ) from error
            self.count += 1 if self._size_of is None else self._size_of(item)
            if self.count > MAX_ITEMS:
                raise InvalidInput(
                    f"There are more than {MAX_ITEMS:,} items, and a job cannot have as many. If they never end, take "
                    "as many as you want: itertools.islice(items, 1_000)."
                )
            yield item
            del item  # it may be large, as is the next one
        if not self.count and iterator is self._items:
            name = type(self._items).__name__
            known = "iter" in name or name in ("generator", "map", "filter", "zip")
            say_nothing_left(name if known else f"iterator {name}")

    def _report_later(self) -> None:
        self._timer = threading.Timer(self._interval, self._report)
        self._timer.name = "rnb-reading"
        self._timer.daemon = True
        self._timer.start()

    def _report(self) -> None:
        if self._ended:
            return
        advice = "" if self._ends else " If they never end, take as many as you want: itertools.islice(items, 1_000)."
        how_far = f"Reading the items: {self.count:,} by now."
        print(f"{how_far} Nothing is started before the last one; Ctrl-C stops it.{advice}", flush=True)
        self._interval = min(self._interval * 2, _LONGEST_INTERVAL)
        self._report_later()


def say_nothing_left(kind: str) -> None:
    """Say that something gave no items which can be read only once; `kind` is what it is."""
    print(f"The {kind} gave no items: if it was read before, there is nothing left in it.")


def refuse_endless(items: object) -> None:
    """See that it is none of the iterators that are known to never end.

    Raises:
        InvalidInput: it is.
    """
    endless = isinstance(items, (itertools.count, itertools.cycle))
    if isinstance(items, itertools.repeat):
        endless = operator.length_hint(items, -1) < 0  # without a number of times
    if endless:
        raise InvalidInput(
            f"items never ends: it is itertools.{type(items).__name__}. Take as many as you want: "
            "itertools.islice(items, 1_000)."
        )
