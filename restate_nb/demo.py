"""`restate-nb demo`: the main job on input that every machine has, the source files of Python's own library."""

from __future__ import annotations

import ast
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHART: Final = "restate-nb-demo.png"

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


def main(data_dir: str, *, fresh: bool) -> int:
    """Run the demo, and print what a first look should see.

    Args:
        data_dir: where the server keeps its data.
        fresh: start again, even if the job is there already.

    Returns:
        The exit code.
    """
    import matplotlib as mpl  # noqa: PLC0415 - only this command needs it

    import restate_nb as rnb  # noqa: PLC0415 - and its heavy parts

    mpl.use("agg")
    paths = sources()
    print(f"Measuring the {len(paths):,} source files of Python {sys.version.split()[0]}, each a durable item.\n")
    began = time.perf_counter()
    with rnb.start("demo", data_dir=data_dir):
        job = rnb.map(measure, paths, name="standard-library", concurrency=8, fresh=fresh)
        job.result()
        took = time.perf_counter() - began
        frame = job.frame(expand=True)
        head = frame.sort_values("lines", ascending=False).head()
        head.insert(0, "file", [Path(path).name for path in head["item"]])
        print("The largest files (job.frame(expand=True).sort_values('lines')):\n")
        columns = ["file", "status", "lines", "functions", "classes", "deepest", "longest", "longest_lines", "run_s"]
        print(head[columns].to_string(index=False))
        print(f"\n{job.failed} files failed, grouped (job.errors()):\n")
        print(job.errors()[["error_type", "error", "count"]].to_string(index=False, max_colwidth=80))
        chart = Path(CHART).absolute()
        figure = job.timeline().get_figure(root=True)
        assert figure is not None
        figure.savefig(chart, dpi=120)
        lines = int(frame["lines"].sum())
        if job.attached:
            print(f"\n{job.attached:,} of {len(paths):,} files were done already, and were not measured again.")
        else:
            print(f"\n{len(paths):,} files, {lines:,} lines in {took:.1f} s: {len(paths) / took:,.0f} files a second.")
        print(f"Chart: {chart}")
        again = "restate-nb demo --fresh" if job.attached else "restate-nb demo"
        why = "starts over" if job.attached else "finds the finished job; kill it in the middle, and it goes on"
        print(f"Next:  {again}    ({why})")
    return 0
