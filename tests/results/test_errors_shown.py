"""Proves that errors in a cell show the user's lines and the message, and not the inside of this package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import restate_nb as rnb
from restate_nb.session.session import Session


def shown(code: str, names: dict[str, Any]) -> str:
    """What a cell with this code prints."""
    shell = InteractiveShell.instance()
    shell.user_ns.update(names)
    try:
        with capture_output() as captured:
            shell.run_cell(code)
    finally:
        shell.history_manager.end_session()  # type: ignore[union-attr]
        InteractiveShell.clear_instance()
    return re.sub(r"\x1b\[[\d;]*m", "", captured.stdout + captured.stderr)


def test_a_failing_job_shows_the_line_of_the_cell_and_what_to_do(session: Session) -> None:
    job = rnb.map(lambda item: 1 / item, [1, 0], session=session, show=False)
    job.result()
    text = shown("def total(job):\n    return sum(job.values())\n\ntotal(job)", {"job": job})
    assert "return sum(job.values())" in text
    assert "JobError: 1 of 2 items have no value" in text
    assert "job.retry_failed() runs them again" in text
    assert str(Path(rnb.__file__).parent) not in text, "the inside of the package is of no use there"


def test_the_traceback_of_an_item_that_did_not_fail_is_refused_with_its_status(session: Session) -> None:
    job = rnb.map(lambda item: 1 / item, {"a": 1, "b": 0}, session=session, show=False, name="which failed")
    job.result()
    assert "ZeroDivisionError" in job.traceback("b")
    with pytest.raises(rnb.InvalidInput, match="'a' has not failed: it is ok"):
        job.traceback("a")
