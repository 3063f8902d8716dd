"""Proves that every durable item has an outcome, the same on every replay, whatever its function or its steps raise,
return or are given."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import signal
import sys
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import restate
from restate import Context, RunOptions, TerminalError
from restate.exceptions import RetryableError
from restate.serde import Serde

import restate_nb as rnb
from restate_nb.patterns import OperationFailed, fan_out, fan_out_fail, map_concurrent
from restate_nb.service.durable_context import MAX_STEP_BYTES
from restate_nb.service.durable_handler import DurableFunctions, DurableRequest
from restate_nb.session.session import Session
from restate_nb.testing import mock_context
from tests.support import eventually

TWICE = RunOptions[Any](max_attempts=2, initial_retry_interval=dt.timedelta(milliseconds=5))


def big() -> str:
    return "x" * (MAX_STEP_BYTES + 1)


class Mine(BaseException):
    pass


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Leaving(BaseException):
    def __str__(self) -> str:  # noqa: PLE0307 - it leaves
        sys.exit(3)


class NoBytes(Serde[Any]):
    def serialize(self, obj: Any) -> bytes:
        return "text"  # type: ignore[return-value]

    def deserialize(self, buf: bytes) -> Any:
        return buf


class Raising(NoBytes):
    def serialize(self, obj: Any) -> bytes:
        raise KeyboardInterrupt


@pytest.mark.parametrize("fails", [False, True])
async def test_the_outcome_is_the_journals_whatever_clocks_and_addresses_are_in_it(fails: bool) -> None:
    runs: list[int] = []

    async def fn(ctx: Context, item: int) -> int:
        await ctx.run_typed("step", lambda: runs.append(1))
        if fails:
            raise ValueError(f"{time.time_ns()} {object()!r}")
        return time.time_ns()

    functions, ctx = DurableFunctions(), mock_context()
    functions.provide("fn", fn)
    request = DurableRequest(function="fn", name="fn", passing="value", item=msgspec.Raw(b"1"))
    first = await ctx.mock.invoke(functions.run, request)
    assert await ctx.mock.replay(functions.run, request) == first
    assert len(runs) == 1


STEPS: dict[str, Any] = {
    "SystemExit: 1": SystemExit(1),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "CancelledError": asyncio.CancelledError(),
    "Mine: x": Mine("x"),
    "Leaving: (its text could not be read": Leaving(),
    "BaseExceptionGroup: g": BaseExceptionGroup("g", [SystemExit(1)]),
    "StopIteration": StopIteration(1),
    "Unreadable: (its text could not be read": Unreadable(),
    "ValueError('\\udcff')": ValueError("\udcff"),
    "?": TerminalError("\udcff"),
    "of no text": TerminalError(ValueError("of no text"), 99_999),  # type: ignore[arg-type]
    "xxx": TerminalError(big()),
    "ValueError('xxx": ValueError(big()),
    "cancelled": TerminalError("cancelled", 409),
}


@pytest.mark.parametrize("in_task", [True, False])
def test_whatever_a_step_raises_ends_its_item_and_no_other(session: Session, in_task: bool) -> None:
    async def fn(ctx: Context, says: str) -> None:
        def in_thread() -> None:
            raise STEPS[says]

        async def task() -> None:
            raise STEPS[says]

        await ctx.run_typed("step", task if in_task else in_thread, TWICE)

    frame = rnb.map(fn, list(STEPS), session=session, show=False).result(30)
    assert frame["status"].tolist() == ["error"] * len(STEPS)
    for says, error in zip(STEPS, frame["error"], strict=True):
        assert says in error
    assert rnb.map(abs, [-1], session=session, show=False, fresh=True).values() == [1]


VALUES: dict[str, Any] = {
    "object": object(),
    "iterator": iter([1]),
    "MB ": big(),
}

KEPT: dict[str, Any] = {
    "DataFrame": pd.DataFrame({"a": [1]}),
    "int64": np.int64(3),
    "ndarray": np.arange(3),
    "Decimal": Decimal("1.5"),
    "datetime": dt.datetime(2026, 1, 1),
    "set": {1, 2},
    "tuple": (1, {2: (3,)}),
    "bytes": b"x",
    "Timestamp": pd.Timestamp("2026-01-01"),
}


def test_what_a_step_returns_comes_back_as_what_it_was_also_in_a_replay(session: Session) -> None:
    async def fn(ctx: Context, what: str) -> list[str]:
        value = await ctx.run_typed("step", lambda: KEPT[what])
        if not replayed.get(what):
            replayed[what] = repr(value)
            raise RetryableError("once more")
        return [replayed[what], repr(value)]

    replayed: dict[str, str] = {}
    values = rnb.map(fn, list(KEPT), session=session, show=False, fresh=True, retry=rnb.Retry(2)).values()
    assert values == [[repr(value)] * 2 for value in KEPT.values()]


@pytest.mark.parametrize("typed", [True, False])
def test_what_cannot_be_recorded_is_the_error_of_its_item_and_its_step_runs_once(session: Session, typed: bool) -> None:
    runs = Counter[str]()

    async def fn(ctx: Context, what: str) -> Any:
        def step() -> Any:
            runs[what] += 1
            return VALUES[what]

        return await (ctx.run_typed("step", step) if typed else ctx.run("step", step))

    frame = rnb.map(fn, list(VALUES), session=session, show=False, fresh=True).result(30)
    assert frame["error_type"].tolist() == ["TerminalError"] * len(VALUES)
    for what, error in zip(VALUES, frame["error"], strict=True):
        assert what in error
        assert "eturn" in error, "it says what to return instead"
    assert runs == dict.fromkeys(VALUES, 1)


echoes = restate.Service("echoes")


@echoes.handler()
async def length(ctx: Context, text: str) -> int:
    return len(text)


async def big_call(ctx: Context) -> int:
    return await ctx.service_call(length, big())


async def big_send(ctx: Context) -> None:
    ctx.service_send(length, big())


async def call_without_json(ctx: Context) -> int:
    return await ctx.service_call(length, object())  # type: ignore[arg-type]


async def big_awakeable(ctx: Context) -> str:
    name, future = ctx.awakeable(type_hint=str)
    ctx.resolve_awakeable(name, big())
    return await future


async def state(ctx: Any) -> None:
    ctx.set("name", 1)


async def state_read(ctx: Any) -> Any:
    return await ctx.get("name")


async def no_bytes(ctx: Context) -> Any:
    return await ctx.run_typed("step", lambda: 1, RunOptions(serde=NoBytes()))


async def raising_serde(ctx: Context) -> Any:
    return await ctx.run_typed("step", lambda: 1, RunOptions(serde=Raising()))


async def forgotten_await(ctx: Context) -> Any:
    return await ctx.run_typed("step", lambda: asyncio.sleep(0, 1))


async def long_name(ctx: Context) -> int:
    return await ctx.run_typed(big(), lambda: 1)


async def leaves_in_an_operation(ctx: Context) -> list[int]:
    async def leaves() -> int:
        sys.exit(4)

    return await fan_out_fail(ctx, [leaves, lambda: ctx.run_typed("step", lambda: 1)])


async def unrecordable_in_an_operation(ctx: Context) -> Any:
    return await map_concurrent(ctx, [1, 2], lambda each: ctx.run_typed("step", lambda: iter([each])))


async def leaves(ctx: Context) -> None:
    raise Leaving


async def big_value(ctx: Context) -> str:
    return "x" * 20_000_000


REFUSED: dict[Any, str] = {
    big_call: "MB are too much for Restate",
    big_send: "MB are too much for Restate",
    call_without_json: "input of echoes/length cannot be recorded",
    big_awakeable: "MB are too much for Restate",
    state: "it has no state",
    state_read: "it has no state",
    no_bytes: "wrote no bytes",
    raising_serde: "KeyboardInterrupt",
    forgotten_await: "It has to be awaited",
    long_name: "MB are too much for Restate",
    leaves_in_an_operation: "4",
    unrecordable_in_an_operation: "Step 'step' returned an object of class list_iterator",
    leaves: "its message could not be read: SystemExit",
}


def test_what_restate_cannot_take_is_an_error_of_its_item(session: Session) -> None:
    session.serve(echoes)
    jobs = [rnb.starmap(fn, [()], session=session, show=False) for fn in REFUSED]
    for says, job in zip(REFUSED.values(), jobs, strict=True):
        frame = job.result(30)
        assert frame["status"].tolist() == ["error"]
        assert says in frame["error"][0]


def test_a_value_larger_than_restate_takes_lies_in_the_store(session: Session) -> None:
    job = rnb.starmap(big_value, [()], session=session, show=False)
    assert job.values() == ["x" * 20_000_000]


def test_a_terminal_error_409_of_the_users_own_is_an_error_that_fail_fast_sees(session: Session) -> None:
    async def pay(ctx: Context, item: int) -> int:
        async def exists() -> int:
            raise TerminalError("cancelled", 409)  # as Restate says it

        if item == 1:
            raise TerminalError("exists already", 409)
        if item == 2:
            await ctx.run_typed("pay", exists)
        if item == 3:
            await fan_out_fail(ctx, [exists])
        return item

    job = rnb.map(pay, range(4), session=session, show=False)
    assert job.result(20)["status"].tolist() == ["ok", "error", "error", "error"]
    assert (job.counts["error"], job.counts["cancelled"]) == (3, 0)
    assert "exists already" in job.errors().to_string()
    with pytest.raises(rnb.JobError, match="fail_fast"):
        rnb.map(pay, [1] * 5, concurrency=1, fail_fast=True, session=session, show=False).values()
    with pytest.raises(rnb.InvocationFailed, match="exists already"):
        rnb.call(pay, 1, session=session)


def test_a_cancellation_by_restate_is_one_in_an_operation_and_in_a_step_too(session: Session) -> None:
    async def waits(ctx: Context, item: int) -> None:
        async def step() -> None:
            await asyncio.sleep(3600)

        async def slept() -> None:
            await ctx.sleep(dt.timedelta(hours=1))

        if item == 0:
            await ctx.run_typed("step", step)
        elif item == 1:
            await fan_out_fail(ctx, [slept, slept])
        else:
            await fan_out(ctx, [lambda: fan_out_fail(ctx, [slept])])

    job = rnb.map(waits, range(3), session=session, show=False)
    while len(job.steps()) < 4:
        time.sleep(0.05)
    job.cancel()
    assert job.result(20)["status"].tolist() == ["cancelled"] * 3
    assert not session.connection.functions.invocations, "what ran for them was let go"


def test_items_that_raise_and_cancel_at_random_all_have_an_outcome(any_session: Session) -> None:
    seed = 7
    print(f"seed {seed}")
    rng = random.Random(seed)
    errors: list[Any] = [ValueError("v"), SystemExit(2), asyncio.CancelledError(), Mine("m"), TerminalError("t", 409)]
    plans = [
        [rng.choice(["step", "both", "raise", "raise in step", "sleep", "cancel me"]) for _ in range(4)]
        for _ in range(60)
    ]
    causes = [rng.choice(errors) for _ in plans]

    async def fn(ctx: Context, item: int) -> str:
        async def fails() -> None:
            raise causes[item]

        for what in plans[item]:
            if what == "step":
                await ctx.run_typed("step", lambda: 1)
            elif what == "both":
                await fan_out(ctx, [lambda: ctx.run_typed("a", lambda: 1), lambda: ctx.run_typed("b", lambda: 2)])
            elif what == "sleep":
                await ctx.sleep(dt.timedelta(milliseconds=1))
            elif what == "raise":
                raise causes[item]
            elif what == "raise in step":
                await ctx.run_typed("fails", fails, RunOptions(max_attempts=1))
            else:
                task = asyncio.current_task()
                assert task is not None
                raise asyncio.CancelledError(f"of {task.get_name()[:4]}")
        return "through"

    frame = rnb.map(fn, range(len(plans)), session=any_session, show=False).result(60)
    for plan, status in zip(plans, frame["status"], strict=True):
        fails = any(what in ("raise", "raise in step", "cancel me") for what in plan)
        assert status == ("error" if fails else "ok"), plan
    assert rnb.map(len, [["a"]], session=any_session, show=False).values() == [1]


async def test_what_a_cancelled_operation_raises_is_told_from_the_users_own_error() -> None:
    cause = TerminalError("mine", 409)
    assert OperationFailed(0, cause).status_code == 409

    async def fn(ctx: Context, item: int) -> None:
        raise OperationFailed(0, cause)

    functions, ctx = DurableFunctions(), mock_context()
    functions.provide("fn", fn)
    request = DurableRequest(function="fn", name="fn", passing="value", item=msgspec.Raw(b"1"))
    assert b"mine" in await ctx.mock.invoke(functions.run, request)


def test_steps_in_flight_when_the_server_dies_are_waited_for_and_not_run_again(session: Session) -> None:
    begun: list[int] = []
    gate: list[bool] = []

    async def fn(ctx: Context, item: int) -> int:
        def step() -> int:
            begun.append(item)
            while not gate:
                time.sleep(0.01)
            return item

        return await ctx.run_typed("step", step)

    job = rnb.map(fn, range(3), session=session, show=False)
    eventually(lambda: len(begun) == 3)
    pid = session.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: session.server.pid not in (pid, None))
    gate.append(True)
    assert job.values() == [0, 1, 2]
    assert sorted(begun) == [0, 1, 2]


def test_an_attempt_overtaken_by_the_one_that_ends_the_invocation_begins_no_step(session: Session) -> None:
    gate, attempts, charged = asyncio.Event(), [0], [0]

    async def fn(ctx: Context, item: int) -> int:
        attempts[0] += 1
        if attempts[0] == 1:
            await gate.wait()  # it does not hear of the end of its connection

        async def charge() -> None:
            charged[0] += 1

        await ctx.run_typed("charge", charge)
        return item

    job = rnb.map(fn, [1], session=session, show=False)
    eventually(lambda: attempts[0])
    assert session.server.pid is not None
    os.kill(session.server.pid, signal.SIGKILL)
    assert job.values() == [1]
    session.io.loop.call_soon_threadsafe(gate.set)
    time.sleep(0.3)
    assert charged == [1]
