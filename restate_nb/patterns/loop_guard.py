"""The event loop that an operation sees while it takes a step: one that cannot be waited on.

An operation may wait only for what Restate records. Whatever else it could wait for starts at the running loop
(`create_task`, `create_future`, a timer, a thread), so that is where it is refused, on the user's own line.
The SDK starts the coroutine of a durable future there as well: `create_task` hands that one to the scheduler.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn

from restate_nb.patterns.misuse import TerminalNotDurable
from restate_nb.patterns.sdk import is_sdk_coroutine

_ADVICE = """
An operation may only await what Restate records; anything else happens again on a replay, in another order.
    wrong: await client.get(url)
    right: await ctx.run_typed("get", client.get, url=url)
    wrong: await asyncio.sleep(1)
    right: await ctx.sleep(timedelta(seconds=1))
    wrong: await asyncio.gather(a(), b())
    right: await fan_out_fail(ctx, [a, b])
    wrong: async with asyncio.timeout(5): await a()
    right: await with_timeout(ctx, a, 5)"""

_REFUSED = {
    "create_future": "waited for something that is not durable (asyncio.sleep, a queue, a lock, an HTTP client ...)",
    "run_in_executor": "ran a function in a thread (asyncio.to_thread or run_in_executor)",
    "call_at": "set a timer (asyncio.timeout, wait_for or call_at)",
    "call_later": "set a timer (asyncio.sleep, wait_for or call_later)",
}


def not_durable(who: str, what: str) -> TerminalNotDurable:
    """The error for an operation that waits for something Restate does not record."""
    return TerminalNotDurable(f"{who} {what}.{_ADVICE}")


def refusal(who: str, step: object) -> TerminalNotDurable:
    """The error for an operation that came to rest at something that nobody here can wake."""
    if step is None:
        return not_durable(who, "waited for something that is not durable, by way of anyio (httpx, openai, ...)")
    if asyncio.isfuture(step):
        step._asyncio_future_blocking = False  # it was yielded to nobody; others may still await it
    if isinstance(step, asyncio.Task) and is_sdk_coroutine(step.get_coro()):
        step.cancel()  # or it would go on reading this invocation's journal
        return not_durable(who, "awaited a durable future that an asyncio task waits for already")
    return not_durable(who, "awaited a future or a task that is not durable")


def is_in_cancel_scope(coroutine: object) -> bool:
    """Whether a coroutine that let others go first is within a function of anyio.

    anyio's cancel scopes belong to the task, in which all operations run: they have to end in the order in which they
    began, so no other operation may take a step meanwhile.
    """
    if "anyio" not in sys.modules:
        return False
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "anyio":
            return True
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return False


class OperationLoop:
    """Stands in for the running event loop while an operation takes a step."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        adopt: Callable[[Coroutine[Any, Any, Any]], object],
        who: Callable[[], str],
    ) -> None:
        self._loop = loop
        self._adopt = adopt
        self._who = who

    # asyncio finds the current task by its loop: equal loops find the handler's.
    def __eq__(self, other: object) -> bool:
        return other is self or other is self._loop

    def __hash__(self) -> int:
        return hash(self._loop)

    def create_task(self, coroutine: Coroutine[Any, Any, Any], **_: object) -> object:
        """Adopt the coroutine of a durable future; refuse any other."""
        if is_sdk_coroutine(coroutine):
            return self._adopt(coroutine)
        if isinstance(coroutine, (Coroutine, Generator)):
            coroutine.close()
        raise not_durable(self._who(), "started an asyncio task (asyncio.gather, create_task, wait_for ...)")

    def __getattr__(self, name: str) -> Any:
        if name in _REFUSED:

            def refuse(*_: object, **__: object) -> NoReturn:
                raise not_durable(self._who(), _REFUSED[name])

            return refuse
        return getattr(self._loop, name)


class running:  # noqa: N801 - used as a function is
    """Let `loop` be the running loop of this thread for a while."""

    __slots__ = ("_before", "_loop")

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._before = asyncio._get_running_loop()
        asyncio._set_running_loop(self._loop)

    def __exit__(self, *_: object) -> None:
        asyncio._set_running_loop(self._before)
