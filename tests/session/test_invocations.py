"""Proves that an invocation that was sent is one, is found again by its key, and is waited for, watched and ended."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import restate
from pydantic import BaseModel
from restate import Context, ObjectContext, TerminalError, WorkflowContext

import restate_nb as rnb
from restate_nb.errors import InvalidInput, InvocationFailed
from restate_nb.session.session import Session
from tests.support import eventually


class Order(BaseModel):
    number: int


CHARGED: Counter[str] = Counter()

shop = restate.Service("SentShop")
basket = restate.VirtualObject("SentBasket")
delivery = restate.Workflow("SentDelivery")


async def charge(ctx: Any, what: str, wait: float) -> None:
    await ctx.run_typed("charge", lambda: CHARGED.update([what]))
    try:
        await ctx.sleep(timedelta(seconds=wait))
    except TerminalError:
        await ctx.run_typed("refund", lambda: CHARGED.update([f"{what} refunded"]))
        raise


@shop.handler()
async def buy(ctx: Context, orders: list[Order]) -> list[Order]:
    await charge(ctx, "shop", orders[0].number)
    return orders


@basket.handler()
async def put(ctx: ObjectContext, number: int) -> int:
    await charge(ctx, ctx.key(), 0.5)
    return number


@delivery.main()
async def deliver(ctx: WorkflowContext, number: int) -> int:
    await charge(ctx, f"delivery {ctx.key()}", 0.5)
    return number


def serving(folder: Path) -> Session:
    session = Session("sent", folder / ".restate")
    session.serve(shop, basket, delivery)
    CHARGED.clear()
    return session


def test_what_was_sent_is_waited_for_watched_and_ended(tmp_path: Path) -> None:
    with serving(tmp_path) as session:
        short, long = session.send(buy, [Order(number=0)]), session.send(buy, [Order(number=100)])
        assert short.result(20) == [Order(number=0)] and short.status == "succeeded" and short.done
        eventually(lambda: CHARGED["shop"] == 2)
        with pytest.raises(TimeoutError, match="it goes on"):
            long.result(timeout=0.1)
        assert long.status in ("running", "suspended") and not long.done
        assert long.cancel()
        with pytest.raises(InvocationFailed, match="cancelled"):
            long.result(20)
        assert (long.status, CHARGED["shop refunded"]) == ("failed", 1)
        assert isinstance(long.exception(), InvocationFailed) and short.exception() is None
        later = session.send(buy, [Order(number=0)], delay=3600)
        assert later.status == "scheduled" and session.invocation(buy, id=later.id).cancel()


def test_the_server_dies_in_between_and_nothing_is_done_twice(tmp_path: Path) -> None:
    with serving(tmp_path) as session:
        sent = [
            session.send(buy, [Order(number=1)]),
            session.send(put, 2, key="k", idempotency_key="put"),
            session.send(deliver, 3, key="k"),
        ]
        eventually(lambda: CHARGED.total() == 3)
        time.sleep(0.2)  # until the charges are recorded
        os.kill(session.server.pid or 0, signal.SIGKILL)
        again = [session.send(put, 2, key="k", idempotency_key="put"), session.send(deliver, 4, key="k")]
        assert [each.result(30) for each in sent] == [[Order(number=1)], 2, 3]
        assert [each.result(30) for each in again] == [2, 3]
        assert [each.id for each in again] == [each.id for each in sent[1:]]
        assert set(CHARGED.values()) == {1}


def test_invocations_are_found_by_their_keys_in_the_next_process(tmp_path: Path) -> None:
    with serving(tmp_path) as session:
        sent = session.send(put, 2, key="k", idempotency_key="put"), session.send(deliver, 3, key="k")
    with serving(tmp_path) as session:
        found = session.invocation(put, key="k", idempotency_key="put"), session.invocation(deliver, key="k")
        assert [each.id for each in found] == [each.id for each in sent]
        assert [each.result(30) for each in found] == [2, 3]
        assert session.call(put, 9, key="k", idempotency_key="put") == 2, "calls stand for the same"
        with pytest.raises(InvalidInput, match="Say which invocation"):
            session.invocation(put, key="k")
        with pytest.raises(InvalidInput, match="no run of the key 'other'"):
            session.invocation(deliver, key="other")
        with pytest.raises(InvalidInput, match="cannot be recorded"):
            session.send(put, object(), key="k")  # type: ignore[arg-type]


def test_a_durable_function_is_called_once_a_key_unless_it_takes_one_itself(tmp_path: Path) -> None:
    runs = Counter[str]()

    async def pay(ctx: Context, order: int) -> int:
        runs["pay"] += 1
        return order

    async def keyed(ctx: Context, key: str) -> str:
        runs["keyed"] += 1
        return key

    with serving(tmp_path) as session:
        assert [rnb.call(pay, order, key="order 1", session=session) for order in (1, 2)] == [1, 1]
        assert [rnb.call(keyed, key="a", session=session) for _ in range(2)] == ["a", "a"]
        assert runs == {"pay": 1, "keyed": 2}
