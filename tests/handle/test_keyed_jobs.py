"""Jobs that grow by key: what is new or changed runs and nothing else, and what is shown is the input as it is."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import restate_nb as rnb
from restate_nb.engine.function import Function
from restate_nb.errors import InvalidInput, JobMismatch
from restate_nb.handle import growth
from restate_nb.handle.items import read_items
from restate_nb.handle.job import Job, runner_of
from restate_nb.handle.keys import rows_of
from restate_nb.session.session import Session
from tests.support import eventually

RAN: Counter[Any] = Counter()


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def square(id: Any, v: int) -> int:
    RAN[id, v] += 1
    if v < 0:
        raise ValueError(f"{v} is below zero")
    return v * v


def table(values: dict[Any, int]) -> pd.DataFrame:
    return pd.DataFrame({"id": list(values), "v": list(values.values())}, index=[f"row {each}" for each in values])


def mapped(session: Session, values: dict[Any, int], name: str, **options: Any) -> Job[Any]:
    job = rnb.map(square, table(values), name=name, show=False, session=session, **({"key": "id"} | options))
    assert job.wait(60)
    return job


@pytest.fixture(params=["this process", "another one"])
def come_back(request: pytest.FixtureRequest, session: Session) -> Any:
    """Between two runs of a cell: nothing, or the handles are forgotten, as in another process."""
    return (lambda: None) if request.param == "this process" else session.forget_handles


def test_what_is_new_or_changed_runs_and_the_frame_is_the_input_as_it_is(
    session: Session, come_back: Any, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    mapped(session, {n: n for n in range(50)}, name)
    RAN.clear()
    come_back()
    now = {99: 9, **{n: n for n in range(49, 1, -1)}, 100: 10, 0: 77}
    job = mapped(session, now, name)
    assert dict(RAN) == {(99, 9): 1, (100, 10): 1, (0, 77): 1}
    frame = job.frame()
    assert list(frame.index) == [f"row {each}" for each in now]
    assert list(frame["value"]) == [v * v for v in now.values()]
    assert list(frame["item"]) == [{"id": each, "v": v} for each, v in now.items()]
    assert frame["change"].value_counts().to_dict() == {"kept": 48, "new": 2, "changed": 1}
    assert job.values() == [v * v for v in now.values()]
    assert job.counts == {"pending": 0, "running": 0, "ok": 51, "error": 0, "timeout": 0, "cancelled": 0}
    assert len(job) == 51
    assert "48 kept, 2 new, 1 changed, 1 dropped" in repr(job)
    assert "48 kept, 2 new, 1 changed, 1 dropped" in job.progress().note
    assert [row.value for row in sorted(rnb.as_completed(job), key=lambda row: list(frame.index).index(row.index))] == [
        v * v for v in now.values()
    ]


def test_what_comes_back_as_it_was_is_not_run_again(session: Session, come_back: Any) -> None:
    name = f"back {come_back}"
    mapped(session, {1: 1, 2: 2}, name)
    mapped(session, {1: 5}, name)
    RAN.clear()
    come_back()
    job = mapped(session, {2: 2, 1: 1}, name)
    assert not RAN
    assert job.values() == [4, 1]
    assert job.history()[["rows", "kept", "new", "changed", "dropped"]].to_numpy().tolist() == [
        [2, 0, 2, 0, 0],
        [1, 0, 0, 1, 1],
        [2, 2, 0, 0, 0],
    ]


def test_the_same_cell_run_again_adds_no_run_to_the_history(session: Session, come_back: Any) -> None:
    name = f"same {come_back}"
    mapped(session, {1: 1, 2: 2}, name)
    come_back()
    job = mapped(session, {1: 1, 2: 2}, name)
    assert len(job.history()) == 1
    assert sum(RAN.values()) == 2
    assert "2 kept" in repr(job)


def test_what_failed_stays_failed_until_it_is_retried(session: Session, come_back: Any) -> None:
    name = f"failed {come_back}"
    mapped(session, {1: -1, 2: 2}, name)
    come_back()
    job = mapped(session, {1: -1, 2: 2, 3: -3}, name)
    assert RAN == {(1, -1): 1, (2, 2): 1, (3, -3): 1}
    assert job.failed == 2
    assert list(job.errors()["example"]) == ["row 1"]
    assert "-1 is below zero" in job.traceback("row 1")
    job.retry_failed(["row 3"])
    assert job.wait(60)
    assert RAN == {(1, -1): 1, (2, 2): 1, (3, -3): 2}
    assert list(job.attempts()["position"]) == [0, 1, 2, 2]


def test_failed_items_that_the_input_has_no_more_are_out_of_sight(session: Session) -> None:
    mapped(session, {1: -1, 2: 2, 3: -3}, "out of sight")
    job = mapped(session, {3: -3, 2: 2}, "out of sight")
    assert job.failed == 1
    assert job.errors()["count"].tolist() == [1]
    job.retry_failed()
    assert job.wait(60)
    assert RAN == {(1, -1): 1, (2, 2): 1, (3, -3): 2}


def test_a_cell_that_has_retry_as_it_had_not_before_retries_what_failed(session: Session, come_back: Any) -> None:
    name = f"retry {come_back}"
    mapped(session, {1: -1, 2: 2}, name)
    come_back()
    retry = rnb.Retry(max_attempts=2, initial_interval=0.01)
    job = mapped(session, {1: -1, 2: 2, 3: 3}, name, retry=retry)
    assert RAN == {(1, -1): 3, (2, 2): 1, (3, 3): 1}
    assert "1 item that failed run again, since retry= is new" in job.progress().note
    come_back()
    mapped(session, {1: -1, 2: 2, 3: 3}, name, retry=retry)
    assert RAN[1, -1] == 3


def test_changed_code_runs_again_what_is_in_the_input_when_that_is_asked_for(session: Session) -> None:
    factor = 2

    def times(id: int, v: int) -> int:
        RAN[id] += 1
        return v * factor

    rnb.map(times, table({1: 1, 2: 2}), key="id", name="code", show=False, session=session).wait()
    factor = 3
    with pytest.warns(rnb.OlderResults):
        job = rnb.map(times, table({2: 2, 3: 3}), key="id", name="code", show=False, session=session)
    assert job.values() == [4, 9]
    job = rnb.map(times, table({2: 2, 3: 3}), key="id", name="code", fresh="changed", show=False, session=session)
    assert job.values() == [6, 9]
    assert RAN == {1: 1, 2: 2, 3: 1}


def test_fresh_begins_anew(session: Session, come_back: Any) -> None:
    name = f"fresh {come_back}"
    mapped(session, {1: 1, 2: 2}, name)
    mapped(session, {1: 1}, name)
    come_back()
    job = mapped(session, {1: 1, 3: 3}, name, fresh=True)
    assert RAN == {(1, 1): 2, (2, 2): 1, (3, 3): 1}
    assert len(job.history()) == 1


def test_items_that_come_while_others_run_begin_at_once(session: Session) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def wait(n: int) -> int:
        RAN[n] += 1
        begun.release()
        assert n >= 10 or go.wait(30)
        return n

    options: dict[str, Any] = {"key": "item", "name": "side by side", "version": 1, "show": False, "session": session}
    first = rnb.map(wait, [0, 1, 2], **options)
    for _ in range(3):
        assert begun.acquire(timeout=30)
    second = rnb.map(wait, [2, 1, 10, 11], **options)
    for _ in range(2):
        assert begun.acquire(timeout=30)
    assert not second.done()
    assert second is first
    go.set()
    assert second.values() == [2, 1, 10, 11]
    assert RAN == {0: 1, 1: 1, 2: 1, 10: 1, 11: 1}


def test_a_job_is_taken_up_by_its_name_with_the_rows_it_had_last(session: Session) -> None:
    mapped(session, {1: 1, 2: 2, 3: 3}, "by name")
    mapped(session, {4: 4, 2: 2}, "by name")
    session.forget_handles()
    job = session.job("by name")
    assert job.wait(60)
    frame = job.frame()
    assert list(frame["value"]) == [16, 4]
    assert list(frame["item"]) == [{"id": 4, "v": 4}, {"id": 2, "v": 2}]


def test_rows_that_are_equal_run_once_and_each_has_the_value(session: Session, come_back: Any) -> None:
    name = f"unique {come_back}"

    def run(items: list[int]) -> Job[Any]:
        job = rnb.map(one, items, key="item", unique=True, name=name, show=False, session=session)
        assert job.wait(60)
        return job

    def one(n: int) -> int:
        RAN[n] += 1
        if n == 7:
            raise ValueError("seven")
        return n

    assert run([1, 1, 2, 1]).values() == [1, 1, 2, 1]
    come_back()
    job = run([2, 7, 3, 3, 1, 7])
    assert RAN == {1: 1, 2: 1, 3: 1, 7: 1}
    assert job.counts["error"] == 2
    assert len(job) == 6
    assert [None if pd.isna(each) else each for each in job.frame()["value"]] == [2, None, 3, 3, 1, None]
    assert len([*rnb.as_completed(job)]) == 6
    job.retry_failed()
    assert job.wait(60)
    assert RAN[7] == 2
    assert job.history()["new"].tolist() == [2, 2]


def test_rows_of_one_key_are_refused_by_their_labels(session: Session) -> None:
    twice = pd.DataFrame({"id": [1, 2, 1], "v": [1, 2, 3]}, index=["a", "b", "c"])
    with pytest.raises(InvalidInput, match=r"Rows 'a', 'c' have the key 1 \(key='id'\)\. Drop all but one"):
        rnb.map(square, twice, key="id", name="twice", show=False, session=session)
    with pytest.raises(InvalidInput, match="unique=True runs rows once that are equal, and these are not"):
        rnb.map(square, twice, key="id", unique=True, name="twice", show=False, session=session)
    assert not RAN
    assert "twice" not in [each.name for each in session.jobs]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"key": "id"}, "give it a name="),
        ({"unique": True, "name": "x"}, "unique=True is of keys"),
        ({"key": 3, "name": "x"}, "key is a column or a field"),
        ({"key": "nothing", "name": "x"}, "There is no column 'nothing': the frame has 'id', 'v'"),
        ({"key": lambda row: row["none"], "name": "x"}, r"Item 0 \(index 'row 1'\) has no key: .* raised KeyError"),
        ({"key": lambda row: None, "name": "x"}, r"Item 0 \(index 'row 1'\) has no key: it is None"),
        ({"key": lambda row: object(), "name": "x"}, r"has no key that can be kept: <object"),
    ],
)
def test_keys_that_are_none_are_refused_in_words(session: Session, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        rnb.map(square, table({1: 1}), show=False, session=session, **options)
    assert not RAN


def test_a_job_keeps_its_key_and_one_without_gets_none(session: Session) -> None:
    def run(items: list[Any], name: str, **options: Any) -> None:
        rnb.map(repr, items, name=name, show=False, session=session, **options).wait()

    run([1, 2], "without")
    with pytest.raises(JobMismatch, match="was made without key=, and cannot be given one"):
        run([1, 2], "without", key="item")
    with pytest.raises(JobMismatch, match="With key= a job grows with its items"):
        run([1, 2, 3], "without")
    run([1, 2], "with", key="item")
    with pytest.raises(JobMismatch, match="has key='item', and this one has none"):
        run([1, 2], "with")
    with pytest.raises(JobMismatch, match=r"has key='item', and this one key='repr\(\)'"):
        run([1, 2], "with", key=repr)
    with pytest.raises(InvalidInput, match="was made without key="):
        session.job("without").history()


@pytest.mark.parametrize(
    "key", ["id", lambda row: row["id"], lambda row: np.int64(row["id"]), lambda row: float(row["id"])]
)
def test_a_key_is_the_same_whatever_type_of_number_it_is(session: Session, key: Any) -> None:
    read = read_items(table({1: 1, 2: 2}), Function(square, "kwargs"))
    assert rows_of(key, read, unique=False).keys.tolist() == rows_of("id", read, unique=False).keys.tolist()


def test_the_name_of_the_index_is_a_key_too(session: Session) -> None:
    frame = table({1: 1, 2: 2}).rename_axis("row")
    rnb.map(square, frame, key="row", name="index", show=False, session=session).wait()
    frame.loc["row 2", "v"] = 5
    job = rnb.map(square, frame.iloc[::-1], key="row", name="index", show=False, session=session)
    assert job.values() == [25, 1]
    assert RAN == {(1, 1): 1, (2, 2): 1, (2, 5): 1}


def test_starmap_and_the_accessor_take_a_key(session: Session) -> None:
    for rows in ([(1, 1), (2, 2)], [(2, 2), (3, 3)]):
        job = rnb.starmap(square, rows, key=lambda row: row[0], name="star", show=False, session=session)
        assert job.values() == [v * v for _, v in rows]
    import restate_nb.api.accessor  # noqa: F401 - registers it

    for values in ({7: 7}, {7: 7, 8: 8}):
        job = table(values).restate.map(square, key="id", name="accessor", show=False, session=session)
        assert job.values() == [v * v for v in values.values()]
    assert set(RAN.values()) == {1}


def test_large_items_are_kept_and_told_apart_by_content(session: Session, come_back: Any) -> None:
    name = f"large {come_back}"

    def total(array: Any) -> float:
        RAN[len(array)] += 1
        return float(array.sum())

    arrays = [np.full(20_000 + n, float(n)) for n in range(4)]
    rnb.map(total, arrays, key=len, name=name, show=False, session=session).wait()
    come_back()
    changed = [arrays[2] + 1, np.ones(50_000), arrays[0]]
    job = rnb.map(total, changed, key=len, name=name, show=False, session=session)
    assert job.values() == [float(each.sum()) for each in changed]
    assert RAN == {20_000: 1, 20_001: 1, 20_002: 2, 20_003: 1, 50_000: 1}
    assert [float(each[0]) for each in job.frame()["item"]] == [3.0, 1.0, 0.0]
    session.forget_handles()
    again = session.job(name)
    assert again.wait(60)
    assert [float(each[0]) for each in again.frame()["item"]] == [3.0, 1.0, 0.0]


def test_a_durable_function_grows_by_key(session: Session) -> None:
    async def step(ctx: Any, id: int, v: int) -> int:
        async def once() -> int:
            RAN[id] += 1
            return v * 2

        return await ctx.run_typed("once", once)

    for values in ({1: 1, 2: 2}, {3: 3, 2: 2}):
        job = rnb.map(step, table(values), key="id", name="durable", show=False, session=session)
        assert job.values() == [2 * v for v in values.values()]
    assert RAN == {1: 1, 2: 1, 3: 1}
    assert job.steps()["position"].tolist() == [0, 1]


def test_what_the_rows_print_is_told_by_row(session: Session) -> None:
    def say(n: int) -> None:
        print(f"I am {n}")

    rnb.map(say, [1, 2], key="item", name="prints", show=False, session=session).wait()
    job = rnb.map(say, [3, 2], key="item", name="prints", show=False, session=session)
    job.wait()
    assert sorted(zip(job.logs()["position"], job.logs()["text"], strict=True)) == [(0, "I am 3"), (1, "I am 2")]


def test_two_that_add_at_once_both_have_what_they_asked_for(data_dir: Path) -> None:
    with Session("two", data_dir) as session:
        rnb.map(square, table({1: 1}), key="id", name="both", show=False, session=session).wait()
        session.forget_handles()
        real = growth.Growth._compared
        calls = []

        def compared(self: Any, there: Any) -> Any:
            found = real(self, there)
            calls.append(there.total)
            if len(calls) == 1:  # somebody else is faster, between the look and the change
                rnb.map(square, table({1: 1, 5: 5}), key="id", name="both", show=False, session=session).wait()
                session.forget_handles()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(growth.Growth, "_compared", compared)
            job = rnb.map(square, table({5: 5, 1: 1, 6: 6}), key="id", name="both", show=False, session=session)
            assert job.values() == [25, 1, 36]
        assert calls == [1, 1, 2]
        assert RAN == {(1, 1): 1, (5, 5): 1, (6, 6): 1}


def test_of_a_hundred_thousand_rows_a_hundred_more_are_a_hundred_runs(session: Session, tmp_path: Path) -> None:
    effects = tmp_path / "effects"

    def noted(id: int) -> int:
        if id >= 100_000:
            with effects.open("a") as file:
                file.write(f"{id}\n")
                file.flush()
                os.fsync(file.fileno())
        return -id

    options: dict[str, Any] = {"key": "id", "name": "100,000", "show": False, "session": session}
    assert rnb.map(noted, pd.DataFrame({"id": range(100_000)}), **options).wait(120)
    session.forget_handles()
    job = rnb.map(noted, pd.DataFrame({"id": range(100_100)}), **options)
    assert job.wait(120)
    assert sorted(map(int, effects.read_text().split())) == [*range(100_000, 100_100)]
    assert (job.frame()["value"] == -np.arange(100_100)).all()


def test_a_job_that_is_cancelled_and_grows_runs_what_is_new(session: Session) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    async def wait(n: int) -> int:
        begun.release()
        while n < 10 and not go.is_set():
            await asyncio.sleep(0.01)
        return n

    options: dict[str, Any] = {"key": "item", "name": "cancelled", "version": 1, "show": False, "session": session}
    job = rnb.map(wait, [0, 1], **options)
    assert begun.acquire(timeout=30)
    cancelling = threading.Thread(target=job.cancel)
    cancelling.start()
    grown = rnb.map(wait, [1, 10], **options)
    cancelling.join()
    assert grown.wait(60)
    assert grown.frame()["status"].tolist() == ["cancelled", "ok"]
    go.set()
    grown.retry_failed()
    assert grown.values() == [1, 10]


def test_the_listing_counts_the_rows_of_the_input(session: Session) -> None:
    mapped(session, {1: 1, 2: -2, 3: 3}, "listed")
    runner = runner_of(mapped(session, {3: 3, 2: -2}, "listed"))
    runner.io.run(runner.noted())
    session.forget_handles()
    row = session.list_jobs().set_index("name").loc["listed"]
    assert (row["total"], row["ok"], row["failed"]) == (2, 1, 1)


def test_what_still_runs_of_what_the_input_has_no_more_is_said(session: Session) -> None:
    go = threading.Event()

    def wait(n: int) -> int:
        assert n or go.wait(30)
        return n

    options: dict[str, Any] = {"key": "item", "name": "still to end", "version": 1, "show": False, "session": session}
    rnb.map(wait, [0], **options)
    job = rnb.map(wait, [1], **options)
    assert eventually(lambda: job.counts["ok"] == 1)
    assert not job.done()
    assert "1 item that the input has no more still to end" in job.progress().note
    go.set()
    assert job.values() == [1]
    assert job.progress().note == "1 new, 1 dropped (job.history())"


def test_a_row_that_changed_where_it_stands_runs_again(session: Session) -> None:
    """Keys, their order and their number are as before: nothing but the content tells."""

    def times(id: int, factor: int) -> int:
        return id * factor

    frame = pd.DataFrame({"id": [1, 2, 3], "factor": [10, 10, 10]})
    rnb.map(times, frame, name="in place", key="id", session=session, show=False).result()
    frame.loc[1, "factor"] = 7
    job = rnb.map(times, frame, name="in place", key="id", session=session, show=False)
    assert job.result()[["value", "change"]].values.tolist() == [[10, "kept"], [14, "changed"], [30, "kept"]]
