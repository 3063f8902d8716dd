"""The report of `python -m benchmarks peers`, as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.measure import table

if TYPE_CHECKING:
    from benchmarks.against.measured import Measured

WANTED = {"Dask": 30, "Ray": 30, "ipyparallel": 30, "DBOS": 300}
"""How many times a peer's rate of no-op items ours should be."""

NOTES = """\
Medians over rounds in which all peers took turns. no-op: items a second, when they are few, and at the peer's own size.
growth: what an item takes at that size, of what it takes when they are few. in 100s: no-op items, 100 to a task.
10 ms: items that wait 10 ms, 100 at once; 10,000/s would be ideal. CPU: items of about 5 ms of Python, on all cores.
resume: ms until the results of a finished job of few items are there again after its process ended; -: runs again.
MB: most memory of all its processes, in the no-op job of the peer's own size."""


def print_report(found: Sequence[Measured], machine: dict[str, Any]) -> None:
    there = [each for each in found if not each.missing]
    low, high = min(machine["load"]), max(machine["load"])
    few = min(there[0].sizes("noop"))
    print(f"{machine['cores']} cores, Python {machine['python']}, load {low} to {high}\n")
    head = ["peer", f"no-op, {few:,}", "no-op", "items", "growth", "in 100s", "10 ms", "CPU", "resume", "MB"]
    print(table([head, *(_row(each) for each in there)]))
    print(f"\n{NOTES}")
    for each in found:
        if each.missing:
            print(f"{each.peer} is left out: {each.missing}")
    print("\n" + "\n".join(ratios(there)))


def ratios(found: Sequence[Measured]) -> list[str]:
    """Ours beside each peer, round by round, as sentences."""
    by_name = {each.peer: each for each in found}
    ours = by_name.get("restate_nb")
    if ours is None:
        return []
    lines = []
    for name, peer in by_name.items():
        if peer is ours:
            continue
        own, small = paired(ours, peer, "noop"), paired(ours, peer, "noop", common=True)
        wanted = f" (wanted: {WANTED[name]})" if name in WANTED else ""
        lines.append(f"no-op items: {_spread(own)} times the rate of {name}{wanted}; with few items {_spread(small)}")
    if "asyncio" in by_name:
        share = paired(ours, by_name["asyncio"], "10ms")
        lines.append(f"10 ms items: {_spread(share, '.3f')} of the rate of plain asyncio (wanted: 0.950)")
    return lines


def paired(ours: Measured, peer: Measured, case: str, *, common: bool = False) -> list[float]:
    """Our rate over the peer's, one a round."""
    sizes = (min(ours.sizes(case)), min(peer.sizes(case))) if common else (None, None)
    return [one / other for one, other in zip(ours.rates(case, sizes[0]), peer.rates(case, sizes[1]), strict=True)]


def _row(each: Measured) -> list[str]:
    small, large = each.sizes("noop")
    resume = each.sizes("resume")
    return [
        each.peer,
        _rate(each.rates("noop", small)),
        _rate(each.rates("noop")),
        f"{large:,}",
        f"{each.growth():.2f}",
        _rate(each.rates("batched")),
        _rate(each.rates("10ms")),
        _rate(each.rates("cpu")),
        f"{statistics.median(each.seconds['resume', resume[0]]) * 1000:.0f}" if resume else "-",
        f"{each.memory / 1e6:,.0f}",
    ]


def _rate(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f}/s" if rates else "-"


def _spread(ratios: Sequence[float], form: str = ",.1f") -> str:
    middle = format(statistics.median(ratios), form)
    return f"{middle} ({format(min(ratios), form)} to {format(max(ratios), form)})" if len(ratios) > 1 else middle
