"""The helpers on the mock context: results, failures, bad input."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import restate
from restate import RunOptions, TerminalError

from restate_nb.errors import InvalidInput
from restate_nb.patterns import (
    BatchProcessor,
    FanOutTuple,
    ObjectClient,
    OperationFailed,
    OperationTimeout,
    ServiceClient,
    WorkflowClient,
    WorkflowTimer,
    fan_out,
    fan_out_fail,
    first_completed,
    map_concurrent,
    parallel_invoke,
    race,
    with_timeout,
)
from restate_nb.testing import mock_context


class Stock(msgspec.Struct):
    amount: int


def fail(message: str = "fail", code: int = 500) -> Any:
    raise TerminalError(message, code)


# The seed's three tests, as they stand.


async def test_fan_out_all_success() -> None:
    """The seed's TestFanOut_AllSuccess."""
    ctx = mock_context()

    ops = [lambda: 1, lambda: 2, lambda: 3]

    result = await fan_out(ctx, ops)

    assert result.success == 3
    assert result.failed == 0
    assert result.results == [1, 2, 3]


async def test_fan_out_fail_fails_on_error() -> None:
    """The seed's TestFanOutFail_FailsOnError."""
    ctx = mock_context()

    ops = [lambda: 1, lambda: fail("fail"), lambda: 3]

    with pytest.raises(OperationFailed) as caught:
        await fan_out_fail(ctx, ops)

    assert "fail" in str(caught.value)


async def test_map_concurrent() -> None:
    """The seed's TestMapConcurrent."""
    ctx = mock_context()

    items = [1, 2, 3, 4, 5]

    results = await map_concurrent(ctx, items, lambda n: n * 2)

    assert results == [2, 4, 6, 8, 10]


# Results.


async def test_results_keep_the_order_of_the_operations_whatever_ends_first() -> None:
    ctx = mock_context()

    async def after(wait: int) -> int:
        await ctx.sleep(timedelta(seconds=wait))
        return wait

    assert await fan_out_fail(ctx, [lambda w=w: after(w) for w in (30, 10, 20)]) == [30, 10, 20]
    assert ctx.mock.now == 30, "they slept side by side"


async def test_a_failure_is_in_the_result_and_stops_nobody() -> None:
    ctx = mock_context()
    result = await fan_out(ctx, [lambda: 1, lambda: fail("no stock", 404), lambda: None])
    assert (result.success, result.failed, len(result)) == (2, 1, 3)
    assert result.results == [1, None, None]
    assert [error and error.status_code for error in result.errors] == [None, 404, None]
    assert [outcome.ok for outcome in result] == [True, False, True]
    assert result[1].error is result.errors[1]
    assert repr(result) == "FanOutResult(2 ok, 1 failed; first: operation 1 failed: no stock)"
    with pytest.raises(OperationFailed, match="operation 1 failed: no stock") as caught:
        result.values()
    assert (caught.value.index, caught.value.status_code, caught.value.cause) == (1, 404, result.errors[1])
    with pytest.raises(OperationFailed):
        result.raise_if_failed()


async def test_html_shows_the_failures_first_and_escapes_what_users_wrote() -> None:
    ctx = mock_context()
    result = await fan_out(ctx, [*[lambda: 1] * 30, lambda: fail("<script>")])
    html = result._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert html.index("<td>30</td>") < html.index("<td>0</td>")
    assert "and 11 more" in html


async def test_a_tuple_of_operations_gives_tuples() -> None:
    ctx = mock_context()
    assert await fan_out_fail(ctx, (lambda: 1, lambda: "a")) == (1, "a")
    result = await fan_out(ctx, (lambda: 1, lambda: "a"))
    assert isinstance(result, FanOutTuple)
    assert result.values() == (1, "a")


async def test_nothing_to_do_is_an_empty_result() -> None:
    ctx = mock_context()
    assert (await fan_out(ctx, [])).results == []
    assert await fan_out_fail(ctx, []) == []
    assert await map_concurrent(ctx, [], lambda item: item) == []
    assert await parallel_invoke(ctx, [], []) == []
    assert len(ctx.mock.journal) == 0


