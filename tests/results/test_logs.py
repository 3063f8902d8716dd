"""Proves that what items print and log is kept by item, whichever executor runs them, and is not shown without end."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pandas as pd
import pytest
from restate import Context

import restate_nb as rnb
from restate_nb.engine import output
from restate_nb.session.session import Session


def said(job: rnb.Job[Any], label: Any) -> list[tuple[str, str]]:
    job.result(20)
    logs = job.logs()
    assert (logs["position"].map(job.frame().index.__getitem__) == logs.index).all()
    return list(logs[logs.index == label][["stream", "text"]].itertuples(index=False, name=None))


def test_a_coroutine_and_what_it_starts_print_for_their_item(session: Session) -> None:
    async def speak(item: int) -> None:
        print("begin", item)
        await asyncio.sleep(0.01 * (3 - item))
        await asyncio.gather(asyncio.to_thread(print, "thread", item), asyncio.create_task(tell(item)))
        print("no line break", end="")

    async def tell(item: int) -> None:
        print("task", item, file=sys.stderr)

    job = rnb.map(speak, {"a": 1, "b": 2}, session=session, show=False)
    lines = said(job, "a")
    assert lines[0] == ("stdout", "begin 1")
    assert set(lines[1:3]) == {("stdout", "thread 1"), ("stderr", "task 1")}
    assert ("stdout", "no line break") in lines
    assert len(said(job, "b")) == 4
    logs = job.logs()
    assert logs["at"].dtype == job.frame()["started_at"].dtype
    assert (logs["at"] > job.frame()["started_at"].min() - pd.Timedelta(1, "s")).all()


def test_a_thread_prints_and_logs_for_its_item_also_through_a_handler_made_before(session: Session) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("test_logs")
    logger.addHandler(handler)

    def speak(item: int) -> None:
        logger.warning("careful %s", item)
        print("done", item)

    try:
        job = rnb.map(speak, range(30), session=session, show=False)
        for item in (0, 29):
            assert said(job, item) == [("stderr", f"careful {item}"), ("stdout", f"done {item}")]
    finally:
        logger.removeHandler(handler)


def test_a_worker_process_and_the_programs_that_it_starts_print_for_their_item(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(item: int) -> None:
        print("größer", item)
        sys.stderr.write(f"no line break {item}")
        subprocess.run([sys.executable, "-c", f"print('program', {item})"], check=True)

    job = rnb.map(speak, [1, 2, 3, 4], executor="process", session=session, show=False)
    for position, item in enumerate((1, 2, 3, 4)):
        assert sorted(said(job, position)) == [
            ("stderr", f"no line break {item}"), ("stdout", f"größer {item}"), ("stdout", f"program {item}"),
        ]  # fmt: skip
    time.sleep(0.3)  # a line without an end is shown a little later
    shown = capsys.readouterr()
    assert "größer 4\n" in shown.out
    assert "program 1\n" in shown.out
    assert "no line break 2" in shown.err


def test_a_worker_process_may_print_more_than_a_pipe_holds(session: Session) -> None:
    def speak(item: int) -> None:
        for number in range(20_000):
            print("line", number)
        if item:
            print("last words", file=sys.stderr)
            os._exit(3)

    job = rnb.map(speak, [0, 1], executor="process", session=session, show=False)
    assert len(said(job, 0)) == 20_000
    assert said(job, 1)[-1] == ("stderr", "last words")
    assert job.frame()["error_type"].tolist()[1] == "WorkerDied"


def test_a_durable_function_prints_for_its_item(session: Session) -> None:
    async def speak(ctx: Context, item: int) -> int:
        print("before", item)
        return await ctx.run_typed("step", lambda: print("in the step", item) or item)

    job = rnb.map(speak, [7, 8], session=session, show=False)
    assert said(job, 0) == [("stdout", "before 7"), ("stdout", "in the step 7")]


def test_what_the_cell_and_other_jobs_print_is_not_the_jobs(session: Session) -> None:
    def speak(item: str) -> None:
        print(item)

    one = rnb.map(speak, ["one"], session=session, show=False)
    other = rnb.map(speak, ["other"], session=session, show=False)
    print("the cell")
    assert said(one, 0) == [("stdout", "one")]
    assert said(other, 0) == [("stdout", "other")]
    assert rnb.map(len, ["a"], session=session, show=False).logs().empty


def test_a_page_is_not_filled_and_what_it_does_not_show_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(output, "KEPT_LINES", 5_000)
    job = output.OutputCapture()
    job.context(bounded=True)

    def write(text: str) -> None:
        job.write("stdout", text, shown.append)

    for number in range(10_000):
        write(f"line {number}\n")
    assert len(shown) == 1_000
    assert shown[998] == "line 998\n"
    assert shown[999].startswith("line 999\n")
    assert "job.logs() has the last 5,000 lines" in shown[999]
    assert [line.text for line in job.lines()] == [f"line {number}" for number in range(5_000, 10_000)]
    shown.clear()
    job.context(bounded=True)  # the cell was run again
    write("x" * 300_000 + "\n")
    assert 200_000 < len(shown[0]) < 200_200
    assert len(job.lines()[-1].text) == 10_000
    shown.clear()
    job.context(bounded=False)  # a terminal scrolls
    for number in range(2_000):
        write(f"{number}\n")
    assert len(shown) == 2_000


def test_lines_of_threads_that_print_at_once_are_kept_whole_and_all_shown() -> None:
    job = output.OutputCapture()
    context = job.context(bounded=False)
    shown: list[str] = []

    def speak(position: int) -> None:
        def write(_: Any) -> None:
            for part in ("a", " ", "b", "\n") * 200:
                job.write("stdout", part, shown.append)

        context.copy().run(output.at_item, position, write, None)

    threads = [threading.Thread(target=speak, args=(position,)) for position in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {line.text for line in job.lines()} == {"a b"}
    while sum(map(len, shown)) < 4 * 200 * 8:
        time.sleep(0.01)  # what was held back comes
    # A line may be shown in two parts, when it takes longer than a moment.
    assert sorted("".join(shown)) == sorted("a b\n" * 1600)
    assert [sum(line.position == position for line in job.lines()) for position in range(8)] == [200] * 8


def test_lines_without_an_end_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "KEPT_LINES", 100)
    monkeypatch.setattr(output, "KEPT_BEGUN", 10)
    monkeypatch.setattr(output, "KEPT_CHARACTERS", 1_000)
    kept = output.OutputCapture()

    def write(position: int, text: str) -> None:
        kept.context(bounded=True).run(
            output.at_item, position, lambda _: kept.write("stdout", text, lambda _: None), 0
        )

    for position in range(500):
        write(position, ".")
    write(499, "end\n")
    lines = kept.lines()
    assert len(lines) == 100
    assert lines[-1].text == "." and lines[-1].position == 498
    assert any(line.position == 499 and line.text == ".end" for line in lines)
    for position in range(50):
        write(position, "x" * 90)
    assert sum(len(line.text) for line in kept.ended_lines) <= 1_000
    assert len(kept.begun_lines) <= 10
