"""Draws spans of time in rows: as bars while one can see them, as a picture of their density beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from restate_nb.charts.spans import CANCELLED, FAILED, OK, RETRIED, RUNNING, Floats, Ints
from restate_nb.charts.style import Palette

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

BARS_AT_MOST = 3000
"""Beyond it a bar is thinner than a pixel in any order, and drawing each takes seconds."""

CROSSES_AT_MOST = 300
"""Beyond it crosses make a wall, which one failure in a hundred does not deserve."""

_PIXELS = (420, 1100)  # rows and columns of a density picture
_THINNEST = 3  # columns; a hairline would be lost


@dataclass(frozen=True, slots=True)
class Look:
    """How the spans of one kind are told apart, with and without colour."""

    word: str
    colour: str
    alpha: float
    hatch: str


def looks(colours: Palette) -> dict[int, Look]:
    """The look of each kind of span."""
    return {
        OK: Look("ok", colours.ok, 1.0, ""),
        RETRIED: Look("failed, tried again", colours.failed, 0.4, "////"),
        FAILED: Look("failed", colours.failed, 1.0, ""),
        CANCELLED: Look("cancelled", colours.idle, 0.6, "...."),
        RUNNING: Look("running", colours.running, 0.45, "----"),
    }


@dataclass(frozen=True, slots=True)
class Canvas:
    """What is drawn on: the axes, their colours, how many rows they have, and how long the time axis is."""

    ax: Axes
    colours: Palette
    rows: int
    width: float

    @property
    def few(self) -> bool:
        """Whether a row is wide enough for a hatch and a cross in it."""
        return self.rows <= 60


@dataclass(frozen=True, slots=True)
class Strips:
    """Stretches along the time axis, each in a row; all places are in the units of the axes."""

    left: Floats
    right: Floats
    row: Ints

    def __len__(self) -> int:
        return len(self.left)

    def of(self, chosen: np.ndarray) -> Strips:
        """Some of the strips."""
        return Strips(self.left[chosen], self.right[chosen], self.row[chosen])


def draw_bars(canvas: Canvas, strips: Strips, kind: Ints) -> None:
    """A bar for each strip; the collections are labelled with the words of `looks`."""
    for code, look in looks(canvas.colours).items():
        chosen = strips.of(kind == code)
        if not len(chosen):
            continue
        low, high = chosen.row - 0.36, chosen.row + 0.36
        corners = np.stack(
            [
                np.column_stack([chosen.left, low]), np.column_stack([chosen.right, low]),
                np.column_stack([chosen.right, high]), np.column_stack([chosen.left, high]),
            ],
            axis=1,
        )  # fmt: skip
        edges = np.tile(to_rgba(look.colour, max(look.alpha, 0.7)), (len(chosen), 1))
        if canvas.few:
            # Neighbours in a row are set apart by the ground; an edge of its own keeps a bar of no width visible.
            wide = (chosen.right - chosen.left) > canvas.width / 250
            edges[wide & (look.hatch == "")] = to_rgba(canvas.ax.get_facecolor())
        bars = PolyCollection(
            list(corners),
            facecolors=to_rgba(look.colour, look.alpha),
            edgecolors=edges,
            linewidths=0.8 if canvas.few else 0.5,
            hatch=(look.hatch or None) if canvas.few else None,
            label=look.word,
            rasterized=len(chosen) > 500,
        )
        canvas.ax.add_collection(bars, autolim=False)


def draw_waits(canvas: Canvas, strips: Strips) -> None:
    """A thin light line for each stretch of waiting."""
    if not len(strips):
        return
    ends = np.stack([np.column_stack([strips.left, strips.row]), np.column_stack([strips.right, strips.row])], axis=1)
    width, alpha = (1.6, 0.45) if canvas.few else (0.6, 0.22)
    lines = LineCollection(
        list(ends), colors=canvas.colours.idle, alpha=alpha, linewidths=width, label="waiting", zorder=0.9,
        rasterized=len(strips) > 500, capstyle="butt",
    )  # fmt: skip
    canvas.ax.add_collection(lines, autolim=False)


def draw_density(canvas: Canvas, strips: Strips, kind: Ints, waits: Strips) -> None:
    """All strips as one picture: a cell is as strong as its share of time in which something ran."""
    rows, colours = canvas.rows, canvas.colours
    height, columns = min(rows, _PIXELS[0]), _PIXELS[1]
    picture = np.zeros((height, columns, 4))
    share = rows / height
    waiting = _cover(canvas, waits, height, columns) / share
    picture[..., :3] = to_rgb(colours.idle)
    picture[..., 3] = np.minimum(waiting, 1) * 0.22
    total = np.zeros((height, columns))
    mixed = np.zeros((height, columns, 3))
    for code, look in looks(colours).items():
        chosen = strips.of(kind == code)
        if len(chosen):
            cover = _cover(canvas, chosen, height, columns) / share
            total += cover
            mixed += cover[..., None] * np.array(to_rgb(look.colour))
    busy = total > 0
    picture[busy, :3] = mixed[busy] / total[busy, None]
    # One item among hundreds in a cell still leaves a trace.
    picture[busy, 3] = np.minimum(0.35 + 0.65 * np.sqrt(total[busy]), 1)
    canvas.ax.imshow(
        picture,
        extent=(0, canvas.width, rows - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
        zorder=1,
        label="density",
    )


def _cover(canvas: Canvas, strips: Strips, height: int, columns: int) -> Floats:
    """How many strips cover each cell; the thinnest strip covers three."""
    if not len(strips):
        return np.zeros((height, columns))
    first = np.clip((strips.left / canvas.width * columns).astype(int), 0, columns - _THINNEST)
    last = np.clip(np.ceil(strips.right / canvas.width * columns).astype(int), first + _THINNEST, columns)
    cell = strips.row * height // canvas.rows
    steps = np.zeros((height, columns + 1))
    np.add.at(steps, (cell, first), 1)
    np.add.at(steps, (cell, last), -1)
    return np.cumsum(steps, axis=1)[:, :columns]


def mark_failures(canvas: Canvas, strips: Strips) -> None:
    """A cross at the end of each final failure; where these would hide what they stand on, a margin of the rows."""
    if not len(strips):
        return
    if len(strips) > CROSSES_AT_MOST and canvas.rows > CROSSES_AT_MOST:
        _failed_margin(canvas, strips)
        return
    size, edge = (6.0, 1.6) if canvas.few else (4.0, 1.0) if len(strips) <= 300 else (2.5, 0.6)
    colours = canvas.colours
    canvas.ax.plot(
        strips.right, strips.row, linestyle="none", marker="x", markersize=size, markeredgewidth=edge,
        color=colours.text if canvas.few else colours.failed, label="failed for good", zorder=3,
        rasterized=len(strips) > 500, clip_on=False,
    )  # fmt: skip


def _failed_margin(canvas: Canvas, strips: Strips) -> None:
    """At the right edge, as strong as the share of the rows there that failed; a single one leaves a trace."""
    height = min(canvas.rows, _PIXELS[0])
    per_cell = np.bincount(strips.row * height // canvas.rows, minlength=height)
    share = per_cell * height / canvas.rows
    picture = np.zeros((height, 1, 4))
    picture[..., :3] = to_rgb(canvas.colours.failed)
    picture[:, 0, 3] = np.where(per_cell, np.minimum(0.2 + 0.8 * np.sqrt(share), 1), 0)
    canvas.ax.imshow(
        picture,
        extent=(1.005 * canvas.width, 1.02 * canvas.width, canvas.rows - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
        zorder=2,
        label="failed for good",
    )


def legend_handles(canvas: Canvas, kinds: Ints, waits: bool) -> list[Artist]:
    """What the legend shows: only what is there."""
    handles: list[Artist] = []
    colours, few = canvas.colours, canvas.few
    if waits:
        handles.append(Line2D([], [], color=colours.idle, alpha=0.6, lw=1.6, label="waiting"))
    for code, look in looks(colours).items():
        if not (kinds == code).any():
            continue
        if code == FAILED and (kinds == FAILED).sum() > CROSSES_AT_MOST and canvas.rows > CROSSES_AT_MOST:
            handles.append(Patch(fc=look.colour, label="failed, at the right edge too"))
            continue
        if code == FAILED:
            mark = colours.text if few else colours.failed
            handles.append(
                Line2D(
                    [], [], color=look.colour, lw=5 if few else 0, marker="x", markersize=5, markeredgecolor=mark,
                    label=look.word,
                )
            )  # fmt: skip
            continue
        hatch = look.hatch if few else ""
        handles.append(Patch(fc=to_rgba(look.colour, look.alpha), ec=look.colour, hatch=hatch, label=look.word))
    return handles
