"""Throughput, failures and the overview; and how charts appear in a notebook."""

import asyncio
import io

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib import style
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from nbclient import NotebookClient

from restate_nb.charts import durations, failures, overview, throughput
from restate_nb.errors import InvalidInput
from restate_nb.results.limit_history import LimitHistory
from tests.charts.charts_jobs import JOBS, SUBMITTED, simulate


def areas(ax, label):
    """The steps with a label, as (values, edges, baseline)."""
    return [p.get_data() for p in ax.patches if isinstance(p, StepPatch) and p.get_label() == label]


def limits(*changes):
    """What limited a job: (second, how many at once, how many a second or None)."""
    return pd.DataFrame(
        {
            "at": [SUBMITTED + pd.Timedelta(seconds=second) for second, _, _ in changes],
            "concurrency": [concurrency for _, concurrency, _ in changes],
            "per_second": pd.Series([rate for _, _, rate in changes], dtype="float64"),
        }
    )


def steps(axes, label):
    """The corners of a line with a label, over all axes of a figure."""
    return [list(map(tuple, line.get_xydata())) for ax in axes for line in ax.lines if line.get_label() == label]


def render(figure):
    target = io.BytesIO()
    figure.savefig(target, format="png")
    assert target.tell() > 3000


@pytest.mark.parametrize("kind", ["steady", "flaky", "tailed"])
def test_the_area_of_the_throughput_is_the_number_of_items(kind):
    frame, attempts = simulate(1000, **JOBS[kind])
    ax = throughput(frame, attempts)
    (ok,) = areas(ax, "ok")
    scale = 1e-3 if "(ms)" in ax.get_xlabel() else 1.0
    assert np.sum(ok.values * np.diff(ok.edges)) * scale == pytest.approx((frame["status"] == "ok").sum())
    assert ax.get_ylabel() == "items finished per second"


def test_the_line_says_how_many_ran_at_once():
    frame, attempts = simulate(2000, run=1, spread=0.1, concurrency=40)
    ax = throughput(frame, attempts)
    (line,) = areas(ax.figure.axes[-1], "running at once")
    assert line.values[:-12] == pytest.approx(np.full(len(line.values) - 12, 40.0))
    busy = np.sum(line.values * np.diff(line.edges))
    assert busy == pytest.approx(attempts["run_s"].sum(), rel=1e-6)


def test_slow_jobs_are_counted_per_hour_and_the_limit_with_them():
    frame, attempts = simulate(20, run=3000, concurrency=1)
    ax = throughput(frame, attempts, limits=limits((0, 1, 1 / 1800)), submitted_at=SUBMITTED)
    assert ax.get_ylabel() == "items finished per hour"
    (limit,) = [line for line in ax.lines if line.get_label() == "limit"]
    assert limit.get_ydata()[0] == pytest.approx(2)


def test_limits_are_steps_up_to_the_end():
    frame, attempts = simulate(400, run=1, spread=0.1, concurrency=40)
    changes = limits((-0.5, 40, None), (2, 60, 50.0), (4, 60, 20.0), (9_000, 1, 1.0))
    ax = throughput(frame, attempts, limits=changes, submitted_at=SUBMITTED)
    (at_once,) = steps(ax.figure.axes, "limit at once")
    end = at_once[-1][0]
    assert end == pytest.approx((attempts["finished_at"].max() - SUBMITTED).total_seconds())
    assert at_once == [(0, 40), (2, 40), (2, 60), (4, 60), (4, 60), (end, 60)]
    (rate,) = steps(ax.figure.axes, "limit")
    assert rate[2:] == [(2, 50), (4, 50), (4, 20), (end, 20)]
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == ["ok", "limit 20/s to 50/s", "running at once", "limit 40 to 60 at once"]


def test_a_limit_far_above_what_ran_is_only_told():
    frame, attempts = simulate(400, run=1, spread=0.1, concurrency=4)
    ax = throughput(frame, attempts, limits=limits((0, 1_000, 5_000.0)), submitted_at=SUBMITTED)
    assert not steps(ax.figure.axes, "limit at once") + steps(ax.figure.axes, "limit")
    assert ax.figure.axes[-1].get_ylim()[1] < 5
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == ["ok", "limit 5,000/s", "running at once", "limit 1,000 at once"]


def test_thousands_of_changes_of_a_limit_keep_their_ends_and_a_bounded_size():
    kept = LimitHistory()
    for second in range(20_000):
        kept.note(second, second % 50 + 1)
        kept.note(second + 0.5, second % 50 + 1)
    frame = kept.frame()
    assert 1_000 <= len(frame) <= 2_000
    seconds = frame["at"].astype("int64") // {"ns": 10**9, "us": 10**6, "ms": 1000, "s": 1}[frame["at"].dt.unit]
    assert (seconds.iloc[0], seconds.iloc[-1]) == (0, 19_999)
    assert seconds.is_monotonic_increasing


def test_an_idle_stretch_is_cut_and_bends_no_rate():
    frame, attempts = simulate(300, **JOBS["flaky"], gap=(6, 40_000))
    ax = throughput(frame, attempts)
    (ok,) = areas(ax, "ok")
    assert 5 < np.median(ok.values) < 40
    assert any("idle 11 h" in text.get_text() for text in ax.texts)


