"""Seeds of random generators: one for each item, the same whenever and wherever that item runs."""

from __future__ import annotations

import contextvars
import functools
import hashlib
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from restate_nb.engine.output import position
from restate_nb.errors import InvalidInput

T = TypeVar("T")

_SIZE: Final = 8  # bytes of a digest, of which the lowest bit is left out: some take no seeds from 2**63 on
_INSIDE: Final = (
    "rnb.item_seed() is for the code of an item: in the function that rnb.map and its kin run. A thread or a process "
    "that an item starts by itself does not know whose it is: ask in the item, and pass the seed on. By hand, "
    "job.rerun_locally(label) runs an item with its own seed."
)


class Scope(NamedTuple):
    """To whom an item belongs.

    Attributes:
        job: what stands for the job, and how often it was begun anew.
        outer: the positions of the items that it is within, from the outermost.
        position: of the item, where the code that runs does not know it.
    """

    job: str
    outer: tuple[int, ...] = ()
    position: int | None = None


_scope: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("restate_nb_seeds", default=None)


def enter(job: str, at: int | None = None) -> None:
    """From here on, in this context, items are of that job; `at` is the position of the one that runs, if only one
    does."""
    _scope.set(Scope(job, position=at))


def enter_inner(job: str) -> None:
    """From here on, in this context, items are of that job, within the item that this code belongs to, if any."""
    outside = _scope.get()
    _scope.set(Scope(job, () if outside is None else (*outside.outer, position())))


def scope() -> Scope | None:
    """Whose items run in this context; for a process of another context."""
    return _scope.get()


def within(scope: Scope, call: Callable[[Any], T], payload: Any) -> T:
    """Call with the payload of an item of that scope."""
    _scope.set(scope)
    return call(payload)


def item_seed(base: int | str | None = None) -> int:
    """The seed of the item that runs: give it to a random generator, in the function that you map.

    Each item of a job has its own, and has it at every attempt: when it is tried again, when it runs once more since
    the kernel died in the middle, when Restate replays it; in threads, processes and workers alike. So no two workers
    draw the same numbers, and what is drawn does not depend on who runs what, or when.

    Without a base, it belongs to the job's name and to how often that was begun anew: another job, and `fresh=True`,
    draw other numbers. With a base it depends on the base and on the position of the item in the input alone, so that
    the notebook draws the same whenever and wherever it is run.

    Args:
        base: a whole number or a text; other bases draw other numbers, also within one item.

    Returns:
        A whole number from 0 up to 2**63 - 1.

    Raises:
        InvalidInput: it is not called in an item, or the base is something else.

    Example:
        import random

        import restate_nb as rnb

        def throw(dice: int) -> int:
            generator = random.Random(rnb.item_seed(42))  # or numpy.random.default_rng(rnb.item_seed(42))
            return sum(generator.randint(1, 6) for _ in range(dice))

        rnb.start()
        rnb.map(throw, [1, 2, 3]).values()
    """
    if base is not None and (isinstance(base, bool) or not isinstance(base, (int, str))):
        raise InvalidInput(f"The base of a seed is a whole number or a text, such as rnb.item_seed(42), not {base!r}.")
    of = _scope.get()
    at = position() if of is None or of.position is None else of.position
    if of is None or at < 0:
        raise InvalidInput(_INSIDE)
    parts = [*of.outer, at, of.job] if base is None else [*of.outer, at, type(base).__name__, str(base)]
    digest = hashlib.blake2b(msgspec.json.encode(parts), digest_size=_SIZE).digest()
    return int.from_bytes(digest) >> 1


def copied_generators(fn: Callable[..., Any]) -> list[str]:
    """The names of random generators that a function of a notebook uses, and of which each process gets a copy that
    draws the same numbers. What is imported by its name is not among them: who imports it makes a generator anew."""
    found: dict[str, None] = {}
    _look_at("the function itself", fn, found, set())
    return list(found)


def _look_at(name: str, value: Any, found: dict[str, None], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if _is_generator(value):
        found[name] = None
    elif isinstance(value, functools.partial):
        for number, each in enumerate(value.args, 1):
            _look_at(f"argument {number}", each, found, seen)
        for key, each in value.keywords.items():
            _look_at(key, each, found, seen)
        _look_at(name, value.func, found, seen)
    elif isinstance(value, types.MethodType):
        _look_at(name, value.__func__, found, seen)
        _look_at_attributes(value.__self__, found, seen)
    elif isinstance(value, types.FunctionType):
        if value.__module__ == "__main__" or value.__closure__:
            for key, each in _used_by(value):
                _look_at(key, each, found, seen)
    elif type(value).__module__ == "__main__" and not isinstance(value, type):
        _look_at_attributes(value, found, seen)


def _look_at_attributes(value: Any, found: dict[str, None], seen: set[int]) -> None:
    for name, each in getattr(value, "__dict__", {}).items():
        _look_at(name, each, found, seen)


def _used_by(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function names, by its name."""
    codes = [fn.__code__]
    for code in codes:  # grows
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        for name in code.co_names:
            if name in fn.__globals__:
                yield name, fn.__globals__[name]
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with suppress(ValueError):  # nothing is in it yet
            yield name, cell.cell_contents
    for default in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
        yield "a default value", default


def _is_generator(value: Any) -> bool:
    of_numpy = sys.modules.get("numpy.random")
    return isinstance(value, random.Random) or (
        of_numpy is not None and isinstance(value, (of_numpy.Generator, of_numpy.RandomState))
    )
