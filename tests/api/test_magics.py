"""Proves `%load_ext restate_nb` in an IPython shell: what `%restate` prints and returns, its errors, its completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import restate_nb as rnb
from restate_nb.session import current
from restate_nb.session.session import Session
from tests.support import run_python


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell that has run `%load_ext restate_nb`."""
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "restate_nb")
    yield shell
    shell.history_manager.end_session()  # type: ignore[union-attr]
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, line: str) -> object:
    result = shell.run_cell(line)
    if result.error_in_exec is not None:
        raise result.error_in_exec
    return result.result


def test_the_magic_says_what_to_run_where_no_session_is(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current, "live_session", None)
    for command in ("status", "jobs", "stop"):
        with pytest.raises(Exception, match=r"rnb\.start\(\)") as caught:
            run(shell, f"%restate {command}")
        assert type(caught.value).__name__ == "UsageError", "IPython shows that in one line"


def test_an_unknown_command_of_the_magic_is_an_error_that_lists_all(shell: InteractiveShell) -> None:
    with pytest.raises(Exception, match=r"(?s)no 'jbos'.*%restate status.*%restate jobs.*%restate stop"):
        run(shell, "%restate jbos")


def test_the_magic_alone_lists_its_commands(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%restate")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["%restate", each] for each in ("status", "jobs", "stop")]


@pytest.mark.usefixtures("jedi_ends")
def test_commands_of_the_magic_are_completed(shell: InteractiveShell) -> None:
    with provisionalcompleter():
        found = [each.text for each in shell.Completer.completions("%restate s", len("%restate s"))]
    assert {"status", "stop"} <= set(found)
    assert "jobs" not in found


def test_the_magic_shows_and_stops_the_session(
    shell: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Session("magic", tmp_path / ".restate") as session:
        monkeypatch.setattr(current, "live_session", session)
        rnb.map(len, ["a", "bb"], name="lengths", show=False).result(20)
        capsys.readouterr()
        run(shell, "%restate status")
        said = capsys.readouterr().out
        assert "Session 'magic': live" in said
        assert "restate-server runs" in said
        assert "<Job 'lengths': finished, 2 items: 2 ok>" in said
        jobs = run(shell, "%restate jobs")
        assert isinstance(jobs, pd.DataFrame)
        assert jobs["name"].tolist() == ["lengths"]
        run(shell, "%restate stop")
        assert "rnb.start() goes on" in capsys.readouterr().out
        assert not session.live


def test_unloading_takes_the_magic_away_and_loading_brings_it_back(shell: InteractiveShell) -> None:
    run(shell, "%unload_ext restate_nb")
    assert shell.find_line_magic("restate") is None
    run(shell, "%load_ext restate_nb")
    assert shell.find_line_magic("restate") is not None


def test_importing_the_package_does_not_load_ipython() -> None:
    code = "import sys, restate_nb, restate_nb.api.magics; assert 'IPython' not in sys.modules"
    run_python(code)
