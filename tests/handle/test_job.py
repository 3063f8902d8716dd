"""Proves the main job on the real restate-server: values, errors, timeouts and attempts are right, in order, and the
same when the server makes every wait be replayed and handlers fail in between."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import restate_nb as rnb
from restate_nb.service.active_jobs import JobRun
from restate_nb.session.session import Session
from restate_nb.values import parts
from tests.support import submit

COLUMNS = [
    *("item", "value", "status", "error_type", "error"),
    *("attempts", "queued_s", "run_s", "started_at", "finished_at"),
]


class Mixed:
    """1,000 items: 37 raise, 5 hang, 3 return what has no JSON form, some fail once and then go well."""

    def __init__(self, seed: int) -> None:
        kinds = ["raises"] * 37 + ["hangs"] * 5 + ["unencodable"] * 3 + ["flaky"] * 20 + ["fine"] * 935
        random.Random(seed).shuffle(kinds)
        self.kinds = kinds
        self.calls = Counter[int]()

    async def __call__(self, item: int) -> Any:
        self.calls[item] += 1
        kind = self.kinds[item]
        await asyncio.sleep(item % 50 / 1000)
        if kind == "raises":
            raise ValueError(f"bad item {item}")
        if kind == "hangs":
            await asyncio.sleep(600)
        if kind == "flaky" and self.calls[item] == 1:
            raise ConnectionError("come again")
        return object() if kind == "unencodable" else {"item": item, "square": item * item}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_items_of_which_some_fail_hang_or_return_nonsense(
    any_session: Session, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {seed}")
    rng, fails, ended = random.Random(seed), 0, set[int]()
    publish = JobRun.publish

    def publish_or_fail(self: JobRun, round_: int, attempts: Any) -> None:
        """Fail five times: at random, and at the last group when there were too few of them."""
        nonlocal fails
        ended.update(each.position for each in attempts if each.final)
        if fails < 5 and (rng.random() < 0.2 or len(ended) == 1000):
            fails += 1
            raise RuntimeError("injected: this attempt of the handler fails")
        publish(self, round_, attempts)

    monkeypatch.setattr(JobRun, "publish", publish_or_fail)
    mixed = Mixed(seed)
    retry = rnb.Retry(max_attempts=2, initial_interval=0.01, retry_on=ConnectionError)
    job = submit(any_session, mixed, range(1000), name=f"mixed-{seed}", timeout=1, retry=retry, concurrency=100)
    with pytest.raises(rnb.JobError, match="is paused: what item"):  # at the first that has no JSON form
        job.result(timeout=120)
    job.resume()
    frame = job.result(timeout=120)

    assert fails == 5, "the handler was to fail five times"
    assert list(frame.columns) == COLUMNS
    assert frame["item"].tolist() == list(range(1000))
    oracle = {
        "fine": ("ok", None, 1),
        "flaky": ("ok", None, 2),
        "raises": ("error", "ValueError", 1),
        "hangs": ("timeout", "ItemTimeout", 1),
        "unencodable": ("error", "NotEncodable", 1),
    }
    for row in frame.itertuples():
        status, error_type, attempts = oracle[mixed.kinds[row.item]]
        assert (row.status, row.attempts) == (status, attempts), row
        assert (None if pd.isna(row.error_type) else row.error_type) == error_type
        if status == "ok":
            assert row.value == {"item": row.item, "square": row.item**2}
        assert mixed.calls[row.item] == attempts, "an item ran twice"
    assert frame["status"].value_counts().to_dict() == {
        "ok": 955,
        "error": 40,
        "timeout": 5,
        "pending": 0,
        "running": 0,
        "cancelled": 0,
    }
    assert frame.loc[frame["error_type"] == "ValueError", "error"].str.startswith("bad item").all()
    assert frame.loc[frame["error_type"] == "NotEncodable", "error"].str.contains("plain data").all()
    assert frame.loc[frame["status"] == "timeout", "error"].str.contains("longer than timeout=1").all()
    assert len(job.attempts()) == 1020


def test_eighty_plain_functions_at_once_are_eighty(any_session: Session) -> None:
    lock, now, peak = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.2)
        with lock:
            now -= 1
        return item

    job = submit(any_session, work, range(240), concurrency=80)
    assert job.values() == list(range(240))
    assert peak == 80


def test_the_same_cell_attaches_and_runs_nothing_again(session: Session) -> None:
    calls: list[int] = []

    def work(item: int) -> int:
        calls.append(item)
        return item

    first = submit(session, work, [1, 2, 3])
    first.result(20)
    again = submit(session, work, [1, 2, 3])
    assert again.result(20)["value"].tolist() == [1, 2, 3]
    assert sorted(calls) == [1, 2, 3]
    assert again.attached == 3


def test_a_change_of_items_makes_a_job_without_a_name_a_new_one(session: Session) -> None:
    one = submit(session, str, [1, 2])
    other = submit(session, str, [1, 3])
    assert one.name != other.name
    assert other.values() == ["1", "3"]


def test_a_name_that_belongs_to_other_items_is_a_mismatch_and_fresh_starts_over(session: Session) -> None:
    submit(session, str, [1, 2], name="taken").result(20)
    with pytest.raises(rnb.JobMismatch, match="fresh=True"):
        submit(session, str, [1, 3], name="taken")
    with pytest.raises(rnb.JobMismatch, match=r"2 items, and these are 3"):
        submit(session, str, [1, 2, 3], name="taken")
    submit(session, str, [1], name="taken alone")
    with pytest.raises(rnb.JobMismatch, match=r"over 1 item, and these are 2\."):
        submit(session, str, [1, 2], name="taken alone")
    job = submit(session, str, [1, 3], name="taken", fresh=True)
    assert job.values() == ["1", "3"]
    assert job.attached == 0
    assert submit(session, str, [1, 3], name="taken").attached == 2


def test_failed_items_run_again_with_the_function_as_it_is_now(any_session: Session) -> None:
    calls: list[tuple[str, int]] = []

    def broken(item: int) -> int:
        calls.append(("old", item))
        if item % 3 == 0:
            raise ValueError("to be fixed")
        return item

    job = submit(any_session, broken, range(9), name="fix")
    assert job.result(20)["status"].tolist().count("error") == 3
    assert job.errors()["count"].tolist() == [3]

    def fixed(item: int) -> int:
        calls.append(("new", item))
        return item * 10

    with pytest.warns(rnb.OlderResults, match="'fix': the results are of an older `fixed`"):
        again = submit(any_session, fixed, range(9), name="fix")
    assert again is job
    assert again.failed == 3, "running the cell again repeats nothing by itself"
    frame = again.retry_failed().result(20)
    assert frame["status"].tolist() == ["ok"] * 9
    assert frame["value"].tolist() == [0, 1, 2, 30, 4, 5, 60, 7, 8]
    assert sorted(calls) == [("new", 0), ("new", 3), ("new", 6), *(("old", item) for item in range(9))]
    assert frame["attempts"].tolist() == [2, 1, 1] * 3
    assert frame["code"].nunique() == 2 and frame["code"].iloc[[0, 3, 6]].nunique() == 1
    assert job.attempts().groupby("position")["attempt"].max().tolist() == [2, 1, 1] * 3


def test_attempts_and_rows_can_be_had_while_failed_items_run_again(any_session: Session) -> None:
    gate, held = threading.Event(), threading.Event()

    def work(item: int) -> int:
        if not gate.is_set() and item % 2:
            if len(calls) >= 4:
                held.set()
                gate.wait(20)
            calls.append(item)
            raise ValueError("not yet")
        calls.append(item)
        return item

    calls: list[int] = []
    job = submit(any_session, work, range(4), name="attempts in a retry", concurrency=1)
    job.result(20)
    job.retry_failed()
    assert not job.done()
    assert held.wait(20)
    assert job.attempts()["status"].tolist() == ["ok", "error", "ok", "error"]
    assert job.frame()["status"].isin(["ok", "pending", "running"]).all()
    job.timeline()
    rows = iter(rnb.as_completed(job))
    assert [next(rows).status for _ in range(2)] == ["ok", "ok"]
    gate.set()
    assert [(row.index, row.status, row.attempts) for row in rows] == [(1, "error", 2), (3, "ok", 2)]
    assert job.attempts()["position"].tolist() == [0, 1, 1, 2, 3, 3]


def test_cancel_ends_what_can_be_ended_and_keeps_what_is_done(any_session: Session) -> None:
    async def work(item: int) -> int:
        if item >= 5:
            await asyncio.sleep(600)
        return item

    job = submit(any_session, work, range(50), concurrency=10)
    while job.counts["ok"] < 5:
        time.sleep(0.01)
    began = time.perf_counter()
    job.cancel()
    assert time.perf_counter() - began < 10
    assert job.status == "cancelled"
    frame = job.result(1)
    assert frame["status"].tolist() == ["ok"] * 5 + ["cancelled"] * 45
    assert frame["attempts"].tolist() == [1] * 15 + [0] * 35
    with pytest.raises(rnb.JobError, match="45 of 50 items have no value") as caught:
        job.values()
    assert caught.value.frame is not None
    assert len(caught.value.frame) == 50


def test_a_cancelled_job_goes_on_where_it_stopped_when_retried(any_session: Session) -> None:
    gate = threading.Event()

    def work(item: int) -> int:
        if item:
            gate.wait(20)
        return item

    job = submit(any_session, work, range(6), concurrency=2)
    while job.counts["ok"] < 1:
        time.sleep(0.01)
    job.cancel()
    gate.set()
    assert job.retry_failed().values() == list(range(6))


def test_a_frame_can_be_had_while_the_job_runs(session: Session) -> None:
    gate = threading.Event()

    def work(item: int) -> int:
        if item >= 2:
            gate.wait(20)
        return item

    job = submit(session, work, range(6), concurrency=2)
    while job.counts != {"pending": 2, "running": 2, "ok": 2, "error": 0, "timeout": 0, "cancelled": 0}:
        time.sleep(0.01)
    frame = job.frame()
    assert frame["status"].tolist() == ["ok", "ok", "running", "running", "pending", "pending"]
    assert not job.done()
    with pytest.raises(TimeoutError, match="2 of 6 items are done"):
        job.result(timeout=0.01)
    gate.set()
    assert job.values() == list(range(6))


def test_an_empty_job_is_finished_and_has_all_columns(session: Session) -> None:
    job = submit(session, str, [])
    frame = job.result(10)
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 0
    assert job.status == "finished"
    assert job.values() == []
    assert len(job.errors()) == len(job.attempts()) == 0


def test_a_job_can_be_awaited(session: Session) -> None:
    async def main() -> pd.DataFrame:
        return await submit(session, str, [7, 8])

    assert asyncio.run(main())["value"].tolist() == ["7", "8"]


def test_cancelling_the_await_leaves_the_job_running(session: Session) -> None:
    async def slow(item: int) -> int:
        await asyncio.sleep(0.3)
        return item

    job = submit(session, slow, [1, 2])

    async def main() -> None:
        async with asyncio.timeout(0.05):
            await job

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert job.values() == [1, 2]


def test_a_value_that_is_too_large_harms_no_other(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_JOINED_BYTES", 30_000_000)  # a GiB would take long
    all_run = threading.Barrier(3)  # else the large one would pause the job before the others begin

    def work(item: int) -> str:
        all_run.wait(30)
        return "x" * item

    frame = submit(session, work, [10, 40_000_000, 20_000_000]).result(60)
    assert frame["status"].tolist() == ["ok", "error", "ok"]
    assert "return the path" in frame["error"][1]
    assert len(frame["value"][2]) == 20_000_000


def test_a_shard_whose_output_grows_large_hands_its_rest_on(any_session: Session) -> None:
    calls = Counter[int]()

    def work(item: int) -> str:
        calls[item] += 1
        return str(item) * 1_000_000

    job = submit(any_session, work, [each % 10 for each in range(40)], concurrency=8, name="große Werte 100%")
    assert [len(value) for value in job.values()] == [1_000_000] * 40
    assert calls == dict.fromkeys(range(10), 4)


def test_concurrency_can_be_changed_while_the_job_runs(session: Session) -> None:
    now = peak = 0

    async def work(item: int) -> int:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0.02)
        now -= 1
        return item

    job = submit(session, work, range(400), concurrency=2)
    time.sleep(0.2)
    assert peak == 2
    job.concurrency = 20
    job.result(20)
    assert peak == 20
    with pytest.raises(rnb.InvalidInput, match="whole number"):
        job.concurrency = "10"  # type: ignore[assignment]


def test_values_come_back_as_the_function_returned_them(session: Session) -> None:
    from tests.results.shapes import Answer, ask

    job = submit(session, ask, ["a", "b"])
    assert job.values() == [Answer("a", 1), Answer("b", 1)]
    frame = job.frame(expand=True)
    assert frame["text"].tolist() == ["a", "b"]
    assert frame["length"].dtype == "int64"


def test_failures_are_grouped_by_kind_with_time_place_and_traceback(session: Session) -> None:
    def work(user: str) -> None:
        if user == "zoe":
            raise KeyError(user)
        raise ValueError(f"no user '{user}' after {len(user)} tries (see /tmp/{user}.log)")

    job = submit(session, work, pd.Series(["ada", "bob", "carla", "zoe"], index=list("abcz")))
    job.result(10)
    errors = job.errors()
    assert errors["count"].tolist() == [3, 1]
    assert errors["error_type"].tolist() == ["ValueError", "KeyError"]
    assert errors["error"][0] == "no user 'ada' after 3 tries (see /tmp/ada.log)"
    assert errors["example"].tolist() == ["a", "z"]
    assert errors["where"].str.contains(r"test_job\.py:\d+ in work").all()
    assert (errors["first_at"] <= errors["last_at"]).all()
    assert "raise KeyError(user)" in job.traceback("z")
    assert errors["traceback"][1] == job.traceback("z")
    with pytest.raises(rnb.InvalidInput, match=r"no item 'nobody'.*index label.*'a', 'b', 'c'"):
        job.traceback("nobody")


def test_files_hold_the_frame_with_nested_values_as_json(session: Session, tmp_path: Path) -> None:
    def work(item: int) -> Any:
        return [item, {"a": 1.5}] if item else None

    job = submit(session, work, {"x": 0, "y": 1})
    job.result(10)
    table = pd.read_parquet(job.to_parquet(tmp_path / "job.parquet"))
    assert table.index.tolist() == ["x", "y"]
    assert table["value"].tolist()[1] == '[1,{"a":1.5}]'
    assert str(table["started_at"].dtype).endswith("UTC]")
    rows = pd.read_csv(job.to_csv(tmp_path / "job.csv"), index_col=0)
    assert rows["value"].tolist()[1] == '[1,{"a":1.5}]'
    assert rows["status"].tolist() == ["ok", "ok"]
    plain = submit(session, str.upper, ["a", "b"])
    plain.result(10)
    assert pd.read_parquet(plain.to_parquet(tmp_path / "plain.parquet"))["value"].tolist() == ["A", "B"]


def test_items_can_be_had_as_they_end(session: Session) -> None:
    gates = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        gates[item].wait(20)
        if item == 2:
            raise ValueError("two")
        return item * 10

    job = submit(session, work, {"a": 0, "b": 1, "c": 2, "d": 3}, concurrency=4)
    seen = []
    gates[3].set()
    for row in rnb.as_completed(job):
        seen.append((row.index, row.item, row.value, row.status, row.error_type))
        if len(seen) < 4:
            gates[3 - len(seen)].set()
    assert seen == [
        ("d", 3, 30, "ok", None),
        ("c", 2, None, "error", "ValueError"),
        ("b", 1, 10, "ok", None),
        ("a", 0, 0, "ok", None),
    ]

    async def main() -> list[Any]:
        return [row.index async for row in rnb.as_completed(job)]

    assert asyncio.run(main()) == ["d", "c", "b", "a"], "those that are done come at once"
    gates[2].set()
    job.retry_failed().result(10)
    assert [row.index for row in rnb.as_completed(job)][-1] == "c"


def test_one_item_can_be_run_again_in_the_cell(session: Session) -> None:
    def work(item: int) -> float:
        return 1 / item

    async def on_loop(item: int) -> int:
        await asyncio.sleep(0)
        return item

    job = submit(session, work, {"zero": 0, "one": 1})
    job.result(10)
    assert job.rerun_locally("one") == 1.0
    with pytest.raises(ZeroDivisionError):
        job.rerun_locally("zero")
    with pytest.raises(rnb.InvalidInput, match=r"no item 'two'.*'zero', 'one'"):
        job.rerun_locally("two")
    assert submit(session, on_loop, [5]).rerun_locally(0) == 5
    assert job.frame()["attempts"].tolist() == [1, 1], "nothing is recorded"


def test_retry_is_refused_while_the_job_runs(session: Session) -> None:
    async def slow(item: int) -> int:
        await asyncio.sleep(0.2)
        return item

    job = submit(session, slow, [1])
    with pytest.raises(rnb.InvalidInput, match=r"job\.cancel"):
        job.retry_failed()
    job.result(10)


def test_a_fresh_job_that_is_deleted_leaves_nothing_to_the_next_of_its_name(session: Session) -> None:
    def tenfold(item: int) -> int:
        return 10 * item

    assert submit(session, str, [1, 2], name="phoenix").values() == ["1", "2"]
    again = submit(session, tenfold, [1, 2], name="phoenix", fresh=True)
    assert again.values() == [10, 20]
    again.delete()
    other = submit(session, tenfold, [3, 4], name="phoenix")
    assert other.values() == [30, 40]
    assert other.attached == 0
    other.delete()
    assert submit(session, str, [1, 2], name="phoenix").values() == ["1", "2"]


def test_a_job_is_iterated_over_as_over_its_values_and_fills_a_column(session: Session) -> None:
    job = rnb.map(len, ["a", "bb"], session=session, show=False)
    assert list(job) == [1, 2] == job.values()
    frame = pd.DataFrame({"text": ["a", "bb", "ccc"]}, index=[7, 8, 9])
    frame["length"] = rnb.map(len, frame["text"], session=session, show=False)
    assert frame["length"].to_dict() == {7: 1, 8: 2, 9: 3}
    with pytest.raises(rnb.JobError):
        list(rnb.map(int, ["1", "x"], session=session, show=False))
