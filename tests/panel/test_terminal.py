"""The panel outside of notebooks: a bar in a terminal, a line in a log."""

import io
import re

from restate_nb.panel import make_panel
from restate_nb.panel.terminal import LinePanel, TerminalPanel
from restate_nb.results.progress import ErrorGroup
from tests.panel.played import progress


def test_a_terminal_shows_a_tqdm_bar():
    out = io.StringIO()
    panel = TerminalPanel(progress(attached=100, ok=100), out)
    panel.update(progress(attached=100, ok=500, failed=3))
    panel.finish(
        progress(attached=100, status="finished", ok=990, failed=10, retries=1, errors=(ErrorGroup("E", "m", 10),))
    )
    text = out.getvalue()
    assert re.search(r"pages: .*503/1000.*3 failed", text)
    assert "1000/1000" in text
    assert text.endswith("10 failed, 1 retry]\n  attached: 100 of 1,000 were already done\n  10 × E: m\n")


def test_a_bar_and_a_line_go_on_when_the_job_does():
    out = io.StringIO()
    for panel in (TerminalPanel(progress(), out), LinePanel(out)):
        panel.finish(progress(status="finished", ok=990, failed=10))
        panel.reopen()
        panel.update(progress(ok=990))
        panel.finish(progress(status="finished", ok=1000))
    text = out.getvalue()
    assert text.count("1000/1000") >= 2
    assert text.count("pages (fetch): Finished") == 2


def test_a_hint_is_written_above_the_bar_once_and_not_at_the_end():
    out = io.StringIO()
    panel = TerminalPanel(progress(), out)
    for ok in (10, 20, 30):
        panel.update(progress(ok=ok, hint="These items compute\x1b[31m"))
    panel.update(progress(ok=40))
    panel.finish(progress(status="finished", ok=1000, hint="These items compute"))
    text = out.getvalue()
    assert text.count("  These items compute") == 1
    assert "\x1b[31m" not in text


class NoControls:
    """A job whose panel has no buttons."""

    concurrency = 0

    def cancel(self) -> None: ...

    pause = resume = retry_failed = cancel


def test_a_script_gets_one_line_at_the_end(capsys):
    panel = make_panel(progress(), NoControls())
    assert isinstance(panel, LinePanel)
    panel.update(progress(ok=3))
    panel.finish(progress(status="finished", ok=1000, elapsed=2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "pages (fetch): Finished, 1,000 of 1,000 done, in 2 s, 500/s\n"
