"""The memory of this process that is free, and that the system does not know of."""

from __future__ import annotations

import ctypes
from typing import Final

MANY_ITEMS: Final = 100_000
"""A job of so many leaves enough behind that giving it back is worth its milliseconds."""


def give_back() -> None:
    """Return what is free to the system, where C's library can do that.

    The requests of a large job are thousands of blocks among others that live on, which the library keeps for blocks of
    their size; the columns of a frame are none. It takes milliseconds, in which other threads may have to wait.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
