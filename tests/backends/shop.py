"""Services in a process of their own, as they are deployed elsewhere: `python -m tests.backends.shop FOLDER`.

Prints the url, and appends a line to FOLDER/runs for each execution of a handler.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import TypedDict

import msgspec
import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config
from restate.serde import BytesSerde

DAY = timedelta(days=1)
shop = restate.Service("Shop", idempotency_retention=DAY, journal_retention=DAY)
stock = restate.VirtualObject("Stock", idempotency_retention=DAY, journal_retention=DAY)
signup = restate.Workflow("Signup")

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()
NAMES = ("Shop", "Stock", "Signup")


class Price(msgspec.Struct):
    amount: float
    currency: str


class Order(TypedDict):
    sku: str
    amount: int


def ran(what: object) -> None:
    with (FOLDER / "runs").open("a") as file:
        file.write(f"{what}\n")


def runs(folder: Path) -> list[str]:
    path = folder / "runs"
    return path.read_text().splitlines() if path.exists() else []


@shop.handler()
async def double(ctx: restate.Context, number: int) -> int:
    """Fails for good for numbers that end with 13."""
    await ctx.run_typed("double", lambda: ran(number))
    if number % 100 == 13:
        raise restate.TerminalError(f"no {number}", status_code=422)
    return 2 * number


@shop.handler()
async def price(ctx: restate.Context, order: Order) -> Price:
    return Price(len(order["sku"]) * order["amount"], "EUR")


@shop.handler()
async def nap(ctx: restate.Context, seconds: float) -> float:
    ran(f"nap {seconds}")
    await ctx.sleep(timedelta(seconds=seconds))
    return seconds


@shop.handler()
async def nothing(ctx: restate.Context) -> None:
    ran("nothing")


@shop.handler(input_serde=BytesSerde(), output_serde=BytesSerde(), accept="*/*", content_type="image/png")
async def mirror(ctx: restate.Context, picture: bytes) -> bytes:
    return picture[::-1]


@shop.handler()
async def at_last(ctx: restate.Context, number: int) -> int:
    """Ends with an error for good twice, in invocations of its own, and then with a value."""
    ran(f"at_last {number}")
    if runs(FOLDER).count(f"at_last {number}") < 3:
        raise restate.TerminalError("not yet", status_code=503)
    return number


@stock.handler()
async def take(ctx: restate.ObjectContext, amount: int) -> int:
    taken = (await ctx.get("taken", type_hint=int) or 0) + amount
    ctx.set("taken", taken)
    return taken


@stock.handler(kind="shared")
async def whose(ctx: restate.ObjectSharedContext, order: Order) -> str:
    return f"{ctx.key()}: {order['sku']}"


@signup.main()
async def run(ctx: restate.WorkflowContext, name: str) -> str:
    await ctx.run_typed("run", lambda: ran(f"signup {name}"))
    if name == "mallory":
        raise restate.TerminalError("not you")
    return f"{ctx.key()} is {name}"


@signup.handler()
async def peek(ctx: restate.WorkflowSharedContext, name: str) -> str:
    return name.upper()


async def main() -> None:
    listening = socket.create_server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.h2_max_concurrent_streams = 10_000
    await serve(restate.app([shop, stock, signup]), config, mode="asgi")  # type: ignore[arg-type]


if __name__ == "__main__":
    os.chdir(FOLDER)
    asyncio.run(main())
