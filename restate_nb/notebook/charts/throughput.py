"""How many items were finished over time, and how many ran at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from restate_nb.notebook.charts.clock import Clock, clock_for
from restate_nb.notebook.charts.spans import FAILED, OK, Floats, Spans, read_spans
from restate_nb.notebook.charts.style import axes_for, legend, palette, say_empty, tidy
from restate_nb.notebook.panel.words import counted, duration, rate

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


def throughput(
    frame: pd.DataFrame,
    attempts: pd.DataFrame | None = None,
    *,
    submitted_at: pd.Timestamp | float | None = None,
    limit: float | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the rate at which items ended over time, failures on top, and how many attempts ran at once as a line.

    The line belongs to the axis on the right (its Axes is `ax.figure.axes[-1]`).

    Args:
        frame: one row an item, as from `job.frame()`.
        attempts: one row an attempt, as from `job.attempts()`.
        submitted_at: second 0, as a timestamp or in Unix seconds.
        limit: a rate limit to draw as a line, in items per second.
        ax: the Axes to draw on; by default a new figure's.
        title: instead of the one that tells the mean rate.

    Example:
        >>> ax = throughput(job.frame(), job.attempts(), limit=50)  # doctest: +SKIP
    """
    ax = axes_for(ax, height=3.2)
    spans = read_spans(frame, attempts, submitted_at)
    clock = clock_for(spans.start, spans.end, spans.now)
    ended = np.isin(spans.kind, [OK, FAILED])
    tidy(ax, title if title is not None else _title(int(ended.sum()), clock), grid="y")
    clock.dress(ax)
    if not ended.any():
        ax.set_ylabel("items finished per second")
        ax.set_ylim(0, 1)
        say_empty(ax, "nothing has finished yet" if len(frame) else "no items")
        return ax

    places, seconds = time_bins(clock, int(ended.sum()))
    lengths = np.diff(seconds)
    ok, failed = (np.histogram(spans.end[spans.kind == k], seconds)[0] / lengths for k in (OK, FAILED))
    # Slow jobs are told per minute or hour: "0.003 per second" is no number to read.
    factor, per = next(
        ((f, p) for f, p in ((1, "second"), (60, "minute")) if (ok + failed).max() * f >= 1), (3600, "hour")
    )
    colours = palette(ax)
    handles: list[Artist] = [Patch(fc=colours.ok, label="ok")]
    ax.stairs(ok * factor, places, fill=True, color=colours.ok, label="ok")
    if failed.any():
        ax.stairs(
            (ok + failed) * factor, places, baseline=ok * factor, fill=True, fc=colours.failed, ec=ax.get_facecolor(),
            hatch="////", lw=0, label="failed",
        )  # fmt: skip
        handles.append(Patch(fc=colours.failed, ec=ax.get_facecolor(), hatch="////", label="failed"))
    if limit is not None:
        ax.axhline(limit * factor, color=colours.text, lw=1.2, ls=(0, (1, 2)), label="limit")
        handles.append(Line2D([], [], color=colours.text, lw=1.2, ls=(0, (1, 2)), label=f"limit {rate(limit)}"))
    ax.set_ylim(0, max((ok + failed).max(), limit or 0) * factor * 1.1)
    ax.set_ylabel(f"items finished per {per}")
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}" if n >= 100 else f"{n:g}"))
    _concurrency(ax, spans, places, seconds)
    handles.append(Line2D([], [], color=colours.text, lw=1.2, label="running at once"))
    legend(ax, handles)
    return ax


def time_bins(clock: Clock, events: int) -> tuple[Floats, Floats]:
    """Edges of even bins on the time axis, fit for a number of events: as places and as seconds."""
    places = np.linspace(0, clock.width, int(np.clip(events**0.5 * 2, 10, 120)) + 1)
    return places, np.array([clock.at(place) for place in places])


def mean_running(spans: Spans, seconds: Floats) -> Floats:
    """How many attempts ran at once between each two moments, on average."""

    def until(moments: Floats, begins: Floats) -> Floats:
        """The seconds that have passed since each of `begins`, summed up, at each moment."""
        ordered = np.sort(begins)
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        before = np.searchsorted(ordered, moments)
        passed: Floats = before * moments - sums[before]
        return passed

    busy = until(seconds, spans.start) - until(seconds, spans.end)
    mean: Floats = np.maximum(np.diff(busy) / np.diff(seconds), 0.0)
    return mean


def _concurrency(ax: Axes, spans: Spans, places: Floats, seconds: Floats) -> None:
    at_once = ax.twinx()
    running = mean_running(spans, seconds)
    at_once.stairs(running, places, baseline=None, color=palette(ax).text, lw=1.2, label="running at once")
    at_once.set_ylim(0, max(running.max() * 1.1, 1.1))
    at_once.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    at_once.set_ylabel("running at once")
    at_once.spines["top"].set_visible(False)


def _title(ended: int, clock: Clock) -> str:
    if not ended:
        return "Throughput"
    return f"{counted(ended, 'item')} finished in {duration(clock.shown)}: {rate(ended / clock.shown)} on average"