async def test_an_operation_may_be_a_durable_future_or_a_coroutine_itself() -> None:
    ctx = mock_context()

    async def two_steps() -> int:
        return await ctx.run_typed("a", lambda: 1) + await ctx.run_typed("b", lambda: 2)

    assert await fan_out_fail(ctx, [ctx.run_typed("c", lambda: 5), two_steps()]) == [5, 3]


async def test_a_future_made_before_is_shared_by_operations_and_the_handler() -> None:
    ctx = mock_context()
    shared = ctx.run_typed("once", lambda: 7)

    async def use(n: int) -> int:
        return n * await shared

    assert await map_concurrent(ctx, [1, 2, 3], use) == [7, 14, 21]
    assert await shared == 7
    assert ctx.mock.runs == {"once": 1}


@pytest.mark.parametrize("window", [1, 3, None, 200])
async def test_no_more_than_max_concurrent_run_at_once(window: int | None) -> None:
    """Counts how many are between their first and last step; the default is 50."""
    ctx = mock_context()
    inside = peak = 0

    async def operation(_: int) -> None:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        await ctx.sleep(timedelta(seconds=1))
        inside -= 1

    await map_concurrent(ctx, range(120), operation, max_concurrent=window)
    assert peak == min(window or 50, 120)


async def test_operations_may_wait_for_one_another_when_the_window_holds_them_all() -> None:
    ctx = mock_context()
    name, future = ctx.awakeable(type_hint=str)

    async def tell() -> None:
        ctx.resolve_awakeable(name, "hello")

    waiting = [lambda: future] * 60
    values = await fan_out_fail(ctx, [*waiting, tell], max_concurrent=61)
    assert values == ["hello"] * 60 + [None]


async def test_operations_nest() -> None:
    ctx = mock_context(replay=True)

    async def handler(ctx: restate.Context) -> list[Any]:
        async def inner(n: int) -> int:
            await ctx.sleep(timedelta(seconds=n))
            return await ctx.run_typed(f"leaf {n}", lambda: n)

        async def middle(n: int) -> list[int]:
            return await map_concurrent(ctx, range(n), inner)

        return (await fan_out(ctx, [lambda n=n: middle(n) for n in (3, 1, 2)])).results

    assert await ctx.mock.invoke(handler) == [[0, 1, 2], [0], [0, 1]]


# Failing fast.


async def test_the_first_failure_stops_the_others_and_lets_them_compensate() -> None:
    """What has not started never does; who waits gets a 409 there, and its cleanup, durable steps too, is joined."""
    ctx = mock_context()
    log: list[str] = []

    async def failing() -> None:
        await ctx.sleep(timedelta(seconds=1))
        fail("card refused", 402)

    async def sibling() -> None:
        try:
            await ctx.sleep(timedelta(days=1))
        except TerminalError as error:
            log.append(f"{error.status_code}")
            await ctx.run_typed("compensate", lambda: log.append("compensated"))
            raise

    async def never() -> None:
        log.append("started")

    with pytest.raises(OperationFailed) as caught:
        await fan_out_fail(ctx, [sibling, failing, never], max_concurrent=2)
    assert (caught.value.index, caught.value.status_code, caught.value.cause.message) == (1, 402, "card refused")
    assert log == ["409", "compensated"]
    assert ctx.mock.now == 1, "the sibling's day was not waited for"


