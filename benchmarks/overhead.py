"""What a durable item costs: plain asyncio, the SDK's `ctx.run`, and `rnb.map`, on the same work in one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.measure import Result, run_in_child, table, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the median is shown (default 3)")
    parser.add_argument("--small", action="store_true", help="a tenth of the sizes, to see that it works")
    parser.add_argument("--json", type=Path, default=Path("benchmarks-overhead.json"), help="where the report goes")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    scale = 10 if arguments.small else 1
    many, few = 100_000 // scale, 10_000 // scale
    plan = [
        ("asyncio", "noop", many),
        ("rnb.map", "noop", many),
        ("asyncio", "noop", few),
        ("rnb.map", "noop", few),
        ("ctx.run chunks", "noop", few),
        ("ctx.run gather", "noop", 2_000 // scale),
        ("asyncio", "10ms", few),
        ("rnb.map", "10ms", few),
        ("ctx.run chunks", "10ms", few // 5),
        ("start to first item", "noop", 1),
    ]
    results = {key: Result(*key) for key in plan}
    for _ in range(arguments.repeat):  # peers in turn, so that a slow minute of the machine meets all of them
        for (peer, work, items), result in results.items():
            found = run_in_child(peer, work, items, 100)
            result.seconds.append(found["seconds"])
            result.grown.append(found["grown"])

    rows = [["peer", "work", "items", "seconds", "items/s", "of asyncio", "bytes/item"]]
    for (peer, work, items), result in results.items():
        base = results.get(("asyncio", work, items)) or results["asyncio", work, few]
        share = "" if peer == "asyncio" or items == 1 else f"{result.rate / base.rate:.1%}"
        seconds = f"{items / result.rate:.3f}"
        rows.append([peer, work, f"{items:,}", seconds, f"{result.rate:,.0f}", share, f"{result.bytes_per_item:,.0f}"])
    print(table(rows))
    growth = (many / results["rnb.map", "noop", many].rate) / (few / results["rnb.map", "noop", few].rate)
    print(f"\nrnb.map: {many:,} no-op items take {growth:.1f} times as long as {few:,}.")
    write(arguments.json, list(results.values()), growth=growth)
    print(f"Report: {arguments.json}")
