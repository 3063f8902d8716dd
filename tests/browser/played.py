"""A job that is only played: it has progress and controls, and no server."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from restate_nb.panel import Updater, make_panel
from restate_nb.results.progress import ErrorGroup, Progress

ERRORS = (
    ErrorGroup("HTTPError", "429 Too Many Requests <b>retry later</b>", 3),
    ErrorGroup("ItemTimeout", "ran longer than 5 s", 2),
)


class Played:
    """Items that end at `concurrency` times 10 a second, every 40th badly."""

    def __init__(self, total: int = 1000, attached: int = 0, concurrency: int = 20) -> None:
        self.calls: list[str] = []
        self._lock = threading.Lock()
        self._paused = False
        self._now = Progress(
            "geocode-customers", "locate", "running", total, ok=attached, attached=attached, concurrency=concurrency
        )
        self._updater = Updater(lambda: self._now, make_panel(self._now, self))
        self._begin()

    def _begin(self) -> None:
        threading.Thread(target=self._play, daemon=True).start()
        self._updater.start()

    def _play(self) -> None:
        while self._now.status in {"running", "paused"}:
            time.sleep(0.1)
            with self._lock:
                self._now = self._later(self._now)
        self._updater.wake()

    def _later(self, now: Progress) -> Progress:
        now = replace(now, elapsed=now.elapsed + 0.1)
        if self._paused or now.status != "running":
            return now
        done = min(now.done + now.concurrency, now.total)
        failed = max((done - now.attached) // 40, now.failed)
        running = min(now.concurrency, now.total - done)
        rate = now.concurrency * 10.0
        return replace(
            now, ok=done - failed, failed=failed, running=running, rate=rate, eta=(now.total - done) / rate, p50=0.094,
            p95=0.31, retries=failed * 3, errors=ERRORS if failed else (),
            status="finished" if done == now.total else "running",
        )  # fmt: skip

    def wait(self) -> None:
        while self._now.status in {"running", "paused"}:
            time.sleep(0.05)
        time.sleep(0.3)

    def cancel(self) -> None:
        self.calls.append("cancel")
        with self._lock:
            now = self._now
            self._now = replace(now, status="cancelled", running=0, cancelled=now.total - now.ok - now.failed)

    def pause(self) -> None:
        self.calls.append("pause")
        with self._lock:
            self._paused, self._now = True, replace(self._now, status="paused", running=0)

    def resume(self) -> None:
        self.calls.append("resume")
        with self._lock:
            self._paused, self._now = False, replace(self._now, status="running")

    def retry_failed(self) -> None:
        self.calls.append("retry_failed")
        with self._lock:
            self._now = replace(self._now, status="running", failed=0, cancelled=0, errors=(), ok=self._now.ok)
        self._begin()

    @property
    def concurrency(self) -> int:
        return self._now.concurrency

    @concurrency.setter
    def concurrency(self, n: int) -> None:
        self.calls.append(f"concurrency = {n}")
        with self._lock:
            self._now = replace(self._now, concurrency=n)
