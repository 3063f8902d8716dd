"""Charts of a job, drawn with matplotlib from its frames; each returns its Axes."""

from restate_nb.notebook.charts.durations import durations
from restate_nb.notebook.charts.timeline import Sort, timeline

__all__ = ["Sort", "durations", "timeline"]
