"""Pickle what a notebook defines, so that a process that has never seen the notebook can use it."""

from __future__ import annotations

import io
from typing import Any

import cloudpickle

_CACHE = "__msgspec_cache__"  # on dataclasses that msgspec has seen: it cannot be pickled, and is made anew


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], tuple):
            for state in reduced[2]:
                if isinstance(state, dict):
                    state.pop(_CACHE, None)
        return reduced


def dumps(thing: object) -> bytes:
    """The thing, pickled; functions and classes of `__main__` with their code.

    Raises:
        Exception: of many kinds, when a part of it cannot be pickled.
    """
    file = io.BytesIO()
    _Pickler(file).dump(thing)
    return file.getvalue()
