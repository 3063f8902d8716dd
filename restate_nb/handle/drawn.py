"""The charts of a job: its frames, drawn by `charts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from restate_nb.handle.outcomes import Outcomes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from restate_nb.charts import Sort


class Drawn(Outcomes):
    """The side of a job that draws; each chart shows what is recorded by then."""

    def timeline(
        self,
        *,
        sort: Sort = "start",
        label: str | Sequence[object] | None = None,
        ax: Axes | None = None,
        title: str | None = None,
        steps: bool = False,
    ) -> Axes:
        """Draw when each item waited, ran and failed.

        Args:
            sort: the order of rows: by "start", "duration" or "index", or "lane" for rows shared as items end.
            label: what names the rows: a column of the frame, or one value an item.
            ax: where to draw; a new figure by default.
            title: the chart's title; the job's name by default.
            steps: draw the durable steps of each item in place of its attempts; for durable functions.

        Raises:
            InvalidInput: `sort` is none of these; or `label` is no column, or has too few or too many values.

        Example:
            job.timeline(sort="duration", label="item").figure.savefig("timeline.png")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        frame, attempts = self._drawn()
        if steps:
            done = self.steps().dropna(subset=["finished_at"])
            attempts = done.assign(attempt=done.groupby("position").cumcount() + 1, error_type=None, error=None)
        return charts.timeline(frame, attempts, sort=sort, label=label, ax=ax, title=title, submitted_at=self._created)

    def durations(
        self, *, label: str | Sequence[object] | None = None, ax: Axes | None = None, title: str | None = None
    ) -> Axes:
        """Draw how long items ran: histogram, cumulative share, and the percentiles 50, 95 and 99.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            ax: where to draw; a new figure by default.
            title: the chart's title.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.durations().figure.savefig("durations.png")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        return charts.durations(self.frame(), label=label, ax=ax, title=title)

    def throughput(
        self, *, label: str | Sequence[object] | None = None, ax: Axes | None = None, title: str | None = None
    ) -> Axes:
        """Draw how many items ended a second over time, how many ran at once, and the limits on both.

        The limits are those that were in force while this process ran the job: the concurrency as it adapted itself or
        was changed by hand, and the rate.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            ax: where to draw; a new figure by default.
            title: the chart's title.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.throughput()
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        frame, attempts = self._drawn()
        return charts.throughput(
            frame, attempts, limits=self._limits.frame(), label=label, ax=ax, title=title, submitted_at=self._created
        )

    def failures(
        self, *, label: str | Sequence[object] | None = None, ax: Axes | None = None, title: str | None = None
    ) -> Axes:
        """Draw failed attempts by type over time.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            ax: where to draw; a new figure by default.
            title: the chart's title.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.failures(title="What went wrong")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        return charts.failures(*self._drawn(), label=label, ax=ax, title=title, submitted_at=self._created)

    def overview(self, *, label: str | Sequence[object] | None = None, title: str | None = None) -> Any:
        """Draw the four charts on one figure, and return their Axes as a 2 by 2 array.

        Args:
            label: what names items: a column of the frame, or one value an item; the index by default.
            title: over the figure; the job's name by default.

        Raises:
            InvalidInput: `label` is no column, or has too few or too many values.

        Example:
            job.overview()[0, 0].figure.savefig("overview.png")
        """
        from restate_nb import charts  # noqa: PLC0415 - loads matplotlib

        limits = self._limits.frame()
        return charts.overview(
            *self._drawn(), limits=limits, label=label, title=title or self.name, submitted_at=self._created
        )

    def _drawn(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return self.frame(), self.attempts()
