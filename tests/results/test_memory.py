"""Proves that memory that is free is given back to the system, where C's library can do that."""

from __future__ import annotations

import ctypes

from tests.support import run_python

GIVEN_BACK = """
import psutil
from restate_nb.results import memory

blocks = [(b"x" * (80_000 + each), b"x" * 1_000 + b"%d" % each) for each in range(1_000)]
kept = [small for _, small in blocks]
del blocks
before = psutil.Process().memory_info().rss
memory.give_back()
print(before - psutil.Process().memory_info().rss)
"""


def test_free_memory_between_what_lives_on_is_given_back() -> None:
    given = int(run_python(GIVEN_BACK).stdout)
    assert given > 20_000_000 or not hasattr(ctypes.CDLL(None), "malloc_trim")
