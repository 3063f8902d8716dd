"""Proves that the code in README, CONTRIBUTING and docs/ runs, and does what the pages say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, Page, blocks, pages


@pytest.mark.usefixtures("no_session_left")
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Each page in a directory of its own, its blocks in order."""
    skipped = all(block.kind == "not run" for block in blocks(page.read_text()))
    with Page(page, tmp_path) as notebook:
        assert notebook.run() or skipped


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```python\n1 + 1  # -> 3\n```\n", "the page says 3, and it is 2"),
        ("```python\nprint(1)\n```\n\n```output\n2\n```\n", "the page says\n2\n\nand it is\n1"),
        ("```python\nassert False\n```\n", ""),
        ("```sh\nfalse\n```\n", "ended with 1"),
        ("<!-- setup\nimport asyncio\n-->\n\n```python\nawait asyncio.sleep(0, 5)  # -> 4\n```\n", "it is 5"),
    ],
)
def test_a_page_that_says_what_is_not_so_fails(tmp_path: Path, text: str, says: str) -> None:
    """The mechanism itself: a wrong value, a wrong output, an exception, a failing command."""
    path = tmp_path / "page.md"
    path.write_text(text)
    with Page(path, tmp_path) as page, pytest.raises(AssertionError) as caught:
        page.run()
    assert says in str(caught.value)


def test_a_block_that_is_not_run_says_why() -> None:
    """And a block in a language that nobody runs is refused."""
    page = "<!-- not run: it takes a night -->\n```python\nsleep()\n```\n"
    assert list(blocks(page)) == [Block("not run", "sleep()\n", 3, "it takes a night")]
    with pytest.raises(ValueError, match="ruby"):
        list(blocks("```ruby\nputs 1\n```\n"))


def test_the_map_of_the_code_has_every_folder_of_the_package() -> None:
    """Whose modules it lists by itself."""
    text = (ROOT / "docs" / "development" / "code-map.md").read_text()
    mapped = {name.rstrip("/") for name in re.findall(r"^```\{modules\} (\S+)$", text, re.MULTILINE)}
    package = ROOT / "restate_nb"
    folders = {
        str(path.parent.relative_to(package)) for path in package.rglob("*.py") if "__pycache__" not in path.parts
    }
    assert mapped == folders


def anchors(text: str) -> set[str]:
    """The names of the headings of a page, as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_outside_of_the_site_lead_somewhere(name: str) -> None:
    """Sphinx checks those of the site."""
    text = (ROOT / name).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    ours = [link or picture for link, picture in links if "://" not in (link or picture)]
    assert ours
    for link in ours:
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link
