"""What failed, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch

from restate_nb.charts.labels import names_of, some_of
from restate_nb.charts.spans import FAILED, RETRIED, Floats, Ints, Spans, read_spans
from restate_nb.charts.style import axes_for, legend, note_empty, palette, read_out, tidy
from restate_nb.charts.throughput import time_bins
from restate_nb.charts.time_axis import time_axis_for
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

    Args: see `restate_nb.charts`. Without `attempts` only final failures are known.

    Example:
        >>> ax = failures(job.frame(), job.attempts())  # doctest: +SKIP
    """
    spans = read_spans(frame, attempts, submitted_at)
    time_axis = time_axis_for(spans.start, spans.end, spans.now)
    names = names_of(frame, label)
    failed = _read(spans)
    if ax is None:
        ax = axes_for(None, height=1.5 + 0.55 * max(len(failed.types), 2))
    tidy(ax, title if title is not None else _title(int(failed.final.sum()), int((~failed.final).sum())))
    time_axis.apply(ax)
    ax.set_ylabel("type of error")
    if not len(failed.types):
        ax.set_yticks([])
        note_empty(ax, "no failures" if len(frame) else "no items")
        return ax

    places, seconds = time_bins(time_axis, max(len(failed.items), 400))
    _bars(ax, failed, places, seconds)
    _name_rows(ax, failed, names)
    legend(ax, _handles(ax, failed))

    def read(x: float, y: float) -> str:
        """What an interactive backend says about the place under the mouse."""
        at, r = int(np.searchsorted(places, x)) - 1, round(y)
        when = f"at {duration(time_axis.at(x))}"
        if not (0 <= at < len(seconds) - 1 and 0 <= r < len(failed.types)):
            return when
        there = (failed.row == r) & (failed.ended >= seconds[at]) & (failed.ended <= seconds[at + 1])
        which = f"{counted(int(there.sum()), 'attempt')}: {some_of(names, failed.items[there])}"
        return f"{failed.types[r]}, {when}: {which if there.any() else 'none'}"

    read_out(read, ax)
    return ax


@dataclass(frozen=True, slots=True)
class _Failed:
    """The attempts that failed: of which items, when they ended, whether they were the last, and the row of each.

    Attributes:
        types: the names of the rows.
    """

    items: Ints
    ended: Floats
    final: npt.NDArray[np.bool_]
    row: Ints
    types: list[str]


def _read(spans: Spans) -> _Failed:
    failed = np.isin(spans.kind, [FAILED, RETRIED])
    row, types = _rows(spans.error_type[failed])
    return _Failed(spans.position[failed], spans.end[failed], spans.kind[failed] == FAILED, row, types)


def _bars(ax: Axes, failed: _Failed, places: Floats, seconds: Floats) -> None:
    """The failures of each type over time; with the scale, beside the tallest bar."""
    colours = palette(ax)
    rows = range(len(failed.types))
    finals, retried = (
        [np.histogram(failed.ended[(failed.final == final) & (failed.row == r)], seconds)[0] for r in rows]
        for final in (True, False)
    )
    stacks = [final + again for final, again in zip(finals, retried, strict=True)]
    tallest = max(stack.max() for stack in stacks)
    scale = 0.82 / tallest
    for r, stack in enumerate(stacks):
        foot = r + 0.41  # rows are counted downwards, bars rise
        top = foot - finals[r] * scale
        ax.stairs(top, places, baseline=foot, fill=True, color=colours.failed, lw=0, label="failed")
        ax.stairs(
            foot - stack * scale, places, baseline=top, fill=True, fc=to_rgba(colours.failed, 0.4), ec=colours.failed,
            hatch="//////", lw=0, label="failed, tried again",
        )  # fmt: skip
        ax.axhline(foot, color=colours.idle, lw=0.6, alpha=0.6)
        ax.text(
            1.01, r, f"{stack.sum():,}", transform=ax.get_yaxis_transform(), va="center", ha="left", fontsize="small"
        )
    _note_scale(ax, stacks, tallest, places, float(np.median(np.diff(seconds))))


def _name_rows(ax: Axes, failed: _Failed, names: list[str]) -> None:
    """Each type with the first items that failed with it."""
    order = np.lexsort((failed.items, ~failed.final))  # those that stayed failed first
    items, row = failed.items[order], failed.row[order]
    examples = [one_line(some_of(names, items[row == r], 2), 28) for r in range(len(failed.types))]
    labels = [f"{name}\n{which}" for name, which in zip(failed.types, examples, strict=True)]
    ax.set_yticks(range(len(labels)), labels)
    for text in ax.get_yticklabels():
        text.set_fontsize("small")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(labels) - 0.5, -0.55)


def _handles(ax: Axes, failed: _Failed) -> list[Artist]:
    """What the legend shows: only what is there."""
    colour = palette(ax).failed
    handles: list[Artist] = []
    if not failed.final.all():
        handles.append(Patch(fc=to_rgba(colour, 0.4), ec=colour, hatch="//////", lw=0, label="failed, tried again"))
    if failed.final.any():
        handles.append(Patch(fc=colour, label="failed"))
    return handles


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


def _note_scale(ax: Axes, stacks: list[np.ndarray], tallest: int, places: np.ndarray, bin_seconds: float) -> None:
    """Tell how many failures the tallest bar stands for, beside it."""
    row = next(r for r, stack in enumerate(stacks) if stack.max() == tallest)
    at = int(stacks[row].argmax())
    right = at > len(stacks[row]) * 0.7
    text = f"{counted(int(tallest), 'attempt')} in {duration(bin_seconds)}"
    ax.annotate(
        text, (places[at + (0 if right else 1)], row - 0.41),
        xytext=(-4 if right else 4, -1), textcoords="offset points", ha="right" if right else "left", va="top",
        fontsize="x-small", bbox={"boxstyle": "round,pad=0.2", "fc": ax.get_facecolor(), "ec": "none", "alpha": 0.9},
    )  # fmt: skip


def _title(final: int, again: int) -> str:
    if not final and not again:
        return "Failures"
    text = f"{counted(final, 'item')} failed" if final else "No item failed for good"
    return text + (f", {counted(again, 'failed attempt')} tried again" if again else "")
