"""Proves, on the real server, that a job ends whatever its items raise or do, in every executor, that the next job of
the session runs, and that what waits for itself is refused at once."""

from __future__ import annotations

import asyncio
import builtins
import random
import sys
import threading
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.engine import asking
from restate_nb.session.session import Session
from tests.engine.ways_out import async_ways, awaited, plain, sync_ways


def ended(session: Session, fn: Any, items: list[Any], **options: Any) -> rnb.Job[Any]:
    job = rnb.map(fn, items, session=session, show=False, fresh=True, **options)
    assert job.wait(60), job.diagnose()
    return job


@pytest.mark.parametrize("executor", ["auto", "thread", "process"])
@pytest.mark.parametrize("fn", [plain, awaited])
def test_random_ways_out_end_with_the_job_and_the_next_one_runs(session: Session, fn: Any, executor: Any) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    ways = [*(sync_ways() if fn is plain else async_ways()), *["fine"] * 10]
    rng.shuffle(ways)
    job = ended(session, fn, ways, name=f"out {fn.__name__} {executor}", executor=executor, concurrency=4)
    frame = job.frame()
    assert set(frame["status"]) <= {"ok", "error"}
    assert frame["status"][[way == "fine" for way in ways]].eq("ok").all()
    assert frame["error_type"].notna().equals(frame["status"] == "error")
    after = ended(session, fn, ["fine"] * 3, name=f"after {fn.__name__} {executor}", executor=executor)
    assert after.values() == ["fine"] * 3


def test_an_item_asks_nobody_and_the_users_own_code_does(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "input", lambda prompt="": f"answer to {prompt}")
    stopped: list[str] = []
    monkeypatch.setattr(sys, "breakpointhook", sys.__breakpointhook__)

    def asks(item: int) -> Any:
        if item == 0:
            return input("? ")
        return breakpoint() if item == 1 else item

    async def awaits(item: int) -> Any:
        return asks(item)

    for fn in (asks, awaits):
        frame = ended(session, fn, [0, 1, 2]).frame()
        assert frame["error_type"].fillna("").tolist() == ["CannotAsk", "CannotAsk", ""]
        assert "input() waits for a person" in frame["error"][0]
        assert "breakpoint() waits for a person" in frame["error"][1]
    assert input("me") == "answer to me"
    asked = threading.Thread(target=lambda: stopped.append(input("thread")))
    asked.start()
    asked.join()
    assert stopped == ["answer to thread"]


def test_an_item_in_a_worker_process_asks_nobody(session: Session) -> None:
    def asks(item: int) -> Any:
        return input("? ") if item else breakpoint()

    assert ended(session, asks, [0, 1], executor="process").frame()["error_type"].tolist() == ["CannotAsk"] * 2


def test_another_debugger_that_is_attached_stops_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "input", builtins.input)
    mine = lambda: "stopped"  # noqa: E731 - stands for that of an editor
    monkeypatch.setattr(sys, "breakpointhook", mine)
    asking.refuse_in_items()
    assert sys.breakpointhook is mine
    guarded = builtins.input
    asking.refuse_in_items()
    assert builtins.input is guarded, "it is wrapped once"


def inner(session: Session, count: int, **options: Any) -> rnb.Job[Any]:
    return rnb.map(abs, range(-count, 0), session=session, show=False, name=f"inner {count}", **options)


def test_a_coroutine_that_blocks_on_a_job_gets_an_error_at_once_that_says_await(session: Session) -> None:
    blocking = {
        "result": lambda job: job.result(),
        "wait": lambda job: job.wait(5),
        "values": lambda job: job.values(),
        "completed": lambda job: list(rnb.as_completed(job)),
        "retry": lambda job: job.retry_failed(),
    }

    async def item(how: str) -> Any:
        waiting = rnb.map(asyncio.sleep, [0.2], session=session, show=False, name=f"waits {how}", fresh=True)
        return str(blocking[how](waiting))

    frame = ended(session, item, list(blocking), concurrency=1, timeout=30).frame()
    assert frame["error_type"].tolist() == ["InvalidInput"] * len(blocking)
    assert frame["error"].iloc[:4].str.contains("await job").all()
    assert (frame["run_s"] < 5).all()


