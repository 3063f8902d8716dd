"""Proves that a job over an importable function goes on when a session starts, without its cell and as it was asked."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.backends.recorded_items import read_items_back
from restate_nb.engine.function import Function
from restate_nb.errors import InvalidInput
from restate_nb.policy import RunPolicy
from restate_nb.service.run_spec import read_run_spec, run_spec_of
from restate_nb.session import registry
from restate_nb.session.session import Session
from tests.handle import importable
from tests.handle.counted import Calls
from tests.support import eventually, start_python


def items(tmp_path: Path, count: int) -> list[tuple[str, int]]:
    return [(str(tmp_path / "calls"), number) for number in range(count)]


def test_after_a_kill_a_job_goes_on_by_itself_and_runs_nothing_recorded_again(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = f"""
        import time
        import restate_nb as rnb
        from restate_nb.session.session import Session
        from tests.handle import importable

        session = Session("going", __import__("pathlib").Path({str(data_dir)!r}))
        job = rnb.starmap(importable.slowly, {items(tmp_path, 60)!r}, name="on", concurrency=2, session=session,
                          show=False)
        while job.counts["ok"] < 20:
            time.sleep(0.01)
        print(job.counts["ok"], flush=True)
        time.sleep(60)
    """
    with start_python(script) as child:
        assert child.stdout is not None
        recorded = int(child.stdout.readline())
        child.kill()
    with Session("going", data_dir) as session:
        assert "'on' goes on" in capsys.readouterr().out
        frame = session.job("on").result(30)
        assert session.job("on").concurrency == 2
    assert frame["value"].tolist() == [2 * number for number in range(60)]
    again = sum(count - 1 for count in Calls(tmp_path / "calls").counts().values())
    assert recorded >= 20 and again <= 2  # those in flight


def test_a_job_that_goes_on_is_the_one_that_its_cell_gives(data_dir: Path, tmp_path: Path) -> None:
    work = items(tmp_path, 50)
    with Session("going", data_dir) as session:
        rnb.starmap(importable.slowly, work, name="on", concurrency=2, session=session, show=False)
        time.sleep(0.2)
    with Session("going", data_dir) as session:
        job = rnb.starmap(importable.slowly, work, name="on", concurrency=4, session=session, show=False)
        assert job.values() == [2 * number for number in range(50)]
        assert job is session.job("on") and len(session.jobs) == 1 and job.concurrency == 4
    with Session("going", data_dir) as session:  # it has ended: nothing to go on with
        assert session.jobs == []


def test_options_of_a_cell_that_comes_while_its_job_is_taken_up_hold(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the session has read meanwhile, of how the job was run before, is old."""
    work = items(tmp_path, 60)
    reading, cell_ran = threading.Event(), threading.Event()
    taken_up: list[str] = []

    async def read_late(*arguments: Any) -> Any:
        reading.set()
        assert await asyncio.to_thread(cell_ran.wait, 20)
        return await read_items_back(*arguments)

    def read_spec(*arguments: Any, **options: Any) -> Any:
        taken_up.append("read")
        return read_run_spec(*arguments, **options)

    with Session("going", data_dir) as session:
        rnb.starmap(importable.slowly, work, name="on", concurrency=2, session=session, show=False)
    monkeypatch.setattr(registry, "read_items_back", read_late)
    monkeypatch.setattr(registry, "read_run_spec", read_spec)
    with Session("going", data_dir) as session:
        assert reading.wait(20)
        job = rnb.starmap(importable.slowly, work, name="on", concurrency=3, session=session, show=False)
        cell_ran.set()
        eventually(lambda: taken_up)
        assert job.values() == [2 * number for number in range(60)]
        assert job.concurrency == 3


def test_durable_functions_batches_and_retries_go_on_too(data_dir: Path, tmp_path: Path) -> None:
    retry = rnb.Retry(3, initial_interval=0.3, retry_on=importable.Busy)
    with Session("going", data_dir) as session:
        rnb.map(importable.in_steps, range(5), name="steps", session=session, show=False)
        rnb.starmap(importable.once_busy, items(tmp_path, 4), name="busy", retry=retry, session=session, show=False)
        job = rnb.batch(importable.in_steps, range(4), batch_size=2, pause=0.4, name="b", session=session, show=False)
        while job.counts["ok"] < 2:
            time.sleep(0.01)
    with Session("going", data_dir) as session:
        assert session.job("steps").values() == [1, 2, 3, 4, 5]
        frame = session.job("busy").result()
        assert frame["value"].tolist() == [0, 1, 2, 3] and frame["attempts"].tolist() == [2] * 4


