"""Proves that strict mode finds what another process, another time and other random numbers change."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import restate
from restate import Context, TerminalError

from restate_nb.errors import JournalMismatch
from restate_nb.patterns import map_concurrent
from restate_nb.testing import mock_context

strict_service = restate.Service("StrictService")

WORDS = ["plum", "fig", "apple", "pear", "quince"]


@strict_service.handler()
async def deterministic(ctx: Context, words: list[str]) -> int:
    await ctx.sleep(timedelta(seconds=1))
    found = await map_concurrent(ctx, sorted(set(words)), lambda word: ctx.run_typed(word, lambda: len(word)))
    if await ctx.time() > 0 and ctx.random().random() < 0.5:
        await ctx.run_typed(f"once {ctx.uuid()}", lambda: 1)
    await ctx.service_call(callee, sum(found))
    return sum(found)


@strict_service.handler()
async def callee(ctx: Context, number: int) -> int:
    if number > 100:
        raise TerminalError("too many")
    return number


async def by_set(ctx: Context) -> None:
    for word in set(WORDS):
        await ctx.run_typed(word, lambda: 1)


async def by_time(ctx: Context) -> None:
    await ctx.run_typed(f"day {time.time() // 86_400}", lambda: 1)


async def by_random(ctx: Context) -> None:
    await ctx.run_typed(random.choice(WORDS), lambda: 1)


@pytest.mark.parametrize("planted", [by_set, by_time, by_random])
async def test_what_another_process_does_differently_is_found(planted: Callable[..., Awaitable[None]]) -> None:
    with pytest.raises(JournalMismatch, match="In another process"):
        await mock_context(services=[strict_service], strict=True).mock.invoke(planted)


async def test_a_deterministic_handler_is_left_alone_and_one_that_fails_fails() -> None:
    assert (
        await mock_context(services=[strict_service], strict=True, replay=True).mock.invoke(deterministic, WORDS) == 22
    )
    with pytest.raises(TerminalError, match="too many"):
        await mock_context(services=[strict_service], strict=True).mock.invoke(callee, 101)


async def test_a_local_function_is_replayed_elsewhere_too() -> None:
    words = WORDS[:3]

    async def local(ctx: Context) -> Any:
        return [await ctx.run_typed(word, lambda: 1) for word in set(words)]

    with pytest.raises(JournalMismatch, match="In another process"):
        await mock_context(strict=True).mock.invoke(local)