async def test_the_first_failure_cancels_the_calls_in_flight_and_only_those() -> None:
    ctx = mock_context()
    ctx.mock.stub("S/slow", "late", delay=60)
    ctx.mock.stub("S/fast", "soon", delay=1)
    slow, fast = ServiceClient[str, str]("S", "slow"), ServiceClient[str, str]("S", "fast")

    async def calls() -> None:
        await fast.call(ctx, "a")
        await restate.gather(slow.call(ctx, "b"), slow.call(ctx, "c"))

    async def nested() -> None:
        await fan_out(ctx, [lambda: slow.call(ctx, "d")])

    async def failing() -> None:
        await ctx.sleep(timedelta(seconds=5))
        fail()

    with pytest.raises(OperationFailed):
        await fan_out_fail(ctx, [calls, nested, failing, lambda: slow.call(ctx, "e")])
    ids = {request.invocation_id: request.arg for request in ctx.mock.requests_made}
    assert sorted(ids[name] for name in ctx.mock.journal.names("cancel")) == ["b", "c", "d", "e"]
    assert ctx.mock.now == 5


async def test_race_takes_the_first_to_end_and_first_completed_the_first_to_succeed() -> None:
    ctx = mock_context()

    async def after(wait: int, value: str) -> str:
        await ctx.sleep(timedelta(seconds=wait))
        return fail(value) if value.startswith("bad") else value

    assert await race(ctx, [lambda: after(9, "slow"), lambda: after(2, "quick")]) == "quick"
    with pytest.raises(OperationFailed, match="operation 1 failed: bad luck"):
        await race(ctx, [lambda: after(9, "slow"), lambda: after(2, "bad luck")])
    assert await first_completed(ctx, [lambda: after(9, "slow"), lambda: after(2, "bad luck")]) == "slow"
    with pytest.raises(OperationFailed, match=r"operation 0 failed: bad a"):
        await first_completed(ctx, [lambda: after(9, "bad a"), lambda: after(2, "bad b")])


async def test_with_timeout_stops_what_is_too_slow_and_passes_on_what_is_not() -> None:
    ctx = mock_context()
    stopped = []

    async def slow() -> str:
        try:
            await ctx.sleep(timedelta(days=3))
        except TerminalError:
            stopped.append(True)
            raise
        return "done"

    with pytest.raises(OperationTimeout, match=r"longer than its timeout of 60 s") as caught:
        await with_timeout(ctx, slow, timedelta(minutes=1))
    assert isinstance(caught.value, TimeoutError) and caught.value.status_code == 408
    assert (stopped, ctx.mock.now) == ([True], 60)
    assert await with_timeout(ctx, slow, 10**6) == "done"
    with pytest.raises(TerminalError, match=r"^own$"):
        await with_timeout(ctx, lambda: fail("own"), 1)


# Batches, timers, clients.


async def test_batches_pause_durably_between_each_other() -> None:
    ctx = mock_context()
    starts: list[float] = []

    async def fetch(item: int) -> int:
        starts.append(ctx.mock.now)
        return await ctx.run_typed("fetch", lambda: item * item)

    values = await BatchProcessor(ctx, 10).process_batches(range(5), fetch, batch_size=2, pause=timedelta(hours=1))
    assert values == [0, 1, 4, 9, 16]
    assert starts == [0, 0, 3600, 3600, 7200]
    assert ctx.mock.now == 7200, "no pause after the last batch"
    with pytest.raises(OperationFailed) as caught:
        await BatchProcessor(ctx, 2).process_batches(range(9), lambda n: fail() if n == 7 else n, batch_size=3)
    assert caught.value.index == 7, "the index among all items, not in its batch"


async def test_a_timer_takes_seconds_and_timedeltas() -> None:
    ctx = mock_context()
    await WorkflowTimer(ctx).sleep(1.5)
    await WorkflowTimer(ctx).sleep(timedelta(days=30), name="trial")
    await WorkflowTimer(ctx).sleep(0)
    assert ctx.mock.now == 30 * 86400 + 1.5
    assert [str(entry) for entry in ctx.mock.journal.entries] == ["sleep 1.5 s", "sleep trial 2.592e+06 s"]
    with pytest.raises(InvalidInput, match="duration must be 0 or more seconds"):
        await WorkflowTimer(ctx).sleep(-1)


