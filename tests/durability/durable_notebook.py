"""The notebook of durable functions that is killed: `python -m tests.durability.durable_notebook FOLDER TOTAL`.

A job of TOTAL durable functions with a fan-out each, and beside it single calls of the same function and of a handler
that is served. FOLDER/steps has a line for what happens: `begin KEY STEP PROCESS`, `end ...`, and `recorded ...` where
the function has the result, which is when the journal has it. Prints `submitted`, and `finished` at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path

import restate

import restate_nb as rnb
from restate_nb.patterns import fan_out_fail
from restate_nb.session.session import Session

CONCURRENCY = 20
ITEMS_A_CALL = 20
SECONDS = 0.01
if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    STEPS = os.open(FOLDER / "steps", os.O_CREAT | os.O_WRONLY | os.O_APPEND)


def note(what: str, key: str, step: str) -> None:
    os.write(STEPS, f"{what} {key} {step} {os.getpid()}\n".encode())


async def step(ctx: restate.Context, key: str, name: str, value: int) -> int:
    async def in_task() -> int:
        note("begin", key, name)
        await asyncio.sleep(SECONDS)
        note("end", key, name)
        return value

    def in_thread() -> int:
        note("begin", key, name)
        time.sleep(SECONDS)
        note("end", key, name)
        return value

    found = await ctx.run_typed(name, in_thread if name == "thread" else in_task)
    note("recorded", key, name)
    return found


async def order(ctx: restate.Context, key: str, item: int) -> list[float]:
    """Its value, its traceback and its message differ each time it comes to its end."""
    first = await step(ctx, key, "first", item)
    parts = await fan_out_fail(
        ctx,
        [lambda: step(ctx, key, "task", 1), lambda: step(ctx, key, "thread", 2), lambda: nested(ctx, key)],
    )
    await ctx.sleep(timedelta(milliseconds=5))
    last = await step(ctx, key, "last", item)
    if item % 10 == 3:
        raise ValueError(f"a failure at {time.time_ns()} of {object()!r}")
    return [first + sum(parts) + last, time.time()]


async def nested(ctx: restate.Context, key: str) -> int:
    values = await fan_out_fail(ctx, [lambda: step(ctx, key, "left", 3), lambda: step(ctx, key, "right", 4)])
    return sum(values)


shop = restate.Service("shop")


@shop.handler()
async def ship(ctx: restate.Context, item: int) -> int:
    return await step(ctx, f"ship-{item}", "first", item) + await step(ctx, f"ship-{item}", "last", item)


def expected(item: int) -> int:
    return 2 * item + 10


def one_call(session: Session, item: int) -> None:
    try:
        value = rnb.call(order, f"call-{item}", item, idempotency_key=f"order {item}", session=session)
    except rnb.InvocationFailed as error:
        assert item % 10 == 3, error
        assert "a failure at" in error.reason
    else:
        assert value[0] == expected(item)
    assert session.call(ship, item, idempotency_key=f"ship {item}") == 2 * item


def main() -> None:
    total = int(sys.argv[2])
    with redirect_stdout(sys.stderr):  # which tells of unfinished jobs, and of calls that wait
        session = rnb.start("killed", data_dir=FOLDER / ".restate")
        session.serve(shop)
        items = [(f"item-{item}", item) for item in range(total)]
        job = rnb.starmap(order, items, name="orders", concurrency=CONCURRENCY, show=False, session=session)
        print("submitted", file=sys.__stdout__, flush=True)
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(one_call, session, item) for item in range(total // ITEMS_A_CALL)]
            frame = job.result(timeout=300)
            for call in calls:
                call.result(300)
    failed = [item % 10 == 3 for item in range(total)]
    assert frame["status"].tolist() == ["error" if each else "ok" for each in failed]
    assert [value[0] for value in frame["value"].dropna()] == [expected(i) for i in range(total) if not failed[i]]
    session.stop()
    print("finished", flush=True)


if __name__ == "__main__":
    main()
