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

from restate_nb.engine.limiter import Permit
from restate_nb.engine.output import position

_LOOK: Final = 1.0  # seconds between looks at whether the loop lives

Permits = Callable[[int], Permit | None]
"""How the item at a position was let in by its job's limits; None where it holds nothing of a shared one."""


class _Inside(NamedTuple):
    job: object
    permits: Permits


_inside: contextvars.ContextVar[tuple[_Inside, ...]] = contextvars.ContextVar("restate_nb_inside", default=())


def enter(job: object, permits: Permits) -> None:
    """From here on, in this context, code belongs to items of that job."""
    _inside.set((*_inside.get(), _Inside(job, permits)))


def is_within(job: object) -> bool:
    """Whether this code belongs to an item of that job, or to one of a job that such an item has begun."""
    return any(each.job is job for each in _inside.get())


def _permit() -> Permit | None:
    inside = _inside.get()
    return inside[-1].permits(position()) if inside else None


@contextmanager
def lent() -> Iterator[None]:
    """Lend what the item of this thread holds of a shared limit; it goes on when it has that back.

    Who gives up waiting, at a timeout, gets it as soon as it is free, and does not wait for that too.
    """
    permit = _permit()
    if permit is None:
        yield
        return
    permit.soon(permit.lend)
    there = threading.Event()
    try:
        yield
    except BaseException:
        permit.soon(permit.take_back, there.set)
        raise
    permit.soon(permit.take_back, there.set)
    while not there.wait(_LOOK) and permit.is_live:
        pass


@asynccontextmanager
async def lent_while_awaited() -> AsyncIterator[None]:
    """The same for an item that awaits a job."""
    permit = _permit()
    if permit is None:
        yield
        return
    permit.soon(permit.lend)
    here, there = asyncio.get_running_loop(), asyncio.Event()

    def back() -> None:
        with suppress(RuntimeError):  # the loop has ended, as that of an item in a thread of its own does
            here.call_soon_threadsafe(there.set)

    try:
        yield
    except BaseException:
        permit.soon(permit.take_back, back)
        raise
    permit.soon(permit.take_back, back)
    await there.wait()