async def test_clients_pass_on_all_they_are_given() -> None:
    ctx = mock_context()
    service, thing = ServiceClient[str, int]("S", "get"), ObjectClient[str, int]("O", "get")
    flow = WorkflowClient[str, int]("W", "run")
    for name in ("S/get", "O/get", "W/run"):
        ctx.mock.stub(name, 1)
    assert await service.call(ctx, "a", idempotency_key="i", headers={"h": "1"}) == 1
    assert await thing.call(ctx, "key", "b", scope="tenant", limit_key="x") == 1
    assert await flow.call(ctx, "w1", "c") == 1
    assert await service.send(ctx, "d", delay=60).invocation_id()
    thing.send(ctx, "key", "e", scope="tenant", limit_key="x", idempotency_key="j")
    flow.send(ctx, "w2", "f", delay=timedelta(days=1))
    a, b, c, d, e, f = ctx.mock.requests_made
    assert (a.target, a.key, a.arg, a.idempotency_key, a.headers) == ("S/get", None, "a", "i", (("h", "1"),))
    assert (b.target, b.key, b.scope, b.limit_key) == ("O/get", "key", "tenant", "x")
    assert (c.target, c.key, c.arg) == ("W/run", "w1", "c")
    assert (d.arg, d.delay) == ("d", 60)
    assert (e.key, e.scope, e.limit_key, e.idempotency_key) == ("key", "tenant", "x", "j")
    assert (f.key, f.delay) == ("w2", 86400)
    with pytest.raises(InvalidInput, match="limit_key works only within a scope"):
        service.call(ctx, "a", limit_key="x")


async def test_a_client_of_a_handler_function_has_its_name_and_types() -> None:
    inventory = restate.Service("Inventory")

    @inventory.handler("Get")
    async def get(ctx: restate.Context, sku: str) -> Stock:
        raise NotImplementedError

    ctx = mock_context(stubs={get: lambda sku: Stock(len(sku))})
    assert await ServiceClient.of(get).call(ctx, "apple") == Stock(5)
    assert await ServiceClient[str, Stock]("Inventory", "Get").call(ctx, "fig") == Stock(3)
    assert await ServiceClient("Inventory", "Get", output_type=Stock).call(ctx, "fig") == Stock(3)
    assert await ServiceClient[str, Any]("Inventory", "Get").call(ctx, "fig") == {"amount": 3}
    with pytest.raises(InvalidInput, match="is no Restate handler"):
        ServiceClient.of(print)


async def test_parallel_invoke_calls_services_and_objects_side_by_side() -> None:
    ctx = mock_context()
    ctx.mock.stub("A/get", lambda arg: arg + "!", delay=5)
    ctx.mock.stub("B/get", lambda key, arg: [key, arg], delay=5)
    clients = (ServiceClient[str, str]("A", "get"), ObjectClient[int, list[Any]]("B", "get").at("k"))
    assert await parallel_invoke(ctx, clients, ("x", 2)) == ("x!", ["k", 2])
    assert ctx.mock.now == 5
    ctx.mock.stub("A/get", lambda: fail("gone", 410))
    with pytest.raises(OperationFailed) as caught:
        await parallel_invoke(ctx, [ServiceClient("A", "get")], ["x"])
    assert caught.value.status_code == 410


async def test_gather_select_and_as_completed_work_inside_operations() -> None:
    ctx = mock_context()

    def wait(seconds: float) -> Any:
        return ctx.sleep(timedelta(seconds=seconds))

    async def operation() -> list[Any]:
        one, two = ctx.run_typed("one", lambda: 1), ctx.run_typed("two", lambda: 2)
        await restate.gather(one, two)
        who, _ = await restate.select(slow=wait(20), quick=wait(1))
        order = {wait(9): "b", wait(3): "a"}
        return [await one, await two, who, [order[future] async for future in restate.as_completed(*order)]]

    assert await fan_out_fail(ctx, [operation, operation]) == [[1, 2, "quick", ["a", "b"]]] * 2


# Bad input.


