"""`restate-nb demo` prints what a first look should see, with failures and without, beside a plain
loop; it does nothing twice, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

import restate_nb as rnb
from restate_nb import cli, demo
from tests.support import eventually

GOOD = "class A:\n    def one(self):\n        for each in ():\n            if each:\n                pass\n"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small library, instead of Python's own."""
    folder = tmp_path / "library"
    folder.mkdir()
    for number in range(5):
        (folder / f"module{number}.py").write_text(GOOD * (number + 1))
    monkeypatch.setattr(demo, "sources", lambda: sorted(map(str, folder.glob("*.py"))))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_file_is_measured() -> None:
    found = demo.measure(demo.__file__)
    assert found.lines == len(Path(demo.__file__).read_text().splitlines())
    assert found.classes == 1
    assert found.functions >= 6


def test_the_sources_are_those_of_pythons_library() -> None:
    found = demo.sources()
    assert len(found) > 300
    assert any(path.endswith("json/decoder.py") for path in found)
    assert not any("site-packages" in path for path in found)


def test_the_demo_shows_frame_failures_and_chart_and_the_next_run_does_nothing(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (library / "module9.py").write_text("print 'no longer'\n")
    assert cli.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert "the 6 source files" in said
    assert "The file that failed, grouped" in said
    assert "SyntaxError" in said and "module4.py" in said
    assert re.search(r"6 files, 75 lines in all: [\d.]+ s on \d+ cores?, [\d,]+ files a second", said)
    assert re.search(r"in a plain loop, to compare: [\d.]+ s. The job was [\d.]+ times as fast, and each file", said)
    assert (Path(".restate") / demo.CHART).stat().st_size > 10_000
    assert cli.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert "All 6 files were done before, and are kept in .restate: nothing ran again." in said
    assert "plain loop" not in said


@pytest.mark.usefixtures("library")
def test_a_demo_that_was_killed_goes_on_and_says_what_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def waits_at_the_last(path: str) -> demo.Measure:
        time.sleep(100 if path.endswith("module4.py") else 0)
        return demo.measure(path)

    files = demo.sources()
    with rnb.start("demo", data_dir=".restate") as session:
        job = rnb.map(waits_at_the_last, files, name="standard-library", session=session, show=False)
        eventually(lambda: job.counts["ok"] == len(files) - 1)
    with pytest.warns(rnb.OlderResults):
        assert cli.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert "1 file now, 4 were kept from before: 75 lines in all" in said
    assert "plain loop" not in said, "which would have measured more than the job did now"


@pytest.mark.usefixtures("library")
def test_the_demo_leaves_nothing_that_version_control_would_see() -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    assert cli.main(["demo"]) == 0
    done = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True, text=True)
    assert done.stdout == "?? library/\n", "only what the test has put there"


@pytest.mark.usefixtures("library")
def test_the_plain_loop_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--no-loop"]) == 0
    assert "plain loop" not in capsys.readouterr().out


def test_the_plain_loop_does_what_the_job_does(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (library / "module9.py").write_text("print 'no longer'\n")
    measured: list[str] = []
    measure = demo.measure
    monkeypatch.setattr(demo, "measure", lambda path: (measured.append(path), measure(path)))
    assert demo.loop_seconds(demo.sources()) > 0
    assert measured == demo.sources()


def test_a_python_without_its_tests_has_no_failures_and_the_demo_says_why(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert "No file failed: this Python came without its own tests" in said
    assert "Empty DataFrame" not in said
