"""A panel is brought up to date a few times a second, in one thread, until its job has ended."""

import contextvars
import threading
import time

from restate_nb.panel import Updater
from restate_nb.results.progress import Progress
from tests.panel.played import progress
from tests.support import eventually


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
