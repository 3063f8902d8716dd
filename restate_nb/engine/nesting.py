"""Items that begin jobs themselves, and wait for them.

Whose item some code belongs to is kept in a context variable, so that tasks that an item starts know it too. While an
item waits for a job it does nothing: what it holds of a shared limit is lent to others, or it and the items of that job
could wait for each other for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, NamedTuple

from restate_nb.engine.output import position
from restate_nb.engine.throttle import Passage

_LOOK: Final = 1.0  # seconds between looks at whether the loop lives

Passages = Callable[[int], Passage | None]
"""How the item at a position came in by its job's limits; None where it holds nothing of a shared one."""


class _Inside(NamedTuple):
    job: object
    passages: Passages


_inside: contextvars.ContextVar[tuple[_Inside, ...]] = contextvars.ContextVar("restate_nb_inside", default=())


def enter(job: object, passages: Passages) -> None:
    """From here on, in this context, code belongs to items of that job."""
    _inside.set((*_inside.get(), _Inside(job, passages)))


def is_within(job: object) -> bool:
    """Whether this code belongs to an item of that job, or to one of a job that such an item has begun."""
    return any(each.job is job for each in _inside.get())


def _held() -> Passage | None:
    inside = _inside.get()
    return inside[-1].passages(position()) if inside else None


@contextmanager
def lent() -> Iterator[None]:
    """Lend what the item of this thread holds of a shared limit; it goes on when it has that back.

    Who gives up waiting, at a timeout, gets it as soon as it is free, and does not wait for that too.
    """
    passage = _held()
    if passage is None:
        yield
        return
    passage.soon(passage.lend)
    there = threading.Event()
    try:
        yield
    except BaseException:
        passage.soon(passage.take_back, there.set)
        raise
    passage.soon(passage.take_back, there.set)
    while not there.wait(_LOOK) and passage.lives:
        pass


@asynccontextmanager
async def lent_while_awaited() -> AsyncIterator[None]:
    """The same for an item that awaits a job."""
    passage = _held()
    if passage is None:
        yield
        return
    passage.soon(passage.lend)
    here, there = asyncio.get_running_loop(), asyncio.Event()

    def back() -> None:
        with suppress(RuntimeError):  # the loop has ended, as that of an item in a thread of its own does
            here.call_soon_threadsafe(there.set)

    try:
        yield
    except BaseException:
        passage.soon(passage.take_back, back)
        raise
    passage.soon(passage.take_back, back)
    await there.wait()