def test_a_job_of_a_function_of_a_cell_waits_for_it(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def of_a_cell(item: int) -> int:
        time.sleep(0.05)
        return item

    with Session("going", data_dir) as session:
        rnb.map(of_a_cell, range(30), name="cell's", concurrency=1, session=session, show=False)
    with Session("going", data_dir) as session:
        assert '"cell\'s" waits for of_a_cell: run its cell' in capsys.readouterr().out
        assert session.jobs == []
        job = rnb.map(of_a_cell, range(30), name="cell's", concurrency=30, session=session, show=False)
        assert job.values() == list(range(30))


def test_a_function_that_is_gone_is_told_of(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Session("going", data_dir) as session:
        work = items(tmp_path, 50)
        job = rnb.starmap(importable.slowly, work, name="on", concurrency=1, session=session, show=False)
        while not job.counts["ok"]:
            time.sleep(0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(importable, "slowly")
        with Session("going", data_dir) as session:
            deadline = time.monotonic() + 10
            told = ""
            while "cannot be imported" not in told and time.monotonic() < deadline:
                time.sleep(0.05)
                told += capsys.readouterr().out
            assert "'on' cannot go on without its cell: tests.handle.importable:slowly cannot be imported" in told
            job = session.job("on")
            waits = ["It waits for slowly: run the cell that maps it."]
            while job.diagnose().reasons != waits:
                assert time.monotonic() < deadline, str(job.diagnose())
                time.sleep(0.01)


def test_a_recipe_brings_back_the_function_and_how_it_is_run() -> None:
    policy = RunPolicy(
        concurrency=(2, 9),
        retry=rnb.Retry(5, 0.25, 3.0, 7.0, 0.1, (OSError, importable.Busy), KeyError),
        timeout=4.5,
        max_per_second=(10, 60),
        limit=rnb.Limit("api", concurrency=3, per_second=2),
        fail_fast=0.25,
    )
    text = run_spec_of(Function(importable.slowly, "args", executor="thread", version="2"), policy, 1.5)
    assert text is not None
    target, again, pause = read_run_spec(text, durable=False)
    assert (target.fn, target.passing, target.executor, target.version) == (importable.slowly, "args", "thread", "2")
    assert pause == 1.5
    assert (again.concurrency, again.timeout, again.max_per_second) == ((2, 9), 4.5, (10, 60.0))
    assert again.limit == rnb.Limit("api", concurrency=3, per_second=(2, 1.0)) and again.fail_fast == 0.25
    assert (again.retry.max_attempts, again.retry.max_interval, again.retry.jitter) == (5, 7.0, 0.1)
    assert again.retry.retry_on == (OSError, importable.Busy) and again.retry.give_up_on == (KeyError,)


STORED = (
    '{"function":"tests.handle.importable:slowly","passing":"args","executor":"thread","version":"2","pause":1.5,'
    '"concurrency":[2,9],"retry":{"max_attempts":5,"initial_interval":0.25,"factor":3.0,"max_interval":7.0,'
    '"jitter":0.1,"retry_on":["builtins:OSError","tests.handle.importable:Busy"],"give_up_on":["builtins:KeyError"]},'
    '"timeout":4.5,"max_per_second":[10,60.0],"limit":{"name":"api","concurrency":3,"per_second":[2,1.0]},'
    '"fail_fast":0.25}'
)
"""As version 0.1.0 wrote it."""


@pytest.mark.parametrize("concurrency", [(2, 9), 4, "auto"])
@pytest.mark.parametrize("fail_fast", [0.25, True, False, 3])
def test_a_recipe_of_the_first_release_is_read_and_still_written_so(concurrency: Any, fail_fast: bool | float) -> None:
    text = STORED.replace("[2,9]", json.dumps(concurrency, separators=(",", ":")))
    text = text.replace('"fail_fast":0.25', f'"fail_fast":{json.dumps(fail_fast)}')
    target, policy, pause = read_run_spec(text, durable=False)
    assert (policy.concurrency, policy.fail_fast, policy.rate) == (concurrency, fail_fast, (10, 60.0))
    written = json.loads(run_spec_of(target, policy, pause) or "")
    assert written | json.loads(text) == written


def test_what_cannot_be_imported_has_no_recipe() -> None:
    class Own(Exception):
        pass

    assert run_spec_of(Function(lambda item: item), RunPolicy()) is None
    assert run_spec_of(Function(Calls(Path("x")).note), RunPolicy()) is None
    assert run_spec_of(Function(importable.slowly, "args"), RunPolicy(retry=rnb.Retry(retry_on=Own))) is None
    assert run_spec_of(Function(importable.slowly, "args"), RunPolicy()) is not None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("builtins:nothing", "builtins:nothing cannot be imported here"),
        ("os:getcwd", r"How the job is run cannot be read: .*retry_on"),
    ],
)
def test_the_exceptions_of_a_recipe_have_to_be_some(wrong: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read_run_spec(STORED.replace("builtins:OSError", wrong), durable=False)
    with pytest.raises(InvalidInput, match="max_attempts must be at least 1"):
        read_run_spec(STORED.replace('"max_attempts":5', '"max_attempts":0'), durable=False)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"function": "os:nothing"}'])
def test_a_recipe_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_run_spec(text, durable=False)


def test_a_job_that_grew_goes_on_by_itself_with_the_rows_it_had_last(data_dir: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"key": lambda item: item[1], "name": "grown", "concurrency": 1, "show": False}
    with Session("going", data_dir) as session:
        rnb.starmap(importable.slowly, items(tmp_path, 5), session=session, **options).wait()
        job = rnb.starmap(importable.slowly, items(tmp_path, 40)[::-1], session=session, **options)
        while job.counts["ok"] < 10:
            time.sleep(0.01)
    with Session("going", data_dir) as session:
        assert eventually(lambda: [each.name for each in session.jobs] == ["grown"])
        assert session.job("grown").values() == [2 * number for number in range(39, -1, -1)]
    calls = Calls(tmp_path / "calls").counts()
    assert set(calls) == {str(number) for number in range(40)}
    assert calls.total() <= 41  # one may have run when the session was stopped
