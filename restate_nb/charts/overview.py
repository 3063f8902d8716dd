"""A job at a glance: its four charts in one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from restate_nb.charts.durations import durations
from restate_nb.charts.failures import failures
from restate_nb.charts.style import new_figure
from restate_nb.charts.throughput import throughput
from restate_nb.charts.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


def overview(
    frame: pd.DataFrame,
    attempts: pd.DataFrame | None = None,
    *,
    submitted_at: pd.Timestamp | float | None = None,
    limits: pd.DataFrame | None = None,
    label: str | Sequence[object] | None = None,
    figure: Figure | None = None,
    title: str | None = None,
) -> npt.NDArray[np.object_]:
    """Draw the timeline, the durations, the throughput and the failures in one figure.

    Args: see `restate_nb.charts` and, for `limits`, `throughput`; and
        figure: the figure to draw on; by default a new one.
        title: over the figure.

    Returns:
        The Axes as a 2 by 2 array: timeline and durations above throughput and failures. The figure is that of each.

    Example:
        >>> axes = overview(job.frame(), job.attempts())  # doctest: +SKIP
        >>> axes[0, 0].figure.savefig("overview.png")  # doctest: +SKIP
    """
    figure = figure or new_figure(13.5, 7.6)
    axes: npt.NDArray[np.object_] = figure.subplots(2, 2, squeeze=False)
    timeline(frame, attempts, submitted_at=submitted_at, label=label, ax=axes[0, 0])
    durations(frame, label=label, ax=axes[0, 1])
    throughput(frame, attempts, submitted_at=submitted_at, limits=limits, label=label, ax=axes[1, 0])
    failures(frame, attempts, submitted_at=submitted_at, label=label, ax=axes[1, 1])
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return axes
