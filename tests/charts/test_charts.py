"""Timeline and durations: what is drawn, told from the artists and never from pixels."""

import io
import sys
import time

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import style
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from restate_nb.charts import durations, timeline
from restate_nb.errors import InvalidInput
from tests.charts.charts_jobs import JOBS, SUBMITTED, simulate


def bars(ax, word):
    return sum(len(c.get_paths()) for c in ax.collections if isinstance(c, PolyCollection) and c.get_label() == word)


def lines(ax):
    return sum(len(c.get_segments()) for c in ax.collections if isinstance(c, LineCollection))


def crosses(ax):
    return sum(len(line.get_xdata()) for line in ax.lines if line.get_label() == "failed for good")


def legend_words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def render(ax):
    target = io.BytesIO()
    ax.figure.savefig(target, format="png")
    assert target.tell() > 2000


def test_a_bar_for_each_attempt_a_line_for_each_wait_a_cross_for_each_failure():
    frame, attempts = simulate(200, **JOBS["flaky"] | {"fail": 0.4})
    ax = timeline(frame, attempts)
    failed = frame["status"].isin(["error", "timeout"]).sum()
    assert failed > 5
    assert bars(ax, "ok") == (attempts["status"] == "ok").sum() == 200 - failed
    assert bars(ax, "failed") == crosses(ax) == failed
    assert bars(ax, "failed, tried again") == len(attempts) - 200
    # All but the first 20 waited for a place, and each further attempt waited for its back-off.
    assert lines(ax) == 180 + len(attempts) - 200
    assert legend_words(ax) == ["waiting", "ok", "failed, tried again", "failed"]
    assert ax.get_title(loc="left").startswith("200 items in ")
    render(ax)


