"""When each item waited, ran, failed and was tried again."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from restate_nb.charts.bars import (
    BARS_AT_MOST,
    Canvas,
    Strips,
    draw_bars,
    draw_density,
    draw_waits,
    legend_handles,
    mark_failures,
)
from restate_nb.charts.labels import names_of
from restate_nb.charts.spans import FAILED, Floats, Ints, Spans, read_spans
from restate_nb.charts.style import axes_for, legend, note_empty, palette, read_out, tidy
from restate_nb.charts.time_axis import TimeAxis, time_axis_for
from restate_nb.errors import InvalidInput
from restate_nb.formatting import counted, duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Sort = Literal["start", "duration", "index", "lane"]
"""The order of the rows: by first start, longest on top, as in the input, or packed into as few rows as run at once."""

_NAMED_ROWS = 40
_INCHES_A_NAME = 0.14  # closer than that, names overlap
_NO_WAITS = Strips(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))


def timeline(
    frame: pd.DataFrame,
    attempts: pd.DataFrame | None = None,
    *,
    submitted_at: pd.Timestamp | float | None = None,
    sort: Sort = "start",
    label: str | Sequence[object] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a bar for each item: waiting thin and light, running solid, failed attempts fainter, final failures crossed.

    Beyond 3,000 bars, where each would be thinner than a pixel, the same picture is drawn as a density. Stretches of
    more than five minutes in which nothing ran, and which are longer than all the rest, are cut out of the time axis.

    Args: see `restate_nb.charts`; `label` is written beside the rows; and
        sort: the order of the rows, from the top: "start" by first start, "duration" the longest first, "index" as in
            the input; "lane" packs the attempts into as few rows as ran at once.

    Raises:
        InvalidInput: `sort` is none of these, or `label` is no column.

    Example:
        >>> ax = timeline(job.frame(), job.attempts(), sort="duration")  # doctest: +SKIP
    """
    if sort not in {"start", "duration", "index", "lane"}:
        raise InvalidInput(f'sort must be "start", "duration", "index" or "lane", not {sort!r}.')
    names = names_of(frame, label)
    spans = read_spans(frame, attempts, submitted_at)
    time_axis = time_axis_for(spans.start, spans.end, spans.now)
    rows, row, item_row = _rows(frame, spans, sort)
    if ax is None:
        ax = axes_for(None, height=min(max(1.7 + 0.2 * rows, 2.8), 9.0 if rows <= _NAMED_ROWS else 4.6))
    canvas = Canvas(ax, palette(ax), rows, time_axis.width)
    strips = Strips(time_axis(spans.start), time_axis(spans.end), row)
    waits = _waits(spans, time_axis, item_row) if sort != "lane" else _NO_WAITS

    if len(strips) + len(waits) <= BARS_AT_MOST:
        draw_waits(canvas, waits)
        draw_bars(canvas, strips, spans.kind)
    else:
        draw_density(canvas, strips, spans.kind, waits)
    mark_failures(canvas, strips.of(spans.kind == FAILED))

    tidy(ax, title if title is not None else _title(frame, spans))
    time_axis.apply(ax)
    pad = max(3 - rows, 0) / 2  # one bar alone is no wall
    ax.set_ylim(rows - 0.4 + pad, -0.6 - pad)
    if sort != "lane" and rows <= min(_NAMED_ROWS, _height(ax) / _INCHES_A_NAME):
        ax.set_yticks(item_row, [names[i] for i in range(rows)])
        ax.tick_params(axis="y", length=0)
        ax.set_ylabel(label if isinstance(label, str) else " / ".join(str(n) for n in frame.index.names if n) or "item")
    else:
        _count_rows(ax, sort)
    legend(ax, legend_handles(canvas, spans.kind, len(waits) > 0))
    if not len(strips):
        note_empty(ax, "nothing has run yet" if len(frame) else "no items")
    read_out(_reader(names, frame, item_row, time_axis, (spans, strips) if sort == "lane" else None), ax)
    return ax


