"""Run one measurement in a process of its own, and put many of them in a table."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass
class Result:
    """A peer at one size: seconds of each repetition, and the memory that the process grew by, in bytes."""

    peer: str
    work: str
    items: int
    seconds: list[float] = field(default_factory=list)
    grown: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.items / statistics.median(self.seconds)

    @property
    def bytes_per_item(self) -> float:
        return statistics.median(self.grown) / self.items


def run_in_child(peer: str, work: str, items: int, concurrency: int) -> dict[str, Any]:
    """The last line that the child prints is its result as JSON."""
    command = [sys.executable, "-m", "benchmarks.peers", peer, work, str(items), str(concurrency)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def put_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Write lines into a page, in place of what is between its marks `<!-- NAME -->` and `<!-- end of NAME -->`."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    text = page.read_text()
    assert text.count(begin) == text.count(end) == 1, f"{page} has no place for {name}"
    before, rest = text.split(begin)
    page.write_text("\n".join([before + begin, *lines, "", end + rest.split(end)[1]]))


def write(path: Path, results: Sequence[Result], **more: Any) -> None:
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version(name) for name in ("restate-nb", "restate-sdk", "hypercorn", "pandas")},
    }
    report = {"machine": machine, "results": [asdict(each) for each in results], **more}
    path.write_text(json.dumps(report, indent=1))
