"""Threads for plain functions: as many as run at once, each a daemon, so that a hung one holds up nobody."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Threads:
    """Runs each job at once, in a thread that is free or in a new one.

    The caller bounds how many jobs there are. `asyncio.to_thread` and the SDK share min(32, cpus + 4) threads, so that
    80 calls at once are 6 on two cores; and the standard executor joins its threads at exit, which a hung call never
    leaves.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        self._closed = False
        self._numbers = itertools.count(1)

    def run(self, job: Job) -> None:
        """Start a job, which must not raise.

        Raises:
            RuntimeError: the threads were closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("These threads were closed.")
            if self._free:
                self._free -= 1
            else:
                name = f"{self._name}-{next(self._numbers)}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._jobs.put(job)

    def close(self) -> None:
        """Let every thread end once its job has. Does not wait for them."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in range(self._free):
                    self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # else an idle thread keeps the last item alive
            with self._lock:
                if self._closed:
                    return
                self._free += 1
