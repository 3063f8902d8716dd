"""Puts values that are too large for a journal into the store.

What is on its way into a journal is stored first, and durable, before a journal names it. While the store takes
nothing, since its disk is full, say, it is asked again and again, and nothing is lost meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from restate_nb.store.base import Store, StoreUnavailable
from restate_nb.store.loading import Loader
from restate_nb.values.reference import Reference, encode_reference, sum_of
from restate_nb.values.what import what_of

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
"""Seconds from one try to the next, while the store takes nothing."""


def store_runs(store: Store, folder: str, raws: Sequence[bytes]) -> list[bytes]:
    """Write values with parts into a folder, all at once; return what stands for each in a journal.

    Raises:
        StoreUnavailable: the store takes nothing now. None of them counts then.
    """
    known = [(len(raw), sum_of(raw), what_of(raw)) for raw in raws]
    places = store.append(folder, raws)
    return [
        encode_reference(Reference(folder, place.segment, place.at, *each))
        for place, each in zip(places, known, strict=True)
    ]


def loader(store: Store) -> Loader:
    """What brings values of a store back: see `Classes.load`."""
    return Loader(store.config, store)


class Keeper:
    """Stores the values of one job.

    Attributes:
        store: where.
        folder: the job's own there.
        trouble: why the store takes nothing now, in words; empty while it does. It may be read in any thread.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.folder = folder
        self.trouble = ""
        self._closed = False

    async def keep(self, raws: Sequence[bytes]) -> list[bytes]:
        """Store values with parts, for as long as that takes; return what stands for each in a journal.

        Raises:
            StoreUnavailable: the job was given up in the meantime.
        """
        pause = _FIRST_PAUSE
        while not self._closed:
            try:
                references = await asyncio.to_thread(store_runs, self.store, self.folder, raws)
            except StoreUnavailable as error:
                self.trouble = str(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self.trouble = ""
                return references
        raise StoreUnavailable("The job was deleted or given up before its values could be stored.")

    def close(self) -> None:
        """Try no more: the job was given up."""
        self._closed = True
