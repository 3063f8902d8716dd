"""`run_each`: a plain function over many items in one handler, each durable, recorded in groups."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from restate import Context, TerminalError

from restate_nb.engine import seeds
from restate_nb.engine.function import is_async
from restate_nb.engine.group_commit import commit
from restate_nb.engine.outbox import ShardQueue, entries
from restate_nb.engine.pool import ItemCall, Pool
from restate_nb.engine.record import Attempt, Group, decode_group
from restate_nb.errors import InvalidInput
from restate_nb.patterns.outcome import FanOutResult, Outcome
from restate_nb.policy import RunPolicy
from restate_nb.values.classes import Classes
from restate_nb.values.codec import decode_column, encode
from restate_nb.values.structure import Rebuild, classes_of, parameter_annotations, rebuilder

I = TypeVar("I")  # noqa: E741 - the SDK's names for input and output
O = TypeVar("O")  # noqa: E741

ORPHAN_PAUSE: Final = 60.0
"""Seconds after which a pool whose handler lost its connection starts nothing more: the invocation may have been killed
for good, and items may cost money."""

ORPHAN_END: Final = 3600.0
"""Seconds after which such a pool is given up, with the outcomes that nobody came for."""

_calls: weakref.WeakKeyDictionary[Any, itertools.count[int]] = weakref.WeakKeyDictionary()
_states: dict[tuple[str, int], _RunState] = {}


async def run_each(
    ctx: Context,
    fn: Callable[[I], Awaitable[O]] | Callable[[I], O],
    items: Iterable[I],
    policy: RunPolicy | None = None,
) -> FanOutResult[O]:
    """Run a plain function over items, each of them durable, and return their outcomes in input order.

    For functions that take no durable steps of their own: each item is one side effect, like `ctx.run`, but outcomes
    are recorded in groups, so that an item costs microseconds and not a journal entry. An item whose outcome is
    recorded never runs again; one that ran when the process died does. When only the server or the connection goes
    away, the items go on meanwhile, and nothing runs twice.

    Args:
        ctx: the handler's context.
        fn: a coroutine function, or a plain function, which runs in a thread.
        items: the same on every attempt of the handler.
        policy: how many at once, retries and timeout.

    Raises:
        InvalidInput: `fn` is no function.
        TerminalError: the invocation was cancelled.

    Example:
        >>> async def handler(ctx: Context, urls: list[str]) -> list[int]:
        ...     return (await run_each(ctx, len, urls, RunPolicy(concurrency=20))).values()
    """
    if not callable(fn):
        raise InvalidInput(f"run_each(ctx, fn, items) takes a function, and {fn!r} is none.")
    payloads = list(items)
    hints = parameter_annotations(fn)
    classes = classes_of(fn, hints)
    key = ctx.request().id, next(_calls.setdefault(ctx, itertools.count()))
    state = _states.get(key)
    if state is None:
        keep = functools.partial(encode, classes=classes)
        context = contextvars.copy_context()
        context.run(seeds.enter_inner, f"{key[0]}/{key[1]}")
        work = ItemCall(fn, "loop" if is_async(fn) else "thread", context, encode=keep)
        state = _states[key] = _RunState(payloads, work, policy or RunPolicy())
    state.begin_attempt()
    groups: list[Group] = []

    def on_group(_: bytes, group: Group) -> bool:
        groups.append(group)
        return True

    try:
        cancelled = await commit(ctx, len(payloads), state, on_group)
    except BaseException:
        state.end_attempt(lambda: _states.pop(key, None))  # the next attempt of the handler finds it
        raise
    _states.pop(key).end()
    if cancelled:
        raise TerminalError("cancelled", 409)
    rebuild = rebuilder(hints.get("return"))
    outcomes = {each.index: each for group in groups for each in _outcomes(group, classes, rebuild)}
    return FanOutResult(tuple(map(outcomes.__getitem__, range(len(payloads)))))


def _outcomes(group: Group, classes: Classes, rebuild: Rebuild | None) -> Iterator[Outcome[Any]]:
    """What became of those items that have their outcome in this group."""
    for at, failure in group.failures.items():
        if failure.retry_in is None:
            yield Outcome(group.positions[at], error=TerminalError(f"{failure.type}: {failure.message}"))
    raws = group.raws()
    good = [at for at in range(len(group)) if at not in group.failures]
    values = decode_column([raws[at] for at in good], classes, rebuild=rebuild)
    for at, value in zip(good, values, strict=True):
        yield Outcome(group.positions[at], value)


class _RunState:
    """The pool of one `run_each`, kept from one attempt of its handler to the next."""

    def __init__(self, payloads: Sequence[Any], work: ItemCall, policy: RunPolicy) -> None:
        self._payloads = payloads
        self._pool = Pool(asyncio.get_running_loop(), "run-each")
        self._pool.provide(work, policy)
        self._queue: ShardQueue | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def queue(self, ended: set[int], failed: Mapping[int, Attempt]) -> ShardQueue:
        if self._queue is None:
            left = {position: item for position, item in enumerate(self._payloads) if position not in ended}
            self._queue = ShardQueue(len(left), lambda: entries(left, failed))
            self._pool.add(self._queue)
        return self._queue

    def recorded(self, raw: bytes) -> Group:
        if self._queue is None:
            return decode_group(raw)
        group = self._queue.recorded(raw)
        self._pool.recorded()
        return group

    def cancel(self) -> None:
        if self._queue is not None:
            self._pool.cancel(self._queue)

    def begin_attempt(self) -> None:
        """Let items be started: an attempt of the handler records them."""
        while self._timers:
            self._timers.pop().cancel()
        self._pool.resume()

    def end_attempt(self, forget: Callable[[], object]) -> None:
        """Go on for a while without an attempt; if none begins, pause the pool, and in the end give it up."""
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(ORPHAN_PAUSE, self._pool.pause),
            loop.call_later(ORPHAN_END, self._give_up, forget),
        ]

    def _give_up(self, forget: Callable[[], object]) -> None:
        forget()
        self.end()

    def end(self) -> None:
        """Close the pool."""
        self.begin_attempt()  # no timer is left
        self._pool.close()
