"""Charts of a job, drawn with matplotlib from its frames; each returns its Axes."""

from restate_nb.charts.compare import compare
from restate_nb.charts.durations import durations
from restate_nb.charts.failures import failures
from restate_nb.charts.overview import overview
from restate_nb.charts.throughput import throughput
from restate_nb.charts.timeline import Sort, timeline

__all__ = ["Sort", "compare", "durations", "failures", "overview", "throughput", "timeline"]
