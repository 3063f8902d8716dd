"""Pickle what a notebook defines, so that a process that has never seen the notebook can use it."""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import sys
import types
from typing import Any, Final

import cloudpickle

_CACHE = "__msgspec_cache__"  # on dataclasses that msgspec has seen: it cannot be pickled, and is made anew


_CACHED: Final = type(functools.lru_cache(lambda: None))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdout, sys.stderr):  # cloudpickle would copy its text
            raise pickle.PicklingError(f"it holds an open file, {str(obj.name)!r}")
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented:
            return _by_name(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], tuple):
            for state in reduced[2]:
                if isinstance(state, dict):
                    state.pop(_CACHE, None)
        return reduced


def cached_again(fn: Any, parameters: dict[str, Any]) -> Any:
    """The function with a cache of its own in this process, for a worker."""
    return functools.lru_cache(**parameters)(fn)


def _by_name(obj: Any) -> Any:
    """What is pickled by its name alone, checked: another process has to find it there.

    A cached function of a notebook is made anew, with a cache of its own.

    Raises:
        pickle.PicklingError: another process would look for it in vain.
    """
    name = getattr(obj, "__qualname__", None)
    if not isinstance(name, str) or not _is_pickled_by_name(obj):
        return NotImplemented
    module = getattr(obj, "__module__", None)
    if module is None or _can_import(module):
        return NotImplemented
    if isinstance(obj, _CACHED):
        return cached_again, (obj.__wrapped__, obj.cache_parameters())
    where = "this notebook" if module == "__main__" else f"the module {module!r}, which other processes cannot import"
    raise pickle.PicklingError(f"{name!r} is known by its name in {where} alone, and would not be found")


def _is_pickled_by_name(obj: Any) -> bool:
    if isinstance(obj, (type, types.FunctionType)):
        return True
    if isinstance(obj, _CACHED):
        return True
    own: Any = type(obj).__reduce__
    plain: Any = object.__reduce__
    if own is plain or isinstance(own, types.FunctionType):
        return False
    try:
        return isinstance(obj.__reduce__(), str)
    except Exception:  # it cannot be pickled at all, and the pickler says so
        return False


def _can_import(module: str) -> bool:
    """Whether another process would find that module, with the same `sys.path`."""
    if module == "__main__":
        return False
    loaded = sys.modules.get(module)
    top = module.partition(".")[0]
    if loaded is None or top in sys.builtin_module_names or getattr(loaded, "__spec__", None) is not None:
        return True
    return any(finder.find_spec(top, None) is not None for finder in sys.meta_path if hasattr(finder, "find_spec"))


class _Enough(Exception):
    pass


class _Nowhere(io.RawIOBase):
    """Keeps nothing, and takes no more than so many bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise _Enough
        return size


def try_dumps(thing: object, most: int) -> None:
    """See that a thing can be pickled, as far as its first `most` bytes tell. Nothing is kept.

    Raises:
        Exception: as `dumps` does.
    """
    with contextlib.suppress(_Enough):
        _Pickler(_Nowhere(most)).dump(thing)


def dumps(thing: object) -> bytes:
    """The thing, pickled; functions and classes of `__main__` with their code.

    Raises:
        Exception: of many kinds, when a part of it cannot be pickled, or could not be loaded in another process.
    """
    file = io.BytesIO()
    _Pickler(file).dump(thing)
    return file.getvalue()
