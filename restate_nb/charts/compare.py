"""Two jobs over the same items: what got faster or slower, and what came out otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from restate_nb.charts.durations import log_ticks
from restate_nb.charts.spans import Floats, Ints
from restate_nb.charts.style import Palette, axes_for, note_empty, palette, read_out, tidy
from restate_nb.formatting import counted, duration, one_line, two_digits
from restate_nb.results.exports import label_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType

ALIKE = 1.1
"""Run times that differ by less than this factor count as the same: those of one job differ as much by chance."""

POINTS_AT_MOST = 3000
"""Beyond it points lie on one another, and a picture of their density is drawn."""

_FEW = 300  # points that can be told from one another
_CELLS = 110  # rows and columns of that picture


@dataclass(frozen=True, slots=True)
class Mark:
    """How the items of one change are told apart, with and without colour."""

    change: str
    colour: Callable[[Palette], ColorType]
    shape: str
    size: float


# In the order in which they are drawn: the rare ones on top.
_MARKS = (
    Mark("same", lambda colours: colours.ok, "o", 14),
    Mark("changed", lambda colours: colours.running, "D", 22),
    Mark("still failing", lambda colours: colours.idle, "+", 36),
    Mark("fixed", lambda colours: colours.text, "^", 34),
    Mark("newly failed", lambda colours: colours.failed, "x", 34),
)


Points = dict[str, tuple[Floats, Floats]]
"""The places of items, by how they changed."""


def compare(
    compared: pd.DataFrame,
    names: tuple[str, str] = ("a", "b"),
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw each item at its run time in one job and in the other: what got faster is under the line, what got slower
    above it. How the outcome changed is told by colour and shape.

    Args:
        compared: one row an item, as from `rnb.compare(a, b)`.
        names: what the two jobs are called on the axes.
        ax: the Axes to draw on; by default a new figure's.
        title: instead of the one that counts what got faster and slower.

    Example:
        >>> ax = compare(rnb.compare(before, after), ("before", "after"))  # doctest: +SKIP
    """
    ax = axes_for(ax, width=6.4, height=5.6)
    one, other = (compared[f"run_s_{each}"].to_numpy(dtype=float, na_value=np.nan) for each in "ab")
    change = compared["change"].to_numpy(dtype=object)
    tidy(ax, title if title is not None else _title(one, other, change), grid="both")
    ax.grid(color=palette(ax).idle, alpha=0.25, lw=0.7)
    ax.set_xlabel(f"run time in {_name(names[0])}")
    ax.set_ylabel(f"run time in {_name(names[1])}")
    items = np.flatnonzero(~(np.isnan(one) | np.isnan(other)))
    if not len(items):
        ax.set_xticks([])
        ax.set_yticks([])
        note_empty(ax, "no item has run in both jobs" if len(compared) else "no items")
        return ax

    x, y = one[items], other[items]
    least = min((float(each[each > 0].min()) for each in (x, y) if (each > 0).any()), default=1e-6)
    # A duration of 0 has no place on a logarithmic axis; it is put with the shortest.
    x, y = np.maximum(x, least), np.maximum(y, least)
    low, high = least / 1.3, float(max(x.max(), y.max())) * 1.3
    _axes(ax, low, high)
    handles = _diagonal(ax, low, high)
    points = {mark.change: (x[change[items] == mark.change], y[change[items] == mark.change]) for mark in _MARKS}
    if len(items) > POINTS_AT_MOST:
        handles += _density(ax, points, np.geomspace(low, high, _CELLS + 1))
    else:
        handles += _points(ax, points)
    alone = int(np.isin(change, ["only a", "only b"]).sum())
    if alone:
        handles.append(Line2D([], [], ls="none", label=f"in one job only: {alone:,}"))
    # Under the axes and not over them: five changes with their counts need more than a line.
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, fontsize="small",
        handletextpad=0.5, columnspacing=1.2, handlelength=1.2,
    )  # fmt: skip
    read_out(_reader(compared, items, x, y), ax)
    return ax


