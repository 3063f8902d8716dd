"""Proves that the mock and the real server do the same: random programs have equal outcomes on both."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable
from typing import Any

import pytest
from restate import TerminalError

from restate_nb.errors import InvocationFailed
from restate_nb.testing import LocalServer, mock_context, running_server
from tests.testing.programs import helper, make_program, once, run_program, runner, store

SHORT, SOAK = 60, 5_000
SERVICES = (runner, helper, store, once)


async def outcome(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except TerminalError as error:
        return f"{error.status_code} {error.message}"
    except InvocationFailed as error:
        return f"{error.code} {error.reason}"


async def on_mock(seed: int) -> Any:
    """With a replay and an order of ends of the seed's own; the outcome is the same in each."""
    choose = random.Random(seed)
    ctx = mock_context(
        services=SERVICES, replay=choose.random() < 0.7, shuffle=seed if choose.random() < 0.7 else None, key="mock"
    )
    return await outcome(ctx.mock.invoke(run_program, make_program(seed)))


async def differences(running: LocalServer, seeds: Iterable[int], at_once: int = 20) -> dict[int, tuple[Any, Any]]:
    """The outcomes on the mock and the server of programs that differ."""
    found: dict[int, tuple[Any, Any]] = {}
    turns = asyncio.Semaphore(at_once)

    async def compare(seed: int, mocked: Any) -> None:
        async with turns:
            served = await outcome(running.call(run_program, make_program(seed)))
        if mocked != served:
            found[seed] = (mocked, served)

    async with asyncio.TaskGroup() as tasks:
        for seed in seeds:
            tasks.create_task(compare(seed, await on_mock(seed)))
    return found


@pytest.mark.parametrize("always_replay", [False, True])
async def test_random_programs_have_equal_outcomes_on_mock_and_server(always_replay: bool) -> None:
    with running_server(*SERVICES, always_replay=always_replay) as running:
        seeds = range(SHORT // 2) if always_replay else range(SHORT // 2, SHORT)
        assert await differences(running, seeds) == {}


@pytest.mark.soak
async def test_five_thousand_random_programs_have_equal_outcomes() -> None:
    with running_server(*SERVICES) as running:
        assert await differences(running, range(SOAK)) == {}
