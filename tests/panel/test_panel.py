"""What the panel says, and how little it costs to tell it."""

import contextvars
import importlib.util
import io
import re
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from restate_nb import environment
from restate_nb.environment import ui_link
from restate_nb.formatting import duration, one_line, rate, two_digits
from restate_nb.panel import Updater, make_panel, to_html, to_text
from restate_nb.panel.render import segments
from restate_nb.panel.terminal import LinePanel, TerminalPanel
from restate_nb.panel.trend import Trend
from restate_nb.results.progress import ErrorGroup, Progress
from restate_nb.server.address import Address

HOSTILE = '<img src=x onerror="alert(1)">&"\'\x1b[31m\u202e</div>'


def progress(**changes: object) -> Progress:
    given: dict = {"name": "pages", "function": "fetch", "status": "running", "total": 1000} | changes
    return Progress(**given)


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


TCP = Address("http://127.0.0.1:9070")
LAB = {"JPY_SESSION_NAME": "work.ipynb", "JPY_PARENT_PID": "1"}
NO_LINK = [
    (Address("http://localhost", Path("/x/admin.sock")), LAB),  # a Unix socket: no browser reaches it
    (TCP, LAB | {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}),  # a Hub or Binder: the port is of another machine
    (TCP, {"JPY_PARENT_PID": "1"}),  # nbclient: what is stored would be dead when it is read
    (Address("https://restate.example.org:9070"), LAB),  # a cluster, of which we know no page
]


