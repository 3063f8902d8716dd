"""Types flow from operations to results. Type-checked (mypy strict, pyright), never run."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import assert_type

from restate import Context, RestateDurableCallFuture, Service

import restate_nb as rnb
from restate_nb.patterns import (
    BatchProcessor,
    FanOutResult,
    FanOutTuple,
    Handle,
    ObjectClient,
    Outcome,
    ServiceClient,
    WorkflowClient,
    compensate,
    fan_out,
    fan_out_fail,
    first_completed,
    group,
    map_concurrent,
    parallel_invoke,
    race,
    with_timeout,
)
from restate_nb.policy import Retry
from restate_nb.session.invocation import Invocation
from restate_nb.session.session import Session
from restate_nb.testing import MockContext, mock_context

service = Service("Typed")


@service.handler()
async def length(ctx: Context, text: str) -> int:
    return len(text)


async def number() -> int:
    return 1


async def text() -> str:
    return "a"


async def flag() -> bool:
    return True


def plain() -> float:
    return 1.5


async def fan_outs(ctx: Context) -> None:
    result = await fan_out(ctx, [number, number], max_concurrent=3)
    assert_type(result, FanOutResult[int])
    assert_type(result.results, list[int | None])
    assert_type(result.values(), list[int])
    assert_type(result[0], Outcome[int])
    assert_type([outcome.value for outcome in result], list[int | None])
    assert_type(result[0].unwrap(), int)

    assert_type(await fan_out(ctx, [plain]), FanOutResult[float])
    assert_type(await fan_out(ctx, [ctx.service_call(length, "a")]), FanOutResult[int])
    assert_type(await fan_out(ctx, [lambda: ctx.service_call(length, "a")]), FanOutResult[int])

    two = await fan_out(ctx, (number, text))
    assert_type(two, FanOutTuple[int, str])
    assert_type(two.values(), tuple[int, str])
    five = await fan_out(ctx, (number, text, flag, lambda: ctx.service_call(length, "a"), ctx.time()))
    assert_type(five.values(), tuple[int, str, bool, int, float])


async def failing_fast(ctx: Context) -> None:
    assert_type(await fan_out_fail(ctx, [text, text]), list[str])
    assert_type(await fan_out_fail(ctx, [plain]), list[float])
    assert_type(await fan_out_fail(ctx, (number, text)), tuple[int, str])
    assert_type(await fan_out_fail(ctx, (number, text, flag)), tuple[int, str, bool])
    assert_type(await fan_out_fail(ctx, (number, text, flag, number)), tuple[int, str, bool, int])
    assert_type(await fan_out_fail(ctx, (number, text, flag, number, text)), tuple[int, str, bool, int, str])
    assert_type(await race(ctx, [text, text]), str)
    assert_type(await first_completed(ctx, [number]), int)
    assert_type(await with_timeout(ctx, text, timedelta(seconds=1)), str)
    assert_type(await with_timeout(ctx, ctx.service_call(length, "a"), 2.5), int)


async def over_items(ctx: Context) -> None:
    async def double(item: int) -> float:
        return item * 2.0

    assert_type(await map_concurrent(ctx, [1, 2], double), list[float])
    assert_type(await map_concurrent(ctx, ["a"], partial(ServiceClient.of(length).call, ctx)), list[int])
    assert_type(await map_concurrent(ctx, ["a"], len), list[int])
    assert_type(await BatchProcessor(ctx, 5).process_batch([1], double), list[float])
    assert_type(await BatchProcessor(ctx, 5).process_batches([1], double, batch_size=2, pause=1), list[float])


async def lambdas(ctx: Context, urls: list[str]) -> None:
    async def fetch(url: str) -> bytes:
        return url.encode()

    assert_type(await map_concurrent(ctx, urls, lambda url: fetch(url)), list[bytes])
    assert_type(await map_concurrent(ctx, [1, 2], lambda n: n * 2), list[int])
    assert_type(await map_concurrent(ctx, urls, lambda url: ctx.service_call(length, url)), list[int])
    assert_type(await map_concurrent(ctx, urls, lambda url: ctx.run_typed("size", lambda: len(url))), list[int])
    assert_type(await BatchProcessor(ctx, 5).process_batch(urls, lambda url: fetch(url)), list[bytes])
    batches = BatchProcessor(ctx, 5).process_batches(urls, lambda url: ctx.service_call(length, url), batch_size=9)
    assert_type(await batches, list[int])
    assert_type(await fan_out(ctx, [lambda url=url: fetch(url) for url in urls]), FanOutResult[bytes])
    assert_type(await fan_out_fail(ctx, [lambda url=url: fetch(url) for url in urls]), list[bytes])
    assert_type(await fan_out(ctx, [partial(fetch, url) for url in urls]), FanOutResult[bytes])
    assert_type(await fan_out(ctx, [fetch(url) for url in urls]), FanOutResult[bytes])
    nested = await fan_out(ctx, [lambda: map_concurrent(ctx, urls, lambda url: fetch(url))])
    assert_type(nested, FanOutResult[list[bytes]])
    assert_type(await with_timeout(ctx, lambda: map_concurrent(ctx, urls, fetch), 5), list[bytes])
    assert_type(sum(await map_concurrent(ctx, urls, lambda url: ctx.service_call(length, url))), int)
    lengths: list[int] = await map_concurrent(ctx, urls, lambda url: ctx.run_typed("size", lambda: len(url)))
    assert_type(lengths, list[int])
    await map_concurrent(ctx, [1], fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def groups(ctx: Context, urls: list[str]) -> None:
    async def fetch(url: str, times: int = 1) -> bytes:
        return url.encode() * times

    async with group(ctx, max_concurrent=20, max_per_second=5, retry=Retry()) as g:
        assert_type(g.start(fetch, "a"), Handle[bytes])
        assert_type(g.start(fetch, "a", times=2), Handle[bytes])
        assert_type(g.start(len, "a"), Handle[int])
        assert_type(g.start(ctx.service_call(length, "a")), Handle[int])
        assert_type(g.start(ctx.service_call, length, "a"), Handle[int])
        assert_type(g.options(name="mine").start(lambda: fetch("a")), Handle[bytes])
        handle = g.start(fetch, "b")
        assert_type(await handle, bytes)
        g.start(fetch, 5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(handle.result(), bytes)
    assert_type(handle.outcome, Outcome[bytes] | None)
    async with compensate(ctx) as undo:
        undo(fetch, "a")
        undo(fetch, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def clients(ctx: Context) -> None:
    named = ServiceClient[str, int]("Typed", "length")
    assert_type(named.call(ctx, "a"), RestateDurableCallFuture[int])
    assert_type(await named.call(ctx, "a", scope="tenant", limit_key="k"), int)
    assert_type(ServiceClient.of(length), ServiceClient[str, int])
    thing = ObjectClient[str, bytes]("Thing", "get")
    assert_type(await thing.call(ctx, "key", "a"), bytes)
    flow = WorkflowClient[int, bool]("Flow", "run")
    assert_type(await flow.call(ctx, "key", 1), bool)
    assert_type(await parallel_invoke(ctx, [named, named], ["a", "b"]), list[int])
    assert_type(await parallel_invoke(ctx, (named, thing.at("key")), ("a", "b")), tuple[int, bytes])
    assert_type(
        await parallel_invoke(ctx, (named, thing.at("key"), flow.at("key")), ("a", "b", 3)), tuple[int, bytes, bool]
    )
    named.call(ctx, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def mocks() -> None:
    ctx = mock_context(state={"a": 1})
    assert_type(ctx, MockContext)
    as_context: Context = ctx
    assert_type(await ctx.mock.invoke(length, "a"), int)
    assert_type(await ctx.mock.invoke(length, "a", key="k", headers={"a": "b"}), int)
    await ctx.mock.invoke(length, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await fan_out(as_context, [number])


async def charge(ctx: Context, order: int, fee: float) -> str:
    return f"{order} {fee}"


def sessions(session: Session) -> None:
    assert_type(session.call(length, "a"), int)
    assert_type(session.send(length, "a", idempotency_key="k"), Invocation[int])
    assert_type(session.send(length, "a", delay=3).result(), int)
    assert_type(session.invocation(length, idempotency_key="k"), Invocation[int])
    session.call(length, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    session.send(length, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert_type(rnb.call(charge, 17, 2.5, key="order 17"), str)
    assert_type(rnb.call(charge, order=17, fee=2.5), str)
    rnb.call(charge, "17", 2.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
