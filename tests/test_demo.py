"""`restate-nb demo` prints what a first look should see, with failures and without, and does nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from restate_nb import cli, demo

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
    assert Path(demo.CHART).stat().st_size > 10_000
    assert cli.main(["demo"]) == 0
    assert "All 6 files were done already; nothing ran again." in capsys.readouterr().out


def test_a_python_without_its_tests_has_no_failures_and_the_demo_says_why(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo"]) == 0
    said = capsys.readouterr().out
    assert "No file failed: this Python came without its own tests" in said
    assert "Empty DataFrame" not in said