def test_a_coroutine_may_await_a_job_or_look_at_one(session: Session) -> None:
    async def item(count: int) -> int:
        job = inner(session, count)
        assert job.wait(0) in (True, False)
        return int((await job)["value"].sum())

    assert ended(session, item, [2, 3]).values() == [3, 6]


def test_a_plain_item_may_wait_for_a_job(session: Session) -> None:
    assert ended(session, lambda count: sum(inner(session, count).values()), [4, 5]).values() == [10, 15]


def test_an_item_that_waits_for_its_own_job_is_told_so(session: Session) -> None:
    jobs: dict[str, rnb.Job[Any]] = {}
    begun = threading.Event()

    def waits(item: int) -> Any:
        begun.wait(10)
        if item == 0:
            return len(jobs["own"].result())
        child = rnb.map(lambda _: len(jobs["own"].result()), [1], session=session, show=False, name="child", fresh=True)
        return child.frame()["error_type"].tolist() if child.wait(10) else "it hangs"

    async def awaits(_: int) -> Any:
        await asyncio.to_thread(begun.wait, 10)
        return len(await jobs["own"])

    for fn, count in ((waits, 2), (awaits, 1)):
        begun.clear()
        jobs["own"] = rnb.map(fn, range(count), session=session, show=False, name="own", fresh=True)
        begun.set()
        frame = jobs["own"].result(30)
        assert frame["error_type"][0] == "InvalidInput"
        assert "waits for its own job" in frame["error"][0]
    assert ended(session, abs, [-1]).values() == [1]


@pytest.mark.parametrize("executor", ["auto", "thread"])
@pytest.mark.parametrize("how", ["plain", "coroutine"])
def test_parent_and_child_under_one_limit_do_not_wait_for_each_other(session: Session, how: str, executor: Any) -> None:
    limit = rnb.Limit(f"nested {how} {executor}", concurrency=2)
    lock, counts = threading.Lock(), [0, 0]

    def count(by: int) -> None:
        with lock:
            counts[0] += by
            counts[1] = max(counts)

    def child(item: int) -> int:
        count(1)
        threading.Event().wait(0.01)
        count(-1)
        return item

    def begin(number: int) -> rnb.Job[Any]:
        options: Any = {"session": session, "show": False, "limit": limit, "name": f"of {how} {executor} {number}"}
        return rnb.map(child, range(number), **options)

    def parent(number: int) -> int:
        count(1)
        job = begin(number)
        count(-1)
        total = sum(job.values())
        count(1)
        threading.Event().wait(0.005)
        count(-1)
        return total

    async def parent_that_awaits(number: int) -> int:
        count(1)
        job = begin(number)
        count(-1)
        frame = await job
        count(1)
        await asyncio.sleep(0.005)
        count(-1)
        return int(frame["value"].sum())

    fn = parent if how == "plain" else parent_that_awaits
    job = ended(session, fn, list(range(2, 8)), limit=limit, executor=executor, name=f"parents {how} {executor}")
    assert job.values() == [sum(range(number)) for number in range(2, 8)]
    assert counts == [0, 2], "the limit was kept all the time"


def test_a_place_that_is_lent_is_not_counted_twice_when_its_item_is_cancelled(session: Session) -> None:
    limit = rnb.Limit("lent", concurrency=1)
    release = threading.Event()

    def child(_: int) -> bool:
        return release.wait(20)

    async def parent(_: int) -> None:
        await rnb.map(child, [1], session=session, show=False, name="child of lent", fresh=True, limit=limit)

    job = rnb.map(parent, [1], session=session, show=False, name="lender", fresh=True, limit=limit, timeout=0.3)
    assert job.result(20)["status"].tolist() == ["timeout"]
    release.set()
    assert ended(session, lambda item: item, range(5), limit=limit).values() == list(range(5))
