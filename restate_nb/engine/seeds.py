"""Seeds of random generators: one for each item, the same whenever and wherever that item runs."""

from __future__ import annotations

import contextvars
import hashlib
from collections.abc import Callable
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
