"""Proves that what items print is kept and shown in IPython in a terminal: while a cell runs, after it, and at the
prompt, where others stand in for `sys.stdout`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

SECONDS = 60  # generous: only a hang takes as long
SPEAK = (
    "exec('async def speak(item):\\n for n in range(5):\\n"
    '  print("says", item, n)\\n  await asyncio.sleep(0.4)\\n  print("errs", item, n, file=sys.stderr)\')'
)


@pytest.fixture(params=["", "--simple-prompt"], ids=["prompt_toolkit", "plain"])
def run_cell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Types a cell into IPython as soon as it asks for one; gives what has been shown since the one before."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"IPYTHONDIR": str(tmp_path), "TERM": "xterm", "PYTHONPATH": str(root)}
    flags = ["--no-banner", "--no-confirm-exit", "--colors=NoColor", *filter(None, [request.param])]
    terminal = pexpect.spawn(
        sys.executable, ["-m", "IPython", *flags], cwd=str(tmp_path), env=environment, encoding="utf-8",
        timeout=SECONDS, dimensions=(50, 250),
    )  # fmt: skip
    count = 0

    def run(cell: str) -> str:
        nonlocal count
        count += 1
        terminal.expect(rf"In \[[^\d\]]*(?:\x1b\[[\d;]*m)*{count}\D")
        shown = str(terminal.before)
        terminal.send(f"{cell}\r")
        return shown

    yield run
    terminal.close(force=True)


def test_what_items_print_at_the_prompt_and_in_later_cells_is_kept_and_shown(run_cell: Callable[[str], str]) -> None:
    run_cell("import asyncio, sys, time, restate_nb as rnb; session = rnb.start('terminal')")
    run_cell(SPEAK)
    run_cell("job = rnb.map(speak, [1, 2], show=False)")
    run_cell("time.sleep(0.7)")
    shown = run_cell("job.wait(); print('kept:', sorted(job.logs()['text']), ':kept')")
    shown += run_cell("session.stop()")
    said = {f"{word} {item} {n}" for word in ("says", "errs") for item in (1, 2) for n in range(5)}
    kept = re.search(r"kept: \[(.*?)\] :kept", shown.replace("\r\n", ""))
    assert kept is not None, shown
    assert set(re.findall(r"'(\w+ \d \d)'", kept[1])) == said
    assert len(re.findall(r"'", kept[1])) == 2 * len(said)  # each once
