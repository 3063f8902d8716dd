"""The functions that a worker may run: those of the modules that it was started with, and no others."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from restate_nb.errors import InvalidInput
from restate_nb.service.run_spec import name_of_import


@dataclass(frozen=True, slots=True)
class ServedFunctions:
    """Modules, all of whose own functions are run, and single functions.

    Attributes:
        names: `package.module` or `package.module:function`, as the worker was started with.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> ServedFunctions:
        """Import what is to be served.

        Raises:
            InvalidInput: a module cannot be imported, or has no such function.
        """
        for name in names:
            module, colon, function = name.partition(":")
            try:
                found = importlib.import_module(module)
            except Exception as error:  # a module may raise anything when it is imported
                raise InvalidInput(
                    f"{module} cannot be imported: {type(error).__name__}: {error}. Start the worker in the directory "
                    "that holds it, or install it."
                ) from error
            if colon and _own_function(found, function) is None:
                raise InvalidInput(f"{module} defines no function {function}.")
        return cls(tuple(names))

    def functions(self) -> list[Callable[..., Any]]:
        """The public functions at the top of the served modules, and those named one by one."""
        found = []
        for name in self.names:
            module, colon, function = name.partition(":")
            place = sys.modules[module]
            names = [function] if colon else [each for each in vars(place) if not each.startswith("_")]
            found += [own for each in names if (own := _own_function(place, each)) is not None]
        return found

    def function(self, name: str) -> Callable[..., Any]:
        """The function of that name, `package.module:function`.

        Raises:
            InvalidInput: it is none of those that are served; the message says which are.
        """
        module, _, function = name.partition(":")
        found = None
        if module in self.names or name in self.names:
            found = _own_function(sys.modules[module], function)
        if found is None:
            raise InvalidInput(
                f"This worker does not serve {name}. It serves {', '.join(self.names)}: start it, and all others of "
                f"its session, with {module}, too, and with the code that has the function."
            )
        return found

    def find(self, name: str) -> Any:
        """What a run spec names: a served function, or the class of an exception that is loaded here.

        Raises:
            InvalidInput: it is neither.
        """
        module, _, attributes = name.partition(":")
        try:
            found = attrgetter(attributes)(sys.modules[module])
        except (KeyError, AttributeError):
            found = None
        if inspect.isclass(found) and issubclass(found, BaseException):
            return found
        return self.function(name)


def _own_function(module: Any, name: str) -> Callable[..., Any] | None:
    """What the module itself defines under that name: what it imported for its own use, such as `os.system`, is no
    function of it."""
    try:
        found = attrgetter(name)(module)
    except AttributeError:
        return None
    own = callable(found) and not inspect.isclass(found) and name_of_import(found) == f"{module.__name__}:{name}"
    return found if own else None
