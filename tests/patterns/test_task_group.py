"""`group`: handles, results as they come, failures, rates and retries; the block is stopped and stops others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import restate
from restate import TerminalError

from restate_nb.errors import InvalidInput
from restate_nb.patterns import (
    BatchProcessor,
    Handle,
    OperationFailed,
    fan_out,
    fan_out_fail,
    group,
    map_concurrent,
    race,
    with_timeout,
)
from restate_nb.policy import Retry
from restate_nb.testing import mock_context

Handler = Callable[..., Awaitable[Any]]


async def wait(ctx: Any, seconds: float, value: Any = None) -> Any:
    """An operation that takes a while, and two steps."""
    await ctx.sleep(timedelta(seconds=seconds))
    return await ctx.run_typed(f"step {value}", lambda: value)


async def fail(ctx: Any, seconds: float, message: str = "no", code: int = 500) -> None:
    await ctx.sleep(timedelta(seconds=seconds))
    raise TerminalError(message, code)


@pytest.fixture(params=[False, True], ids=["once", "replayed"])
def replay(request: pytest.FixtureRequest) -> bool:
    """Whether the mock suspends the handler at every wait, and replays it."""
    return bool(request.param)


# Results.


async def test_handles_give_values_and_as_completed_gives_them_in_the_order_of_their_ends(replay: bool) -> None:
    async def handler(ctx: restate.Context) -> list[Any]:
        async with group(ctx) as g:
            handles = [g.start(wait, ctx, seconds, seconds) for seconds in (3, 1, 2)]
            ended = [await handle async for handle in g.as_completed()]
        return [ended, [handle.result() for handle in handles], g.results().values()]

    ctx = mock_context(replay=replay)
    assert await ctx.mock.invoke(handler) == [[1, 2, 3], [3, 1, 2], [3, 1, 2]]
    assert ctx.mock.now == 3


async def test_the_block_takes_steps_of_its_own_and_starts_what_it_learns(replay: bool) -> None:
    async def handler(ctx: restate.Context) -> list[Any]:
        values: list[Any] = []
        async with group(ctx) as g:
            first = g.start(wait, ctx, 5, "a")
            page = await ctx.run_typed("page", lambda: 2)
            await ctx.sleep(timedelta(seconds=1))
            g.start(wait, ctx, page, "b")
            values.append(await first)
            async for handle in g.as_completed():
                values.append(handle.result())
                if handle.result() == "a":
                    g.start(wait, ctx, 10, "c")
        return values

    ctx = mock_context(replay=replay)
    assert await ctx.mock.invoke(handler) == ["a", "b", "a", "c"]
    assert ctx.mock.now == 15


async def test_a_future_made_in_the_block_can_be_shared_with_its_operations(replay: bool) -> None:
    async def handler(ctx: restate.Context) -> list[int]:
        async with group(ctx) as g:
            shared = ctx.run_typed("once", lambda: 7)

            async def use(n: int) -> int:
                return n * await shared

            handles = [g.start(use, n) for n in (1, 2)]
            gathered = ctx.run_typed("beside", lambda: 5)
            await restate.gather(shared, gathered)
            own = await shared + await gathered
        return [own, *(handle.result() for handle in handles)]

    ctx = mock_context(replay=replay)
    assert await ctx.mock.invoke(handler) == [12, 7, 14]


async def test_an_operation_may_wait_for_another_ones_handle_and_start_more(replay: bool) -> None:
    async def handler(ctx: restate.Context) -> list[Any]:
        async with group(ctx) as g:
            load = g.start(wait, ctx, 4, "loaded")

            async def use(n: int) -> str:
                more = g.start(wait, ctx, 1, f"more {n}")
                return f"{n} {await load} {await more}"

            handles = [g.start(use, n) for n in (1, 2)]
        return [handle.result() for handle in handles]

    assert await mock_context(replay=replay).mock.invoke(handler) == ["1 loaded more 1", "2 loaded more 2"]


async def test_groups_nest_in_operations_in_blocks_and_beside_helpers(replay: bool) -> None:
    async def handler(ctx: restate.Context) -> Any:
        async def inner(n: int) -> list[int]:
            async with group(ctx) as g:
                handles = [g.start(wait, ctx, n + k, n * 10 + k) for k in (1, 2)]
                await ctx.sleep(timedelta(seconds=1))
            return [handle.result() for handle in handles]

        async with group(ctx) as outer:
            nested = outer.start(inner, 3)
            mapped = await map_concurrent(ctx, [1, 2], inner)
            async with group(ctx) as second:
                beside = second.start(wait, ctx, 1, "beside")
        return [nested.result(), mapped, beside.result()]

    assert await mock_context(replay=replay).mock.invoke(handler) == [[31, 32], [[11, 12], [21, 22]], "beside"]


async def test_a_group_runs_no_more_than_max_concurrent_at_once() -> None:
    ctx = mock_context()
    inside = peak = 0

    async def operation() -> None:
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        await ctx.sleep(timedelta(seconds=1))
        inside -= 1

    async with group(ctx, max_concurrent=3) as g:
        for _ in range(10):
            g.start(operation)
    assert peak == 3 and g.results().success == 10


# Failures.


async def test_the_first_failure_stops_the_others_and_the_block(replay: bool) -> None:
    """Each at what it waits for; they compensate, and the error names the operation and has what had ended."""
    log: list[str] = []

    async def handler(ctx: restate.Context) -> None:
        async def slow() -> None:
            try:
                await ctx.sleep(timedelta(days=1))
            except TerminalError as error:
                log.append(f"slow {error.status_code}")
                raise

        async with group(ctx) as g:
            g.start(wait, ctx, 1, "quick")
            g.start(fail, ctx, 2, "no stock", 404)
            g.start(slow)
            try:
                await ctx.sleep(timedelta(days=2))
            except OperationFailed as error:
                log.append(f"block {error.index}")
                raise

    ctx = mock_context(replay=replay)
    with pytest.raises(
        OperationFailed, match=r"^operation 1 \(fail, \(2, 'no stock', 404\)\) failed: no stock$"
    ) as caught:
        await ctx.mock.invoke(handler)
    assert log[-2:] in (["block 1", "slow 409"], ["slow 409", "block 1"])
    assert ctx.mock.now == 2
    error = caught.value
    assert (error.name, error.item, error.status_code) == ("fail", (2, "no stock", 404), 404)
    assert error.result.results == ["quick", None, None]
    assert [outcome.error and outcome.error.status_code for outcome in error.result] == [None, 404, 409]


@pytest.mark.parametrize("kind", ["handle", "as_completed", "helper", "inner group", "end"])
async def test_the_block_hears_of_a_failure_whatever_it_waits_for(kind: str) -> None:
    async def handler(ctx: restate.Context) -> None:
        async with group(ctx) as g:
            slow = g.start(wait, ctx, 86400)
            g.start(fail, ctx, 1)
            if kind == "handle":
                await slow
            elif kind == "as_completed":
                async for handle in g.as_completed():
                    await handle
            elif kind == "helper":
                await fan_out(ctx, [lambda: ctx.sleep(timedelta(days=1))])
            elif kind == "inner group":
                async with group(ctx) as inner:
                    inner.start(wait, ctx, 86400)

    async def in_an_operation(ctx: restate.Context) -> None:
        (outcome,) = await fan_out(ctx, [lambda: handler(ctx)])
        assert isinstance(outcome.error, OperationFailed)
        raise outcome.error

    for run in (handler, in_an_operation):
        ctx = mock_context()
        with pytest.raises(OperationFailed, match=r"operation 1 \(fail, 1\) failed: no"):
            await ctx.mock.invoke(run)
        assert ctx.mock.now == 1


async def test_without_fail_fast_a_failure_is_in_its_handle_only(replay: bool) -> None:
    async def handler(ctx: restate.Context) -> list[Any]:
        async with group(ctx, fail_fast=False) as g:
            bad, good = g.start(fail, ctx, 1), g.start(wait, ctx, 2, "good")
            with pytest.raises(OperationFailed):
                await bad
        assert bad.outcome is not None and not bad.outcome.ok
        return [good.result(), g.results().failed]

    assert await mock_context(replay=replay).mock.invoke(handler) == ["good", 1]


async def test_an_exception_of_the_block_stops_its_operations(replay: bool) -> None:
    log: list[str] = []

    async def handler(ctx: restate.Context) -> None:
        async def slow() -> None:
            try:
                await ctx.sleep(timedelta(days=1))
            except TerminalError:
                log.append("stopped")
                raise

        async with group(ctx) as g:
            g.start(slow)
            await ctx.sleep(timedelta(seconds=1))
            raise TerminalError("the block's own", 418)

    ctx = mock_context(replay=replay)
    with pytest.raises(TerminalError, match=r"^the block's own$"):
        await ctx.mock.invoke(handler)
    assert (ctx.mock.now, log[-1]) == (1, "stopped")


async def test_an_exception_that_is_not_terminal_ends_the_attempt_at_once() -> None:
    """Of the block or of an operation: nobody takes a further step, and the next attempt goes on."""
    attempts: list[int] = []
    log: list[str] = []

    async def handler(ctx: restate.Context, where: str) -> str:
        attempts.append(1)
        first = len(attempts) == 1

        async def boom() -> str:
            await ctx.sleep(timedelta(seconds=1))
            if first and where == "operation":
                raise RuntimeError("boom")
            return "fine"

        async def other() -> None:
            await ctx.sleep(timedelta(seconds=1))
            log.append(f"after, in attempt {len(attempts)}")

        async with group(ctx) as g:
            handle = g.start(boom)
            g.start(other)
            if first and where == "block":
                raise RuntimeError("boom")
            return await handle

    for where in ("operation", "block"):
        attempts.clear()
        log.clear()
        assert await mock_context().mock.invoke(handler, where, max_attempts=2) == "fine"
        assert log == ["after, in attempt 2"]


async def test_a_cancellation_reaches_the_block_and_its_operations(replay: bool) -> None:
    log: list[str] = []

    async def handler(ctx: restate.Context) -> None:
        async def slow(n: int) -> None:
            try:
                await ctx.sleep(timedelta(days=n))
            except TerminalError:
                log.append(f"operation {n}")
                raise

        try:
            async with group(ctx) as g:
                g.start(slow, 1)
                g.start(slow, 2)
                await ctx.sleep(timedelta(days=3))
        except TerminalError as error:
            log.append(f"handler {error.status_code} {error.message}")
            raise

    ctx = mock_context(replay=replay)
    ctx.mock.cancel(after=10)
    with pytest.raises(TerminalError, match="cancelled"):
        await ctx.mock.invoke(handler)
    assert log[-3:] == ["operation 1", "operation 2", "handler 409 cancelled"]
    assert ctx.mock.now == 10


async def test_a_group_is_stopped_by_a_timeout_and_a_race_around_it() -> None:
    ctx = mock_context()
    stopped: list[int] = []

    async def slow(n: int) -> None:
        try:
            await ctx.sleep(timedelta(days=1))
        except TerminalError:
            stopped.append(n)
            raise

    async def grouped() -> str:
        async with group(ctx) as g:
            g.start(slow, 1)
            g.start(slow, 2)
        return "all slept"

    with pytest.raises(TimeoutError):
        await with_timeout(ctx, grouped, 5)
    assert await race(ctx, [grouped, lambda: wait(ctx, 1, "won")]) == "won"
    assert (stopped, ctx.mock.now) == ([1, 2, 1, 2], 6)


async def test_partial_results_are_on_the_error_of_every_helper() -> None:
    ctx = mock_context()

    async def work(n: int) -> int:
        await ctx.sleep(timedelta(seconds=n))
        if n == 3:
            raise TerminalError("three")
        return n * n

    with pytest.raises(OperationFailed, match=r"^operation 2 \(work, 3\) failed: three$") as caught:
        await map_concurrent(ctx, [1, 2, 3, 4, 5, 6, 7], work, max_concurrent=4)
    assert caught.value.result.results == [1, 4, None, None, None, None, None]
    assert [str(outcome.error) for outcome in caught.value.result if not outcome.ok][-1] == "it was not started"

    with pytest.raises(OperationFailed) as caught:
        await BatchProcessor(ctx, 2).process_batch([1, 3, 1], work)
    assert caught.value.result.results == [1, None, 1]

    with pytest.raises(OperationFailed) as caught:
        await BatchProcessor(ctx, 2).process_batches([1, 2, 1, 3, 9], work, batch_size=2)
    assert (caught.value.index, caught.value.item) == (3, 3)
    assert caught.value.result.results == [1, 4, 1, None, None]

    with pytest.raises(OperationFailed) as caught:
        await fan_out_fail(ctx, [lambda: work(1), lambda: work(3)])
    assert caught.value.result.results == [1, None]
    with pytest.raises(OperationFailed) as caught:
        (await fan_out(ctx, [lambda: work(1), lambda: work(3)])).values()
    assert caught.value.result.results == [1, None]


# Rates and retries.


async def test_a_rate_keeps_beginnings_apart_durably(replay: bool) -> None:
    starts: dict[int, float] = {}

    async def handler(ctx: Any) -> list[int]:
        async def operation(n: int) -> int:
            starts.setdefault(n, ctx.mock.now)
            await ctx.sleep(timedelta(seconds=10))
            return n

        async with group(ctx, max_per_second=2) as g:
            handles = [g.start(operation, n) for n in range(4)]
        return [handle.result() for handle in handles]

    ctx = mock_context(replay=replay)
    assert await ctx.mock.invoke(handler) == [0, 1, 2, 3]
    assert list(starts.values()) == [0, 0.5, 1, 1.5]


async def test_helpers_take_a_rate_and_batches_keep_it_across_their_ends() -> None:
    ctx = mock_context()
    starts: list[float] = []

    async def operation(n: int) -> int:
        starts.append(ctx.mock.now)
        return n

    assert await map_concurrent(ctx, range(3), operation, max_per_second=(2, 60)) == [0, 1, 2]
    assert starts == [0, 30, 60]
    starts.clear()
    processor = BatchProcessor(ctx, 5, max_per_second=1)
    assert await processor.process_batches(range(4), operation, batch_size=2) == [0, 1, 2, 3]
    assert starts == [60, 61, 62, 63]


async def test_an_operation_is_tried_again_after_a_durable_pause(replay: bool) -> None:
    """From its beginning, with new steps; a TerminalError only where the policy names it."""
    policy = Retry(max_attempts=3, initial_interval=10, jitter=0)

    async def handler(ctx: restate.Context) -> list[Any]:
        tries = {"plain": 0, "terminal": 0, "named": 0}

        async def flaky(name: str) -> str:
            tries[name] += 1
            got = tries[name]
            await ctx.run_typed(f"{name} {got}", lambda: None)
            if got < 3:
                raise ValueError(name) if name == "plain" else TerminalError(name)
            return f"{name} at {got}"

        async with group(ctx, retry=policy, fail_fast=False) as g:
            handles = [g.start(flaky, "plain"), g.start(flaky, "terminal")]
            named = Retry(max_attempts=3, jitter=0, retry_on=TerminalError)
            handles.append(g.options(retry=named, name="mine").start(flaky, "named"))
        return [str(handle.outcome and (handle.outcome.error or handle.outcome.value)) for handle in handles]

    ctx = mock_context(replay=replay)
    assert await ctx.mock.invoke(handler) == ["plain at 3", "terminal", "named at 3"]
    assert ctx.mock.now == 30
    names = ctx.mock.journal.names("sleep")
    assert names.count("retry flaky") == 2 and names.count("retry mine") == 2


async def test_an_operation_that_was_stopped_is_not_tried_again() -> None:
    ctx = mock_context()
    tries: list[int] = []

    async def slow() -> None:
        tries.append(1)
        await ctx.sleep(timedelta(days=1))

    with pytest.raises(OperationFailed):
        async with group(ctx, retry=Retry(retry_on=TerminalError)) as g:
            g.start(slow)
            g.options(retry=Retry(max_attempts=1)).start(fail, ctx, 1)
    assert tries == [1]


async def test_map_concurrent_and_fan_out_take_retries() -> None:
    ctx = mock_context()
    tries: list[int] = []

    async def flaky(n: int) -> int:
        tries.append(n)
        await ctx.run_typed("step", lambda: None)
        if tries.count(n) < 2:
            raise ValueError(n)
        return n

    once = Retry(max_attempts=2, initial_interval=1, jitter=0)
    assert await map_concurrent(ctx, [1, 2], flaky, retry=once) == [1, 2]
    assert (await fan_out(ctx, [lambda: flaky(3)], retry=once)).results == [3]
    assert await BatchProcessor(ctx, 1, retry=once).process_batch([4], flaky) == [4]
    assert sorted(tries) == [1, 1, 2, 2, 3, 3, 4, 4]


# Misuse.


async def test_misuse_of_a_group_is_refused_with_what_to_write() -> None:
    ctx = mock_context()
    g = group(ctx)
    with pytest.raises(InvalidInput, match="only within the block of its group"):
        g.start(wait, ctx, 1)
    async with g:
        handle: Handle[Any] = g.start(wait, ctx, 1)
        with pytest.raises(InvalidInput, match="has not ended"):
            handle.result()
        with pytest.raises(InvalidInput, match="a function without arguments"):
            g.start(3)  # type: ignore[call-overload]
        with pytest.raises(InvalidInput, match="takes a function and its arguments, not 3"):
            g.start(3, 4)  # type: ignore[call-overload]
        with pytest.raises(InvalidInput, match=r"retry takes rnb.Retry"):
            g.options(retry=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="make one for each block"):
        async with g:
            pass
    with pytest.raises(InvalidInput, match="only within the block of its group"):
        g.start(wait, ctx, 1)
    with pytest.raises(InvalidInput, match="max_per_second must be more than 0"):
        group(ctx, max_per_second=0)
    assert repr(handle) == "Handle(0, 'wait', ok)"


async def test_operations_that_wait_for_one_another_are_refused() -> None:
    async def handler(ctx: restate.Context) -> None:
        handles: list[Handle[Any]] = []

        async def waits_for(n: int) -> None:
            await handles[n]

        async with group(ctx) as g:
            handles += [g.start(waits_for, 1), g.start(waits_for, 0)]

    with pytest.raises(InvalidInput, match="wait for one another"):
        await mock_context().mock.invoke(handler)


async def test_the_context_is_as_it_was_after_the_block() -> None:
    ctx = mock_context()
    before = dict(vars(ctx))
    async with group(ctx) as g:
        g.start(wait, ctx, 1)
        assert "create_future" in vars(ctx)
    assert {name for name in vars(ctx) if name not in before} <= {"_restate_nb_scheduler"}
    assert await ctx.run_typed("after", lambda: 1) == 1
    await asyncio.sleep(0)