async def _bad_operations(ctx: Any) -> dict[str, tuple[Any, str]]:
    async def once() -> int:
        return 1

    used = once()
    await used
    future = ctx.run_typed("a", lambda: 1)
    return {
        "not a callable": ([3], r"Operation 0 of fan_out is 3. An operation is a function without arguments"),
        "no list": (3, r"fan_out takes a list of operations"),
        "awaited already": ([used], r"Operation 0 of fan_out \(once\) was awaited already. Give the function instead"),
        "the same future twice": ([future, future], r"Operations 0 and 1 of fan_out are the same ServerDurableFuture"),
        "another invocation's future": (
            [mock_context().run_typed("b", lambda: 1)],
            r"Operation 0 of fan_out is a durable future of another invocation",
        ),
    }


@pytest.mark.parametrize(
    "case",
    ["not a callable", "no list", "awaited already", "the same future twice", "another invocation's future"],
)
async def test_what_is_no_operation_is_refused(case: str) -> None:
    ctx = mock_context()
    operations, message = (await _bad_operations(ctx))[case]
    with pytest.raises(InvalidInput, match=message):
        await fan_out(ctx, operations)


async def test_coroutines_beside_a_refused_operation_are_closed() -> None:
    """No warning of a coroutine that was never awaited (warnings are errors in this suite)."""

    async def fine() -> None: ...

    with pytest.raises(InvalidInput):
        await fan_out(mock_context(), [fine(), 3])  # type: ignore[list-item]
    with pytest.raises(OperationFailed):
        await fan_out_fail(mock_context(), [lambda: fail(), fine()], max_concurrent=1)


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "5"])
async def test_a_window_of_less_than_one_is_refused(wrong: Any) -> None:
    ctx = mock_context()
    with pytest.raises(InvalidInput, match="max_concurrent must be"):
        await fan_out(ctx, [lambda: 1], max_concurrent=wrong)
    with pytest.raises(InvalidInput, match="max_concurrent must be"):
        BatchProcessor(ctx, wrong)


async def test_other_bad_input_is_refused() -> None:
    ctx = mock_context()
    client = ServiceClient[int, int]("S", "h")
    with pytest.raises(InvalidInput, match="got 2 clients and 1 inputs"):
        await parallel_invoke(ctx, [client, client], [1])
    with pytest.raises(InvalidInput, match=r"ObjectClient\(\"Inbox\", \"Get\"\).at\(key\)"):
        await parallel_invoke(ctx, [ObjectClient[int, int]("O", "h")], [1])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="map_concurrent takes a function of one item"):
        await map_concurrent(ctx, [1], 5)  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="race needs at least one operation"):
        await race(ctx, [])
    with pytest.raises(InvalidInput, match="ctx must be the context that Restate passed to your handler"):
        await fan_out(None, [lambda: 1])  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="timeout must be more than 0"):
        await with_timeout(ctx, lambda: 1, 0)


async def test_a_context_of_another_invocation_is_refused() -> None:
    kept: list[Any] = []

    async def handler(ctx: restate.Context) -> None:
        kept.append(ctx)
        await fan_out(kept[0], [lambda: 1])

    await mock_context().mock.invoke(handler)
    with pytest.raises(InvalidInput, match="ctx belongs to another invocation"):
        await mock_context().mock.invoke(handler)


async def test_a_durable_future_of_another_invocation_is_refused_where_it_is_awaited() -> None:
    other = mock_context()

    async def handler(ctx: restate.Context) -> None:
        async def operation() -> int:
            return await other.run_typed("a", lambda: 1)

        await fan_out(ctx, [operation])

    with pytest.raises(InvalidInput, match=r"operation 0 \(operation\) of fan_out awaited a durable future of another"):
        await mock_context().mock.invoke(handler)


async def test_values_are_decoded_as_the_sdk_does() -> None:
    ctx = mock_context()

    async def make() -> dict[str, int]:
        return {"a": 1}

    options: RunOptions[Any] = RunOptions(type_hint=dict)
    assert await fan_out_fail(ctx, [lambda: ctx.run_typed("make", make, options)]) == [json.loads('{"a": 1}')]
    await asyncio.sleep(0)
