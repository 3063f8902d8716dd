"""Charts of a job, drawn with matplotlib from its frames; each returns its Axes.

What all of them take:

    frame: one row an item, as from `job.frame()`.
    attempts: one row an attempt, as from `job.attempts()`; without it each item counts as a single attempt.
    submitted_at: second 0, as a timestamp or in Unix seconds; by default the earliest moment that the frame tells.
    label: what names the items: a column of `frame`, or one value an item; the index by default. InvalidInput is
        raised where there is no such column, or there are too few or too many values.
    ax: the Axes to draw on; by default a new figure's.
    title: instead of the one that tells the figures.
"""

from restate_nb.charts.compare import compare
from restate_nb.charts.durations import durations
from restate_nb.charts.failures import failures
from restate_nb.charts.overview import overview
from restate_nb.charts.throughput import throughput
from restate_nb.charts.timeline import Sort, timeline

__all__ = ["Sort", "compare", "durations", "failures", "overview", "throughput", "timeline"]
