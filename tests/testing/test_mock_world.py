"""Proves that mock invocations live in one world as on a server: side by side, on one clock, each once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import restate
from restate import Context, ObjectContext, ObjectSharedContext, TerminalError, WorkflowContext, WorkflowSharedContext

from restate_nb.errors import InvalidInput, JournalMismatch
from restate_nb.patterns import ServiceClient, WorkflowClient, fan_out, fan_out_fail, map_concurrent
from restate_nb.testing import mock_context

child = restate.Service("WorldChild")
counter = restate.VirtualObject("WorldCounter")
signup = restate.Workflow("WorldSignup")
DONE = Counter[str]()


@child.handler()
async def slow(ctx: Context, wait: float) -> float:
    try:
        await ctx.sleep(timedelta(seconds=wait))
    except TerminalError:
        await ctx.run_typed("undo", lambda: DONE.update(["undone"]))
        raise
    await ctx.run_typed("do", lambda: DONE.update(["done"]))
    return wait


@child.handler()
async def nested(ctx: Context, wait: float) -> float:
    return await ctx.service_call(slow, wait)


@child.handler()
async def header(ctx: Context) -> str:
    return ctx.request().headers.get("x-user", "nobody")


@child.handler()
async def keeps_state(ctx: Context) -> None:
    ctx.set("a", 1)  # type: ignore[attr-defined]


@counter.handler()
async def add(ctx: ObjectContext, amount: int) -> int:
    total = (await ctx.get("total", type_hint=int) or 0) + amount
    await ctx.sleep(timedelta(seconds=1))
    ctx.set("total", total)
    return total


@counter.handler(kind="shared")
async def total(ctx: ObjectSharedContext) -> int:
    return await ctx.get("total", type_hint=int) or 0


@counter.handler(kind="shared")
async def shared_write(ctx: ObjectSharedContext) -> None:
    ctx.set("total", 1)  # type: ignore[attr-defined]


@signup.main()
async def run(ctx: WorkflowContext, email: str) -> str:
    return f"{email} approved by {await ctx.promise('approval', type_hint=str).value()}"


@signup.handler()
async def approve(ctx: WorkflowSharedContext, who: str) -> None:
    await ctx.promise("approval", type_hint=str).resolve(who)


def world(**options: Any) -> Any:
    DONE.clear()
    return mock_context(services=[child, counter, signup], **options)


async def test_each_invoke_is_an_invocation_of_its_own_with_the_states_of_its_key() -> None:
    mock = world(key="a").mock
    assert [await mock.invoke(add, 2) for _ in range(2)] == [2, 4]
    assert await mock.invoke(total) == 4
    assert await mock.invoke(add, 3, key="b") == 3
    assert await mock.invoke(total, key="a") == 4
    assert mock.journal.names("get") == ["total"] and mock.attempts == 1, "those of the newest"


async def test_what_a_test_prepares_is_of_the_object_that_it_then_invokes() -> None:
    mock = world(key="a", state={"total": 40}).mock

    async def through_a_call(ctx: Context) -> int:
        return await ctx.object_call(total, "a", None)  # type: ignore[arg-type]

    assert await mock.invoke(add, 2) == 42
    assert await mock.invoke(through_a_call) == 42


async def test_exclusive_handlers_of_a_key_run_one_after_the_other_and_others_side_by_side() -> None:
    mock = world().mock

    async def handler(ctx: Context, keys: str) -> list[int]:
        return await map_concurrent(ctx, keys, lambda key: ctx.object_call(add, key, 1))

    assert await mock.invoke(handler, "aab") == [1, 2, 1]
    assert mock.now == 2


async def test_a_workflow_runs_once_a_key_and_its_handlers_meet_it() -> None:
    mock = world(key="w").mock
    running = asyncio.create_task(mock.invoke(run, "ada@example.com"))
    await mock.settled()
    await mock.invoke(approve, "Bob")
    assert await running == "ada@example.com approved by Bob"
    with pytest.raises(TerminalError) as raised:
        await mock.invoke(run, "again")
    assert raised.value.status_code == 409

    async def caller(ctx: Context) -> int:
        client = WorkflowClient[str, str]("WorldSignup", "run")
        client.send(ctx, "k", "x")
        try:
            await client.call(ctx, "k", "x")
        except TerminalError as error:
            return error.status_code
        return 0

    assert await mock.invoke(caller) == 409


async def test_one_idempotency_key_is_one_invocation() -> None:
    async def caller(ctx: Context) -> list[float]:
        client = ServiceClient[float, float]("WorldChild", "slow")
        return await fan_out_fail(ctx, [lambda: client.call(ctx, 1.0, idempotency_key="k")] * 2)

    mock = world().mock
    assert await mock.invoke(caller) == [1.0, 1.0] and DONE["done"] == 1
    assert [await mock.invoke(slow, 2.0, idempotency_key="mine") for _ in range(2)] == [2.0, 2.0]
    assert DONE["done"] == 2


async def test_headers_and_the_request_are_as_the_caller_or_the_test_gave_them() -> None:
    async def caller(ctx: Context) -> str:
        return await ServiceClient[None, str]("WorldChild", "header").call(ctx, None, headers={"x-user": "ada"})

    async def own(ctx: Context) -> tuple[str | None, str | None]:
        return ctx.request().headers.get("x-user"), ctx.request().idempotency_key

    assert await world().mock.invoke(caller) == "ada"
    assert await world(headers={"x-user": "bob"}, idempotency_key="k").mock.invoke(own) == ("bob", "k")
    assert await world().mock.invoke(header, headers={"x-user": "eve"}) == "eve"


@pytest.mark.parametrize("replay", [False, True])
async def test_attaching_brings_the_result_of_what_was_sent(replay: bool) -> None:
    async def handler(ctx: Context) -> list[float]:
        sent = [ctx.service_send(slow, wait) for wait in (3.0, 1.0)]
        ids = [await each.invocation_id() for each in sent]
        return [await ctx.attach_invocation(each, type_hint=float) for each in reversed(ids)]

    mock = world(replay=replay).mock
    assert await mock.invoke(handler) == [1.0, 3.0]
    assert mock.now == 3


@pytest.mark.parametrize("replay", [False, True])
async def test_a_cancelled_child_compensates_before_its_caller_sees_it(replay: bool) -> None:
    async def handler(ctx: Context) -> str:
        call = ctx.service_call(nested, 100.0)
        await ctx.sleep(timedelta(seconds=1))
        await call.cancel_invocation()
        try:
            await call
        except TerminalError as error:
            return f"{error.status_code} {dict(DONE)}"
        return "ran"

    mock = world(replay=replay).mock
    assert await mock.invoke(handler) == "409 {'undone': 1}"
    assert mock.now == 1


@pytest.mark.parametrize("replay", [False, True])
async def test_cancelling_a_handler_cancels_the_calls_that_it_waits_for(replay: bool) -> None:
    mock = world(replay=replay).mock
    mock.cancel(after=5)
    with pytest.raises(TerminalError, match="cancelled"):
        await mock.invoke(nested, 100.0)
    assert DONE == {"undone": 1} and mock.journal.names("cancel") == ["inv_2"]


async def test_nothing_is_cancelled_that_was_only_sent() -> None:
    async def handler(ctx: Context) -> None:
        ctx.service_send(slow, 1.0)
        await ctx.sleep(timedelta(seconds=100))

    mock = world().mock
    mock.cancel(after=0.5)
    with pytest.raises(TerminalError, match="cancelled"):
        await mock.invoke(handler)
    assert DONE == {"done": 1}


async def test_delayed_sends_wait_for_the_clock() -> None:
    async def handler(ctx: Context) -> None:
        ctx.service_send(slow, 0.0, send_delay=timedelta(days=1))

    mock = world().mock
    await mock.invoke(handler)
    assert not DONE
    await mock.advance(timedelta(hours=23))
    assert not DONE
    await mock.advance(timedelta(hours=1))
    assert DONE == {"done": 1}


async def test_the_clock_stands_still_until_the_test_turns_it() -> None:
    mock = world(auto_advance=False, patience=0.05).mock
    running = asyncio.create_task(mock.invoke(slow, 60.0))
    await mock.advance(59)
    assert (running.done(), mock.now) == (False, 59)
    await mock.advance(1)
    assert await running == 60.0


@pytest.mark.parametrize("cancel", [False, True])
async def test_steps_in_finally_are_recorded_by_the_last_attempt_only(cancel: bool) -> None:
    async def handler(ctx: Context) -> list[int]:
        async def operation(number: int) -> int:
            try:
                await ctx.sleep(timedelta(seconds=10))
                await ctx.run_typed(f"work {number}", lambda: number)
            except TerminalError:
                await ctx.run_typed(f"undo {number}", lambda: None)
                raise
            finally:
                await ctx.run_typed(f"finally {number}", lambda: None)
            return number

        return await fan_out_fail(ctx, [lambda n=n: operation(n) for n in range(2)])

    mock = mock_context(replay=True).mock
    if cancel:
        mock.cancel(after=5)
        with pytest.raises(TerminalError):
            await mock.invoke(handler)
        assert mock.journal.names("run") == ["undo 0", "undo 1", "finally 0", "finally 1"]
    else:
        assert await mock.invoke(handler) == [0, 1]
        assert mock.runs == {f"{step} {n}": 1 for step in ("work", "finally") for n in range(2)}


async def test_state_is_refused_where_a_server_refuses_it() -> None:
    with pytest.raises(InvalidInput, match="has no state"):
        await world().mock.invoke(keeps_state)
    with pytest.raises(InvalidInput, match="may read state, and not change it"):
        await world().mock.invoke(shared_write)


async def test_shuffled_worlds_end_steps_in_other_orders_each_the_same_every_time() -> None:
    async def handler(ctx: Context) -> list[str]:
        order: list[str] = []

        async def operation(name: str) -> None:
            await ctx.run_typed(name, lambda: None)
            order.append(name)

        await fan_out(ctx, [lambda name=name: operation(name) for name in "abcdef"])
        return order

    async def order(shuffle: int | None) -> str:
        return "".join(await mock_context(shuffle=shuffle, replay=True).mock.invoke(handler))

    assert await order(None) == "abcdef"
    found = [await order(seed) for seed in range(6)]
    assert len(set(found)) > 3 and found == [await order(seed) for seed in range(6)]


async def test_a_handler_that_depends_on_the_order_of_ends_is_found_by_its_replay() -> None:
    async def handler(ctx: Context) -> None:
        seen: list[int] = []

        async def operation(number: int) -> None:
            await ctx.run_typed("work", lambda: number)
            seen.append(number)
            await ctx.run_typed(f"then {len(ORDER) + len(seen)}", lambda: None)

        await fan_out(ctx, [lambda n=n: operation(n) for n in range(3)])
        ORDER.extend(seen)

    ORDER: list[int] = []
    await mock_context(replay=True, shuffle=1).mock.invoke(handler)

    async def worse(ctx: Context) -> None:
        ORDER.append(1)
        await ctx.run_typed(f"attempt {len(ORDER)}", lambda: None)

    with pytest.raises(JournalMismatch):
        await mock_context(replay=True, shuffle=1).mock.invoke(worse)


async def test_many_operations_are_replayed_in_time_that_grows_with_their_number() -> None:
    async def handler(ctx: Context, count: int) -> int:
        for number in range(count):
            await ctx.sleep(timedelta(milliseconds=number))
        return count

    taken: list[int] = []
    for count in (100, 200, 400):
        mock = mock_context(replay=True).mock
        assert await mock.invoke(handler, count) == count
        taken.append(mock.attempts)
    assert taken[2] - taken[1] < 60, "attempts grow by the logarithm of the steps"


async def test_an_action_that_fails_ends_its_attempt_also_while_others_run() -> None:
    tries = Counter[str]()

    async def handler(ctx: Context) -> list[str]:
        def flaky() -> str:
            tries["flaky"] += 1
            if tries["flaky"] < 2:
                raise OSError("once more")
            return "flaky"

        async def two(name: str) -> str:
            await ctx.run_typed(f"{name} first", lambda: name)
            return await ctx.run_typed(f"{name} second", lambda: tries.update([name]) or name)

        return await fan_out_fail(
            ctx, [lambda: ctx.run_typed("flaky", flaky), lambda: two("other"), lambda: two("more")]
        )

    for shuffle in (None, *range(8)):
        tries.clear()
        mock = mock_context(shuffle=shuffle).mock
        assert await mock.invoke(handler) == ["flaky", "other", "more"]
        assert tries["flaky"] == 2 and mock.attempts == 2
