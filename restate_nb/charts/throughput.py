"""How many items were finished over time, and how many ran at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from restate_nb.charts.labels import names_of, some_of
from restate_nb.charts.spans import FAILED, OK, Floats, Spans, read_spans
from restate_nb.charts.style import axes_for, legend, note_empty, palette, read_out, tidy
from restate_nb.charts.time_axis import TimeAxis, time_axis_for
from restate_nb.formatting import counted, duration, rate

_FAR: Final = 2.5  # times what ran: a limit beyond it would press the rest to the ground
_DASHED: Final[dict[str, Any]] = {"lw": 1.2, "ls": (0, (5, 2))}
_DOTTED: Final[dict[str, Any]] = {"lw": 1.2, "ls": (0, (1, 1.5))}

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


def throughput(
    frame: pd.DataFrame,
    attempts: pd.DataFrame | None = None,
    *,
    submitted_at: pd.Timestamp | float | None = None,
    limits: pd.DataFrame | None = None,
    label: str | Sequence[object] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the rate at which items ended over time, failures on top, and how many attempts ran at once as a line.

    The line belongs to the axis on the right (its Axes is `ax.figure.axes[-1]`). The limits on both are dotted lines;
    one that is far above what ran is left to the legend. An interactive backend tells the items under the mouse.

    Args: see `restate_nb.charts`; and
        limits: one row a change, in the order of time: `at`, `concurrency` (how many may run at once) and
            `per_second` (how many may start; NaN for any number).

    Example:
        >>> ax = throughput(job.frame(), job.attempts())  # doctest: +SKIP
    """
    ax = axes_for(ax, height=3.2)
    spans = read_spans(frame, attempts, submitted_at)
    time_axis = time_axis_for(spans.start, spans.end, spans.now)
    ended = int(np.isin(spans.kind, [OK, FAILED]).sum())
    tidy(ax, title if title is not None else _title(ended, time_axis), grid="y")
    time_axis.apply(ax)
    if not ended:
        ax.set_ylabel("items finished per second")
        ax.set_ylim(0, 1)
        note_empty(ax, "nothing has finished yet" if len(frame) else "no items")
        return ax

    places, seconds = time_bins(time_axis, ended)
    steps = _steps(limits, spans, time_axis)
    handles = _rates(ax, spans, places, seconds, steps)
    running, names = mean_running(spans, seconds), names_of(frame, label)
    at_once, more = _concurrency(ax, running, places, steps)
    legend(ax, handles + more)

    def read(x: float, _: float) -> str:
        """What an interactive backend says about the place under the mouse."""
        at, when = int(np.searchsorted(places, x)) - 1, f"at {duration(time_axis.at(x))}"
        if not 0 <= at < len(running):
            return when
        begin, end = seconds[at], seconds[at + 1]
        there = np.flatnonzero(np.isin(spans.kind, [OK, FAILED]) & (spans.end >= begin) & (spans.end <= end))
        which = f" ({some_of(names, spans.position[there])})" if len(there) else ""
        return f"{when}: {rate(len(there) / (end - begin))}{which}, {running[at]:.1f} at once"

    read_out(read, ax, at_once)
    return ax


