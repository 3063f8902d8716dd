"""Comparing two jobs: what is drawn, told from the artists and never from pixels."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import style
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from restate_nb.charts import compare
from restate_nb.results.frame import compared
from tests.charts.charts_jobs import simulate


def two(n, *, slower=1.0):
    one, _ = simulate(n, run=0.5, fail=0.2, seed=1)
    other, _ = simulate(n + n // 10, run=0.5 * slower, fail=0.1, seed=2)
    for frame, value in ((one, "one"), (other, "other")):
        frame["value"] = frame["item"].where(frame.index % 9 > 0, value).where(frame["status"] == "ok", None)
    return compared(one, other)


def points(ax):
    found = {}
    for drawn in ax.collections:
        if isinstance(drawn, PathCollection):
            found[drawn.get_label().partition(":")[0]] = np.asarray(drawn.get_offsets())
    return found


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def render(ax):
    target = io.BytesIO()
    ax.figure.savefig(target, format="png")
    assert target.tell() > 3000


@pytest.mark.parametrize("n", [10, 1000])
def test_each_item_of_both_jobs_lies_at_its_two_run_times(n):
    frame = two(n)
    ax = compare(frame, ("before", "after"))
    drawn = points(ax)
    counts = frame["change"].value_counts().drop("only b")
    assert {change: len(where) for change, where in drawn.items()} == counts.to_dict()
    for change, where in drawn.items():
        of_it = frame[frame["change"] == change]
        assert where[:, 0] == pytest.approx(of_it["run_s_a"].to_numpy(dtype=float))
        assert where[:, 1] == pytest.approx(of_it["run_s_b"].to_numpy(dtype=float))
    assert ax.get_xlabel() == "run time in before"
    assert ax.get_ylabel() == "run time in after"
    assert ax.get_xlim() == ax.get_ylim()
    assert f"in one job only: {n // 10}" in words(ax)
    render(ax)


def test_the_changes_are_told_apart_without_colour_too():
    ax = compare(two(1000))
    shapes = [drawn.get_paths()[0].vertices.tobytes() for drawn in ax.collections if isinstance(drawn, PathCollection)]
    assert len(shapes) == len(set(shapes)) == 5


def test_many_items_are_a_density_and_counted_all():
    frame = two(100_000)
    ax = compare(frame)
    assert points(ax) == {}
    (picture,) = [drawn for drawn in ax.collections if isinstance(drawn, QuadMesh)]
    assert picture.get_array().shape[0] <= 200
    counts = frame["change"].value_counts()
    for change in ("same", "changed", "fixed", "newly failed", "still failing"):
        assert f"{change}: {counts[change]:,}" in words(ax)
    render(ax)


def test_the_title_tells_what_got_slower():
    ax = compare(two(1000, slower=3.0))
    assert ax.get_title(loc="left").endswith("times as slow")
    faster, slower = (int(part.split()[0]) for part in ax.get_title(loc="left").split(", ")[:2])
    assert 0 < faster < slower
    alike = two(500)
    alike["run_s_b"] = alike["run_s_a"] * 1.05
    assert compare(alike).get_title(loc="left").startswith("0 items faster, 0 slower")


def test_the_item_nearest_to_the_mouse_is_read_out():
    frame = two(200)
    frame.index = pd.Index([f"city {i}" for i in range(len(frame))])
    ax = compare(frame)
    row = frame.iloc[17]
    said = ax.format_coord(row["run_s_a"], row["run_s_b"])
    assert said.startswith(f"city 17: {row['change']}, ")


@pytest.mark.parametrize(("n", "note"), [(0, "no items"), (5, "no item has run in both jobs")])
def test_jobs_with_nothing_to_compare_are_said_to_have_none(n, note):
    ax = compare(compared(simulate(n, stop=0)[0], simulate(n, stop=0)[0]))
    assert note in [text.get_text() for text in ax.texts]
    render(ax)


def test_a_comparison_is_drawn_on_the_axes_given_and_dark_text_is_light():
    mine = Figure().add_subplot()
    assert compare(two(10), ax=mine, title="mine") is mine
    assert mine.get_title(loc="left") == "mine"
    with style.context("dark_background"):
        dark = compare(two(100))
        assert to_hex(dark.xaxis.label.get_color()) == "#ffffff"
        render(dark)


def test_items_that_took_no_time_have_their_place():
    frame = two(50)
    frame.iloc[::2, frame.columns.get_loc("run_s_b")] = 0.0
    render(compare(frame))
    frame["run_s_a"] = frame["run_s_b"] = 0.0
    render(compare(frame))