def in_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in ("JPY_SESSION_NAME", "JPY_PARENT_PID", "JUPYTERHUB_SERVICE_PREFIX", "SERVER_SOFTWARE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_the_ui_of_a_server_on_loopback_is_linked_in_a_lab(monkeypatch):
    in_environment(monkeypatch, LAB)
    assert ui_link(TCP) == "http://127.0.0.1:9070/ui/invocations"


@pytest.mark.parametrize(("address", "environment"), NO_LINK)
def test_there_is_no_link_where_the_ui_cannot_be_reached(monkeypatch, address, environment):
    in_environment(monkeypatch, environment)
    assert ui_link(address) == ""


@pytest.mark.parametrize("hub", [True, False])
def test_through_jupyter_server_proxy_the_link_is_a_path_on_the_pages_own_host(monkeypatch, tmp_path, hub):
    prefix = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"} if hub else {}
    in_environment(monkeypatch, LAB | {"JPY_PARENT_PID": "17", "JUPYTER_RUNTIME_DIR": str(tmp_path)} | prefix)
    (tmp_path / "jpserver-17.json").write_text('{"base_url": "/user/ada/", "pid": 17}')
    environment._prefix_of.cache_clear()
    link = ui_link(Address("http://localhost", tmp_path / "admin.sock"), tmp_path)
    assert re.fullmatch("/user/ada/restate-nb/[0-9a-f]{16}/ui/invocations", link)
    assert ui_link(TCP, tmp_path) == link
    assert ui_link(TCP, tmp_path / "other") != link


@pytest.mark.parametrize(
    "environment",
    [
        {"JPY_PARENT_PID": "1"},  # nbclient
        LAB | {"JPY_PARENT_PID": "18"},  # no server of that number
        LAB | {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/", "SERVER_SOFTWARE": "voila/0.5"},  # strangers read the page
    ],
)
def test_there_is_no_path_to_the_ui_where_no_jupyter_server_is(monkeypatch, tmp_path, environment):
    in_environment(monkeypatch, environment | {"JUPYTER_RUNTIME_DIR": str(tmp_path)})
    assert ui_link(Address("http://localhost", tmp_path / "admin.sock"), tmp_path) == ""


def test_there_is_no_path_to_the_ui_without_jupyter_server_proxy(monkeypatch, tmp_path):
    in_environment(monkeypatch, LAB | {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert ui_link(Address("http://localhost", tmp_path / "admin.sock"), tmp_path) == ""


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
    text = to_text(running, spread=(100, 150))
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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (2e-5, "20 µs"),
        (9.996e-4, "1 ms"),
        (0.0034, "3.4 ms"),
        (0.9997, "1 s"),
        (1.25, "1.2 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3780, "1 h 03 min"),
        (86_390, "1 d 00 h"),
        (187_200, "2 d 04 h"),
        (float("inf"), "unknown"),
        (float("nan"), "unknown"),
    ],
)
def test_durations_as_people_say_them(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("per_second", "words"), [(150_000, "150,000/s"), (38.2, "38/s"), (1, "1/s"), (0.25, "15/min"), (0.005, "18/h")]
)
def test_rates_as_people_say_them(per_second, words):
    assert rate(per_second) == words


def test_numbers_keep_two_digits():
    assert [two_digits(x) for x in (9.94, 9.96, 100)] == ["9.9", "10", "100"]


def test_long_text_is_cut_without_reading_all_of_it():
    started = time.perf_counter()
    assert len(one_line("a b\n" * 20_000_000, 80)) <= 80
    assert time.perf_counter() - started < 0.5


class Shown:
    """A panel that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def update(self, progress: Progress) -> None:
        self.calls.append(("update", progress.ok))

    def finish(self, progress: Progress) -> None:
        self.calls.append(("finish", progress.ok))

    def reopen(self) -> None:
        self.calls.append(("reopen", 0))


class Played:
    """A job that a test leads."""

    def __init__(self) -> None:
        self.now = progress()

    def __call__(self) -> Progress:
        return self.now

    def goes_on(self, **changes: object) -> None:
        self.now = progress(**changes)

    def ends(self, updater: Updater, **changes: object) -> None:
        self.now = progress(status="finished", **changes)
        updater.wake()
        updater.join(5)


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def test_ten_thousand_updates_are_shown_a_few_times_and_the_last_one_is():
    job, panel = Played(), Shown()
    updater = Updater(job, panel, interval=0.05)
    updater.start()
    for i in range(10_000):
        job.goes_on(ok=i)
    eventually(lambda: panel.calls[-1:] == [("update", 9999)])
    job.ends(updater, ok=10_000)
    assert len(panel.calls) <= 12
    assert panel.calls[-1] == ("finish", 10_000)
    job.goes_on(ok=10_001)
    updater.wake()
    time.sleep(0.1)
    assert panel.calls[-1] == ("finish", 10_000)


def test_the_end_of_a_job_is_shown_at_once():
    job, panel = Played(), Shown()
    updater = Updater(job, panel, interval=60)
    updater.start()
    started = time.monotonic()
    job.ends(updater, ok=1000)
    assert panel.calls == [("finish", 1000)]
    assert time.monotonic() - started < 5


def test_a_panel_goes_on_when_its_job_does():
    job, panel = Played(), Shown()
    updater = Updater(job, panel, interval=0.01)
    updater.start()
    job.ends(updater, ok=990)
    panel.calls.clear()
    job.goes_on(ok=995)
    updater.start()
    updater.start()  # it is being shown already
    eventually(lambda: ("update", 995) in panel.calls)
    job.ends(updater, ok=1000)
    assert panel.calls[0] == ("reopen", 0)
    assert [call for call in panel.calls if call[0] != "update"] == [("reopen", 0), ("finish", 1000)]


def test_a_job_that_goes_on_while_its_end_is_drawn_is_shown_after_it():
    job, drawn = Played(), threading.Event()

    class Slow(Shown):
        def finish(self, progress: Progress) -> None:
            drawn.wait(5)
            super().finish(progress)

    panel = Slow()
    updater = Updater(job, panel, interval=0.01)
    job.goes_on(status="finished", ok=990)
    updater.start()
    time.sleep(0.1)
    job.goes_on(ok=995)
    updater.start()
    drawn.set()
    eventually(lambda: ("update", 995) in panel.calls)
    job.ends(updater, ok=1000)
    assert [call for call in panel.calls if call[0] != "update"] == [("finish", 990), ("reopen", 0), ("finish", 1000)]


def test_a_panel_is_shown_in_no_cells_context():
    cell: contextvars.ContextVar[str] = contextvars.ContextVar("cell", default="whichever runs")
    seen: set[str] = set()

    class Looking(Shown):
        def update(self, progress: Progress) -> None:
            seen.add(cell.get())
            super().update(progress)

        def finish(self, progress: Progress) -> None:
            seen.add(cell.get())
            super().finish(progress)

    cell.set("the one that started the job")
    job, panel = Played(), Looking()
    updater = Updater(job, panel, interval=0.01)
    updater.start()
    eventually(lambda: panel.calls)
    job.ends(updater)
    assert seen == {"whichever runs"}


def test_a_panel_that_cannot_be_drawn_leaves_the_job_alone(caplog):
    class Broken(Shown):
        def update(self, progress: Progress) -> None:
            super().update(progress)
            raise OSError("the pipe is gone")

    job, panel = Played(), Broken()
    updater = Updater(job, panel, interval=0.01)
    updater.start()
    eventually(lambda: panel.calls)
    job.ends(updater)
    updater.start()
    updater.join(5)
    assert panel.calls == [("update", 0)]
    assert len(caplog.records) == 1


def test_a_panel_whose_job_has_ended_keeps_no_thread():
    job, panel = Played(), Shown()
    updater = Updater(job, panel, interval=0.01)
    for ok in (990, 1000):
        before = set(threading.enumerate())
        updater.start()
        (thread,) = set(threading.enumerate()) - before
        assert thread.name == "rnb-panel"
        job.ends(updater, ok=ok)
        assert not thread.is_alive()
        job.goes_on()


def test_without_a_thread_the_panel_stays_as_it_is(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    job, panel = Played(), Shown()
    updater = Updater(job, panel)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        updater.start()
    updater.join(5)
    assert panel.calls == []


def test_a_terminal_shows_a_tqdm_bar():
    out = io.StringIO()
    panel = TerminalPanel(progress(attached=100, ok=100), out)
    panel.update(progress(attached=100, ok=500, failed=3))
    panel.finish(
        progress(attached=100, status="finished", ok=990, failed=10, retries=1, errors=(ErrorGroup("E", "m", 10),))
    )
    text = out.getvalue()
    assert re.search(r"pages: .*503/1000.*3 failed", text)
    assert "1000/1000" in text
    assert text.endswith("10 failed, 1 retry]\n  attached: 100 of 1,000 were already done\n  10 × E: m\n")


def test_a_bar_and_a_line_go_on_when_the_job_does():
    out = io.StringIO()
    for panel in (TerminalPanel(progress(), out), LinePanel(out)):
        panel.finish(progress(status="finished", ok=990, failed=10))
        panel.reopen()
        panel.update(progress(ok=990))
        panel.finish(progress(status="finished", ok=1000))
    text = out.getvalue()
    assert text.count("1000/1000") >= 2
    assert text.count("pages (fetch): Finished") == 2


def test_a_trend_begins_when_the_job_was_attached_to():
    trend = Trend()
    for second in range(20):
        trend.add(progress(ok=940 + second, attached=940, elapsed=86_400.0 + second))
    assert len(trend.rates()) > 30
    assert trend.rates()[5:] == pytest.approx([1.0] * (len(trend.rates()) - 5))


def test_what_an_earlier_process_did_is_no_throughput_even_when_it_is_heard_of_late():
    trend = Trend()
    trend.add(progress(elapsed=500.0))
    for second in range(20):
        trend.add(progress(ok=940 + second, attached=940, elapsed=501.0 + second))
    assert max(trend.rates()) == pytest.approx(1.0)


class NoControls:
    """A job whose panel has no buttons."""

    concurrency = 0

    def cancel(self) -> None: ...

    pause = resume = retry_failed = cancel


def test_a_script_gets_one_line_at_the_end(capsys):
    panel = make_panel(progress(), NoControls())
    assert isinstance(panel, LinePanel)
    panel.update(progress(ok=3))
    panel.finish(progress(status="finished", ok=1000, elapsed=2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "pages (fetch): Finished, 1,000 of 1,000 done, in 2 s, 500/s\n"


def test_a_trend_covers_any_length_in_constant_space():
    trend = Trend()
    for second in range(100_000):
        trend.add(progress(total=10**7, ok=5 * second, elapsed=float(second)))
    rates = trend.rates()
    assert 29 <= len(rates) <= 60
    assert all(r == pytest.approx(5, rel=0.01) for r in rates[1:])
    assert trend.spread(1000) == pytest.approx((200, 200), rel=0.01)


def test_a_trend_without_a_history_promises_nothing():
    trend = Trend()
    trend.add(progress(ok=10, attached=10, elapsed=0.2))
    assert trend.rates() == []
    assert trend.spread(10) is None


def test_a_retry_is_no_negative_throughput():
    trend = Trend()
    for elapsed, done in ((1.0, 10), (2.0, 4), (3.0, 10)):
        trend.add(progress(ok=done, elapsed=elapsed))
    assert min(trend.rates()) >= 0
