"""Whose code it is: the user's own, which counts by what it says, or an installed package's, which counts by name."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import types
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

_PARTS_OF_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_OURS: Final = "restate_nb"


def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(sorted(os.path.realpath(root) + os.sep for root in roots))


_ROOTS: Final = _installed_roots()


@lru_cache(maxsize=4096)
def is_users_file(path: str) -> bool:
    """Whether a file of code is the user's: neither of the standard library nor where packages are installed."""
    if path.startswith("<frozen"):
        return False
    real = os.path.realpath(path)
    return not real.startswith(_ROOTS) and not _PARTS_OF_INSTALLED & set(Path(real).parts)


def is_users_module(name: str | None) -> bool:
    """Whether a module of that name is the user's: a notebook, a script, or a module of a project."""
    if name is None or name == "builtins" or name.partition(".")[0] == _OURS:
        return False
    if name in ("__main__", "__mp_main__"):
        return True
    module = sys.modules.get(name)
    if module is None:
        return name.partition(".")[0] not in sys.stdlib_module_names
    return _is_users_place(name, getattr(module, "__file__", None), getattr(module, "__spec__", None) is not None)


@lru_cache(maxsize=4096)
def _is_users_place(name: str, file: str | None, found: bool) -> bool:
    if file is not None:
        return is_users_file(file)
    if not found:  # made at run time
        return name.partition(".")[0] not in sys.stdlib_module_names
    module = sys.modules.get(name)
    places = list(getattr(module, "__path__", ()))  # a package without __init__.py has only these
    return bool(places) and all(is_users_file(str(place)) for place in places)


def file_of_module(module: str) -> str | None:
    """The source file of a module of the user that can be imported, loaded or not; packages around it are not run."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return file if is_users_module(module) and isinstance(file, str) and file.endswith(".py") else None
    parent, _, _ = module.rpartition(".")
    if parent and parent not in sys.modules:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    origin = None if spec is None else spec.origin
    return origin if origin is not None and origin.endswith(".py") and is_users_file(origin) else None


def is_users_function(fn: types.FunctionType) -> bool:
    """Whether a function's code is the user's, wherever the function is used."""
    file = fn.__code__.co_filename
    if Path(file).is_absolute() and not is_users_file(file):
        return False
    return is_users_module(fn.__globals__.get("__name__", fn.__module__))


def is_users_class(kind: type) -> bool:
    """Whether a class is defined by the user."""
    module = kind.__dict__.get("__module__", getattr(kind, "__module__", None))
    return isinstance(module, str) and is_users_module(module)


def qualified(thing: Any) -> str:
    """The name of a function or class, with that of its module."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(name, str):
        name = getattr(thing, "__name__", type(thing).__qualname__)
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def is_a(value: Any, kinds: Any) -> bool:
    """Like `isinstance`, without asking the value: what it says of its class may be made up, or have effects.

    Args:
        value: anything.
        kinds: a class, or a tuple of some.
    """
    return issubclass(type(value), kinds)
