"""Runs CPU-bound items in worker processes: each has its own pipe, so that one that dies or hangs takes no other along.

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
from typing import Any, Final

from restate_nb.engine.alarm import Alarm
from restate_nb.engine.attempt import ItemCall, Remote, Report, RunningAttempt
from restate_nb.engine.output import at_item, forward
from restate_nb.engine.process_child import command, framed, item_frame, receive, report_of
from restate_nb.engine.runner import Runner, RunnerContext, Source
from restate_nb.engine.threads import NoThread, Threads
from restate_nb.errors import WorkerDied

IDLE: Final = 10.0
"""Seconds after which a worker with nothing to do is ended: it may hold much memory."""

_LOOK: Final = 1.0  # seconds between looks at whether a silent worker lives: its children may hold the pipe open
_READS: Final = 100  # of at most 64 KiB, after an item
_TRIES: Final = 3  # workers that end before an item reaches them
PAUSES: Final = 0.2, 0.5, 1.0  # seconds before it is tried again to start one, where the machine refuses


_decoders = codecs.getincrementaldecoder("utf-8")


class WorkerEnded(Exception):
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
        with suppress(WorkerEnded):  # which `begin` will find
            self._send(function)

    def begin(self, frame: bytes) -> None:
        """Hand it an item, and wait until the function is about to be called.

        Raises:
            WorkerEnded: it ended before that.
        """
        self._send(frame)
        self.answer()

    def answer(self) -> bytes:
        """Wait for a frame.

        Raises:
            WorkerEnded: the process has ended.
        """
        try:
            frame = receive(self._receive)
        except OSError:
            frame = None
        if frame is None:
            raise WorkerEnded
        self._print()  # what the item has printed was written before its report
        return frame

    def _send(self, frame: bytes) -> None:
        rest = memoryview(framed(frame))
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:  # it takes its time to start
                if self._process.poll() is not None:
                    raise WorkerEnded from None
            except OSError:
                raise WorkerEnded from None

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
class Lease:
    """One attempt's use of a worker; `abandon` ends both from another thread."""

    worker: Worker | None = None
    abandoned: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, worker: Worker) -> bool:
        """The attempt is to be made in this worker; whether it is still wanted."""
        with self.lock:
            self.worker = worker
            return not self.abandoned

    def release(self) -> bool:
        """The worker is done with it; whether it may be used again."""
        with self.lock:
            self.worker = None
            return not self.abandoned

    def abandon(self) -> None:
        """The attempt is wanted no longer: kill the worker that it is in."""
        with self.lock:
            self.abandoned = True
            if self.worker is not None:
                self.worker.kill()


class Processes:
    """The workers of one pool, started as they are needed. Its methods are called in threads.

    A worker is reaped once, by the thread that uses it, or by who takes it from those that are free.
    """

    def __init__(self) -> None:
        self._free: list[Worker] = []
        self._all: set[Worker] = set()
        self._lock = threading.Lock()
        self._gone = threading.Condition(self._lock)
        self._closed = False
        self._broken: tuple[bytes, str] | None = None  # a function that no worker could begin with, and why

    def run(self, remote: Remote, attempt: RunningAttempt, lease: Lease, began: Callable[[], None]) -> Report:
        """Make an attempt at an item.

        Args:
            remote: what to call.
            attempt: which.
            lease: by which the attempt can be ended.
            began: called when the function is about to be.

        Raises:
            NoThread: the machine gives no further process; those that there are go on. Nothing was begun.
        """
        entry = attempt.entry
        try:
            frame = item_frame(entry.position, entry.number, remote.pack(entry.payload))
            worker = self._begin(remote.function, frame, lease)
            attempt.begin()
            began()
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
            except WorkerEnded:
                raise WorkerDied(f"The worker process {self._drop(worker)}. Only this item was in it.") from None
            if lease.release():
                self._give_back(worker)
            else:
                self._drop(worker)
            return report
        except NoThread:
            raise
        except BaseException as error:
            return attempt.report(attempt.raised(error))

    def _begin(self, function: bytes, frame: bytes, lease: Lease) -> Worker:
        """A worker that has begun with the item. One that ends before that has had no attempt at it."""
        if self._broken is not None and self._broken[0] == function:
            raise WorkerDied(self._broken[1])
        how = ""
        for _ in range(_TRIES):
            worker = self._take(function)
            try:
                if lease.acquire(worker):
                    worker.begin(frame)
                    return worker
                worker.kill()
            except WorkerEnded:
                pass
            how = self._drop(worker)
            if lease.abandoned:
                raise WorkerDied("The item was given up before its worker process could begin.")
        says = (
            f"{_TRIES} worker processes in a row ended before they could begin; the last one {how}. What it printed is "
            "in job.logs(). Other items of this function are not tried: see that what it imports can be imported, and "
            "run its cell again."
        )
        if not how.startswith("was killed"):  # which may be another matter in a moment
            self._broken = function, says
        raise WorkerDied(says)

    def on_new_function(self) -> None:
        """The function was brought anew: what it imports may be another by now."""
        self._broken = None

    def close(self) -> None:
        """Kill all workers, and start none any more. Does not wait for them to be gone, and may be called again."""
        with self._lock:
            self._closed = True
            workers, free = list(self._all), self._free
            self._free = []
        for worker in workers:
            worker.kill()
        for worker in free:
            self._drop(worker)

    def wait_until_gone(self, until: float) -> bool:
        """Wait until all workers are gone, or for a time on `time.monotonic`; says whether they are."""
        with self._gone:
            return self._gone.wait_for(lambda: not self._all, max(0.0, until - time.monotonic()))

    def end_idle(self) -> bool:
        """End the workers that had nothing to do for `IDLE` seconds; whether there are others."""
        now = time.monotonic()
        with self._lock:
            idle = [worker for worker in self._free if now - worker.free_since >= IDLE]
            self._free = [worker for worker in self._free if worker not in idle]
            left = len(self._all) > len(idle)
        for worker in idle:
            worker.end()
            try:
                threading.Thread(target=self._drop, args=(worker,), daemon=True).start()
            except RuntimeError:  # the machine gives no more threads
                worker.kill()
                self._drop(worker)
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
        return worker or self._start(function)

    def _start(self, function: bytes) -> Worker:
        worker = None
        pauses = iter(PAUSES)
        while worker is None:
            with self._lock:
                if self._closed:
                    raise RuntimeError("These processes were closed.")
                others = bool(self._all)
            try:
                worker = Worker(function)
            except (OSError, MemoryError) as error:
                if others:
                    raise NoThread from error
                pause = next(pauses, None)
                if pause is None:
                    raise WorkerDied(
                        f"No worker process can be started: {error}. The machine has no more memory, processes or open "
                        "files for it: end other programs, or run fewer items at once with concurrency=."
                    ) from error
                time.sleep(pause)
        with self._lock:
            self._all.add(worker)
            closed = self._closed
        if closed:
            worker.kill()
            self._drop(worker)
            raise RuntimeError("These processes were closed.")
        return worker

    def _give_back(self, worker: Worker) -> None:
        worker.free_since = time.monotonic()
        with self._lock:
            closed = self._closed
            if not closed:
                self._free.append(worker)
        if closed:
            worker.kill()
            self._drop(worker)

    def _drop(self, worker: Worker) -> str:
        """Reap a worker, which is the caller's alone; says how it ended."""
        try:
            return worker.reap()
        finally:
            with self._gone:
                self._all.discard(worker)
                self._gone.notify_all()


