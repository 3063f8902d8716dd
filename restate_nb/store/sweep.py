"""Folders that no job names: what a process left that died between writing items and beginning its job."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from typing import Final

from restate_nb.store.base import NotStored, Store

_log: Final = logging.getLogger("restate_nb.store")


def old_folders(store: Store) -> list[str]:
    """A session's folders that nobody has written to for `store.orphan_seconds`.

    In a store that others use, too, they are those whose names begin with the session's owner, and none where that is
    not known.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    if store.config.shared and not store.owner:
        return []
    before = time.time() - store.orphan_seconds
    mine = f"{store.owner}-" if store.owner else ""
    return [each.name for each in store.folders() if each.written < before and each.name.startswith(mine)]


def sweep(store: Store, old: Iterable[str], named: Collection[str]) -> list[str]:
    """Drop those of these folders that no job names; one that a process still writes to stays, where that can be seen.

    Args:
        store: the session's.
        old: see `old_folders`.
        named: the folders that there are jobs of, asked for after `old` was: so one whose job was begun meanwhile is
            among them.

    Returns:
        What was dropped.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    dropped = [each for each in old if each not in named and not store.in_use(each)]
    for each in dropped:
        drop(store, each)
    if dropped:
        _log.info("%d folders of %s belonged to no job, and were deleted.", len(dropped), store.config.url)
    return dropped


def drop(store: Store, folder: str) -> None:
    """Drop a job's folder; where its name is none, as whoever writes to Restate may have written it, nothing.

    Raises:
        StoreUnavailable: something of it is left.
    """
    try:
        store.drop(folder)
    except NotStored as error:
        _log.warning("A folder is not deleted. %s", error)
