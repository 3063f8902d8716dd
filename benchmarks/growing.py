"""What it costs to run the cell of a job with keys again: with nothing new, and with a hundred rows more."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

import restate_nb as rnb
from benchmarks.measure import table
from restate_nb.session.session import Session

NEW = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, nargs="*", default=[100_000, 1_000_000], help="rows (default 1e5 1e6)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    rows = [["rows", "cell", "seconds", "CPU seconds"]]
    for count in arguments.items:
        with (
            tempfile.TemporaryDirectory() as folder,
            Session("growing", Path(folder) / ".restate") as session,
        ):
            for what, more in (("first", 0), ("nothing new", 0), (f"{NEW} new", NEW)):
                rows.append([f"{count:,}", what, *_cell(session, count + more)])
    print(table(rows))
    print("\nWith the reading of the input; before each cell the handles are forgotten, as in another process.")


def same(id: int) -> int:
    return id


def _cell(session: Session, count: int) -> list[str]:
    session.forget_handles()
    options: dict[str, Any] = {"name": "growing", "key": "id", "show": False, "session": session}
    frame = pd.DataFrame({"id": range(count)})
    began, cpu = time.perf_counter(), time.process_time()
    job = rnb.map(same, frame, **options)
    job.wait()
    taken = [f"{time.perf_counter() - began:.2f}", f"{time.process_time() - cpu:.2f}"]
    assert job.counts["ok"] == count
    return taken
