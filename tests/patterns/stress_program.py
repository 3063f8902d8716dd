"""Random programs for the scheduler: a generator, an interpreter that uses the helpers, and an oracle that does not.

A program is JSON: a helper, a window, and operations, each a list of steps. `expected` is the oracle.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import restate
from restate import RunOptions, TerminalError

from restate_nb.patterns import (
    FanOutResult,
    OperationFailed,
    OperationGroup,
    fan_out,
    fan_out_fail,
    group,
    map_concurrent,
    race,
    with_timeout,
)

echo_service = restate.Service("StressEcho")
program_service = restate.Workflow("StressProgram")
crashes: Counter[str] = Counter()  # how often each forced failure happened, over all attempts in this process
attempts: Counter[str] = Counter()

LEAVES = ("run", "run_sync", "call", "sleep")
STEPS = (
    *LEAVES,
    "send",
    "awakeable",
    "promise",
    "state",
    "gather",
    "as_completed",
    "select",
    "timeout",
    "race",
    "yield",
)


COLLECTING = ("fan_out", "collecting group")
"""Helpers that bring every outcome, whatever fails."""


@echo_service.handler()
async def echo(ctx: restate.Context, arg: dict[str, Any]) -> Any:
    if arg["ms"]:
        await ctx.sleep(timedelta(milliseconds=arg["ms"]))
    return arg["value"]


@echo_service.handler()
async def resolve(ctx: restate.Context, arg: dict[str, Any]) -> None:
    if arg["ms"]:
        await ctx.sleep(timedelta(milliseconds=arg["ms"]))
    ctx.resolve_awakeable(arg["name"], arg["value"])


def make_program(seed: int, *, crash: bool = True) -> dict[str, Any]:
    rng = random.Random(seed)
    return {"seed": seed, **_plan(rng, 0, crash)}


def _plan(rng: random.Random, depth: int, crash: bool) -> dict[str, Any]:
    count = rng.randint(1, 30 if depth == 0 else 4)
    helper = rng.choice(("fan_out", "fan_out", "map_concurrent", "fan_out_fail", "group", "collecting group"))
    operations = [_operation(rng, depth, crash) for _ in range(count)]
    return {"helper": helper, "window": rng.choice((None, *range(1, count + 2))), "operations": operations}


def _operation(rng: random.Random, depth: int, crash: bool) -> list[list[Any]]:
    steps = [_step(rng, depth, crash) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.12:
        steps.insert(rng.randrange(len(steps) + 1), ["fail", rng.randint(400, 599)])
    if crash and rng.random() < 0.04:
        steps.insert(rng.randrange(len(steps) + 1), ["crash", rng.randrange(1 << 40)])
    return steps


def _step(rng: random.Random, depth: int, crash: bool) -> list[Any]:
    if depth < 3 and rng.random() < (0.10, 0.25, 0.15)[depth]:
        return ["nested", _plan(rng, depth + 1, crash)]
    kind = rng.choice(STEPS)
    if kind in ("gather", "as_completed"):
        return [kind, [[rng.choice(LEAVES), *_numbers(rng)] for _ in range(rng.randint(1, 4))]]
    return [kind, *_numbers(rng)]


def _numbers(rng: random.Random) -> tuple[int, int]:
    return rng.randrange(1000), rng.choice((0, 0, 0, rng.randint(1, 20)))


# --- the oracle


def expected(plan: dict[str, Any]) -> Any:
    outcomes = [_expected_operation(steps) for steps in plan["operations"]]
    if plan["helper"] not in COLLECTING and any(isinstance(o, str) for o in outcomes):
        return "failed"
    return outcomes


def _expected_operation(steps: list[list[Any]]) -> Any:
    values = []
    for kind, *rest in steps:
        if kind == "fail":
            return f"error {rest[0]}"
        value = expected(rest[0]) if kind == "nested" else _expected_value(kind, rest)
        if value == "failed":
            return "nested failure"
        values.append(value)
    return values


def _expected_value(kind: str, rest: list[Any]) -> Any:
    if kind in ("gather", "as_completed"):
        return sorted(value for _, value, _ in rest[0])
    return None if kind == "crash" else rest[0]


# --- the interpreter


@program_service.main()
async def run_program(ctx: restate.WorkflowContext, plan: dict[str, Any]) -> Any:
    attempts[ctx.key()] += 1
    return await interpret(ctx, plan, "")


async def interpret(ctx: Any, plan: dict[str, Any], path: str) -> Any:
    async def operation(index: int) -> Any:
        values = []
        for place, step in enumerate(plan["operations"][index]):
            values.append(await _take(ctx, step, f"{path}{index}.{place}/"))
        return values

    window, indexes = plan["window"], range(len(plan["operations"]))
    if plan["helper"] in COLLECTING:
        if plan["helper"] == "fan_out":
            result = await fan_out(ctx, [lambda i=i: operation(i) for i in indexes], max_concurrent=window)
        else:
            result = await _grouped(
                ctx, operation, len(indexes), path, group(ctx, max_concurrent=window, fail_fast=False)
            )
        return [outcome.value if outcome.error is None else outcome.error.message for outcome in result]
    try:
        if plan["helper"] == "group":
            return (await _grouped(ctx, operation, len(indexes), path, group(ctx, max_concurrent=window))).values()
        if plan["helper"] == "map_concurrent":
            return await map_concurrent(ctx, indexes, operation, max_concurrent=window)
        return await fan_out_fail(ctx, [lambda i=i: operation(i) for i in indexes], max_concurrent=window)
    except OperationFailed:
        return "failed"


async def _grouped(ctx: Any, operation: Any, count: int, path: str, g: OperationGroup) -> FanOutResult[Any]:
    """Start some, take steps in the block, start the others while the first ones end, and await one of them."""
    async with g:
        for index in range(count // 2):
            g.start(operation, index)
        await ctx.run_typed(f"{path}block", lambda: 1, RunOptions(type_hint=int))
        following = count // 2
        while following < count:
            g.start(operation, following)
            following += 1
            if following == count - 1:
                await ctx.sleep(timedelta(milliseconds=1))
        ended = [handle.index async for handle in g.as_completed()]
        assert sorted(ended) == list(range(count))
        with contextlib.suppress(OperationFailed):
            await g.handles[-1]
    return g.results()


def _leaf(ctx: Any, kind: str, value: int, ms: int, path: str) -> Any:
    async def action() -> int:
        await asyncio.sleep(ms / 1000)
        return value

    def sync_action() -> int:
        time.sleep(ms / 1000)
        return value

    if kind == "run":
        return ctx.run_typed(path, action)
    if kind == "run_sync":
        return ctx.run_typed(path, sync_action, RunOptions(type_hint=int))
    if kind == "call":
        return ctx.service_call(echo, {"value": value, "ms": ms})
    return ctx.sleep(timedelta(milliseconds=ms))


async def _value(kind: str, value: int, future: Any) -> int:
    got = await future
    return value if kind == "sleep" else got


async def _take(ctx: Any, step: list[Any], path: str) -> Any:
    kind, *rest = step
    if kind == "nested":
        value = await interpret(ctx, rest[0], path)
        if value == "failed":
            raise TerminalError("nested failure")
        return value
    if kind == "fail":
        raise TerminalError(f"error {rest[0]}", rest[0])
    if kind == "crash":
        if crashes[str(rest[0])] < 1:
            crashes[str(rest[0])] += 1
            raise RuntimeError("forced failure")
        return None
    if kind in ("gather", "as_completed"):
        leaves = [(leaf[0], leaf[1], _leaf(ctx, *leaf, f"{path}{n}")) for n, leaf in enumerate(rest[0])]
        if kind == "gather":
            await restate.gather(*[future for _, _, future in leaves])
            return sorted([await _value(*leaf) for leaf in leaves])
        known = {future: (name, value) for name, value, future in leaves}
        return sorted([await _value(*known[f], f) async for f in restate.as_completed(*known)])
    if kind in LEAVES:
        return await _value(kind, rest[0], _leaf(ctx, kind, *rest, path))
    return await _single(ctx, kind, *rest, path)


async def _single(ctx: Any, kind: str, value: int, ms: int, path: str) -> Any:
    if kind == "send":
        handle = ctx.service_send(echo, {"value": value, "ms": ms})
        assert await handle.invocation_id()
    elif kind == "awakeable":
        name, future = ctx.awakeable(type_hint=int)
        ctx.service_send(resolve, {"name": name, "value": value, "ms": ms})
        return await future
    elif kind == "promise":
        await ctx.promise(path, type_hint=int).resolve(value)
        assert await ctx.promise(path, type_hint=int).peek() == value
        return await ctx.promise(path, type_hint=int)
    elif kind == "state":
        ctx.set(path, value)
        return await ctx.get(path, type_hint=int)
    elif kind == "select":
        _, got = await restate.select(
            slow=ctx.service_call(echo, {"value": value, "ms": ms + 5}), fast=_leaf(ctx, "run", value, ms, path)
        )
        return got
    elif kind == "timeout":
        return await with_timeout(ctx, lambda: _leaf(ctx, "call", value, ms, path), 60)
    elif kind == "race":
        return await race(
            ctx, [lambda: _leaf(ctx, "call", value, ms, path), lambda: _leaf(ctx, "run", value, ms, path)]
        )
    else:
        await asyncio.sleep(0)
    return value
