"""`restate-nb demo`: the main job on input that every machine has, the source files of Python's own library."""

from __future__ import annotations

import ast
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from restate_nb.engine.cpus import cpus
from restate_nb.formatting import counted

if TYPE_CHECKING:
    import argparse

    from restate_nb.handle.job import Job

CHART: Final = "demo-chart.png"  # in the data directory

_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Measure:
    """What was measured of one source file.

    Attributes:
        lines: how many lines it has.
        functions: how many functions and methods.
        classes: how many classes.
        deepest: how deep blocks (if, for, while, with, try, match) are nested.
        longest: the name of the longest function; empty when there is none.
        longest_lines: how many lines that one has.
    """

    lines: int
    functions: int
    classes: int
    deepest: int
    longest: str
    longest_lines: int


def measure(path: str) -> Measure:
    """Parse one source file and measure it.

    Raises:
        SyntaxError: it is not valid Python; the standard library has some such files, for its own tests.
    """
    source = Path(path).read_bytes()
    tree = ast.parse(source, filename=path)
    functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    longest = max(functions, key=_length, default=None)
    return Measure(
        lines=source.count(b"\n"),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        deepest=_depth(tree),
        longest=longest.name if longest is not None else "",
        longest_lines=_length(longest) if longest is not None else 0,
    )


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _depth(node: ast.AST) -> int:
    inside = max(map(_depth, ast.iter_child_nodes(node)), default=0)
    return inside + isinstance(node, _BLOCKS)


def sources() -> list[str]:
    """The paths of the running Python's own source files, and of those in its tests that are broken on purpose."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library).parts
        if "site-packages" in inside or "dist-packages" in inside:
            continue
        is_test = "test" in inside or "tests" in inside
        if not is_test or path.name.startswith("bad") or "data" in inside:
            found.append(str(path))
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `restate-nb demo`."""
    parser.add_argument("--data-dir", default=".restate", help="where the server keeps its data (default .restate)")
    parser.add_argument("--fresh", action="store_true", help="start over, even if the job is done already")
    parser.add_argument("--no-loop", action="store_true", help="leave out the plain loop that is there to compare with")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, and print what a first look should see."""
    import matplotlib as mpl  # noqa: PLC0415 - only this command needs it

    import restate_nb as rnb  # noqa: PLC0415 - and its heavy parts

    mpl.use("agg")
    paths = sources()
    print(f"Measuring the {len(paths):,} source files of Python {sys.version.split()[0]}, each a durable item.\n")
    with rnb.start("demo", data_dir=arguments.data_dir):
        began = time.perf_counter()
        job = rnb.map(measure, paths, name="standard-library", executor="process", fresh=arguments.fresh)
        job.result()
        took = time.perf_counter() - began
        _report(job)
        chart = _save_chart(job, Path(arguments.data_dir))
    count, kept, lines = len(job), job.attached, int(job.frame(expand=True)["lines"].sum())
    if kept == count:
        print(f"\nAll {count:,} files were done before, and are kept in {arguments.data_dir}: nothing ran again.")
        following = "restate-nb demo --fresh   (starts over)"
    else:
        ran = f"{counted(count - kept, 'file')} now, {kept:,} were kept from before:" if kept else f"{count:,} files,"
        cores = counted(cpus(), "core")
        print(f"\n{ran} {lines:,} lines in all: {took:.1f} s on {cores}, {(count - kept) / took:,.0f} files a second.")
        if not kept and not arguments.no_loop:
            _compare(paths, took)
        following = "restate-nb demo   (finds the finished job; kill it in the middle, and the next run goes on)"
    print(f"Chart: {chart}")
    print(f"Next:  {following}")
    return 0


def _compare(paths: Sequence[str], took: float) -> None:
    """Measure the same files in a plain loop, and print how long the two took."""
    print("The same in a plain loop, to compare: ", end="", flush=True)
    loop = loop_seconds(paths)
    print(f"{loop:.1f} s. The job was {loop / took:.1f} times as fast, and each file is recorded.")


def loop_seconds(paths: Iterable[str]) -> float:
    """How many seconds a plain loop takes to measure these files, here and now."""
    measures: list[Measure | SyntaxError] = []
    began = time.perf_counter()
    for path in paths:
        try:
            measures.append(measure(path))
        except SyntaxError as error:
            measures.append(error)
    return time.perf_counter() - began


def _report(job: Job[Measure]) -> None:
    frame = job.frame(expand=True)
    head = frame.sort_values("lines", ascending=False).head()
    head.insert(0, "file", [Path(path).name for path in head["item"]])
    columns = ["file", "status", "lines", "functions", "classes", "deepest", "longest", "longest_lines", "run_s"]
    print("\nThe largest files: job.frame(expand=True).sort_values('lines', ascending=False).head()\n")
    print(head[columns].to_string(index=False, float_format="{:.3f}".format))
    if job.failed:
        files = "file" if job.failed == 1 else f"{job.failed} files"
        print(f"\nThe {files} that failed, grouped: job.errors()\n")
        errors = job.errors()
        errors["error"] = [text if len(text) <= 70 else f"{text[:69]}…" for text in errors["error"]]
        print(errors[["count", "error_type", "error"]].to_string(index=False))
    else:
        print("\nNo file failed: this Python came without its own tests, of which some are broken on purpose.")


def _save_chart(job: Job[Measure], folder: Path) -> Path:
    """The chart's file, among the server's data, which no version control looks at."""
    chart = (folder / CHART).absolute()
    figure = job.timeline().get_figure(root=True)
    assert figure is not None
    figure.savefig(chart, dpi=120, bbox_inches="tight")
    return chart
