"""The time axis: seconds in the unit that fits, with long idle stretches cut out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from restate_nb.charts.spans import Floats
from restate_nb.formatting import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (300.0, 1.0, "s"), (3 * 3600.0, 1 / 60, "min"))
_CUT_OVER = 300.0  # seconds; shorter pauses are back-off, which is worth seeing
_CUT_WIDTH = 0.03  # what is left of a cut stretch, as a share of the time that is shown


def unit_for(span: float) -> tuple[float, str]:
    """By how much to multiply seconds so that a span of them has numbers to read, and the unit's name."""
    return next(((factor, name) for limit, factor, name in _UNITS if span <= limit), (1 / 3600, "h"))


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Where seconds since submission lie on a time axis.

    A job that died at night and went on in the morning would be two slivers at the ends of an empty chart. So idle
    stretches that are longer than all the rest are cut out, and said.

    Attributes:
        span: the last second shown.
        cuts: first and last second of each stretch that is cut out.
    """

    span: float
    cuts: tuple[tuple[float, float], ...] = ()

    @property
    def shown(self) -> float:
        """Seconds of work on the axis."""
        return self.span - sum(end - start for start, end in self.cuts)

    @property
    def width(self) -> float:
        """The length of the axis."""
        return float(self(np.array([self.span]))[0])

    def __call__(self, seconds: Floats) -> Floats:
        """Places on the axis, in the axis' unit."""
        knots, places = self._knots()
        return np.interp(seconds, knots, places)

    def at(self, place: float) -> float:
        """The second at a place on the axis."""
        knots, places = self._knots()
        return float(np.interp(place, places, knots))

    def _knots(self) -> tuple[Floats, Floats]:
        factor, _ = unit_for(self.shown)
        knots, places = [0.0], [0.0]
        for start, end in self.cuts:
            places += [places[-1] + (start - knots[-1]) * factor]
            places += [places[-1] + _CUT_WIDTH * self.shown * factor]
            knots += [start, end]
        last = max(self.span, knots[-1] + 1e-9)
        return np.array([*knots, last]), np.array([*places, places[-1] + (last - knots[-1]) * factor])

    def apply(self, ax: Axes) -> None:
        """Give an Axes its time axis: limits, ticks, label, and a band for each cut."""
        width = self.width
        ax.set_xlim(-0.01 * width, 1.02 * width)
        locator = MaxNLocator(8, steps=[1, 2, 2.5, 5, 10])
        factor, unit = unit_for(self.shown)
        if not self.cuts:
            ax.xaxis.set_major_locator(locator)
            ax.set_xlabel(f"time since submission ({unit})")
            return
        ax.set_xlabel(f"time since submission ({unit}), + since work went on")
        step = float(np.diff(locator.tick_values(0, self.shown * factor))[0])
        ticks = []
        for begin, end in zip([0.0, *(e for _, e in self.cuts)], [*(s for s, _ in self.cuts), self.span], strict=True):
            left, sign = self(np.array([begin]))[0], "+" if begin else ""
            ticks += [(left + n * step, f"{sign}{n * step:g}") for n in range(int((end - begin) * factor / step) + 1)]
        ax.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        for start, end in self.cuts:
            self._mark_cut(ax, start, end)

    def _mark_cut(self, ax: Axes, start: float, end: float) -> None:
        left, right = self(np.array([start, end]))
        ax.axvspan(left, right, facecolor="none", edgecolor=ax.xaxis.label.get_color(), alpha=0.35, hatch="//", lw=0)
        ax.annotate(
            f"idle {duration(end - start)}", ((left + right) / 2, 0.5), xycoords=("data", "axes fraction"),
            rotation=90, ha="center", va="center", fontsize="small",
            bbox={"boxstyle": "round,pad=0.25", "fc": ax.get_facecolor(), "ec": "none"},
        )  # fmt: skip


def time_axis_for(start: Floats, end: Floats, now: float) -> TimeAxis:
    """The time axis of spans from `start` to `end`, in seconds, up to `now`."""
    span = now if now > 0 else 1.0
    if not len(start) or span < _CUT_OVER:
        return TimeAxis(span)
    order = np.argsort(start)
    begins = np.append(start[order], span)
    busy_until = np.concatenate([[0.0], np.maximum.accumulate(end[order])])
    idle = begins - busy_until
    cuts: list[tuple[float, float]] = []
    for i in np.argsort(idle)[::-1]:
        shown = span - sum(b - a for a, b in cuts)
        if idle[i] < _CUT_OVER or idle[i] <= shown - idle[i]:
            break
        cuts.append((float(busy_until[i]), float(begins[i])))
    return TimeAxis(span, tuple(sorted(cuts)))
