"""Proves `run_each` in a user's own handler: values in order, errors as outcomes, replays without running twice."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import restate
from restate import Context, TerminalError

import restate_nb as rnb
from restate_nb.errors import InvocationFailed
from restate_nb.patterns import run_each
from restate_nb.session.session import Session

CALLS: Counter[int] = Counter()
service = restate.Service("RunEach")


@dataclass
class Square:
    item: int
    square: int


async def square(item: int) -> Square:
    CALLS[item] += 1
    await asyncio.sleep(item % 5 / 1000)
    if item % 10 == 7:
        raise ValueError(f"no {item}")
    return Square(item, item * item)


@service.handler()
async def squares(ctx: Context, count: int) -> list[Any]:
    first = await run_each(ctx, square, range(count), rnb.RunPolicy(concurrency=10))
    second = await run_each(ctx, lambda item: item + 1, range(3))
    assert all(isinstance(each.value, Square) for each in first if each.ok)
    return [[each.value.square if each.value else each.error.message for each in first], second.values()]  # type: ignore[union-attr]


SEEDS: dict[int, set[int]] = {}


def seeded(item: int) -> int:
    SEEDS.setdefault(item, set()).add(seed := rnb.item_seed())
    if len(SEEDS) < 20:
        raise ValueError("again")
    return seed


@service.handler()
async def seeds(ctx: Context, count: int) -> list[int]:
    policy = rnb.RunPolicy(retry=rnb.Retry(50, initial_interval=0.01))
    first = await run_each(ctx, seeded, range(count), policy)
    second = await run_each(ctx, lambda item: rnb.item_seed(), range(count))
    return [*first.values(), *second.values()]


fails = Counter[str]()


@service.handler()
async def fails_between(ctx: Context, count: int) -> int:
    result = await run_each(ctx, square, range(count))
    fails["after"] += 1
    if fails["after"] < 4:
        raise RuntimeError("injected")
    return result.success


gate = threading.Event()


def waits(item: int) -> int:
    CALLS[item] += 1
    gate.wait(20)
    return item


@service.handler()
async def waiting(ctx: Context, count: int) -> list[int]:
    return (await run_each(ctx, waits, range(count))).values()


@service.handler()
async def bad(ctx: Context) -> None:
    try:
        await run_each(ctx, "no function", [1])  # type: ignore[arg-type]
    except rnb.InvalidInput as error:
        raise TerminalError(str(error), status_code=400) from error


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    CALLS.clear()
    gate.clear()
    yield
    gate.set()


@pytest.fixture
def served(any_session: Session) -> Session:
    any_session.serve(service)
    return any_session


def test_values_and_errors_come_in_order_and_two_in_one_handler_do_not_mix(served: Session) -> None:
    values, second = served.call(squares, 100)
    assert values == [f"ValueError: no {item}" if item % 10 == 7 else item * item for item in range(100)]
    assert second == [1, 2, 3]
    assert dict.fromkeys(range(100), 1) == CALLS


def test_items_have_seeds_of_their_own_that_are_the_same_at_each_attempt(served: Session) -> None:
    SEEDS.clear()
    seen = served.call(seeds, 20)
    assert len(set(seen)) == 40, "two `run_each` of one invocation have others"
    assert all(len(each) == 1 for each in SEEDS.values())


def test_a_handler_that_fails_after_it_runs_nothing_again(served: Session) -> None:
    fails.clear()
    assert served.call(fails_between, 50) == 45
    assert dict.fromkeys(range(50), 1) == CALLS


def test_items_in_flight_are_taken_over_when_the_server_dies(served: Session) -> None:
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(served.call, waiting, 20, idempotency_key=f"{time.time()}")
        while sum(CALLS.values()) < 20:
            time.sleep(0.01)
        pid = served.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        time.sleep(1)
        gate.set()
        assert answer.result(30) == list(range(20))
    assert dict.fromkeys(range(20), 1) == CALLS


def test_cancelling_the_invocation_ends_it(session: Session) -> None:
    session.serve(service)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(session.call, waiting, 5)
        while sum(CALLS.values()) < 5:
            time.sleep(0.01)
        admin = session.connection.admin
        (row,) = session.io.run(
            admin.query("select id from sys_invocation where target_handler_name = 'waiting' and status != 'completed'")
        )
        session.io.run(admin.cancel(row["id"]))
        with pytest.raises(InvocationFailed, match="409"):
            answer.result(20)


def test_what_is_no_function_is_refused(served: Session) -> None:
    with pytest.raises(InvocationFailed, match=r"run_each\(ctx, fn, items\) takes a function"):
        served.call(bad)