def _rates(ax: Axes, spans: Spans, places: Floats, seconds: Floats, steps: _Steps | None) -> list[Artist]:
    """How many items ended in each bin, and how many could; what the legend says of it."""
    colours, ground = palette(ax), ax.get_facecolor()
    ok, failed = (np.histogram(spans.end[spans.kind == k], seconds)[0] / np.diff(seconds) for k in (OK, FAILED))
    top = float((ok + failed).max())
    # Slow jobs are told per minute or hour: "0.003 per second" is no number to read.
    factor, per = next(((f, p) for f, p in ((1, "second"), (60, "minute")) if top * f >= 1), (3600, "hour"))
    handles: list[Artist] = [Patch(fc=colours.ok, label="ok")]
    ax.stairs(ok * factor, places, fill=True, color=colours.ok, label="ok")
    if failed.any():
        ax.stairs(
            (ok + failed) * factor, places, baseline=ok * factor, fill=True, fc=colours.failed, ec=ground,
            hatch="////", lw=0, label="failed",
        )  # fmt: skip
        handles.append(Patch(fc=colours.failed, ec=ground, hatch="////", label="failed"))
    if steps is not None and not np.isnan(steps.per_second).all():
        lowest, highest = float(np.nanmin(steps.per_second)), float(np.nanmax(steps.per_second))
        if lowest <= _FAR * top:
            ax.plot(steps.places, steps.per_second * factor, color=colours.text, **_DASHED, label="limit")
            top = max(top, min(highest, _FAR * top))
        text = rate(lowest) if lowest == highest else f"{rate(lowest)} to {rate(highest)}"
        handles.append(Line2D([], [], color=colours.text, **_DASHED, label=f"limit {text}"))
    ax.set_ylim(0, top * factor * 1.1)
    ax.set_ylabel(f"items finished per {per}")
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}" if n >= 100 else f"{n:g}"))
    return handles


def time_bins(time_axis: TimeAxis, events: int) -> tuple[Floats, Floats]:
    """Edges of even bins on the time axis, fit for a number of events: as places and as seconds."""
    places = np.linspace(0, time_axis.width, int(np.clip(events**0.5 * 2, 10, 120)) + 1)
    return places, np.array([time_axis.at(place) for place in places])


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


@dataclass(frozen=True, slots=True)
class _Steps:
    """Limits as steps: the corners' places on the time axis, and the values there."""

    places: Floats
    concurrency: Floats
    per_second: Floats


def _steps(limits: pd.DataFrame | None, spans: Spans, time_axis: TimeAxis) -> _Steps | None:
    if limits is None:
        return None
    since = (pd.DatetimeIndex(pd.to_datetime(limits["at"], utc=True)) - spans.origin).total_seconds()
    limits = limits[np.asarray(since < time_axis.span)]  # what was set after the end limited nothing
    if not len(limits):
        return None
    begins = np.maximum(since.to_numpy(dtype=float)[: len(limits)], 0.0)
    corners = np.concatenate([np.repeat(begins, 2)[1:], [time_axis.span]])
    concurrency, per_second = (
        np.repeat(limits[name].to_numpy(dtype=float, na_value=np.nan), 2) for name in ("concurrency", "per_second")
    )
    return _Steps(time_axis(corners), concurrency, per_second)


def _concurrency(ax: Axes, running: Floats, places: Floats, steps: _Steps | None) -> tuple[Axes, list[Artist]]:
    """How many ran at once, on an axis of its own, and how many could; the axis, and what the legend says of it."""
    colour = palette(ax).text
    at_once = ax.twinx()
    at_once.stairs(running, places, baseline=None, color=colour, lw=1.2, label="running at once")
    top = max(float(running.max()), 1.0)
    handles: list[Artist] = [Line2D([], [], color=colour, lw=1.2, label="running at once")]
    if steps is not None:
        lowest, highest = float(steps.concurrency.min()), float(steps.concurrency.max())
        if lowest <= _FAR * top:
            at_once.plot(steps.places, steps.concurrency, color=colour, **_DOTTED, label="limit at once")
            top = max(top, min(highest, _FAR * top))
        text = f"{lowest:,.0f}" if lowest == highest else f"{lowest:,.0f} to {highest:,.0f}"
        handles.append(Line2D([], [], color=colour, **_DOTTED, label=f"limit {text} at once"))
    at_once.set_ylim(0, top * 1.1)
    at_once.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    at_once.set_ylabel("running at once")
    at_once.spines["top"].set_visible(False)
    return at_once, handles


def _title(ended: int, time_axis: TimeAxis) -> str:
    if not ended:
        return "Throughput"
    return (
        f"{counted(ended, 'item')} finished in {duration(time_axis.shown)}: {rate(ended / time_axis.shown)} on average"
    )