def test_bars_lie_where_and_when_the_attempts_ran():
    frame, attempts = simulate(30, run=2, concurrency=5)
    ax = timeline(frame, attempts, sort="index")
    (drawn,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    boxes = [path.get_extents() for path in drawn.get_paths()]
    began = (attempts["started_at"] - SUBMITTED).dt.total_seconds().to_numpy()
    assert [box.x0 for box in boxes] == pytest.approx(began, abs=1e-6)
    assert [box.width for box in boxes] == pytest.approx(attempts["run_s"].to_numpy(), abs=1e-6)
    assert [(box.y0 + box.y1) / 2 for box in boxes] == pytest.approx(attempts["position"].to_numpy())
    assert ax.get_xlabel() == "time since submission (s)"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first item is on top


@pytest.mark.parametrize(("seconds", "unit"), [(1e-5, "µs"), (0.01, "ms"), (1, "s"), (100, "min"), (10_000, "h")])
def test_the_unit_fits_the_span(seconds, unit):
    frame, attempts = simulate(10, run=seconds, spread=0, concurrency=1)
    ax = timeline(frame, attempts)
    assert ax.get_xlabel() == f"time since submission ({unit})"
    assert 1 <= ax.get_xlim()[1] <= 1100


def test_rows_are_sorted_as_asked():
    frame, attempts = simulate(12, concurrency=3, index=pd.Index(list("lkjihgfedcba"), name="letter"))

    def rows(sort):
        ax = timeline(frame, attempts, sort=sort)
        assert ax.get_ylabel() == "letter"
        ticks = zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        return [label.get_text() for _, label in sorted(ticks, key=lambda t: t[0])]

    assert rows("index") == list("lkjihgfedcba")
    assert rows("start") == list(frame["started_at"].sort_values(kind="stable").index)
    assert rows("duration") == list(frame["run_s"].sort_values(ascending=False).index)


def test_lanes_are_as_many_as_ran_at_once():
    frame, attempts = simulate(500, concurrency=7, fail=0.2, max_attempts=2)
    ax = timeline(frame, attempts, sort="lane")
    rows = {round((box.y0 + box.y1) / 2, 6) for c in ax.collections for box in (p.get_extents() for p in c.get_paths())}
    assert rows == set(range(7))
    assert ax.get_ylabel() == "attempts at once"


def test_many_items_are_drawn_as_a_density():
    frame, attempts = simulate(20_000, **JOBS["flaky"])
    ax = timeline(frame, attempts)
    assert not [c for c in ax.collections if isinstance(c, PolyCollection)]
    (picture,) = ax.images
    assert picture.get_array().shape[0] <= 500
    assert 10 < crosses(ax) == frame["status"].isin(["error", "timeout"]).sum() <= 300
    assert ax.get_ylabel() == "items, in order of start"


def test_many_failures_are_a_margin_that_hides_nothing():
    frame, attempts = simulate(20_000, **JOBS["flaky"] | {"fail": 0.4})
    ax = timeline(frame, attempts, sort="index")
    failed = frame["status"].isin(["error", "timeout"]).to_numpy()
    assert crosses(ax) == 0
    (margin,) = [image for image in ax.images if image.get_label() == "failed for good"]
    strength = margin.get_array()[:, 0, 3]
    per_cell = np.bincount(np.flatnonzero(failed) * len(strength) // 20_000, minlength=len(strength))
    assert 0.2 < strength[per_cell > 0].min() < strength.max() <= 1
    assert (strength[np.argsort(per_cell, kind="stable")] == np.sort(strength)).all(), "the more failed, the stronger"
    assert margin.get_extent()[0] > attempts["finished_at"].sub(SUBMITTED).dt.total_seconds().max() / 60
    assert "failed, at the right edge too" in legend_words(ax)


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("n", [10, 1000, 100_000])
def test_charts_are_drawn_quickly_at_any_size(n, kind):
    frame, attempts = simulate(n, **JOBS[kind])
    started = time.perf_counter()
    render(timeline(frame, attempts))
    render(timeline(frame, attempts, sort="lane"))
    render(durations(frame))
    assert time.perf_counter() - started < 8  # 0.8 s where nothing else runs


def test_what_runs_is_drawn_up_to_now():
    frame, attempts = simulate(24, **JOBS["flaky"], stop=1.5)
    ax = timeline(frame, attempts)
    running = (frame["status"] == "running").sum()
    assert running > 3
    assert bars(ax, "running") == running
    assert "unfinished" in ax.get_title(loc="left")


@pytest.mark.parametrize(("n", "note"), [(0, "no items"), (5, "nothing has run yet")])
def test_nothing_to_draw_is_said(n, note):
    frame, attempts = simulate(n, stop=0)
    ax = timeline(frame, attempts)
    assert note in [text.get_text() for text in ax.texts]
    assert ax.get_xlabel()
    render(ax)
    render(durations(frame))


def test_attempts_may_be_missing():
    frame, _ = simulate(20, fail=0.5)
    ax = timeline(frame)
    assert bars(ax, "ok") + bars(ax, "failed") == 20


def test_a_long_idle_stretch_is_cut_out_and_said():
    frame, attempts = simulate(300, **JOBS["flaky"], gap=(6, 40_000))
    ax = timeline(frame, attempts)
    assert ax.get_xlim()[1] < 100
    assert any(text.get_text().startswith("idle 11 h") for text in ax.texts)
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks[0] == "0"
    assert "+5" in ticks
    render(ax)


def test_a_pause_shorter_than_the_work_is_not_cut():
    frame, attempts = simulate(300, run=100, gap=(300, 350))
    assert not [text for text in timeline(frame, attempts).texts if "idle" in text.get_text()]


def test_rows_are_named_by_a_column_or_by_values():
    frame, attempts = simulate(3)
    assert next(t.get_text() for t in timeline(frame, attempts, label="item").get_yticklabels()).startswith("https://")
    assert [t.get_text() for t in timeline(frame, attempts, label=[1, "$a$", None]).get_yticklabels()] == [
        "1", r"\$a\$", "None",
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="label='url' is no column; there are: item, value"):
        timeline(frame, attempts, label="url")
    with pytest.raises(InvalidInput, match="one value an item, 3, not 2"):
        timeline(frame, attempts, label=["a", "b"])
    with pytest.raises(InvalidInput, match="sort must be"):
        timeline(frame, attempts, sort="size")


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_product([["Bern", "Zürich"], range(3)], names=["city", "n"]),
        pd.Index(["a", "a", "b", "b", "b", "c"]),
        pd.date_range("2026-01-01", periods=6, tz="Europe/Zurich"),
        pd.CategoricalIndex(list("abcabc")),
        pd.Index([1, 2, None, 4, 5, 6], dtype="Int64"),
    ],
)
def test_any_index_is_shown(index):
    frame, attempts = simulate(6, index=index, fail=0.5, max_attempts=2)
    ax = timeline(frame, attempts)
    assert bars(ax, "ok") + bars(ax, "failed") + bars(ax, "failed, tried again") == len(attempts)
    assert ax.get_ylabel() == ("city / n" if isinstance(index, pd.MultiIndex) else "item")
    render(ax)


