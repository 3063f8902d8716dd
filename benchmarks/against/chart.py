"""A picture of `python -m benchmarks peers`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

if TYPE_CHECKING:
    from benchmarks.against.measured import Measured

DURABLE = {"restate_nb", "Restate SDK", "DBOS"}
OURS, KEPT, LOST, INK = "#2f6fde", "#9db8e8", "#c9c9c9", "#333333"


def draw(found: Sequence[Measured], path: Path) -> None:
    there = [each for each in found if not each.missing]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    rates, waits, memory = figure.subplots(1, 3)
    _bars(rates, there, [_median(each.rates("noop")) for each in there], "no-op items a second", log=True)
    _bars(waits, there, [_median(each.rates("10ms")) for each in there], "10 ms items a second, 100 at once")
    waits.axvline(10_000, color=INK, linewidth=0.8, linestyle=":")
    _bars(memory, there, [each.memory / 1e6 for each in there], "peak memory, MB")
    for axes in (waits, memory):
        axes.set_yticklabels([])
    figure.suptitle(
        "Blue: restate_nb. Light blue: durable too. Grey: what is done is lost with the process.",
        fontsize=9,
        color=INK,
    )
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, found: Sequence[Measured], values: Sequence[float], title: str, *, log: bool = False) -> None:
    colors = [OURS if each.peer == "restate_nb" else KEPT if each.peer in DURABLE else LOST for each in found]
    bars = axes.barh([each.peer for each in found], values, color=colors)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8, color=INK)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
        axes.set_xlim(right=max(values) * 12)
    else:
        axes.set_xlim(right=max(values) * 1.25)
    axes.set_title(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, length=0, colors=INK)
    axes.set_xticks([])
    axes.xaxis.set_minor_locator(NullLocator())
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
