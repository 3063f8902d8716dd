"""Types flow from functions to jobs. Type-checked (mypy strict, pyright), never run."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, assert_type

import pandas as pd
import polars as pl
from pandas import Series
from restate import Context, Service

import restate_nb as rnb
from restate_nb.api.accessor import RestateAccessor
from restate_nb.patterns import ObjectClient, ServiceClient, WorkflowClient


async def fetch(url: str) -> bytes:
    return url.encode()


def length(text: str) -> int:
    return len(text)


async def price() -> float:
    return 1.5


def stock() -> int:
    return 7


async def order(ctx: Context) -> str:
    return await ctx.run_typed("order", lambda: "ordered")


service = Service("Typed")


@service.handler()
async def weigh(ctx: Context, sku: str) -> float:
    return float(len(sku))


def invocations() -> None:
    assert_type(rnb.invoke(weigh, ["a"]), rnb.Job[float])
    assert_type(rnb.invoke(ServiceClient[str, int]("Typed", "count"), ["a"]).values(), list[int])
    assert_type(rnb.invoke(ServiceClient.of(weigh), ["a"], retry=rnb.Retry()), rnb.Job[float])
    assert_type(rnb.invoke(ObjectClient[str, bytes]("Thing", "get"), ["a"], key=["k"]), rnb.Job[bytes])
    assert_type(rnb.invoke(WorkflowClient[dict[str, str], bool]("Flow", "run"), [{"id": "a"}], key="id"), rnb.Job[bool])


def connections() -> None:
    assert_type(rnb.connect("http://localhost:8080", admin_url="http://localhost:9070"), rnb.Session)


class Query:
    """Gives rows through Arrow's interface, as DuckDB's."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


def maps() -> None:
    assert_type(rnb.map(fetch, ["a"], version=2), rnb.Job[bytes])
    assert_type(rnb.map(length, ["a"], version="2026-05").values(), list[int])
    assert_type(rnb.starmap(fetch, [("a",)], version=2), rnb.Job[bytes])
    assert_type(rnb.starmap(length, [("a",)]).values(), list[int])
    assert_type(rnb.starmap(length, [{"item": "a"}]).values(), list[int])
    assert_type(rnb.map(length, pl.DataFrame({"item": ["a"]})), rnb.Job[int])
    assert_type(rnb.map(length, pd.DataFrame({"item": ["a"]}).groupby("item")), rnb.Job[int])
    assert_type(rnb.map(length, Query()), rnb.Job[int])


def on_workers() -> None:
    assert_type(rnb.map(length, ["a"], on="workers"), rnb.Job[int])
    assert_type(rnb.map(fetch, ["a"], on="workers", concurrency=64).values(), list[bytes])
    assert_type(rnb.starmap(fetch, [("a",)], on="workers"), rnb.Job[bytes])
    assert_type(rnb.map("jobs:length", ["a"]), rnb.Job[Any])
    assert_type(rnb.starmap("jobs:length", [("a",)], on="workers"), rnb.Job[Any])
    rnb.map(length, ["a"], on="moon")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    rnb.batch(length, ["a"], batch_size=1, on="workers")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def batches() -> None:
    assert_type(rnb.batch(fetch, ["a"], batch_size=10, pause=timedelta(minutes=1)), rnb.Job[bytes])
    assert_type(rnb.batch(length, ["a"], batch_size=10, pause=0.5, concurrency=(1, 5)).values(), list[int])
    rnb.batch(length, ["a"])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def fan_outs() -> None:
    assert_type(rnb.fan_out([price, price]), rnb.Job[float])
    assert_type(rnb.fan_out((stock, partial(length, "abc"))), rnb.Job[int])
    assert_type(rnb.fan_out({"a": price, 2: price}).values(), list[float])
    assert_type(rnb.fan_out({"a": stock}, version=1), rnb.Job[int])
    assert_type(rnb.fan_out([order]), rnb.Job[str])
    rnb.fan_out([1, 2])  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def misspelt_options() -> None:
    rnb.map(length, ["a"], nme="typo")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    rnb.starmap(length, [("a",)], nme="typo")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    rnb.batch(length, ["a"], batch_size=1, nme="typo")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    rnb.fan_out([stock], nme="typo")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    rnb.invoke(weigh, ["a"], nme="typo")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    rnb.map(length, ["a"], timeout="10 s")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    RestateAccessor(Series(["a"])).map(length, nme="typo")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RestateAccessor(Series(["a"])).map(length, timeout=10, retry=rnb.Retry())
