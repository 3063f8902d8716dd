"""How long items ran."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from restate_nb.charts.labels import names_of, some_of
from restate_nb.charts.spans import Floats, Ints
from restate_nb.charts.style import axes_for, legend, note_empty, palette, read_out, tidy
from restate_nb.charts.time_axis import unit_for
from restate_nb.formatting import counted, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

PERCENTILES = (50, 95, 99)

_BINS_AT_MOST = 80
_CURVE_POINTS = 1000
# Where a logarithmic axis of time is read off, in seconds: what a minute or an hour is, is not a power of ten.
_LOG_TICKS = [x * 10.0**p for p in range(-7, 1) for x in (1, 2, 5)] + [10, 20, 60, 300, 600, 1200, 3600, 18000, 86400]


def durations(
    frame: pd.DataFrame,
    *,
    label: str | Sequence[object] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how long the finished items ran: a histogram, and the share that was done within a time.

    The curve belongs to the axis on the right (its Axes is `ax.figure.axes[-1]`); p50, p95 and p99 are marked on it.
    The time axis is logarithmic where the slowest took 30 times as long as the fastest tenth or more. The slowest items
    are told by name below it; an interactive backend tells those under the mouse.

    Args: see `restate_nb.charts`. `run_s` of the frame are the seconds of all of an item's attempts.

    Example:
        >>> ax = durations(job.frame())  # doctest: +SKIP
    """
    ax = axes_for(ax, height=3.6)
    ran = _read(frame)
    names = names_of(frame, label)
    marked = [(p, float(np.percentile(ran.seconds, p, method="inverted_cdf"))) for p in PERCENTILES if len(ran.seconds)]
    tidy(ax, title if title is not None else _title(len(ran.seconds), marked), grid="y")
    ax.set_ylabel("items")
    ax.set_xlabel("run time per item")
    if not len(ran.seconds):
        ax.set_ylim(0, 1)
        ax.set_yticks([])
        ax.set_xticks([])
        note_empty(ax, "nothing has finished yet" if len(frame) else "no items")
        return ax

    logarithmic = _wants_log(ran.seconds)
    if logarithmic:
        # A duration of 0 has no place on a logarithmic axis; it is put with the shortest.
        ran = replace(ran, seconds=np.maximum(ran.seconds, ran.seconds[ran.seconds > 0].min()))
    edges = _edges(ran.seconds, logarithmic)
    handles = _histogram(ax, ran, edges)
    shares = _curve(ax, ran.seconds, edges, marked)
    handles.append(Line2D([], [], color=palette(ax).text, lw=1.3, label="share done within"))
    legend(ax, handles)
    _time_axis(ax, edges, logarithmic)
    if len(ran.seconds) > 1:
        slowest = np.argsort(-ran.seconds, kind="stable")[:3]
        text = ", ".join(f"{names[ran.items[i]]} ({duration(float(ran.seconds[i]))})" for i in slowest)
        ax.set_xlabel(f"{ax.get_xlabel()}\nslowest: {text}")
    read_out(_reader(ran, edges, names), ax, shares)
    return ax


@dataclass(frozen=True, slots=True)
class _Ran:
    """The items that have ended: which, how long they ran, and which of them failed."""

    items: Ints
    seconds: Floats
    failed: npt.NDArray[np.bool_]


def _read(frame: pd.DataFrame) -> _Ran:
    status = frame["status"].astype(str)
    ran = frame["run_s"].to_numpy(dtype=float, na_value=np.nan)
    ended = status.isin(["ok", "error", "timeout"]).to_numpy() & ~np.isnan(ran)
    return _Ran(np.flatnonzero(ended), np.maximum(ran[ended], 0.0), (status != "ok").to_numpy()[ended])


def _histogram(ax: Axes, ran: _Ran, edges: Floats) -> list[Artist]:
    """Bars with the failed items on top; what the legend says of them."""
    colours, ground = palette(ax), ax.get_facecolor()
    counts, _ = np.histogram(ran.seconds, edges)
    of_failed, _ = np.histogram(ran.seconds[ran.failed], edges)
    widths = np.diff(edges)
    ax.bar(edges[:-1], counts - of_failed, widths, align="edge", color=colours.ok, ec=ground, lw=0.4, label="ok")
    handles: list[Artist] = [Patch(fc=colours.ok, label="ok")]
    if ran.failed.any():
        ax.bar(
            edges[:-1], of_failed, widths, bottom=counts - of_failed, align="edge", color=colours.failed, hatch="////",
            ec=ground, lw=0.4, label="failed",
        )  # fmt: skip
        handles.append(Patch(fc=colours.failed, ec=ground, hatch="////", label="failed"))
    ax.set_ylim(0, counts.max() * 1.12)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    return handles


