"""A picture of `python -m benchmarks matrix`: a bar a row, from the peer's rate to ours, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.matrix.measured import Measured


class _Ground(NamedTuple):
    ground: str
    ink: str
    faint: str
    faster: str
    slower: str


GROUNDS: Final = {
    "light": _Ground("#ffffff", "#24292f", "#8c959f", "#0072b2", "#d55e00"),
    "dark": _Ground("#0d1117", "#e6edf3", "#7d8590", "#56b4e9", "#e69f00"),
}
_TICKS: Final = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]


def made_of(path: Path) -> list[Path]:
    """Where `draw` puts its pictures."""
    return [path.with_name(f"{path.stem}-{name}{path.suffix or '.png'}") for name in GROUNDS]


def draw(measured: Sequence[Measured], path: Path) -> list[Path]:
    """The pictures made: beside `path`, with `-light` and `-dark` in their names."""
    made = made_of(path)
    for file, ground in zip(made, GROUNDS.values(), strict=True):
        figure = Figure(figsize=(7.6, 0.36 * len(measured) + 0.9), layout="constrained", facecolor=ground.ground)
        _bars(figure.subplots(), measured, ground)
        figure.savefig(file, dpi=140)
    return made


def _bars(axes: Axes, measured: Sequence[Measured], ground: _Ground) -> None:
    """A row is a share of the peer's rate, so the axis is logarithmic: twice and half are equally far from 1."""
    ratios = [each.ratio for each in measured]
    low, high = min([0.5, *ratios]), max([2.0, *ratios])
    axes.set_facecolor(ground.ground)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.9, high * 1.9)
    for place, each in enumerate(measured):
        color = ground.faster if each.ratio >= 1 else ground.slower
        axes.barh(place, each.ratio - 1, left=1, height=0.6, color=color)
        right = each.ratio >= 1
        axes.annotate(
            f"{each.ratio:.2g}" if each.ratio < 0.095 else f"{each.ratio:.2f}",
            (each.ratio, place), xytext=(4 if right else -4, 0), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=8.5, color=ground.ink,
        )  # fmt: skip
    axes.axvline(1, color=ground.ink, linewidth=1.2)
    axes.set_yticks(range(len(measured)), [f"{each.work}\nbeside {each.peer}" for each in measured])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low / 1.9 < tick < high * 1.9]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "the same" if value == 1 else f"{value:g}×"))
    axes.tick_params(length=0, colors=ground.ink, labelsize=7.5)
    axes.grid(axis="x", color=ground.faint, linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(
        "Rate of restate_nb, which records every item, as a multiple of that of what records none",
        fontsize=9, color=ground.ink, loc="right",
    )  # fmt: skip
