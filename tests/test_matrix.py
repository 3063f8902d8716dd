"""`python -m benchmarks matrix` measures both sides of a row, which give the same values; writes its report, its
pictures and its table; and refuses rows that there are not. (That it is fast is nothing for a test.)"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.matrix import works
from benchmarks.matrix.measured import Measured
from benchmarks.matrix.rows import ROWS

ROOT = Path(__file__).parents[1]
NAMES = ["plain-100", "rows", "dataclasses", "arrays", "http", "durable"]  # those with joblib need more than the tests


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "matrix", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_small_measures_both_sides_and_writes_report_pictures_and_table(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    shutil.copy(ROOT / "docs" / "benchmarks.md", page)
    done = run(tmp_path, "--small", "--rows", *NAMES, "--json", "m.json", "--chart", "m.png", "--markdown")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "m.json").read_text())
    assert [row["name"] for row in report["rows"]] == NAMES and list(report["ratios"]) == NAMES
    for row in report["rows"]:
        assert len(row["ours"]) == len(row["theirs"]) == 1 and min(*row["ours"], *row["theirs"]) > 0
        assert math.isclose(report["ratios"][row["name"]], row["theirs"][0] / row["ours"][0])
        assert f"| {row['work']} | {row['peer']} | {row['count']:,} |" in page.read_text()
    assert "```{image} ../m-dark.png\n:class: only-dark\n" in page.read_text()
    corners = {}
    for ground in ("light", "dark"):
        with Image.open(tmp_path / f"m-{ground}.png") as picture:
            corners[ground] = picture.convert("L").getpixel((0, 0))
            assert picture.width == 1064
    assert corners["light"] == 255 and corners["dark"] < 40

    again = run(tmp_path, "--report", "m.json", "--json", "none.json", "--markdown")
    assert again.returncode == 0 and not (tmp_path / "none.json").exists()
    assert page.read_text().count(report["rows"][0]["work"]) == 1 and "{image}" not in page.read_text()


def test_an_unknown_row_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    done = run(tmp_path, "--rows", "rows", "nonsense")
    assert done.returncode != 0
    assert "No such rows: nonsense. There are: async-noop, " in done.stderr


def test_a_ratio_is_the_median_of_pairs_and_no_ratio_of_medians() -> None:
    """A slow moment of the machine that meets one pair is in both of its sides."""
    found = Measured("x", "w", "p", 100, None, theirs=[1.0, 9.0, 2.0], ours=[2.0, 10.0, 4.0])
    assert found.ratios == [0.5, 0.9, 0.5]
    assert (found.ratio, found.their_rate, found.our_rate) == (0.5, 50.0, 25.0)


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("count", [20, 60])
def test_mixed_items_take_from_1_ms_to_1_s_in_an_order_that_stays(count: int) -> None:
    loops = works.mixed_loops(count)
    assert loops == works.mixed_loops(count) != sorted(loops)
    assert min(loops) == works.LOOPS_10_MS // 10 and max(loops) == works.LOOPS_1_S
