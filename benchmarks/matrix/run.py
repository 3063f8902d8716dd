"""`python -m benchmarks matrix`: pairs in one process and one session; which of the two comes first changes."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.matrix.chart import GROUNDS, draw, made_of
from benchmarks.matrix.measured import Measured
from benchmarks.measure import put_between, table

if TYPE_CHECKING:
    from benchmarks.matrix.rows import Row

PAGE = Path("docs/benchmarks.md")
FEWEST = 20  # items
ALT = "Each kind of work: the rate of restate_nb as a multiple of the rate of what keeps nothing"
PACKAGES = ["restate-nb", "restate-sdk", "joblib", "pandas", "aiohttp"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs of each row (default 5)")
    parser.add_argument("--small", action="store_true", help="a pair of each, a twentieth of the items: does it work?")
    parser.add_argument("--json", type=Path, default=Path("benchmarks-matrix.json"), help="where the report goes")
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing: take what is in this report")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="a picture: FILE-light and FILE-dark are made")
    parser.add_argument("--markdown", action="store_true", help=f"put the table into {PAGE}")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.report is None:
        measured = []
        repeat, divisor = (1, 20) if arguments.small else (arguments.repeat, 1)
        for each in measure(arguments.rows, repeat, divisor):
            measured.append(each)
            write(arguments.json, measured)  # what is measured is kept, whatever comes next
    report = json.loads((arguments.report or arguments.json).read_text())
    measured = [Measured(**each) for each in report["rows"]]
    rows = table_of(measured)
    print(table(rows))
    missed = [each for each in measured if each.wanted is not None and each.ratio < each.wanted]
    print(f"\n{len(missed)} rows have less than wanted: {', '.join(each.name for each in missed) or 'none'}.")
    if arguments.chart is not None:
        print("Pictures:", *draw(measured, arguments.chart))
    if arguments.markdown:
        put_between(PAGE, "matrix", [*pictures(arguments.chart), about(report), "", *markdown(rows)])


def write(path: Path, measured: Sequence[Measured]) -> None:
    report: dict[str, Any] = {"machine": machine(), "rows": [asdict(each) for each in measured]}
    report["ratios"] = {each.name: each.ratio for each in measured}
    path.write_text(json.dumps(report, indent=1))


def measure(names: Sequence[str] | None, repeat: int, divisor: int) -> Iterator[Measured]:
    """The rows of these names, one after the other; all for None.

    Args:
        repeat: pairs of each.
        divisor: what the number of items is divided by.

    Raises:
        SystemExit: there is no row of that name.
    """
    import restate_nb as rnb
    from benchmarks.matrix.rows import ROWS

    if unknown := set(names or ()) - {row.name for row in ROWS}:
        raise SystemExit(f"No such rows: {', '.join(unknown)}. There are: {', '.join(row.name for row in ROWS)}")
    with (
        tempfile.TemporaryDirectory() as folder,
        rnb.start("benchmark", data_dir=f"{folder}/.restate", listen="tcp"),
    ):
        for row in ROWS:
            if names is None or row.name in names:
                count = max(row.count // divisor, FEWEST)
                found = Measured(row.name, row.work, row.peer, count, row.wanted)
                with row.make() as (function, peer):
                    measure_row(row, function, peer, found, repeat)
                told = f"{found.their_rate:>10,.0f}/s {found.our_rate:>10,.0f}/s {found.ratio:>7.2f}"
                print(f"{row.name:<16}{told}", flush=True)
                yield found


def measure_row(
    row: Row, function: Callable[..., Any], peer: Callable[[Any], list[Any]], found: Measured, repeat: int
) -> None:
    """Pairs of one row, into `found`. Each side runs a few items first, so that connections and processes are there."""
    items, few = row.items(found.count), row.items(max(found.count // 50, FEWEST))

    def ours(items: Any, name: str) -> tuple[float, list[Any]]:
        gc.collect()
        began = time.perf_counter()
        job = row.ours(function, items, name)
        frame = job.result()
        took = time.perf_counter() - began
        values = job.values()
        assert frame["status"].eq("ok").all()
        job.delete()
        return took, values

    def theirs(items: Any, _: str) -> tuple[float, list[Any]]:
        gc.collect()
        began = time.perf_counter()
        values = peer(items)
        return time.perf_counter() - began, values

    for pair in range(repeat):
        values = {}
        for side, seconds in ((theirs, found.theirs), (ours, found.ours))[:: 1 if pair % 2 == 0 else -1]:
            side(few, f"{row.name} {pair} first")
            took, values[side] = side(items, f"{row.name} {pair}")
            seconds.append(took)
        same = [bool(np.all(one == other)) for one, other in zip(values[ours], values[theirs], strict=True)]
        assert all(same), f"{row.name}: {same.count(False)} values differ"


def table_of(measured: Sequence[Measured]) -> list[list[str]]:
    rows = [["work", "peer", "items", "peer's rate", "restate_nb", "share", "pairs", "wanted"]]
    for each in measured:
        pairs = f"{min(each.ratios):.2f} to {max(each.ratios):.2f}"
        rates = [f"{rate:,.{0 if rate >= 100 else 1}f}/s" for rate in (each.their_rate, each.our_rate)]
        wanted = "" if each.wanted is None else f"{each.wanted:.2f}"
        rows.append([each.work, each.peer, f"{each.count:,}", *rates, f"{each.ratio:.2f}", pairs, wanted])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- | --- |" + " --: |" * (len(rows[0]) - 2))
    return lines


def pictures(chart: Path | None) -> list[str]:
    """The pictures on the page, each for its ground; none where none were drawn."""
    lines = []
    for made, ground in zip(() if chart is None else made_of(chart), GROUNDS, strict=False):
        place = os.path.relpath(made, PAGE.parent)
        lines += [f"```{{image}} {place}", f":class: only-{ground}", f":alt: {ALT}", "```", ""]
    return lines


def about(report: dict[str, Any]) -> str:
    """Under which conditions a report was made."""
    machine, pairs = report["machine"], len(report["rows"][0]["ours"])
    told = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return f"Medians of {pairs} pairs; {machine['cores']} cores, Python {machine['python']}, {told}."


def machine() -> dict[str, Any]:
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    cores = os.cpu_count()
    return {"python": platform.python_version(), "system": platform.platform(), "cores": cores, "packages": packages}
