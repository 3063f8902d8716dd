"""Proves durable functions and the user's own services from a cell: called, mapped, replaced, restarted, cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
import restate
from restate import Context, ObjectContext, TerminalError, WorkflowContext

import restate_nb as rnb
from restate_nb.errors import InvocationFailed
from restate_nb.patterns import fan_out, map_concurrent
from restate_nb.session.session import Session


@dataclass
class Order:
    sku: str
    amount: int


async def total(ctx: Context, orders: list[Order]) -> int:
    async def price(order: Order) -> int:
        unit = await ctx.run_typed("unit", lambda: len(order.sku))
        await ctx.sleep(timedelta(milliseconds=1))
        return unit * order.amount

    return sum(await map_concurrent(ctx, orders, price))


def test_a_durable_function_is_called_from_its_cell(any_session: Session) -> None:
    assert rnb.call(total, [Order("ab", 2), Order("c", 3)], session=any_session) == 7
    assert rnb.call(total, orders=[{"sku": "ab", "amount": 2}], session=any_session) == 4


def test_dicts_and_rows_reach_durable_functions_by_name(session: Session) -> None:
    async def weigh(ctx: Context, order: Order, factor: int = 1) -> int:
        return await ctx.run_typed("weigh", lambda: order.amount * factor)

    items = [{"order": {"sku": "ab", "amount": 2}}, {"factor": 3, "order": Order("c", 3)}]
    assert rnb.starmap(weigh, items, session=session, show=False).values() == [2, 9]
    rows = pl.DataFrame({"order": [{"sku": "ab", "amount": 2}], "factor": [5]})
    assert rnb.map(weigh, rows, session=session, show=False).values() == [10]


def test_an_exception_of_a_durable_function_reaches_the_cell_with_its_traceback(session: Session) -> None:
    async def fails(ctx: Context) -> None:
        raise ValueError("wrong")

    with pytest.raises(InvocationFailed, match=r"(?s)ValueError: wrong.*in fails"):
        rnb.call(fails, session=session)


def test_a_durable_function_can_be_retried(session: Session) -> None:
    calls: list[int] = []

    async def flaky(ctx: Context, item: int) -> int:
        step = await ctx.run_typed("step", lambda: calls.append(item) or 5)
        if len(calls) == 1 and not hasattr(flaky, "failed"):
            flaky.failed = True  # type: ignore[attr-defined]
            raise OSError("again")
        return item + step

    job = rnb.map(flaky, [1], retry=rnb.Retry(initial_interval=0.01), session=session, show=False)
    assert job.values() == [6]
    assert calls == [1], "a recorded step ran again"


async def double(ctx: Context, item: int) -> int:
    value = await ctx.run_typed("double", lambda: item * 2)
    if item % 10 == 3:
        raise TerminalError("no threes", status_code=422)
    return value


def test_a_durable_function_is_mapped_with_one_invocation_an_item(any_session: Session) -> None:
    job = rnb.map(double, range(40), session=any_session, show=False, concurrency=7)
    frame = job.result(60)
    assert frame["value"].dropna().tolist() == [2 * item for item in range(40) if item % 10 != 3]
    assert frame["status"].tolist() == ["error" if item % 10 == 3 else "ok" for item in range(40)]
    assert job.errors()[["error_type", "error", "count"]].to_numpy().tolist() == [["TerminalError", "no threes", 4]]
    assert (frame["run_s"] > 0).all()
    again = rnb.map(double, range(40), session=any_session, show=False)
    assert again.attached == 40


async def three_steps(ctx: Context, item: int) -> int:
    async def fails() -> int:
        raise TerminalError("refused")

    value = await ctx.run_typed("read", lambda: item)
    await ctx.sleep(timedelta(milliseconds=300), name="nap")
    try:
        await ctx.run_typed("refuse", fails)
    except TerminalError:
        value += 1
    return value


def test_the_steps_of_each_item_are_read_from_its_journal(session: Session) -> None:
    job = rnb.map(three_steps, {"a": 1, "b": 2}, session=session, show=False)
    assert job.values() == [2, 3]
    steps = job.steps()
    assert steps.index.tolist() == ["a"] * 3 + ["b"] * 3
    assert steps["step"].tolist() == ["read", "nap", "refuse"] * 2
    assert steps["kind"].tolist() == ["run", "sleep", "run"] * 2
    assert steps["status"].tolist() == ["ok", "ok", "error"] * 2
    naps = steps[steps["kind"] == "sleep"]
    # The nap ends 300 ms after the function asked; it begins when the server hears of it, later on a busy machine.
    assert (naps["run_s"] >= 0.15).all()
    assert (steps["finished_at"] >= steps["started_at"]).all()
    axes = job.timeline(steps=True)
    assert "time since submission" in axes.get_xlabel()
    assert len([bar for drawn in axes.collections for bar in drawn.get_paths()]) >= 6, "a bar a step"
    with pytest.raises(rnb.InvalidInput, match="plain function"):
        rnb.map(len, ["a"], session=session, show=False).steps()


doubler = restate.Service("doubler")


@doubler.handler()
async def twice(ctx: Context, number: int) -> int:
    return 2 * number


async def calls_and_waits(ctx: Context, item: int) -> int:
    await ctx.service_call(twice, item)
    ctx.service_send(twice, item)
    await ctx.sleep(timedelta(hours=1))
    return item


def test_steps_name_what_was_called_and_none_is_pending_after_the_end(session: Session) -> None:
    session.serve(doubler)
    job = rnb.map(calls_and_waits, [3], session=session, show=False)
    end = time.monotonic() + 20
    while len(steps := job.steps()) < 3:
        assert time.monotonic() < end
    assert steps["step"].tolist() == ["doubler/twice", "doubler/twice", "sleep"]
    assert steps["kind"].tolist() == ["call", "send", "sleep"]
    assert steps["status"].tolist()[1:] == ["ok", "pending"]
    job.cancel()
    job.result(20)
    while (steps := job.steps())["status"].tolist()[:3] != ["ok", "ok", "cancelled"]:
        assert time.monotonic() < end, steps
    assert steps["run_s"].iloc[2] >= 0
    assert "pending" not in set(steps["status"])


def test_as_many_invocations_run_at_once_as_are_allowed(session: Session) -> None:
    now = peak = 0

    async def work(ctx: Context, item: int) -> int:
        async def step() -> int:
            nonlocal now, peak
            now += 1
            peak = max(peak, now)
            await asyncio.sleep(0.05)
            now -= 1
            return item

        return await ctx.run_typed("step", step)

    job = rnb.map(work, range(40), session=session, show=False, concurrency=5)
    assert job.values() == list(range(40))
    assert peak == 5


def test_cancelling_reaches_the_invocations_in_flight_and_leaves_none_alive(session: Session) -> None:
    async def sleeper(ctx: Context, item: int) -> int:
        if item:
            await ctx.sleep(timedelta(days=1))
        return item

    job = rnb.map(sleeper, range(10), session=session, show=False, concurrency=4)
    while job.counts["ok"] < 1 or job.counts["running"] < 4:
        time.sleep(0.01)
    time.sleep(0.2)
    job.cancel()
    frame = job.result(20)
    assert frame["status"].tolist() == ["ok"] + ["cancelled"] * 9
    alive = session.io.run(
        session.connection.admin.query("select id, target, status from sys_invocation where status != 'completed'")
    )
    assert [row for row in alive if "jobs" not in row["target"]] == []


def test_the_users_own_services_are_served_called_and_replaced(session: Session) -> None:
    def greeter(word: str) -> Any:
        service = restate.Service("Greeter")

        @service.handler()
        async def greet(ctx: Context, name: str) -> str:
            return await ctx.run_typed("word", lambda: f"{word} {name}")

        return service, greet

    counter = restate.VirtualObject("Counter")

    @counter.handler()
    async def add(ctx: ObjectContext, amount: int) -> int:
        value = (await ctx.get("count", type_hint=int) or 0) + amount
        ctx.set("count", value)
        return value

    flow = restate.Workflow("Flow")

    @flow.main()
    async def run(ctx: WorkflowContext, name: str) -> str:
        return f"{ctx.key()} {name}"

    service, greet = greeter("Hello")
    session.serve(service, counter, flow)
    assert session.call(greet, "Ada") == "Hello Ada"
    assert session.call(add, 2, key="k") == 2
    assert session.call(add, 3, key="k") == 5
    assert session.call(run, "x", key="w") == "w x"

    service, greet = greeter("Good morning")
    session.serve(service)
    assert session.call(greet, "Ada") == "Good morning Ada"
    assert session.call(add, 1, key="k") == 6, "serving one service again left the others alone"

    with pytest.raises(rnb.InvalidInput, match="object: it needs one"):
        session.call(add, 1)
    with pytest.raises(rnb.InvalidInput, match="has no keys"):
        session.call(greet, "Ada", key="k")
    with pytest.raises(rnb.InvalidInput, match="takes one argument"):
        session.call(greet)
    with pytest.raises(rnb.InvalidInput, match=r"@service\.handler"):
        session.call(total, [])
    with pytest.raises(rnb.InvalidInput, match=r"serve takes restate\.Service"):
        session.serve(greet)


def test_a_call_tells_of_attempts_that_fail_and_ends_when_the_handler_is_mended(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(mended: bool) -> Any:
        service = restate.Service("Broken")

        @service.handler()
        async def go(ctx: Context, item: int) -> int:
            if not mended:
                raise KeyError("typo")
            return item

        return service, go

    service, go = broken(False)
    session.serve(service)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(session.call, go, 1)
        said, deadline = "", time.monotonic() + 15
        while "typo" not in said and time.monotonic() < deadline:
            time.sleep(0.1)
            said += capsys.readouterr().out
        assert "Broken/go: attempt" in said
        assert "KeyError('typo')" in said
        assert "serve it again" in said
        session.serve(broken(True)[0])
        assert answer.result(30) == 1


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_a_handler_that_raises_what_ends_loops_is_tried_again_like_any_other(
    session: Session, error: BaseException
) -> None:
    service, calls = restate.Service("Leaving"), []

    @service.handler()
    async def leave(ctx: Context) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return len(calls)

    session.serve(service)
    assert session.call(leave) == 2
    assert rnb.map(abs, [-1], session=session, show=False, fresh=True).values() == [1]


def test_what_is_in_flight_goes_on_when_its_service_is_replaced(session: Session) -> None:
    gate = asyncio.Event()

    def slow(word: str) -> Any:
        service = restate.Service("Slow")

        @service.handler()
        async def wait(ctx: Context, name: str) -> str:
            async def step() -> str:
                await gate.wait()
                return f"{word} {name}"

            return await ctx.run_typed("wait", step)

        return service, wait

    service, wait = slow("old")
    session.serve(service)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(session.call, wait, "x")
        time.sleep(0.3)
        service, _ = slow("new")
        session.serve(service)
        session.io.loop.call_soon_threadsafe(gate.set)
        assert answer.result(20) == "old x"


async def both(ctx: Context, item: int) -> list[int | None]:
    result = await fan_out(ctx, [lambda: ctx.run_typed("a", lambda: item), lambda: ctx.run_typed("b", lambda: -item)])
    return result.results


def test_helpers_work_inside_a_mapped_durable_function(any_session: Session) -> None:
    assert rnb.map(both, [1, 2], session=any_session, show=False).values() == [[1, -1], [2, -2]]


def test_an_invocation_that_does_not_match_its_journal_says_so_and_restarts(session: Session) -> None:
    gate = asyncio.Event()
    began: list[str] = []

    def version(step: str) -> Any:
        async def changing(ctx: Context, item: int) -> str:
            await ctx.run_typed(step, lambda: began.append(f"{step} {item}"))
            if item:

                async def wait() -> None:
                    await gate.wait()

                await ctx.run_typed("wait", wait)
            return f"{step} {item}"

        return changing

    job = rnb.map(version("first"), [0, 1], name="changing", session=session, show=False)
    while job.counts["ok"] < 1 or len(began) < 2:
        time.sleep(0.01)
    with pytest.warns(rnb.OlderResults, match="`changing.step` have changed since"):
        rnb.map(version("other"), [0, 1], name="changing", session=session, show=False)
    pid = session.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)  # the invocation in flight is replayed, with the new function
    deadline = time.monotonic() + 20
    while "no longer match their journal" not in job.progress().note and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "1 in flight no longer match their journal, since changing was changed" in job.progress().note
    session.io.loop.call_soon_threadsafe(gate.set)
    assert job.restart() == 1
    assert job.values() == ["first 0", "other 1"]
    assert sorted(began) == ["first 0", "first 1", "other 1"]
    assert job.restart() == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: rnb.call(len, [1], session=s), "rnb.call runs a durable function"),
        (lambda s: rnb.call(total, session=s), "missing a required argument: 'orders'"),
        (lambda s: rnb.call(total, [], orders=[], session=s), "by position, or all by name"),
        (lambda s: rnb.call(total, [{"sku": "a"}], session=s), "does not fit parameter 1 of total"),
        (lambda s: rnb.map(total, [[]], timeout=3, session=s), "with_timeout"),
        (lambda s: rnb.map(lambda ctx, item: item, [1], session=s), "must be `async def"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_with_advice(session: Session, call: Any, says: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        call(session)
