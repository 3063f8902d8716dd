"""Proves that a call is one invocation, which survives the server and the kernel, and is told from all others."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import restate
from restate import Context, WorkflowContext

import restate_nb as rnb
from restate_nb.errors import InvocationFailed
from restate_nb.server.http import Rejected, Unreachable
from restate_nb.session.session import Session
from tests.support import eventually


def started(call: Callable[[], Any]) -> Future[Any]:
    thread = ThreadPoolExecutor(1)
    future = thread.submit(call)
    thread.shutdown(wait=False)
    return future


def shop() -> tuple[restate.Service, restate.VirtualObject, restate.Workflow, Counter[str]]:
    """A service, an object and a workflow, whose handlers take a second and count how often they charge."""
    service, object_, workflow, charged = (
        restate.Service("shop"), restate.VirtualObject("basket"), restate.Workflow("delivery"), Counter[str]()
    )  # fmt: skip

    async def go(ctx: Any, kind: str, item: int) -> int:
        await ctx.run_typed("charge", lambda: charged.update([kind]))
        await ctx.sleep(timedelta(seconds=1))
        return item

    @service.handler()
    async def buy(ctx: Context, item: int) -> int:
        return await go(ctx, "service", item)

    @object_.handler()
    async def put(ctx: restate.ObjectContext, item: int) -> int:
        return await go(ctx, "object", item)

    @workflow.main()
    async def deliver(ctx: WorkflowContext, item: int) -> int:
        return await go(ctx, "workflow", item)

    return service, object_, workflow, charged


def handler_of(service: Any) -> Any:
    (handler,) = service.handlers.values()
    return handler.fn


async def order(ctx: Context, item: int) -> int:
    CHARGED.update(["durable"])
    await ctx.run_typed("charge", lambda: CHARGED.update(["durable step"]))
    await ctx.sleep(timedelta(seconds=1))
    return item


CHARGED = Counter[str]()


def test_calls_outlive_the_server_say_why_they_wait_and_charge_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service, object_, workflow, charged = shop()
    CHARGED.clear()
    with Session("calls", tmp_path / ".restate") as session:
        session.serve(service, object_, workflow)
        calls = [
            started(lambda: session.call(handler_of(service), 1)),
            started(lambda: session.call(handler_of(object_), 2, key="k")),
            started(lambda: session.call(handler_of(workflow), 3, key="k")),
            started(lambda: rnb.call(order, 4, session=session)),
        ]
        eventually(lambda: charged.total() == 3 and CHARGED["durable step"])
        time.sleep(0.2)  # until the charges are recorded
        pid = session.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        said = ""
        while "goes on by itself" not in said:
            said += capsys.readouterr().out
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        assert [call.result(30) for call in calls] == [1, 2, 3, 4]
        assert charged == {"service": 1, "object": 1, "workflow": 1}
        assert CHARGED["durable step"] == 1
        assert session.call(handler_of(workflow), 5, key="k") == 3, "a workflow runs once a key"


def test_a_call_with_an_idempotency_key_goes_on_in_the_next_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Counter[str]()
    gate = threading.Event()

    async def pay(ctx: Context, item: int) -> int:
        await ctx.run_typed("charge", lambda: runs.update(["charge"]))
        if not gate.is_set():
            await ctx.sleep(timedelta(hours=1))
        return item

    with Session("calls", tmp_path / ".restate") as session:
        keyed = started(lambda: rnb.call(pay, 1, idempotency_key="order 1", session=session))
        plain = started(lambda: rnb.call(pay, 2, session=session))
        eventually(lambda: runs["charge"] == 2)
        time.sleep(0.2)
    for call in (keyed, plain):
        with pytest.raises(RuntimeError, match="session was stopped"):
            call.result(10)
    with Session("calls", tmp_path / ".restate") as session:
        again = started(lambda: rnb.call(pay, 1, idempotency_key="order 1", session=session))
        eventually(lambda: len(session.connection.functions.invocations) == 2)
        assert runs["charge"] == 2, "both went on behind what is recorded"
        session.io.run(_cancel_all(session))
        with pytest.raises(InvocationFailed, match="409"):
            again.result(20)
        gate.set()
        with pytest.raises(InvocationFailed, match="409"):
            rnb.call(pay, 7, idempotency_key="order 1", session=session)
        assert rnb.call(pay, 7, idempotency_key="order 7", session=session) == 7
        assert rnb.call(pay, 8, idempotency_key="order 7", session=session) == 7, "the key names the call"
        assert runs["charge"] == 3


async def _cancel_all(session: Session) -> None:
    assert session.connection.admin is not None
    for row in await session.connection.admin.query("select id from sys_invocation where status != 'completed'"):
        await session.connection.admin.cancel(row["id"])


def test_functions_of_one_name_go_on_with_their_own_code(session: Session) -> None:
    hits: list[str] = []

    def made(tag: list[str], seconds: float) -> Any:
        async def work(ctx: Context, item: int) -> str:
            hits.append(tag[0])
            await ctx.sleep(timedelta(seconds=seconds))
            return f"{tag[0]} {item}"

        return work

    # Lists are not seen by the digest of the code: the two have one and the same.
    one = started(lambda: rnb.call(made(["one"], 1.0), 1, session=session))
    eventually(lambda: hits == ["one"])
    assert rnb.call(made(["two"], 0.0), 2, session=session) == "two 2"
    pid = session.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert one.result(30) == "one 1"
    assert hits.count("two") == 1


def test_trouble_of_the_admin_api_ends_no_call(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def forbidden(sql: str, texts: Any = ()) -> Any:
        asked.append(sql)
        raise Rejected("a query", 403, "forbidden")

    async def slow(ctx: Context) -> str:
        await ctx.sleep(timedelta(seconds=2.3))
        return "there"

    monkeypatch.setattr(session.connection.admin, "query", forbidden)
    assert rnb.call(slow, session=session) == "there"
    assert asked


def test_a_call_tells_of_its_own_failures_only(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    service = restate.Service("moody")
    mended = asyncio.Event()

    @service.handler()
    async def go(ctx: Context, item: str) -> str:
        if item == "bad" and not mended.is_set():
            raise KeyError("typo")
        if item == "good":
            await ctx.sleep(timedelta(seconds=2.3))
        return item

    session.serve(service)
    bad = started(
        lambda: session.io.run(session.connection.ingress.call("moody", "go", b'"bad"', idempotency_key="bad"))
    )
    assert session.call(go, "good") == "good"
    assert "typo" not in capsys.readouterr().out
    mended.set()
    assert bad.result(20) == b'"bad"'


def test_a_call_that_loses_restate_for_good_says_how_to_go_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> bytes:
        raise Unreachable("It does not answer.")

    async def fn(ctx: Context) -> int:
        return 1

    monkeypatch.setattr(session.connection.ingress, "call", away)
    with pytest.raises(rnb.ServerError, match=r"the same call with idempotency_key='[0-9a-f]{32}' waits"):
        rnb.call(fn, session=session)


def test_a_key_that_cannot_be_one_is_refused(session: Session) -> None:
    async def fn(ctx: Context, idempotency_key: str = "") -> str:
        return idempotency_key

    async def plain(ctx: Context) -> None: ...

    _, _, workflow, _ = shop()
    with pytest.raises(rnb.InvalidInput, match="has a parameter idempotency_key itself"):
        rnb.call(fn, idempotency_key="x", session=session)
    assert rnb.call(fn, "x", session=session) == "x"
    for bad in ("", 3):
        with pytest.raises(rnb.InvalidInput, match="a text that names this call"):
            rnb.call(plain, idempotency_key=bad, session=session)  # type: ignore[arg-type]
    with pytest.raises(rnb.InvalidInput, match="runs once a key"):
        session.call(handler_of(workflow), 1, key="k", idempotency_key="x")