def test_failures_have_a_row_for_each_type_the_most_frequent_on_top():
    frame, attempts = simulate(1000, **JOBS["flaky"] | {"fail": 0.4})
    ax = failures(frame, attempts)
    counts = attempts["error_type"].value_counts()
    rows = [label.get_text().split("\n") for label in ax.get_yticklabels()]
    assert [row[0] for row in rows] == list(counts.index)
    for name, which in rows:
        failed = attempts.loc[attempts["error_type"] == name, "position"].nunique()
        assert which.endswith(f" and {failed - 2:,} more")
        final = list(frame[frame["error_type"] == name].index[:2])
        assert which.startswith(", ".join(map(str, final)))  # those that stayed failed first
    totals = [text.get_text() for text in ax.texts if text.get_position()[0] == 1.01]
    assert totals == [f"{n:,}" for n in counts]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_rare_types_of_errors_share_a_row():
    frame, attempts = simulate(400, fail=1.0)
    attempts["error_type"] = [f"Error{i % 20}" for i in range(400)]
    labels = [label.get_text() for label in failures(frame, attempts).get_yticklabels()]
    assert len(labels) == 8
    assert labels[-1].startswith("13 other types\n2, 3 and 258 more")


def test_items_under_the_mouse_are_told_by_label():
    frame, attempts = simulate(5, run=1, spread=0.0, concurrency=1)
    frame["item"] = ["a", "$b", "c", "d", "e"]
    attempts.loc[[1, 3], ["status", "error_type"]] = "error", "KeyError"
    frame.loc[[1, 3], ["status", "error_type"]] = "error", "KeyError"
    ax = failures(frame, attempts, label="item")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["KeyError\n\\$b, d"]
    assert ax.format_coord(3.99, 0.1) == "KeyError, at 4 s: 1 attempt: d"
    assert ax.format_coord(0.5, 0.1) == "KeyError, at 500 ms: none"
    ax = throughput(frame, attempts, label="item")
    for each in ax.figure.axes:
        assert each.format_coord(2.99, 0.0).startswith("at 3 s: 2/s (c), 1.0 at once")
    ax = durations(frame.assign(run_s=[1.0, 2.0, 3.0, 4.0, 4.0]), label="item")
    assert ax.get_xlabel() == "run time per item (s)\nslowest: d (4 s), e (4 s), c (3 s)"
    for each in ax.figure.axes:
        assert each.format_coord(3.9, 0.0) == "3.6 s to 4 s: 2 items: d, e; 60% within 3.9 s"
    with pytest.raises(InvalidInput, match="label='url' is no column"):
        overview(frame, attempts, label="url")


def test_without_failures_the_chart_says_so():
    frame, attempts = simulate(10)
    assert [text.get_text() for text in failures(frame, attempts).texts] == ["no failures"]


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("n", [0, 1, 10, 1000, 100_000])
def test_an_overview_of_any_size(n, kind):
    frame, attempts = simulate(n, **JOBS[kind])
    axes = overview(frame, attempts, title="job <1>")
    assert axes.shape == (2, 2)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes.flat)
    render(axes[0, 0].figure)


def test_an_overview_goes_onto_the_figure_given():
    frame, attempts = simulate(10)
    mine = Figure()
    assert {ax.figure for ax in overview(frame, attempts, figure=mine).flat} == {mine}


def test_unfinished_jobs_are_drawn():
    frame, attempts = simulate(500, **JOBS["flaky"], stop=4)
    render(overview(frame, attempts)[0, 0].figure)


def test_text_is_light_on_a_dark_style():
    frame, attempts = simulate(100, **JOBS["flaky"])
    with style.context("dark_background"):
        axes = overview(frame, attempts)
        figure = axes[0, 0].figure
        texts = [text for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]
        assert {to_hex(text.get_color()) for text in texts if text.get_text()} == {"#ffffff"}
        render(figure)


CELLS = [
    "import sys; sys.path.insert(0, {folder!r})\n"
    "from tests.charts.charts_jobs import simulate\n"
    "from restate_nb import charts\nframe, attempts = simulate(100)",
    "charts.timeline(frame, attempts).set_title('mine')",
    "axes = charts.overview(frame, attempts)",
    "from matplotlib import pyplot; pyplot.get_fignums()",
]


def test_a_chart_appears_under_its_cell_once_and_nothing_stays_open(request):
    folder = str(request.path.parents[2])
    cells = [nbformat.v4.new_code_cell(CELLS[0].format(folder=folder)), *map(nbformat.v4.new_code_cell, CELLS[1:])]
    notebook = nbformat.v4.new_notebook(cells=cells)
    asyncio.run(NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute())
    pictures = [["image/png" in output.get("data", {}) for output in cell.outputs] for cell in notebook.cells]
    assert [sum(shown) for shown in pictures] == [0, 1, 1, 0]
    assert notebook.cells[3].outputs[0]["data"]["text/plain"] == "[]"
