"""Proves that memory that is free is given back to the system, where C's library can do that."""

from __future__ import annotations

import ctypes

import psutil

from restate_nb.results import memory


def test_free_memory_between_what_lives_on_is_given_back() -> None:
    blocks = [(bytes(80_000), bytes(1_000)) for _ in range(1_000)]
    kept = [small for _, small in blocks]
    del blocks
    before = psutil.Process().memory_info().rss
    memory.give_back()
    given = before - psutil.Process().memory_info().rss
    assert given > 20_000_000 or not hasattr(ctypes.CDLL(None), "malloc_trim")
    assert len(kept) == 1_000