def _reader(ran: _Ran, edges: Floats, names: list[str]) -> Callable[[float, float], str]:
    """What an interactive backend says about the place under the mouse."""

    def read(x: float, _: float) -> str:
        at = int(np.searchsorted(edges, x)) - 1
        if not 0 <= at < len(edges) - 1:
            return duration(max(x, 0.0))
        there = (ran.seconds >= edges[at]) & (ran.seconds <= edges[at + 1])
        between = f"{duration(float(edges[at]))} to {duration(float(edges[at + 1]))}"
        share = float((ran.seconds <= x).mean())
        which = counted(int(there.sum()), "item") + (f": {some_of(names, ran.items[there])}" if there.any() else "")
        return f"{between}: {which}; {share:.0%} within {duration(x)}"

    return read


def _title(items: int, marked: Sequence[tuple[int, float]]) -> str:
    # The percentiles are told here and not beside their points, which lie on one another more often than not.
    text = ", ".join(f"p{percentile} {duration(value)}" for percentile, value in marked)
    return f"Run time of {counted(items, 'item')}: {text}" if items else "Run time"


def _wants_log(seconds: Floats) -> bool:
    """Whether a linear axis would press most items into its first pixels."""
    if not (seconds > 0).any():
        return False
    low = max(float(np.percentile(seconds, 10)), float(seconds[seconds > 0].min()))
    return float(seconds.max()) > 30 * low


def _edges(seconds: Floats, logarithmic: bool) -> Floats:
    low, high = float(seconds.min()), float(seconds.max())
    if high - low <= 1e-9 * high or high == 0:
        # All alike: one bar with room around it.
        return np.array([0.9, 1.1]) * high if high else np.array([0.0, 1e-6])
    bins = int(np.clip(2 * len(seconds) ** 0.5, 8, _BINS_AT_MOST))
    if logarithmic:
        edges = np.geomspace(low, high, bins + 1)
        edges[0], edges[-1] = low, high  # geomspace may miss them by a bit
        return edges
    return np.linspace(low, high, bins + 1)


def _curve(ax: Axes, seconds: Floats, edges: Floats, marked: Sequence[tuple[int, float]]) -> Axes:
    """The cumulative share on an axis of its own, and the percentiles on it."""
    text = palette(ax).text
    shares = ax.twinx()
    ordered = np.sort(seconds)
    steps = np.arange(1, len(ordered) + 1) / len(ordered)
    if len(ordered) > _CURVE_POINTS:
        chosen = np.linspace(0, len(ordered) - 1, _CURVE_POINTS).astype(int)
        ordered, steps = ordered[chosen], steps[chosen]
    xs = np.concatenate([[edges[0]], [ordered[0]], ordered, [edges[-1]]])
    ys = np.concatenate([[0.0], [0.0], steps, [1.0]])
    shares.step(xs, ys, where="post", color=text, lw=1.3, label="share done within")
    shares.set_ylim(0, 1.12)
    shares.set_yticks([0, 0.25, 0.5, 0.75, 1])
    shares.yaxis.set_major_formatter(PercentFormatter(1.0))
    shares.set_ylabel("share of items done within")
    shares.spines["top"].set_visible(False)
    for percentile, value in marked:
        shares.plot(
            [value, value], [0, percentile / 100], color=text, lw=1, ls=(0, (4, 3)), marker="o", markevery=[1],
            markersize=4, label=f"p{percentile}",
        )  # fmt: skip
    return shares


def _time_axis(ax: Axes, edges: Floats, logarithmic: bool) -> None:
    low, high, bars = float(edges[0]), float(edges[-1]), len(edges) - 1
    if logarithmic:
        ax.set_xscale("log")
        ax.set_xlim(low / 1.08, high * 1.08)
        ax.set_xlabel("run time per item (logarithmic)")
        ax.xaxis.set_major_locator(FixedLocator(log_ticks(low / 1.08, high * 1.08)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: duration(t)))
        return
    factor, unit = unit_for(high)
    margin = 0.03 * (high - low)
    alone = 2 * (high - low) if bars == 1 else 0.0  # one bar that fills the axes would be a wall
    ax.set_xlim(max(low - margin - alone, 0.0) if low > 0.3 * high else 0.0, high + margin + alone)
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t * factor:,.6g}"))
    ax.set_xlabel(f"run time per item ({unit})")


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """Where to read off a logarithmic axis of time: at most so many places, in seconds."""
    ticks = [t for t in _LOG_TICKS if low <= t <= high]
    return ticks if len(ticks) <= most else [t for t in ticks if _is_decade(t)]


def _is_decade(seconds: float) -> bool:
    return seconds >= 60 or float(np.log10(seconds)) % 1 < 1e-6 or float(np.log10(seconds)) % 1 > 1 - 1e-6