class ProcessRunner(Runner):
    """Calls the function in a worker process; a thread waits for it."""

    def __init__(self, context: RunnerContext, source: Source, threads: Threads) -> None:
        super().__init__(context, source)
        self._threads = threads
        self._processes = Processes()
        self._idling = Alarm(context.loop, self._end_idle)
        self._feeders = 0  # threads that take items
        self._coming = 0  # of them, those that have not taken one yet

    def start(self, most: int) -> None:
        """Have items taken; see `Runner.start`."""
        with self._context.lock:
            count = max(0, min(most - self._coming, self._allows(self._feeders)))
            self._feeders += count
            self._coming += count
        for _ in range(count):
            try:
                self._threads.run(self._context.name, self._feed)
            except (NoThread, RuntimeError) as error:
                with self._context.lock:
                    self._feeders -= 1
                    self._coming -= 1
                if isinstance(error, NoThread):
                    self._refused(self._feeders)

    def abandon(self, attempt: RunningAttempt, *, expired: bool) -> None:
        """Kill the attempt's worker."""
        with self._context.lock:
            if expired and attempt.over:
                return
            lease, attempt.expired = attempt.place, expired
        if lease is not None:
            lease.abandon()

    def _feed(self) -> None:
        attempt, ended = None, None
        with self._context.lock:
            self._coming -= 1
        while True:
            with self._context.lock:
                attempt = self._source.next("process", attempt, ended)
                if attempt is None:
                    self._feeders -= 1
                    break
                attempt.owner, attempt.place = self, Lease()
            ended = self._made(attempt)
            attempt.place = None
            self._idling.set_by(self._context.loop.time() + IDLE)
            if isinstance(ended, NoThread):
                with self._context.lock:
                    self._feeders -= 1
                    self._source.put_back([attempt])
                self._refused(self._feeders)
                return
        self._source.wake()

    def _made(self, attempt: RunningAttempt) -> Any:
        call = attempt.call
        assert call is not None
        remote = call.remote
        assert remote is not None

        def make(_: object) -> Any:
            try:
                report = self._processes.run(remote, attempt, attempt.place, lambda: None)
            except NoThread as refused:
                return refused
            return self._context.timed_out(attempt) if attempt.expired else report

        return call.context.copy().run(at_item, attempt.entry.position, make, None)

    def _end_idle(self) -> None:
        if self._processes.end_idle():
            self._idling.set_in(IDLE)

    def on_new_function(self, call: ItemCall) -> None:
        """What it imports may be another by now."""
        self._processes.on_new_function()

    def close(self) -> None:
        """End all worker processes, and look after none any more."""
        self._idling.cancel()
        super().close()

    def kill(self) -> None:
        """End all worker processes, from any thread."""
        self._processes.close()

    def wait_until_gone(self, until: float) -> bool:
        """Wait for killed worker processes to be gone; see `Runner.wait_until_gone`."""
        return self._processes.wait_until_gone(until)
