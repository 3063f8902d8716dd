"""Worker processes for CPU-bound items: each has its own pipe, so that one that dies or hangs takes no other with it.

`concurrent.futures` and loky run one queue for all of their workers. When one dies, all that is in flight is lost with
it, and a single hung worker cannot be ended.
"""

from __future__ import annotations

import codecs
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from restate_nb.engine.lane import Entry
from restate_nb.engine.prints import forward
from restate_nb.engine.trial import Report, went_wrong
from restate_nb.engine.worker import command, framed, item_frame, receive, report_of
from restate_nb.errors import WorkerDied
from restate_nb.policy import Retry

IDLE: Final = 10.0
"""Seconds after which a worker with nothing to do is ended: it may hold much memory."""

_LOOK: Final = 1.0  # seconds between looks at whether a silent worker lives: its children may hold the pipe open
_READS: Final = 100  # of at most 64 KiB, after an item
_TRIES: Final = 3  # workers that end before an item reaches them


def cpus() -> int:
    """How many processors this process may use: fewer than there are, in a container or under taskset."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


@dataclass(frozen=True, slots=True)
class Remote:
    """What worker processes call.

    Attributes:
        function: pickled: what takes a packed item, and the retries of the job.
        pack: an item's payload, as the worker gets it.
    """

    function: bytes
    pack: Callable[[Any], bytes]


_decoders = codecs.getincrementaldecoder("utf-8")


class Ended(Exception):
    """The worker is gone."""


class Worker:
    """A process, and this side of its socket."""

    def __init__(self, function: bytes) -> None:
        self.function = function
        self.free_since = 0.0
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_LOOK)
        self._outputs: dict[int, tuple[str, codecs.IncrementalDecoder]] = {}
        try:
            self._process = subprocess.Popen(
                command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is not for it, and what it starts is ended with it
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        for stream, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe is not None
            self._outputs[pipe.fileno()] = stream, _decoders(errors="replace")
            self._selector.register(pipe.fileno(), selectors.EVENT_READ)
        with suppress(Ended):  # which `begin` will find
            self._send(function)

    def begin(self, frame: bytes) -> None:
        """Hand it an item, and wait until the function is about to be called.

        Raises:
            Ended: it ended before that.
        """
        self._send(frame)
        self.answer()

    def answer(self) -> bytes:
        """Wait for a frame.

        Raises:
            Ended: the process has ended.
        """
        try:
            frame = receive(self._receive)
        except OSError:
            frame = None
        if frame is None:
            raise Ended
        self._print()  # what the item has printed was written before its report
        return frame

    def _send(self, frame: bytes) -> None:
        rest = memoryview(framed(frame))
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:  # it takes its time to start
                if self._process.poll() is not None:
                    raise Ended from None
            except OSError:
                raise Ended from None

    def _receive(self, size: int) -> bytes:
        while True:
            ready = [key.fd for key, _ in self._selector.select(_LOOK)]
            for descriptor in ready:
                self._forward(descriptor)
            if self._socket.fileno() in ready:
                return self._socket.recv(size)
            if not ready and self._process.poll() is not None:
                with suppress(TimeoutError):
                    return self._socket.recv(size)  # what it wrote at last
                return b""

    def _print(self) -> None:
        """Forward what is there, but not for ever: what the function has started may print on."""
        for _ in range(_READS):
            ready = [key.fd for key, _ in self._selector.select(0) if key.fd in self._outputs]
            if not ready:
                return
            for descriptor in ready:
                self._forward(descriptor)

    def _forward(self, descriptor: int) -> None:
        """Print here, in the context of the thread that waits for the item, what it has printed there."""
        if descriptor not in self._outputs:
            return
        stream, decoder = self._outputs[descriptor]
        data = os.read(descriptor, 1 << 16)
        if not data:
            self._selector.unregister(descriptor)
            del self._outputs[descriptor]
        if text := decoder.decode(data, final=not data):
            forward(stream, text)

    def end(self) -> None:
        """Let it end by itself, as it does when the socket is closed."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End it and what it has started, now."""
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> str:
        """Wait for its end, and say how it ended."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._kill_group()  # what it has started
        self._print()  # its last words
        self._selector.close()
        self._socket.close()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL), which is what happens when memory runs out"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


@dataclass(slots=True)
class Trip:
    """One attempt on its way through a worker; `abandon` ends it from another thread."""

    worker: Worker | None = None
    abandoned: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def board(self, worker: Worker) -> bool:
        """Whether the attempt is still wanted."""
        with self.lock:
            self.worker = worker
            return not self.abandoned

    def leave(self) -> bool:
        """The worker is done with it; whether it may be used again."""
        with self.lock:
            self.worker = None
            return not self.abandoned

    def abandon(self) -> None:
        """Kill the worker that it is in."""
        with self.lock:
            self.abandoned = True
            if self.worker is not None:
                self.worker.kill()


class Processes:
    """The workers of one pool, started as they are needed. Its methods are called in threads, and block."""

    def __init__(self) -> None:
        self._free: list[Worker] = []
        self._all: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, remote: Remote, entry: Entry, *, retry: Retry, trip: Trip, began: Callable[[], None]) -> Report:
        """One attempt at an item. Never raises.

        Args:
            remote: what to call.
            entry: the item.
            retry: whether another attempt follows when the worker dies.
            trip: by which the attempt can be ended.
            began: called when the function is about to be.
        """
        started, clock = time.time(), time.perf_counter()
        try:
            frame = item_frame(entry.position, entry.number, remote.pack(entry.payload))
            worker = self._begin(remote.function, frame, trip)
            began()
            started, clock = time.time(), time.perf_counter()
            try:
                report = report_of(worker.answer())
                if (report.attempt.position, report.attempt.number) != (entry.position, entry.number):
                    raise ValueError("it reports on another item")
            except (
                ValueError,
                RecursionError,
            ) as error:  # what it writes is not ours: nobody knows what state it is in
                worker.kill()
                self._drop(worker)
                raise WorkerDied(f"The worker process answered something else than it was asked: {error}.") from None
            except Ended:
                raise WorkerDied(f"The worker process {self._drop(worker)}. Only this item was in it.") from None
            if trip.leave():
                self._give(worker)
            else:
                self._drop(worker)
            return report
        except BaseException as error:
            return went_wrong(entry.position, entry.number, error, retry, started=started, clock=clock)

    def _begin(self, function: bytes, frame: bytes, trip: Trip) -> Worker:
        """A worker that has begun with the item. One that ends before that has had no attempt at it."""
        how = ""
        for _ in range(_TRIES):
            worker = self._take(function)
            try:
                if trip.board(worker):
                    worker.begin(frame)
                    return worker
                worker.kill()
            except Ended:
                pass
            how = self._drop(worker)
            if trip.abandoned:
                break
        raise WorkerDied(f"{_TRIES} worker processes in a row ended before they could begin; the last one {how}.")

    def close(self) -> None:
        """Kill all workers, and wait for them to be gone."""
        with self._lock:
            self._closed = True
            workers = list(self._all)
            self._free.clear()
        for worker in workers:
            worker.kill()
        for worker in workers:
            self._drop(worker)

    def end_idle(self) -> bool:
        """End the workers that had nothing to do for `IDLE` seconds; whether there are others."""
        now = time.monotonic()
        with self._lock:
            idle = [worker for worker in self._free if now - worker.free_since >= IDLE]
            self._free = [worker for worker in self._free if worker not in idle]
            left = len(self._all) > len(idle)
        for worker in idle:
            worker.end()
            threading.Thread(target=self._drop, args=(worker,), daemon=True).start()
        return left

    def _take(self, function: bytes) -> Worker:
        with self._lock:
            old = [worker for worker in self._free if worker.function != function]
            fit = [worker for worker in self._free if worker.function == function]
            worker = fit.pop() if fit else None
            self._free = fit
        for each in old:  # the function was defined anew
            each.end()
            self._drop(each)
        if worker is None:
            worker = Worker(function)
            with self._lock:
                self._all.add(worker)
                closed = self._closed
            if closed:
                worker.kill()
                self._drop(worker)
                raise RuntimeError("These processes were closed.")
        return worker

    def _give(self, worker: Worker) -> None:
        worker.free_since = time.monotonic()
        with self._lock:
            if not self._closed:
                self._free.append(worker)

    def _drop(self, worker: Worker) -> str:
        with self._lock:
            self._all.discard(worker)
        return worker.reap()
