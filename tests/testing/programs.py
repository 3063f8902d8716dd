"""Random handlers: programs of durable steps, and a service that runs them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import restate
from restate import Context, ObjectContext, RunOptions, TerminalError, WorkflowContext

from restate_nb.patterns import fan_out, first_completed, map_concurrent

runner = restate.Service("ProgramRunner")
helper = restate.Service("ProgramHelper")
store = restate.VirtualObject("ProgramStore")
once = restate.Workflow("ProgramOnce")


@dataclass
class Step:
    """One step: what to do, with which number, and steps within it."""

    kind: str
    number: int
    inner: list[list[Step]] = field(default_factory=list)


@dataclass
class Program:
    """Steps, and a name that is of this program alone."""

    name: str
    steps: list[Step]


TRIES: Counter[str] = Counter()
"""How often the action of a step was tried: the variables of a handler do not outlive its attempt."""

PLAIN = (
    "run", "tuple", "refused", "retried", "sleep", "call", "failing call", "same call", "attach", "add", "get", "keys",
    "workflow", "awakeable", "rejected", "cancel", "delayed", "raise", "headers", "finally",
)  # fmt: skip
NESTED = ("map", "fan_out", "first")


def make_program(seed: int) -> Program:
    """The program of that seed."""
    choose = random.Random(seed)

    def steps(depth: int, raises: bool = True) -> list[Step]:
        found = []
        for _ in range(choose.randint(1, 5 - depth)):
            kind = choose.choice((*PLAIN, *NESTED) if depth < 2 else PLAIN)
            if kind == "raise" and not raises:
                kind = "run"
            # Which of two that fail is the first depends on how fast they are: in a map only one may.
            count = choose.randint(1, 3) if kind in NESTED else 0
            inner = [steps(depth + 1, raises and (kind != "map" or not at)) for at in range(count)]
            found.append(Step(kind, choose.randint(0, 9), inner))
        return found

    return Program(f"p{seed}", steps(0))


@helper.handler()
async def square(ctx: Context, number: int) -> int:
    return await ctx.run_typed("square", lambda: number * number)


@helper.handler()
async def failing(ctx: Context, number: int) -> int:
    raise TerminalError(f"no {number}", 400 + number)


@helper.handler()
async def slow(ctx: Context, note: str) -> int:
    try:
        await ctx.sleep(timedelta(hours=1))
    except TerminalError:
        await ctx.object_call(add, note, 1)
        raise
    return 0


@helper.handler()
async def header(ctx: Context, number: int) -> str:
    return ctx.request().headers.get("x-number", "none") + f" {number}"


@helper.handler()
async def counted(ctx: Context, name: str) -> int:
    return await ctx.object_call(add, name, 1)


@store.handler()
async def add(ctx: ObjectContext, number: int) -> int:
    total = (await ctx.get("total", type_hint=int) or 0) + number
    ctx.set("total", total)
    ctx.set("when", (date(2026, 1, 31), total))
    return total


@store.handler(kind="shared")
async def look(ctx: restate.ObjectSharedContext) -> list[Any]:
    return [await ctx.get("total", type_hint=int), sorted(await ctx.state_keys()), repr(await ctx.get("when"))]


@once.main()
async def run_once(ctx: WorkflowContext, number: int) -> int:
    return number


@runner.handler()
async def run_program(ctx: Context, program: Program) -> list[Any]:
    return await run_steps(ctx, program.steps, program.name)


async def run_steps(ctx: Context, steps: list[Step], name: str) -> list[Any]:
    """The results of steps, each of its own names."""
    found = []
    for index, step in enumerate(steps):
        try:
            found.append(await run_step(ctx, step, f"{name}.{index}"))
        except TerminalError as error:
            if step.kind == "raise":
                raise
            found.append(f"{error.status_code} {error.message}")
    return found


async def run_step(ctx: Context, step: Step, name: str) -> Any:
    """The result of one step."""
    if step.kind in NESTED:
        return await run_nested(ctx, step, name)
    return await STEPS[step.kind](ctx, step.number, name)


async def run_nested(ctx: Context, step: Step, name: str) -> Any:
    """The results of what runs side by side."""
    inner = list(enumerate(step.inner))
    if step.kind == "map":
        return await map_concurrent(
            ctx, inner, lambda each: run_steps(ctx, each[1], f"{name}.{each[0]}"), max_concurrent=1 + step.number % 3
        )
    operations = [lambda at=at, each=each: run_steps(ctx, each, f"{name}.{at}") for at, each in inner]
    if step.kind == "fan_out":
        outcomes = await fan_out(ctx, operations)
        return [each.value if each.error is None else each.error.message for each in outcomes]
    return await first_completed(ctx, operations[:1])


async def _tuple(ctx: Context, number: int, name: str) -> str:
    return repr(await ctx.run_typed("tuple", lambda: ({number}, (number, {1: date(2026, 1, 31)}))))


async def _refused(ctx: Context, number: int, name: str) -> int:
    def refuse() -> int:
        raise TerminalError(f"refused {number}", 500 + number)

    return await ctx.run_typed("refuse", refuse)


async def _retried(ctx: Context, number: int, name: str) -> int:
    tries, name = TRIES, f"{ctx.request().id} {name}"

    def flaky() -> int:
        tries[name] += 1
        if tries[name] < 2:
            raise OSError("once more")
        return number

    options: RunOptions[int] = RunOptions(initial_retry_interval=timedelta(milliseconds=1), max_attempts=5)
    return await ctx.run_typed("flaky", flaky, options)


async def _sleep(ctx: Context, number: int, name: str) -> str:
    await ctx.sleep(timedelta(milliseconds=number))
    return "slept"


async def _same_call(ctx: Context, number: int, name: str) -> list[int]:
    calls = [ctx.service_call(counted, name, idempotency_key=name) for _ in range(2)]
    return [await call for call in calls]


async def _attach(ctx: Context, number: int, name: str) -> int:
    sent = ctx.service_send(square, number)
    return await ctx.attach_invocation(await sent.invocation_id(), type_hint=int)


async def _delayed(ctx: Context, number: int, name: str) -> int:
    sent = ctx.service_send(square, number, send_delay=timedelta(milliseconds=5))
    return await ctx.attach_invocation(await sent.invocation_id(), type_hint=int)


async def _add(ctx: Context, number: int, name: str) -> list[Any]:
    return [await ctx.object_call(add, name, each) for each in (number, 1)]


async def _get(ctx: Context, number: int, name: str) -> list[Any]:
    await ctx.object_call(add, name, number)
    return await ctx.object_call(look, name, None)  # type: ignore[arg-type]


async def _keys(ctx: Context, number: int, name: str) -> list[Any]:
    return await ctx.object_call(look, name, None)  # type: ignore[arg-type]


async def _workflow(ctx: Context, number: int, name: str) -> list[Any]:
    first = await ctx.workflow_call(run_once, name, number)
    try:
        return [first, await ctx.workflow_call(run_once, name, number)]
    except TerminalError as error:
        return [first, error.status_code]


async def _awakeable(ctx: Context, number: int, name: str) -> list[int]:
    awakeable, future = ctx.awakeable(type_hint=list[int])  # type: ignore[arg-type]
    ctx.resolve_awakeable(awakeable, [number])
    found: list[int] = await future
    return found


async def _rejected(ctx: Context, number: int, name: str) -> None:
    awakeable, future = ctx.awakeable()
    ctx.reject_awakeable(awakeable, f"rejected {number}", 400 + number)
    await future


async def _cancel(ctx: Context, number: int, name: str) -> list[Any]:
    call = ctx.service_call(slow, name)
    await ctx.sleep(timedelta(milliseconds=30))
    await call.cancel_invocation()
    try:
        await call
    except TerminalError as error:
        return [error.status_code, await ctx.object_call(look, name, None)]  # type: ignore[arg-type]
    return []


async def _raise(ctx: Context, number: int, name: str) -> None:
    raise TerminalError(f"raised {number}", 400 + number)


async def _headers(ctx: Context, number: int, name: str) -> str:
    return await ctx.service_call(header, number, headers={"x-number": str(number)})


async def _finally(ctx: Context, number: int, name: str) -> int:
    try:
        await ctx.sleep(timedelta(milliseconds=1))
        return await ctx.run_typed("within", lambda: number)
    finally:
        await ctx.object_call(add, name, 1)


STEPS: dict[str, Any] = {
    "run": lambda ctx, number, name: ctx.run_typed("run", lambda: number),
    "tuple": _tuple,
    "refused": _refused,
    "retried": _retried,
    "sleep": _sleep,
    "call": lambda ctx, number, name: ctx.service_call(square, number),
    "failing call": lambda ctx, number, name: ctx.service_call(failing, number),
    "same call": _same_call,
    "attach": _attach,
    "delayed": _delayed,
    "add": _add,
    "get": _get,
    "keys": _keys,
    "workflow": _workflow,
    "awakeable": _awakeable,
    "rejected": _rejected,
    "cancel": _cancel,
    "raise": _raise,
    "headers": _headers,
    "finally": _finally,
}