def _rows(frame: pd.DataFrame, spans: Spans, sort: Sort) -> tuple[int, Ints, Ints]:
    """The number of rows, the row of each span, and the row of each item (the first one, in lanes)."""
    if sort == "lane":
        row = _lanes(spans)
        item_row = np.full(spans.items, -1, dtype=np.int64)
        item_row[spans.position[::-1]] = row[::-1]
        return int(row.max(initial=-1)) + 1, row, item_row
    if sort == "start":
        order = np.argsort(spans.started, kind="stable")  # NaN, not started, comes last
    elif sort == "duration":
        order = np.argsort(-frame["run_s"].to_numpy(dtype=float, na_value=np.nan), kind="stable")
    else:
        order = np.arange(spans.items)
    item_row = np.empty(spans.items, dtype=np.int64)
    item_row[order] = np.arange(spans.items)
    return spans.items, item_row[spans.position], item_row


def _lanes(spans: Spans) -> Ints:
    """Pack the spans: each goes to the lowest lane that is free, so there are as many lanes as ran at once."""
    lane = np.empty(len(spans.start), dtype=np.int64)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    starts, ends = spans.start.tolist(), spans.end.tolist()
    for i in np.lexsort((spans.end, spans.start)).tolist():
        while busy and busy[0][0] <= starts[i]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane[i] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (ends[i], int(lane[i])))
    return lane


def _waits(spans: Spans, time_axis: TimeAxis, item_row: Ints) -> Strips:
    """From submission to the first start, and between attempts."""
    until = np.where(np.isnan(spans.started), spans.now, spans.started)
    order = np.lexsort((spans.start, spans.position))
    position, start, end = spans.position[order], spans.start[order], spans.end[order]
    again = np.flatnonzero((position[1:] == position[:-1]) & (start[1:] > end[:-1]))
    left: Floats = np.concatenate([spans.submitted, end[again]])
    right: Floats = np.concatenate([until, start[again + 1]])
    row = np.concatenate([item_row, item_row[position[again]]])
    long_enough = right > left
    return Strips(time_axis(left[long_enough]), time_axis(right[long_enough]), row[long_enough])


def _title(frame: pd.DataFrame, spans: Spans) -> str:
    status = frame["status"].astype(str)
    failed = int(status.isin(["error", "timeout"]).sum())
    unfinished = int(status.isin(["pending", "running"]).sum())
    text = counted(len(frame), "item") + (f" in {duration(spans.now)}" if len(spans.start) else "")
    if failed:
        text += f", {failed:,} failed"
    return text + (f", {unfinished:,} unfinished" if unfinished else "")


def _height(ax: Axes) -> float:
    """The height of the axes in inches, before the layout gives room to labels."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(ax.get_window_extent().height / figure.dpi)


def _count_rows(ax: Axes, sort: Sort) -> None:
    """Counts on the vertical axis, where names do not fit."""
    words = {"start": "in order of start", "duration": "longest first", "index": "in order of input"}
    ax.set_ylabel("attempts at once" if sort == "lane" else f"items, {words[sort]}")
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    first = 1 if sort == "lane" else 0
    ax.yaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place + first:,.0f}"))


def _reader(
    names: list[str], frame: pd.DataFrame, item_row: Ints, time_axis: TimeAxis, lanes: tuple[Spans, Strips] | None
) -> Callable[[float, float], str]:
    """What an interactive backend says about the place under the mouse; in lanes, by the attempt that is there."""
    order = np.argsort(item_row, kind="stable")
    status, ran = frame["status"].astype(str).to_numpy(), frame["run_s"].to_numpy(dtype=float, na_value=np.nan)

    def read(x: float, y: float) -> str:
        when, row = duration(time_axis.at(x)), round(y)
        if lanes is not None:
            spans, strips = lanes
            there = np.flatnonzero((strips.row == row) & (strips.left <= x) & (strips.right >= x))
            found = spans.position[there[:1]]
        else:
            found = order[row : row + 1] if row >= 0 else order[:0]
        if not len(found):
            return when
        item = int(found[0])
        text = f"{names[item]}: {status[item]}" + ("" if np.isnan(ran[item]) else f", ran {duration(ran[item])}")
        return f"{text}, at {when}"

    return read
