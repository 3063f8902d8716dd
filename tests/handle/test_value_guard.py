"""Proves that values which cannot be kept cost no more than what ran already: the job pauses, and says what to do."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.handle.counted import Calls, unkeepable

AT_ONCE = 3
THREE = rnb.Retry(max_attempts=3, initial_interval=0.01)


class Model:
    """Has no structure that could be kept."""


def model_of(calls: Calls, item: int) -> Any:
    calls.note(item)
    time.sleep(0.01)
    return Model() if item >= 2 else item


async def model_soon(calls: Calls, item: int) -> Any:
    calls.note(item)
    await asyncio.sleep(0.01)
    return {"models": [Model()]} if item >= 2 else item


def read_once(calls: Calls, item: int) -> Any:
    calls.note(item)
    time.sleep(0.01)
    return iter([item]) if item >= 2 else item


def total(calls: Calls) -> int:
    return sum(calls.counts().values())


def spread(calls: Calls, item: int, _other: int) -> Any:
    return model_of(calls, item)


WAYS: dict[str, Callable[..., rnb.Job[Any]]] = {
    "map": lambda calls, **options: rnb.map(partial(model_of, calls), range(40), **options),
    "coroutines": lambda calls, **options: rnb.map(partial(model_soon, calls), range(40), **options),
    "read once": lambda calls, **options: rnb.map(partial(read_once, calls), range(40), **options),
    "starmap": lambda calls, **options: rnb.starmap(partial(spread, calls), [(n, n) for n in range(40)], **options),
    "batch": lambda calls, **options: rnb.batch(partial(model_of, calls), range(40), batch_size=4, **options),
    "fan_out of one function": lambda calls, **options: rnb.fan_out(
        [partial(model_of, calls, n) for n in range(40)], **options
    ),
    "processes": lambda calls, **options: rnb.map(
        partial(unkeepable, calls), range(40), executor="process", **(options | {"concurrency": 2})
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_value_that_cannot_be_kept_pauses_the_job_and_is_never_tried_again(
    session: Session, tmp_path: Path, way: str
) -> None:
    calls = Calls(tmp_path / "calls")
    job = WAYS[way](calls, concurrency=AT_ONCE, retry=THREE, session=session, show=False, name=f"wasted {way}")
    with pytest.raises(
        rnb.JobError, match=r"is paused: what item .* cannot be kept\..*job\.resume\(\) goes on"
    ) as told:
        job.result()
    frame = told.value.frame
    assert frame is not None
    failed = frame[frame["status"] == "error"]
    assert 1 <= len(failed) <= AT_ONCE
    assert set(failed["error_type"]) == {"NotEncodable"}
    assert failed["attempts"].eq(1).all()
    assert total(calls) <= 2 + AT_ONCE + 1
    assert job.status == "paused"
    assert not job.wait(0.01)
    assert "cannot be kept" in str(job.diagnose())
    job.cancel()


def test_whoever_waits_is_told_and_does_not_wait_for_ever(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Calls(tmp_path / "calls")
    job = WAYS["map"](calls, concurrency=AT_ONCE, session=session, show=False, name="told")
    assert not job.wait()
    assert "The job 'told' is paused" in capsys.readouterr().out
    with pytest.raises(rnb.JobError, match="is paused"):
        job.values()
    with pytest.raises(rnb.JobError, match="is paused"):
        asyncio.run(_awaited(job))
    rows = []
    with pytest.raises(rnb.JobError, match="is paused"):
        for row in rnb.as_completed(job):
            rows.append(row)
    assert sorted(row.item for row in rows) == sorted(map(int, calls.counts()))
    with pytest.raises(rnb.InvalidInput, match="is paused"):
        job.retry_failed()
    job.cancel()
    assert job.result()["status"].value_counts()["cancelled"] > 30


async def _awaited(job: rnb.Job[Any]) -> Any:
    return await job


def test_the_cell_with_a_changed_function_goes_on_by_itself_and_retry_failed_heals(
    session: Session, tmp_path: Path
) -> None:
    calls = Calls(tmp_path / "calls")
    options: dict[str, Any] = {"concurrency": AT_ONCE, "session": session, "show": False, "name": "healed"}
    job = rnb.map(partial(model_of, calls), range(40), **options)
    with pytest.raises(rnb.JobError, match="is paused"):
        job.result()
    again = rnb.map(partial(model_of, calls), range(40), **options)  # the same: it stays where it is
    assert again is job
    with pytest.raises(rnb.JobError, match="is paused"):
        again.result()
    assert total(calls) <= 2 + AT_ONCE

    with pytest.warns(rnb.OlderResults):
        repaired = rnb.map(lambda item: item * 10, range(40), **options)
    frame = repaired.result(timeout=20)
    assert repaired is job
    failed = frame.index[frame["status"] == "error"]
    assert 1 <= len(failed) <= AT_ONCE
    healed = job.retry_failed().result(timeout=20)
    assert (healed["status"] == "ok").all()
    assert healed["value"].tolist() == [each if each < 2 else each * 10 for each in range(40)]


def test_another_function_whose_values_cannot_be_kept_pauses_the_job_anew(session: Session, tmp_path: Path) -> None:
    calls, others = Calls(tmp_path / "calls"), Calls(tmp_path / "others")
    options: dict[str, Any] = {"concurrency": AT_ONCE, "session": session, "show": False, "name": "anew"}
    with pytest.raises(rnb.JobError, match="is paused"):
        rnb.map(partial(model_of, calls), range(40), **options).result()
    with pytest.warns(rnb.OlderResults):
        job = rnb.map(partial(read_once, others), range(40), **options)
    with pytest.raises(rnb.JobError, match=r"is paused.*list_iterator"):
        job.result()
    assert total(others) <= AT_ONCE + 1
    job.cancel()


def test_resume_goes_on_as_the_job_is_and_nothing_pauses_it_again(session: Session, tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")
    job = WAYS["map"](calls, concurrency=AT_ONCE, retry=THREE, session=session, show=False, name="as it is")
    with pytest.raises(rnb.JobError, match="is paused"):
        job.result()
    job.resume()
    frame = job.result(timeout=20)
    assert frame["status"].tolist() == ["ok"] * 2 + ["error"] * 38
    assert total(calls) == 40
    calls.path.unlink()
    with pytest.raises(rnb.JobError, match="items have no value"):
        job.retry_failed().values()
    assert total(calls) == 38


def test_retry_failed_of_a_job_that_ended_so_is_a_try_of_its_own(session: Session, tmp_path: Path) -> None:
    calls, together, again = Calls(tmp_path / "calls"), threading.Barrier(3), threading.Event()

    def model(item: int) -> Any:
        if not again.is_set():
            together.wait(30)  # else the first would pause the job before the others begin
        return model_of(calls, item)

    job = rnb.map(model, [2, 3, 4], concurrency=3, session=session, show=False, name="all failed")
    assert job.result(timeout=20)["status"].tolist() == ["error"] * 3  # nothing was left to be saved
    assert job.status == "finished"
    job.concurrency = 1
    again.set()
    calls.path.unlink()
    with pytest.raises(rnb.JobError, match="is paused"):
        job.retry_failed().result(timeout=20)
    assert total(calls) == 1
    job.cancel()


def test_a_job_that_has_paused_itself_is_so_in_the_next_process(tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")

    def run(fn: Callable[[int], Any], session: Session) -> rnb.Job[Any]:
        return rnb.map(fn, range(40), concurrency=AT_ONCE, session=session, show=False, name="kept")

    with Session("tests", tmp_path / ".restate") as first, pytest.raises(rnb.JobError, match="is paused"):
        run(partial(model_of, calls), first).result()
    count = total(calls)
    with Session("tests", tmp_path / ".restate") as second:
        job = run(partial(model_of, calls), second)
        with pytest.raises(rnb.JobError, match=r"is paused: what item .* class .*Model"):
            job.result()
        assert (job.status, total(calls)) == ("paused", count)
    with Session("tests", tmp_path / ".restate") as third:
        with pytest.warns(rnb.OlderResults):
            frame = run(lambda item: item * 10, third).result(timeout=20)
        assert frame["status"].value_counts()["ok"] >= 37
        assert third.job("kept").retry_failed().values() == [each if each < 2 else each * 10 for each in range(40)]


def test_different_functions_side_by_side_say_nothing_of_each_other(session: Session, tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")
    operations = {"model": partial(model_of, calls, 5), "number": lambda: 1, "text": lambda: "a"}
    job = rnb.fan_out(operations, concurrency=1, retry=THREE, session=session, show=False)
    frame = job.result(timeout=20)
    assert frame["status"].tolist() == ["error", "ok", "ok"]
    assert total(calls) == 1


def test_a_durable_function_is_not_run_again_for_a_value_that_cannot_be_kept(session: Session, tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")

    async def durable(ctx: Any, item: int) -> Any:
        calls.note(item)
        return object()

    job = rnb.map(durable, range(30), concurrency=AT_ONCE, retry=THREE, session=session, show=False)
    with pytest.raises(rnb.JobError, match="is paused"):
        job.result(timeout=30)
    assert total(calls) <= 2 * AT_ONCE
    assert job.frame()["attempts"].max() == 1
    job.cancel()


def test_what_a_value_raises_while_it_is_written_is_of_the_same_kind(session: Session, tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")

    @dataclass
    class Lazy:
        size: int = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "size":
                raise OSError("gone")
            return super().__getattribute__(name)

    def lazy(item: int) -> Lazy | int:
        calls.note(item)
        return Lazy() if item else 0

    job = rnb.map(lazy, range(20), concurrency=1, retry=THREE, session=session, show=False)
    with pytest.raises(rnb.JobError, match=r"is paused.*The value cannot be written: OSError: gone"):
        job.result(timeout=20)
    assert total(calls) == 2
    job.cancel()


def fitted() -> Model: ...
def models(item: int) -> Model: ...
def maybe(item: int) -> Model | None: ...
def several(item: int) -> list[Model]: ...
def lazily(item: int) -> Iterator[int]: ...
async def later(item: int) -> dict[str, Model]: ...
async def durably(ctx: Any, item: int) -> Model: ...


@pytest.mark.parametrize("fn", [models, maybe, several, lazily, later, durably, Model], ids=lambda fn: fn.__name__)
def test_an_annotation_that_cannot_be_kept_is_refused_before_anything_starts(session: Session, fn: Any) -> None:
    before = len(session.jobs)
    with pytest.raises(rnb.InvalidInput, match=r"could not be kept, as its annotation has it: .*change the annotation"):
        rnb.map(fn, [1, 2], session=session, show=False)
    with pytest.raises(rnb.InvalidInput, match="could not be kept"):
        rnb.fan_out({"fitted": fitted}, session=session, show=False)
    assert len(session.jobs) == before


@pytest.mark.parametrize("seed", range(2))
def test_however_fast_the_function_is_changed_the_job_never_stands_still(any_session: Session, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)

    def bad(item: int) -> Any:
        time.sleep(0.001)
        return object()

    async def bad_soon(item: int) -> Any:
        await asyncio.sleep(0.001)
        return object()

    for trial in range(8):
        options: dict[str, Any] = {
            "concurrency": rng.choice([1, 3, 50]),
            "session": any_session,
            "show": False,
            "name": f"fast {seed} {trial}",
        }
        job = rnb.map(rng.choice([bad, bad_soon]), range(60), **options)
        time.sleep(rng.choice([0, 0, 0.001, 0.003, 0.01, 0.05]))
        if rng.random() < 0.3:
            job.resume()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rnb.OlderResults)  # of whatever was done by then
            assert rnb.map(lambda item: item, range(60), **options) is job
        frame = job.result(timeout=20)
        assert (frame["status"] != "pending").all()
        assert job.retry_failed().result(timeout=20)["value"].notna().all()
        assert job.values() == list(range(60))


class Unknown:
    """Of a class that no value can be of, but as a pickle."""

    def __init__(self, number: int) -> None:
        self.number = number


def unknown(number: int) -> Any:
    return Unknown(number)


def test_a_cell_that_says_pickle_after_a_value_could_not_be_kept_goes_on(session: Session) -> None:
    """A job with a name goes on where it paused; without one it is another job, whose items all run."""
    for name in ("named", None):
        refused = rnb.map(unknown, range(5), name=name, concurrency=1, session=session, show=False)
        with pytest.raises(rnb.JobError, match="pickle=True"):
            refused.result(20)
        job = rnb.map(unknown, range(5), name=name, pickle=True, session=session, show=False)
        assert (job.name == refused.name) is (name is not None)
        frame = job.result(20)
        if name is not None:
            assert frame["status"].tolist() == ["error", "ok", "ok", "ok", "ok"]
            job.retry_failed().result(20)
        assert [each.number for each in job.values()] == [0, 1, 2, 3, 4]
        session.forget_handles()
        assert [each.number for each in rnb.job(job.name, session, pickle=True).values()] == [0, 1, 2, 3, 4]
