"""The ways in which an item may end besides returning: what it raises, what it does to its task and to its loop.

A module of its own, so that worker processes can import it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any


class Own(BaseException):
    """No Exception."""


class Unreadable(Exception):
    """Its message ends the process."""

    def __str__(self) -> str:
        raise SystemExit(3)


def sync_ways() -> dict[str, Callable[[], Any]]:
    """By name: what a plain item does."""

    def raises(make: Callable[[], BaseException]) -> Callable[[], Any]:
        def way() -> None:
            raise make()

        return way

    return {
        "system exit": raises(lambda: SystemExit(1)),
        "keyboard interrupt": raises(KeyboardInterrupt),
        "generator exit": raises(GeneratorExit),
        "stop iteration": raises(lambda: StopIteration(5)),
        "stop async iteration": raises(StopAsyncIteration),
        "cancelled": raises(lambda: asyncio.CancelledError("mine")),
        "base group": raises(lambda: BaseExceptionGroup("b", [SystemExit(1), ValueError()])),
        "own": raises(Own),
        "unreadable": raises(Unreadable),
        "memory": raises(MemoryError),
        "recursion": raises(RecursionError),
    }


async def _child(way: Callable[[], Any]) -> Any:
    await asyncio.sleep(0)
    return way()


async def _in_task(way: Callable[[], Any]) -> Any:
    return await asyncio.create_task(_child(way))


async def _in_gather(way: Callable[[], Any]) -> Any:
    return await asyncio.gather(_child(way), asyncio.sleep(0))


async def _in_group(way: Callable[[], Any]) -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(_child(way))


async def _at_once(way: Callable[[], Any]) -> Any:
    return way()


async def _later(way: Callable[[], Any]) -> Any:
    await asyncio.sleep(0.001)
    return way()


WRAPPED: tuple[Callable[[Callable[[], Any]], Awaitable[Any]], ...] = (_at_once, _later, _in_task, _in_gather, _in_group)


def _own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _cancels_itself() -> None:
    _own_task().cancel()
    await asyncio.sleep(1)


async def _cancels_itself_and_ends() -> None:
    _own_task().cancel()


async def _cancels_itself_and_goes_on() -> None:
    _own_task().cancel()
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        await asyncio.sleep(0.001)


async def _is_cancelled_soon() -> None:
    asyncio.get_running_loop().call_later(0.001, _own_task().cancel)
    await asyncio.sleep(0.2)


async def _stops_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.001)


async def _ends_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 1)
    await asyncio.sleep(0.001)


async def _ends_in_a_forgotten_task() -> None:
    asyncio.ensure_future(_child(sync_ways()["system exit"]))  # noqa: RUF006 - nobody keeps it, which is the point
    await asyncio.sleep(0.001)


async def _ends_when_a_task_is_done() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(lambda _: sys.exit(1))
    await task
    await asyncio.sleep(0.001)


async def _times_out_by_itself() -> None:
    async with asyncio.timeout(0):
        await asyncio.sleep(1)


def async_ways() -> dict[str, Callable[[], Awaitable[Any]]]:
    """By name: what an item of a coroutine function does."""
    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        f"{name}{wrap.__name__}": lambda way=way, wrap=wrap: wrap(way)  # type: ignore[misc]
        for name, way in sync_ways().items()
        for wrap in WRAPPED
    }
    for each in (
        _cancels_itself,
        _cancels_itself_and_ends,
        _cancels_itself_and_goes_on,
        _is_cancelled_soon,
        _stops_the_loop,
        _ends_in_a_callback,
        _ends_in_a_forgotten_task,
        _ends_when_a_task_is_done,
        _times_out_by_itself,
    ):
        ways[each.__name__] = each
    return ways


def plain(way: str) -> str:
    """A plain item that ends in this way; any other returns what it got."""
    do = sync_ways().get(way)
    return way if do is None else do()


async def awaited(way: str) -> str:
    """The same of a coroutine function."""
    do = async_ways().get(way)
    if do is not None:
        await do()
    return way
