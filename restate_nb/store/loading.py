"""Brings back what references name, in any process: one to which this was sent opens the store when it first reads."""

from __future__ import annotations

import functools
from typing import Any

from restate_nb.store.base import NotStored, Place, Store, StoreConfig
from restate_nb.values.reference import Reference, sum_of


class Loader:
    """Brings values of one store."""

    def __init__(self, config: StoreConfig, store: Store | None = None) -> None:
        """`store`: where it is open already."""
        self._config = config
        self._store = store

    def __call__(self, reference: Reference) -> bytes:
        """A value with its parts, as it was written.

        Raises:
            NotStored: it is not there, or is not what was written.
            StoreUnavailable: the store does not answer.
        """
        store = self._store or _opened(self._config)
        content = store.read(reference.folder, Place(reference.segment, reference.at), reference.size)
        if sum_of(content) != reference.sum:
            raise NotStored(
                f"What lies in the store {self._config.url} for this value is not what was written: its checksum is "
                f"another one (folder {reference.folder}, segment {reference.segment}, at {reference.at:,})."
            )
        return content

    def __reduce__(self) -> tuple[Any, ...]:
        return Loader, (self._config,)


@functools.lru_cache(maxsize=8)
def _opened(config: StoreConfig) -> Store:
    from restate_nb.store.opening import open_store  # noqa: PLC0415 - few processes read from there

    return open_store(config)