def _diagonal(ax: Axes, low: float, high: float) -> list[Artist]:
    """The line on which items are as fast as before, and on which side of it they are faster."""
    colours = palette(ax)
    ax.plot([low, high], [low, high], color=colours.text, lw=1, zorder=1.5, label="as fast as before")
    for word, place, ends in (("slower", (0.03, 0.97), ("left", "top")), ("faster", (0.97, 0.03), ("right", "bottom"))):
        ax.text(*place, word, transform=ax.transAxes, ha=ends[0], va=ends[1], color=colours.idle, zorder=4)
    return [Line2D([], [], color=colours.text, lw=1, label="as fast as before")]


def _points(ax: Axes, points: Points) -> list[Artist]:
    """Each item by itself."""
    colours = palette(ax)
    handles: list[Artist] = []
    for order, mark in enumerate(_MARKS):
        count = len(points[mark.change][0])
        if count:
            handles.append(ax.scatter(
                *points[mark.change], s=mark.size / (3 if count > _FEW else 1), marker=mark.shape,
                color=mark.colour(colours), alpha=0.6 if count > _FEW else 0.9,
                linewidths=0 if mark.shape in "oD^" else 1.2, zorder=2 + order / 10, rasterized=count > _FEW,
                label=f"{mark.change}: {count:,}",
            ))  # fmt: skip
    return handles


def _density(ax: Axes, points: Points, edges: Floats) -> list[Artist]:
    """All items as one picture: a cell is as strong as it is full, and has the mix of its items' colours."""
    colours = palette(ax)
    total, mixed = np.zeros((_CELLS, _CELLS)), np.zeros((_CELLS, _CELLS, 3))
    for mark in _MARKS:
        counts = np.histogram2d(points[mark.change][1], points[mark.change][0], (edges, edges))[0]
        total += counts
        mixed += counts[..., None] * np.array(to_rgb(mark.colour(colours)))
    picture = np.zeros((_CELLS, _CELLS, 4))
    full = total > 0
    picture[full, :3] = mixed[full] / total[full, None]
    picture[full, 3] = 0.3 + 0.7 * np.sqrt(total[full] / total.max())
    # `imshow` would stretch equal cells over a logarithmic axis.
    ax.pcolormesh(edges, edges, picture, zorder=1, rasterized=True, label="density")
    counted_marks = ((mark, len(points[mark.change][0])) for mark in _MARKS)
    return [Patch(fc=mark.colour(colours), label=f"{mark.change}: {count:,}") for mark, count in counted_marks if count]


def _axes(ax: Axes, low: float, high: float) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ticks = log_ticks(low, high, 7)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))


def _name(name: str) -> str:
    return one_line(name, 40).replace("$", r"\$")


def _title(one: Floats, other: Floats, change: np.ndarray) -> str:
    """How many got faster and slower, and what came out otherwise."""
    both = np.isin(change, ["same", "changed"]) & (one > 0) & (other > 0)
    factor = one[both] / other[both]
    text = f"{counted(int((factor > ALIKE).sum()), 'item')} faster, {int((factor < 1 / ALIKE).sum()):,} slower"
    if len(factor):
        median = float(np.median(factor))
        text += f", median {two_digits(max(median, 1 / median))} times as {'fast' if median >= 1 else 'slow'}"
    return text


def _reader(compared: pd.DataFrame, items: Ints, x: Floats, y: Floats) -> Callable[[float, float], str]:
    """What an interactive backend says about the place under the mouse: the item that is nearest."""
    log_x, log_y = np.log(x), np.log(y)
    changes = compared["change"].to_numpy(dtype=object)

    def read(at_x: float, at_y: float) -> str:
        if at_x <= 0 or at_y <= 0:
            return ""
        nearest = int(np.argmin((log_x - np.log(at_x)) ** 2 + (log_y - np.log(at_y)) ** 2))
        item = int(items[nearest])
        label = one_line(label_text(compared.index[item]), 40)
        return f"{label}: {changes[item]}, {duration(float(x[nearest]))} then {duration(float(y[nearest]))}"

    return read
