"""The panel outside notebooks: a tqdm bar in a terminal, one closing line in a log."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from restate_nb.formatting import count, counted, one_line
from restate_nb.panel.render import errors, remarks, state, to_text
from restate_nb.results.progress import Progress


class TerminalPanel:
    """Shows a job as a tqdm bar on stderr, and what failed below it at the end."""

    def __init__(self, progress: Progress, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._bar: Any = None
        self._hint = ""  # that was shown
        self.update(progress)

    def _new_bar(self, progress: Progress) -> Any:
        from tqdm import tqdm  # noqa: PLC0415 - only where a bar is shown

        class Bar(tqdm):  # type: ignore[misc] # tqdm has no types
            # tqdm's own watch thread would only repeat what the updater does.
            monitor_interval = 0

        return Bar(
            total=progress.total,
            initial=min(progress.done, progress.total),
            desc=one_line(progress.name, 40),
            unit="item",
            unit_scale=progress.total >= 100_000,
            dynamic_ncols=True,
            file=self._file,
            miniters=1,
            mininterval=0,
        )

    def update(self, progress: Progress) -> None:
        """Show the job as it is now, with a new bar if it runs again."""
        if self._bar is None:
            self._bar = self._new_bar(progress)
        self._bar.n = min(progress.done, progress.total)
        words = [] if progress.status in {"running", "finished"} else [state(progress)]
        if progress.failed:
            words.append(f"{count(progress.failed)} failed")
        if progress.retries:
            words.append(counted(progress.retries, "retry", "retries"))
        if progress.hint and progress.hint != self._hint and not progress.final:
            self._hint = progress.hint
            self._bar.write(f"  {one_line(progress.hint, 400)}", file=self._file)
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.refresh()

    def finish(self, progress: Progress) -> None:
        """Show how the job ended, and end the bar."""
        self.update(progress)
        self._bar.close()
        for line in (*remarks(progress), *errors(progress)):
            self._file.write(f"  {line}\n")
        self._file.flush()

    def reopen(self) -> None:
        """Go on with a new bar after `finish`: the job runs again."""
        self._bar = None


class LinePanel:
    """Says nothing while the job runs, and one line on stderr when it has ended: for logs and scripts."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file

    def update(self, progress: Progress) -> None:
        """Show nothing: a log has no place for numbers that change."""

    def finish(self, progress: Progress) -> None:
        """Write how the job ended."""
        print(to_text(progress), file=self._file or sys.stderr, flush=True)

    def reopen(self) -> None:
        """Write another line at the next end."""
