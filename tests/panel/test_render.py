"""What the panel says, as HTML and as text."""

from html.parser import HTMLParser

import pytest

from restate_nb.panel import to_html, to_text
from restate_nb.panel.render import segments
from restate_nb.results.progress import ErrorGroup
from tests.panel.played import progress

HOSTILE = '<img src=x onerror="alert(1)">&"\'\x1b[31m\u202e</div>'


class Tags(HTMLParser):
    """Checks that tags nest, and collects them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_foreign_text_never_becomes_markup():
    full = progress(name=HOSTILE, function=HOSTILE, note=HOSTILE, ui_url='https://x/"><script>',
                    failed=3, errors=(ErrorGroup(HOSTILE, HOSTILE, 3),))  # fmt: skip
    html = to_html(full, trend=[1, 2, 3])
    tags = Tags(html)
    assert {tag for tag, _ in tags.seen} <= {"div", "span", "b", "a", "svg", "title", "polygon", "polyline"}
    assert not [name for _, attrs in tags.seen for name in attrs if name.startswith("on")]
    assert "<img" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", " https://x", ""])
def test_only_web_addresses_become_links(url):
    assert "<a " not in to_html(progress(ui_url=url))


def test_a_link_to_the_restate_ui():
    assert ("a", "/user/x/proxy/9070/") in [
        (tag, attrs.get("href")) for tag, attrs in Tags(to_html(progress(ui_url="/user/x/proxy/9070/"))).seen
    ]


@pytest.mark.parametrize(
    "counts",
    [
        {"ok": 1000},
        {"ok": 333, "failed": 333, "cancelled": 333},
        {"ok": 1, "failed": 1, "cancelled": 1, "running": 1},
        {"failed": 1, "total": 1_000_000, "ok": 999_999},
        {"running": 7, "total": 7},
        {},
    ],
)
def test_segments_add_up_to_100_percent(counts):
    parts = segments(progress(**counts))
    assert sum(round(part.percent * 100) for part in parts) == 10_000
    assert min(part.percent for part in parts) > 0.5
    assert sum(part.items for part in parts) == counts.get("total", 1000)


def test_an_empty_job_has_no_segments():
    empty = progress(total=0, status="finished")
    assert segments(empty) == []
    assert "no items" in to_text(empty)
    Tags(to_html(empty))


def test_counts_that_race_are_no_negative_waiting():
    assert [part.word for part in segments(progress(total=10, ok=9, running=3))] == ["ok", "running"]


def test_the_bar_tells_a_screen_reader_where_it_is():
    tags = Tags(to_html(progress(ok=900, failed=40, running=10)))
    (bar,) = [attrs for _, attrs in tags.seen if attrs.get("role") == "progressbar"]
    assert (bar["aria-valuemin"], bar["aria-valuenow"], bar["aria-valuemax"]) == ("0", "940", "1000")
    assert bar["aria-valuetext"] == "940 of 1,000 done, 40 failed"


def test_each_stretch_of_the_bar_has_its_word_and_its_sign():
    parts = segments(progress(ok=5, failed=5, cancelled=5, running=5))
    assert len({part.word for part in parts}) == len({part.sign for part in parts}) == 5


def test_inline_styles_only():
    html = to_html(progress(ok=3, failed=2, errors=(ErrorGroup("E", "m", 2),)))
    assert "<style" not in html
    assert "class=" not in html


def test_the_text_of_a_running_job():
    running = progress(ok=900, failed=40, running=10, attached=20, retries=31, elapsed=24, rate=38.2, eta=125,
                       p50=1.2, p95=3.44, concurrency=10, note="cell 3 defines fetch",
                       errors=(ErrorGroup("HTTPError", "429", 40),))  # fmt: skip
    text = to_text(running, eta_range=(100, 150))
    assert text.splitlines() == [
        "pages (fetch): Running, 940 of 1,000 done, 40 failed, 10 running, 38/s, about 2 min 05 s left "
        "(1 min 40 s to 2 min 30 s), 24 s so far, p50 1.2 s, p95 3.4 s, 31 retries, 10 at once",
        "  attached: 20 of 1,000 were already done",
        "  cell 3 defines fetch",
        "  40 × HTTPError: 429",
    ]


def test_a_paused_job_promises_no_end():
    paused = to_text(progress(status="paused", ok=400, running=0, rate=38.2, eta=15.7, elapsed=9.0))
    assert paused == "pages (fetch): Paused, 400 of 1,000 done, 9 s so far"


def test_a_finished_job_has_no_time_left():
    text = to_text(progress(status="finished", ok=990, failed=10, elapsed=10, rate=5, eta=3, concurrency=50))
    assert text == "pages (fetch): Finished, 10 failed, 1,000 of 1,000 done, in 10 s, 100/s"


def test_cancelled_items_are_neither_done_nor_errors():
    groups = (ErrorGroup("CancelledError", "The job was cancelled.", 800), ErrorGroup("HTTPError", "429", 10))
    text = to_text(progress(status="cancelled", ok=190, failed=10, cancelled=800, elapsed=10, errors=groups))
    assert text.splitlines() == [
        "pages (fetch): Cancelled, 200 of 1,000 done, 10 failed, 800 cancelled, in 10 s, 20/s",
        "  10 × HTTPError: 429",
    ]


def test_a_job_whose_session_was_stopped_tells_no_time_left():
    text = to_text(progress(status="stopped", ok=190, elapsed=10, rate=5, eta=3, concurrency=50))
    assert text == "pages (fetch): Stopped, 190 of 1,000 done, in 10 s, 19/s"


def test_many_kinds_of_errors_are_cut_short_and_their_items_counted():
    groups = tuple(ErrorGroup(f"E{i}", "x" * 10_000, 1) for i in range(500))
    html = to_html(progress(failed=500, errors=groups))
    assert len(html) < 6000
    assert "and 496 more failed items: see job.errors()" in html
    few = to_html(progress(failed=9, errors=groups[:5]))  # a job tells of five kinds at most, however many there are
    assert "and 5 more failed items" in few
