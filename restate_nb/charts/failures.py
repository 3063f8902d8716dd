"""What failed, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch

from restate_nb.charts.labels import names_of, some_of
from restate_nb.charts.spans import FAILED, RETRIED, read_spans
from restate_nb.charts.style import axes_for, legend, palette, say_empty, tidy
from restate_nb.charts.throughput import time_bins
from restate_nb.charts.time_axis import clock_for
from restate_nb.formatting import counted, duration, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_TYPES_SHOWN = 7


def failures(
    frame: pd.DataFrame,
    attempts: pd.DataFrame | None = None,
    *,
    submitted_at: pd.Timestamp | float | None = None,
    label: str | Sequence[object] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how many attempts failed over time, a row for each type of error, the most frequent on top.

    Failures that were tried again are fainter and hatched, final ones solid. All rows have the same scale; the tallest
    bar says what it stands for. Types beyond the seventh share a row. Under each type are the first items that failed
    with it; an interactive backend tells those under the mouse.

    Args:
        frame: one row an item, as from `job.frame()`.
        attempts: one row an attempt, as from `job.attempts()`; without it only final failures are known.
        submitted_at: second 0, as a timestamp or in Unix seconds.
        label: what names the items: a column of `frame`, or one value an item; the index by default.
        ax: the Axes to draw on; by default a new figure's.
        title: instead of the one that counts failures.

    Raises:
        InvalidInput: `label` is no column, or has too few or too many values.

    Example:
        >>> ax = failures(job.frame(), job.attempts())  # doctest: +SKIP
    """
    spans = read_spans(frame, attempts, submitted_at)
    clock = clock_for(spans.start, spans.end, spans.now)
    failed = np.isin(spans.kind, [FAILED, RETRIED])
    kind, ended, types = spans.kind[failed], spans.end[failed], spans.error_type[failed]
    items, called = spans.position[failed], names_of(frame, label)
    row, names = _rows(types)
    if ax is None:
        ax = axes_for(None, height=1.5 + 0.55 * max(len(names), 2))
    tidy(ax, title if title is not None else _title(int((kind == FAILED).sum()), int((kind == RETRIED).sum())))
    clock.dress(ax)
    ax.set_ylabel("type of error")
    if not len(names):
        ax.set_yticks([])
        say_empty(ax, "no failures" if len(frame) else "no items")
        return ax

    colours = palette(ax)
    places, seconds = time_bins(clock, max(len(kind), 400))
    counts = {
        (code, r): np.histogram(ended[(kind == code) & (row == r)], seconds)[0]
        for code in (FAILED, RETRIED) for r in range(len(names))
    }  # fmt: skip
    stacks = [counts[FAILED, r] + counts[RETRIED, r] for r in range(len(names))]
    tallest = max(stack.max() for stack in stacks)
    scale = 0.82 / tallest
    faint = to_rgba(colours.failed, 0.4)
    for r, stack in enumerate(stacks):
        foot = r + 0.41  # rows are counted downwards, bars rise
        final = foot - counts[FAILED, r] * scale
        ax.stairs(final, places, baseline=foot, fill=True, color=colours.failed, lw=0, label="failed")
        ax.stairs(
            foot - stack * scale, places, baseline=final, fill=True, fc=faint, ec=colours.failed, hatch="//////",
            lw=0, label="failed, tried again",
        )  # fmt: skip
        ax.axhline(foot, color=colours.idle, lw=0.6, alpha=0.6)
        ax.text(
            1.01, r, f"{stack.sum():,}", transform=ax.get_yaxis_transform(), va="center", ha="left", fontsize="small"
        )
    order = np.lexsort((items, kind != FAILED))  # those that stayed failed first
    told = [one_line(some_of(called, items[order][row[order] == r], 2), 28) for r in range(len(names))]
    ax.set_yticks(range(len(names)), [f"{name}\n{which}" for name, which in zip(names, told, strict=True)])
    for text in ax.get_yticklabels():
        text.set_fontsize("small")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.5, -0.55)
    _say_scale(ax, stacks, tallest, places, float(np.median(np.diff(seconds))))
    handles: list[Artist] = []
    if (kind == RETRIED).any():
        handles.append(Patch(fc=faint, ec=colours.failed, hatch="//////", lw=0, label="failed, tried again"))
    if (kind == FAILED).any():
        handles.append(Patch(fc=colours.failed, label="failed"))
    legend(ax, handles)

    def read(x: float, y: float) -> str:
        """What an interactive backend says about the place under the mouse."""
        at, r = int(np.searchsorted(places, x)) - 1, round(y)
        when = f"at {duration(clock.at(x))}"
        if not (0 <= at < len(seconds) - 1 and 0 <= r < len(names)):
            return when
        there = (row == r) & (ended >= seconds[at]) & (ended <= seconds[at + 1])
        said = f"{counted(int(there.sum()), 'attempt')}: {some_of(called, items[there])}" if there.any() else "none"
        return f"{names[r]}, {when}: {said}"

    ax.format_coord = read  # type: ignore[method-assign]
    return ax


def _rows(types: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The row of each failure, and the names of the rows, the most frequent first."""
    kinds, which, counts = np.unique(types.astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(kinds), dtype=np.int64)
    rank[order] = np.arange(len(kinds))
    names = [one_line(str(kinds[i]) or "unknown", 28).replace("$", r"\$") for i in order]
    if len(names) > _TYPES_SHOWN + 1:
        names = [*names[:_TYPES_SHOWN], f"{len(names) - _TYPES_SHOWN} other types"]
        rank = np.minimum(rank, _TYPES_SHOWN)
    return rank[which] if len(types) else np.empty(0, dtype=np.int64), names


def _say_scale(ax: Axes, stacks: list[np.ndarray], tallest: int, places: np.ndarray, bin_seconds: float) -> None:
    """Tell how many failures the tallest bar stands for, beside it."""
    row = next(r for r, stack in enumerate(stacks) if stack.max() == tallest)
    at = int(stacks[row].argmax())
    right = at > len(stacks[row]) * 0.7
    said = f"{counted(int(tallest), 'attempt')} in {duration(bin_seconds)}"
    ax.annotate(
        said, (places[at + (0 if right else 1)], row - 0.41),
        xytext=(-4 if right else 4, -1), textcoords="offset points", ha="right" if right else "left", va="top",
        fontsize="x-small", bbox={"boxstyle": "round,pad=0.2", "fc": ax.get_facecolor(), "ec": "none", "alpha": 0.9},
    )  # fmt: skip


def _title(final: int, again: int) -> str:
    if not final and not again:
        return "Failures"
    said = f"{counted(final, 'item')} failed" if final else "No item failed for good"
    return said + (f", {counted(again, 'failed attempt')} tried again" if again else "")
