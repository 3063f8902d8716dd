"""Proves that what a cell shows of sessions, jobs, results and errors is short, true and safe."""

from __future__ import annotations

import io
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from restate import TerminalError

import restate_nb as rnb
from restate_nb.patterns import FanOutResult, Outcome
from restate_nb.session.session import Session


def test_a_session_tells_its_state_and_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def fails(item: int) -> float:
        return 1 / item

    with Session("cells", tmp_path / ".restate") as session:
        assert repr(session) == "<Session 'cells': live, 0 jobs, data in .restate>"
        first = rnb.map(fails, [0, 1], name="<b>bold</b>", session=session, show=False)
        first.result(20)
        assert repr(session) == "<Session 'cells': live, 1 job, data in .restate>"
        html = session._repr_html_()
        assert "&lt;b&gt;bold&lt;/b&gt;" in html
        assert "<b>bold" not in html
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", html)
        assert cells[1:] == ["finished", "2 of 2", "1"]
        held = [first, *(rnb.map(len, [[number]], session=session, show=False) for number in range(25))]
        assert len(session.jobs) == len(held)
        assert len(re.findall("<tr>", session._repr_html_())) == 21
        assert "and 6 earlier jobs" in session._repr_html_()
    assert repr(session) == "<Session 'cells': stopped>"
    assert "stopped: rnb.start() goes on" in session._repr_html_()


def test_jobs_and_their_rows_are_told_in_a_line(session: Session) -> None:
    job = rnb.map(len, ["a"], name="one", session=session, show=False)
    job.result(20)
    assert repr(job) == "<Job 'one': finished, 1 item: 1 ok>"
    assert repr(rnb.as_completed(job)) == "<items of the job 'one' as they end: 1 of 1 by now>"


def test_a_result_of_many_shows_its_failures_first_and_not_all() -> None:
    outcomes = [Outcome(index, f"<i>{index}</i>") for index in range(99)]
    result = FanOutResult((*outcomes, Outcome(99, error=TerminalError("no <stock>"))))
    assert repr(result) == "FanOutResult(99 ok, 1 failed; first: operation 99 failed: no <stock>)"
    html = result._repr_html_()
    assert "no &lt;stock&gt;" in html
    assert "<i>" not in html
    assert html.index("no &lt;stock") < html.index("&lt;i&gt;0")
    assert "and 80 more" in html
    assert len(html) < 5_000


def boom(item: int) -> float:
    return 1 / item


async def later(item: int) -> float:
    return boom(item)


@pytest.mark.parametrize("fn", [boom, later])
def test_an_item_that_is_run_again_here_raises_with_the_users_own_lines_only(session: Session, fn: Any) -> None:
    job = rnb.map(fn, {"zero": 0, "one": 1}, session=session, show=False)
    job.result(20)
    assert job.rerun_locally("one") == 1.0
    with pytest.raises(ZeroDivisionError) as caught:
        job.rerun_locally("zero")
    frames = traceback.extract_tb(caught.value.__traceback__)
    below = [frame.name for frame in frames if frame.name not in {"checked", "rerun_locally", "run_here"}]
    assert below[0].startswith("test_")
    assert below[1:] == (["boom"] if fn is boom else ["later", "boom"])
    shell = InteractiveShell()
    shell.user_ns["job"] = job
    shown = io.StringIO()
    shell.run_line_magic("colors", "nocolor")
    stdout, sys.stdout = sys.stdout, shown
    try:
        shell.run_cell("job.rerun_locally('zero')")
    finally:
        sys.stdout = stdout
        shell.history_manager.end_session()  # type: ignore[union-attr]
    assert "return 1 / item" in shown.getvalue()
    assert "run_here" not in shown.getvalue()


def test_the_debugger_opens_where_the_item_raised(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = rnb.map(boom, [0], session=session, show=False)
    job.result(20)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("p ('item is', item)\nq\n"))
    monkeypatch.setattr(sys, "stdout", shown)
    with pytest.raises(ZeroDivisionError):
        job.rerun_locally(0, debug=True)
    assert "('item is', 0)" in shown.getvalue()


def test_tracebacks_are_found_by_any_label_and_others_are_refused_with_advice(session: Session) -> None:
    job = rnb.map(boom, {("a", 1): 0, ("b", 2): 1}, session=session, show=False)
    job.result(20)
    assert "return 1 / item" in job.traceback(("a", 1))
    with pytest.raises(rnb.InvalidInput, match=r"\('b', 2\) has not failed: it is ok"):
        job.traceback(("b", 2))
    with pytest.raises(rnb.InvalidInput, match=r"no item 'a'.*index label"):
        job.traceback("a")
    with pytest.raises(rnb.InvalidInput, match="no item 'a'"):
        job.rerun_locally("a")
    assert job.rerun_locally(("b", 2)) == 1.0
