"""Proves `fan_out`: different functions side by side are one job, each run once in its own way, found again by key."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from restate import Context

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.results.shapes import Answer, ask


def submit(session: Session, operations: Any, **options: Any) -> rnb.Job[Any]:
    return rnb.fan_out(operations, session=session, show=False, **options)


async def price(sku: str) -> float:
    await asyncio.sleep(0.01)
    return len(sku) * 1.5


def stock() -> int:
    return 7


def reviews() -> None:
    raise ValueError("no reviews")


def test_functions_of_all_kinds_are_rows_of_one_job_and_run_once(any_session: Session) -> None:
    ran = Counter[str]()

    def counted(name: str) -> str:
        ran[name] += 1
        time.sleep(0.05)
        return name

    async def awaited(name: str) -> str:
        ran[name] += 1
        await asyncio.sleep(0.05)
        return name

    operations = {
        "price": partial(price, "abc"),
        "stock": stock,
        "reviews": reviews,
        "lambda": lambda: [1, 2],
        "sync": partial(counted, "sync"),
        "async": partial(awaited, "async"),
        3: partial(ask, "what"),
    }
    job = submit(any_session, operations)
    frame = job.result(30)
    assert frame.index.tolist() == ["price", "stock", "reviews", "lambda", "sync", "async", 3]
    assert frame["item"].tolist() == ["price", "stock", "reviews", "lambda", "counted", "awaited", "ask"]
    assert frame["status"].tolist() == ["ok", "ok", "error", "ok", "ok", "ok", "ok"]
    assert frame["value"].tolist() == [4.5, 7, None, [1, 2], "sync", "async", Answer("what", 4)]
    assert frame["error"]["reviews"] == "no reviews"
    assert job.traceback("reviews").rstrip().endswith("ValueError: no reviews")
    assert ran == {"sync": 1, "async": 1}
    again = submit(any_session, operations)
    assert again.attached == 7
    assert again.result(30).index.tolist() == frame.index.tolist()
    assert ran == {"sync": 1, "async": 1}, "it ran again"
    assert next(row.value for row in rnb.as_completed(again) if row.index == 3) == Answer("what", 4)
    assert job.rerun_locally("price") == 4.5
    assert job.rerun_locally("stock") == 7


def test_a_list_has_positions_for_an_index_and_one_row_for_each_use_of_a_function(any_session: Session) -> None:
    job = submit(any_session, [partial(price, "a"), partial(price, "bb"), stock, partial(price, "a")])
    assert job.values() == [1.5, 3.0, 7, 1.5]
    frame = job.frame()
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert frame["item"].tolist() == ["price", "price", "stock", "price"]
    assert job.name.startswith("price+stock-")
    assert submit(any_session, []).result(10).empty


def test_coroutines_run_on_the_loop_and_plain_functions_in_threads(session: Session) -> None:
    barrier = threading.Barrier(2, timeout=20)
    places: dict[str, str] = {}

    def plain(name: str) -> None:
        barrier.wait()  # both of them run now
        places[name] = threading.current_thread().name

    async def on_loop() -> None:
        places["loop"] = threading.current_thread().name

    submit(session, [partial(plain, "one"), partial(plain, "other"), on_loop]).values()
    assert places["loop"] == "rnb-work"
    assert len({"rnb-work", places["one"], places["other"]}) == 3


def test_what_is_bound_to_a_function_makes_the_job(session: Session) -> None:
    one = submit(session, [partial(max, [1, 2])])
    other = submit(session, [partial(max, [1, 3])])
    assert one.name != other.name
    assert (one.values(), other.values()) == ([2], [3])
    assert submit(session, [partial(max, [1, 2])]).name == one.name


def test_a_changed_operation_of_a_named_job_goes_on_as_it_is_now(session: Session) -> None:
    gate = threading.Event()
    ran: list[str] = []

    def first() -> str:
        gate.wait(20)
        return "first"

    def old() -> str:
        ran.append("old")
        return "old"

    def new() -> str:
        ran.append("new")
        return "new"

    job = submit(session, {"a": first, "b": old}, name="changing", concurrency=1)
    with pytest.warns(rnb.OlderResults, match="what is done is of an older `b`"):
        again = submit(session, {"a": first, "b": new}, name="changing", concurrency=1)
    assert again.progress().note.startswith("first+new has changed")
    gate.set()
    assert again.values() == ["first", "new"]
    assert ran == ["new"]
    assert again is job


def test_a_failed_operation_is_retried_with_the_code_as_it_is_now(session: Session) -> None:
    job = submit(session, {"a": stock, "b": reviews}, name="repaired")
    job.result(10)
    assert job.failed == 1
    with pytest.warns(rnb.OlderResults, match="of an older `b`"):
        submit(session, {"a": stock, "b": lambda: "five stars"}, name="repaired").retry_failed()
    assert job.values() == [7, "five stars"]
    assert job.frame()["attempts"].tolist() == [1, 2]


@pytest.mark.parametrize("other", [{"a": stock, "c": stock}, {"a": stock}, [stock, stock], {"b": stock, "a": stock}])
def test_a_name_that_belongs_to_other_operations_is_a_mismatch(session: Session, other: Any) -> None:
    submit(session, {"a": stock, "b": stock}, name="taken").result(10)
    with pytest.raises(rnb.JobMismatch, match="fresh=True"):
        submit(session, other, name="taken")


def test_a_job_over_keys_is_no_job_over_items(session: Session) -> None:
    submit(session, {"a": stock}, name="keys").result(10)
    with pytest.raises(rnb.JobMismatch, match="another kind of function"):
        rnb.map(len, ["a"], name="keys", session=session, show=False)


def test_options_hold_for_each_operation(any_session: Session) -> None:
    calls = Counter[str]()

    async def hangs() -> None:
        await asyncio.sleep(600)

    def flaky() -> str:
        calls["flaky"] += 1
        if calls["flaky"] == 1:
            raise ConnectionError("come again")
        return "here"

    retry = rnb.Retry(max_attempts=2, initial_interval=0.01, retry_on=ConnectionError)
    job = submit(any_session, [hangs, flaky], timeout=0.3, retry=retry)
    frame = job.result(30)
    assert frame["status"].tolist() == ["timeout", "ok"]
    assert frame["attempts"].tolist() == [1, 2]
    assert calls == {"flaky": 2}


def test_fail_fast_starts_nothing_more(session: Session) -> None:
    ran: list[int] = []
    job = submit(session, [reviews, *(partial(ran.append, n) for n in range(5))], fail_fast=True, concurrency=1)
    with pytest.raises(rnb.JobError, match="no reviews"):
        job.result(20)
    assert ran == []
    assert job.counts["cancelled"] == 5


def test_operations_run_in_processes(session: Session) -> None:
    import os

    async def where() -> int:
        return os.getpid()

    job = submit(session, {"sum": partial(sum, [1, 2, 3]), "pid": os.getpid, "async": where}, executor="process")
    values = job.values()
    assert values[0] == 6
    assert os.getpid() not in values
    assert len(set(values)) >= 2


@dataclass
class Quote:
    sku: str
    amount: float


async def quote(ctx: Context, sku: str = "abc") -> Quote:
    amount = await ctx.run_typed("price", lambda: len(sku) * 1.5)
    return Quote(sku, amount)


async def ship(ctx: Context) -> str:
    await ctx.run_typed("book", lambda: "booked")
    raise ValueError("no truck")


def test_durable_functions_run_as_an_invocation_each(any_session: Session) -> None:
    operations = {"quote": quote, "ship": ship}
    job = submit(any_session, operations)
    frame = job.result(60)
    assert frame["status"].tolist() == ["ok", "error"]
    assert frame["value"]["quote"] == Quote("abc", 4.5)
    assert frame["item"].tolist() == ["quote", "ship"]
    assert job.steps()["step"].tolist() == ["price", "book"]
    assert submit(any_session, operations).attached == 2


async def awaits() -> int:
    return 1


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (lambda: [awaits(), awaits()], r"(?s)Operation 0 is a coroutine of awaits.*right: rnb\.fan_out\(\[partial"),
        (lambda: {"a": 5}, "Operation 'a' is 5"),
        (
            lambda: [price],
            r"Operation 'price', price\(sku: 'str'\).*missing a required argument: 'sku'.*partial\(price",
        ),
        (lambda: stock, "takes a list or a dict of functions"),
        (lambda: {object(): stock}, "cannot be sent"),
        (lambda: {1: stock, "x": stock, (1,): stock, frozenset([1]): stock, 1.0 + 1e-30j: stock}, None),
        (
            lambda: [quote, stock],
            r"(?s)quote takes a Restate context and stock takes none.*async def stock_step\(ctx\)",
        ),
    ],
    ids=["coroutines", "a number", "needs arguments", "a function", "a key", "odd keys", "mixed"],
)
def test_operations_that_are_none_are_refused(session: Session, operations: Any, message: str | None) -> None:
    if message is None:
        assert submit(session, operations()).values() == [7] * len(operations())
        return
    with pytest.raises(rnb.InvalidInput, match=message):
        submit(session, operations())


def test_a_version_stands_for_the_code_of_all_operations(session: Session) -> None:
    ran: list[int] = []
    first = submit(session, {"a": lambda: ran.append(1)}, version=1)
    first.result(10)
    second = submit(session, {"a": lambda: ran.append(2)}, version=1)
    assert second.name == first.name
    assert second.attached == 1
    assert submit(session, {"a": lambda: ran.append(3)}, version="2").result(10)["status"].tolist() == ["ok"]
    assert ran == [1, 3]
    with pytest.raises(rnb.InvalidInput, match="text or a whole number"):
        submit(session, [stock], version=1.5)


def test_a_version_keeps_a_changed_function_from_being_announced(session: Session) -> None:
    gate = threading.Event()
    for options, told in (({"version": 3}, ""), ({}, "has changed")):
        gate.clear()
        name = f"versioned {bool(options)}"
        rnb.map(lambda item: gate.wait(20), [1, 2], name=name, session=session, show=False, **options)
        with pytest.warns(rnb.OlderResults) if told else contextlib.nullcontext():
            job = rnb.map(lambda item: [gate.wait(20)], [1, 2], name=name, session=session, show=False, **options)
        assert told in job.progress().note
        assert bool(told) == bool(job.progress().note)
        gate.set()
        job.result(10)


def test_another_process_finds_a_fan_out_by_its_name(session: Session) -> None:
    submit(session, {"a": stock, "b": partial(ask, "what")}, name="looked up").result(10)
    session.forget_handles()  # as if this were another process
    found = session.job("looked up")
    assert found.result(10)["value"].tolist() == [7, {"text": "what", "length": 4}]
    assert found.frame()["item"].tolist() == ["a", "b"]