def test_the_place_under_the_mouse_is_read_out():
    frame, attempts = simulate(100_000, run=1, spread=0)
    ax = timeline(frame, attempts, sort="index", label="item")
    assert ax.format_coord(10.0, 1234.2) == "https://example.org/page/1234: ok, ran 1 s, at 10 min 00 s"
    assert ax.format_coord(10.0, -5) == "10 min 00 s"


def test_in_lanes_the_attempt_under_the_mouse_is_read_out():
    frame, attempts = simulate(50, run=1, spread=0, concurrency=5, index=pd.Index([f"city {i}" for i in range(50)]))
    ax = timeline(frame, attempts, sort="lane")
    assert ax.format_coord(0.5, 2) == "city 2: ok, ran 1 s, at 500 ms"
    assert ax.format_coord(7.5, 0).startswith("city 35: ok")
    assert ax.format_coord(100, 0) == ax.format_coord(10.0, 7) == "10 s"


def test_a_chart_is_drawn_on_the_axes_given_and_leaves_pyplot_alone():
    frame, attempts = simulate(10)
    mine = Figure().add_subplot()
    assert timeline(frame, attempts, ax=mine, title="mine") is mine
    assert mine.get_title(loc="left") == "mine"
    own = timeline(frame, attempts)
    assert own.figure is not mine.figure
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_seconds_count_from_the_submission_given():
    frame, attempts = simulate(10, run=10, spread=0)
    early = SUBMITTED - pd.Timedelta(seconds=100)
    for moment in (early, early.timestamp()):
        ax = timeline(frame, attempts, submitted_at=moment)
        (drawn,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
        assert drawn.get_paths()[0].get_extents().x0 == pytest.approx(100, abs=1e-3)


def test_a_dark_style_gets_lighter_colours_and_keeps_its_text():
    frame, attempts = simulate(10)
    with style.context("dark_background"):
        dark = timeline(frame, attempts)
        assert dark.xaxis.label.get_color() == mpl.rcParams["axes.labelcolor"]
    light = timeline(frame, attempts)

    def colour(ax):
        (drawn,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
        return drawn.get_facecolor()[0][:3]

    assert colour(dark).sum() > colour(light).sum()


def test_durations_count_each_finished_item_once():
    frame, _ = simulate(1000, **JOBS["flaky"] | {"fail": 0.5}, stop=30)
    ax = durations(frame)
    by_label = {c.get_label(): sum(patch.get_height() for patch in c) for c in ax.containers}
    status = frame["status"].value_counts().reindex(["ok", "error", "timeout"], fill_value=0)
    assert by_label["ok"] == status["ok"]
    assert by_label["failed"] == status["error"] + status["timeout"]


def test_durations_mark_the_percentiles():
    frame, _ = simulate(1000, **JOBS["steady"])
    ax = durations(frame)
    marked = {line.get_label(): line.get_xdata()[0] for line in ax.figure.axes[-1].lines}
    for p in (50, 95, 99):
        assert marked[f"p{p}"] == pytest.approx(np.percentile(frame["run_s"], p, method="inverted_cdf"))
    unit, slowest = ax.get_xlabel().split("\n")
    assert unit == "run time per item (ms)"
    assert [int(each.split(" ")[0]) for each in slowest.removeprefix("slowest: ").split(", ")] == list(
        frame["run_s"].nlargest(3).index
    )
    assert ax.get_ylabel() == "items"
    assert "%" in ax.figure.axes[-1].yaxis.get_major_formatter()(0.5)


def test_durations_of_different_orders_get_a_logarithmic_axis():
    frame, _ = simulate(1000, **JOBS["tailed"])
    assert durations(frame).get_xscale() == "log"
    frame.iloc[::4, frame.columns.get_loc("run_s")] = 0.0
    ax = durations(frame)
    assert ax.get_xscale() == "log"
    assert sum(patch.get_height() for patch in ax.containers[0]) == 1000


@pytest.mark.parametrize("seconds", [0.0, 20e-6, 3.0, 7200.0])
@pytest.mark.parametrize("n", [1, 100])
def test_durations_that_are_all_alike(n, seconds):
    frame, _ = simulate(n)
    frame["run_s"] = seconds
    ax = durations(frame)
    assert ax.get_xscale() == "linear"
    assert [patch.get_height() for patch in ax.containers[0]] == [n]
    render(ax)
