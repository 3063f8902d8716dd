"""The mock context itself: what a user's unit test can prepare, see, and be told."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import restate
from restate import RunOptions, TerminalError
from restate.exceptions import RetryableError

from restate_nb.errors import InvalidInput, JournalMismatch
from restate_nb.testing import MockStuck, mock_context

inventory = restate.Service("MockInventory")
counter = restate.VirtualObject("MockCounter")
signup = restate.Workflow("MockSignup")


class Item(msgspec.Struct):
    sku: str
    amount: int = 0


@inventory.handler()
async def stock(ctx: restate.Context, item: Item) -> Item:
    await ctx.sleep(timedelta(seconds=3))
    return Item(item.sku, await ctx.run_typed("look up", lambda: len(item.sku)))


@counter.handler()
async def add(ctx: restate.ObjectContext, amount: int) -> int:
    total = (await ctx.get("total", type_hint=int) or 0) + amount
    ctx.set("total", total)
    return total


@signup.main()
async def run(ctx: restate.WorkflowContext, email: str) -> str:
    code = await ctx.promise("code", type_hint=str)
    return f"{ctx.key()} {email} {code}"


async def test_the_mock_is_a_context_of_every_kind() -> None:
    ctx = mock_context()
    assert isinstance(ctx, restate.Context | restate.ObjectContext) and isinstance(ctx, restate.WorkflowContext)


async def test_a_handler_is_called_with_the_mock_like_any_function() -> None:
    ctx = mock_context()
    assert await stock(ctx, Item("apple")) == Item("apple", 5)
    assert ctx.mock.now == 3
    assert [str(entry) for entry in ctx.mock.journal.entries] == ["sleep 3 s", "run look up"]


async def test_services_answer_with_their_real_handlers_each_on_a_mock_of_its_own() -> None:
    ctx = mock_context(services=[inventory, counter])
    one = ctx.service_call(stock, Item("fig"))
    two = ctx.service_call(stock, Item("apple"))
    assert [await one, await two] == [Item("fig", 3), Item("apple", 5)]
    assert ctx.mock.now == 3, "the two ran side by side"
    assert [await ctx.object_call(add, key, 2) for key in "aab"] == [2, 4, 2], "states are by key"


async def test_stubs_are_values_or_functions_and_take_virtual_time() -> None:
    async def priced(item: Item) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"sku": item.sku, "amount": 9}

    ctx = mock_context(stubs={stock: priced, "Ledger/close": True})
    ctx.mock.stub(add, lambda key, amount: f"{key} {amount}", delay=60)
    assert await ctx.service_call(stock, Item("a")) == Item("a", 9)
    assert await ctx.generic_call("Ledger", "close", b"") == b"true"
    assert await ctx.object_call(add, "k", 5) == "k 5"
    assert ctx.mock.now == 60
    assert [(made.target, made.key) for made in ctx.mock.requests_made] == [
        ("MockInventory/stock", None),
        ("Ledger/close", None),
        ("MockCounter/add", "k"),
    ]


async def test_an_unknown_handler_is_an_error_that_says_how_to_stub_it() -> None:
    ctx = mock_context()
    with pytest.raises(InvalidInput, match=r"ctx\.mock\.stub\(\"MockInventory/stock\""):
        await ctx.service_call(stock, Item("a"))
    with pytest.raises(InvalidInput, match='Name a handler as "Service/handler"'):
        ctx.mock.stub("stock", 1)


async def test_a_stub_that_raises_anything_but_a_terminal_error_fails_the_test() -> None:
    """It is a mistake in the test; a real callee would be retried."""
    ctx = mock_context(stubs={stock: lambda: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        await ctx.service_call(stock, Item("a"))


async def test_sends_are_recorded_and_run_by_invoke() -> None:
    done: list[str] = []
    ctx = mock_context(stubs={"Mail/send": done.append})

    async def handler(ctx: restate.Context) -> None:
        ctx.generic_send("Mail", "send", b'"hello"')
        ctx.generic_send("Nobody", "knows", b'"hello"')

    await ctx.mock.invoke(handler)
    assert done == ["hello"]
    assert len(ctx.mock.requests_made) == 2


@pytest.mark.parametrize("replay", [False, True])
async def test_steps_are_retried_by_their_options_on_the_virtual_clock(replay: bool) -> None:
    tries = 0

    def flaky() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OSError("down")
        return "up"

    async def handler(ctx: restate.Context) -> str:
        options: RunOptions[str] = RunOptions(
            max_attempts=5,
            initial_retry_interval=timedelta(seconds=10),
            retry_interval_factor=3,
            max_retry_interval=timedelta(hours=1),
        )
        return await ctx.run_typed("flaky", flaky, options)

    ctx = mock_context(replay=replay)
    assert await ctx.mock.invoke(handler) == "up"
    assert (ctx.mock.runs["flaky"], ctx.mock.now) == (4, 10 + 30 + 90)


async def test_a_step_out_of_attempts_or_time_is_a_terminal_error() -> None:
    def broken() -> None:
        raise OSError("down")

    ctx = mock_context()
    with pytest.raises(TerminalError, match="down"):
        await ctx.run_typed("twice", broken, RunOptions(max_attempts=2))
    with pytest.raises(TerminalError, match="down"):
        await ctx.run_typed("a while", broken, RunOptions(max_duration=timedelta(minutes=1)))
    assert ctx.mock.runs["twice"] == 2
    assert 60 <= ctx.mock.now < 80

    def later() -> None:
        raise RetryableError("busy", retry_after=timedelta(hours=1))

    ctx = mock_context()
    with pytest.raises(TerminalError, match="busy"):
        await ctx.run_typed("later", later, RunOptions(max_attempts=3))
    assert ctx.mock.now == 7200


async def test_a_step_that_fails_for_ever_says_that_the_invocation_would_be_paused() -> None:
    ctx = mock_context()
    with pytest.raises(MockStuck, match=r"failed 70 times; restate-server would pause(.|\n)*ZeroDivisionError"):
        await ctx.run_typed("broken", lambda: 1 / 0)


async def test_failures_are_injected_by_the_step_s_name() -> None:
    ctx = mock_context()
    ctx.mock.fail("pay", OSError("line cut"), times=2)
    ctx.mock.fail("ship", TerminalError("no trucks", 503))
    assert await ctx.run_typed("pay", lambda: "paid") == "paid"
    assert ctx.mock.runs["pay"] == 3
    with pytest.raises(TerminalError, match="no trucks"):
        await ctx.run_typed("ship", lambda: "shipped")


async def test_state_is_set_read_and_cleared() -> None:
    ctx = mock_context(state={"total": 40, "other": [1]})
    assert await ctx.mock.invoke(add, 2) == 42
    assert ctx.mock.state("total") == 42 and ctx.mock.state("nothing") is None
    ctx = mock_context(state={"total": 40, "other": [1]})
    assert await ctx.state_keys() == ["other", "total"]
    ctx.clear("total")
    assert await ctx.get("total") is None
    ctx.clear_all()
    assert await ctx.state_keys() == []


@pytest.mark.parametrize("replay", [False, True])
async def test_awakeables_promises_and_signals_are_resolved_by_the_test(replay: bool) -> None:
    async def handler(ctx: restate.WorkflowContext) -> list[Any]:
        _, approval = ctx.awakeable(type_hint=str)
        return [await approval, await ctx.promise("code", type_hint=int), await ctx.signal("go", type_hint=str)]

    ctx = mock_context(replay=replay)
    running = asyncio.create_task(ctx.mock.invoke(handler))
    await ctx.mock.settled()
    assert not running.done()
    ctx.mock.resolve_awakeable(ctx.mock.awakeables[0], "yes")
    ctx.mock.resolve_promise("code", 1234)
    ctx.mock.resolve_signal("go", "went")
    assert await running == ["yes", 1234, "went"]


async def test_a_promise_may_be_resolved_before_and_awakeables_and_promises_rejected() -> None:
    ctx = mock_context(key="ada")
    ctx.mock.resolve_promise("code", "c0de")
    assert await run(ctx, "ada@example.com") == "ada ada@example.com c0de"
    with pytest.raises(TerminalError, match="already completed"):
        await ctx.promise("code").resolve("again")
    name, future = ctx.awakeable()
    ctx.mock.reject_awakeable(name, "denied", 403)
    with pytest.raises(TerminalError, match="denied"):
        await future
    ctx.mock.reject_promise("other", "no")
    with pytest.raises(TerminalError, match="no"):
        await ctx.promise("other")


async def test_waiting_for_what_nobody_does_is_an_error_that_names_it() -> None:
    ctx = mock_context(patience=0.05)
    with pytest.raises(MockStuck, match=r"The handler waits for: promise code; and nothing happened for 0\.05 s"):
        await ctx.promise("code")


async def test_replay_finds_a_handler_that_is_not_deterministic_and_shows_both_journals() -> None:
    names = iter(["first", "second"])

    async def handler(ctx: restate.Context) -> None:
        await ctx.run_typed(next(names), lambda: 1)

    with pytest.raises(JournalMismatch, match=r">\s+0\s+run first\s+run second"):
        await mock_context(replay=True).mock.invoke(handler)


async def test_replay_leaves_a_deterministic_handler_alone_and_really_repeats_it() -> None:
    starts: list[int] = []

    async def handler(ctx: restate.Context) -> float:
        starts.append(1)
        await ctx.run_typed("a", lambda: 1)
        await ctx.sleep(timedelta(hours=1))
        return await ctx.time()

    ctx = mock_context(replay=True)
    assert await ctx.mock.invoke(handler) == 3600
    assert len(starts) == ctx.mock.attempts == 4
    assert ctx.mock.runs == {"a": 1, "timestamp": 1}


async def test_a_handler_that_leaves_steps_out_on_a_replay_is_found() -> None:
    starts: list[int] = []

    async def handler(ctx: restate.Context) -> None:
        starts.append(1)
        if len(starts) == 1:
            ctx.set("a", 1)
            raise RuntimeError("first attempt")

    with pytest.raises(JournalMismatch, match="set a"):
        await mock_context().mock.invoke(handler, max_attempts=2)


async def test_random_and_uuid_repeat_with_the_seed() -> None:
    one, same, other = (mock_context(seed=seed) for seed in (1, 1, 2))
    assert one.uuid() == same.uuid() != other.uuid()
    assert one.random().random() == same.random().random()
