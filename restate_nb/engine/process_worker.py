"""A worker process, seen from its parent: its socket, what it prints, what it has been sent, how it ended."""

from __future__ import annotations

import codecs
import fcntl
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any, Final

from restate_nb.engine import process_frames
from restate_nb.engine.attempt import RunningAttempt
from restate_nb.engine.output import at_item, forward
from restate_nb.engine.process_child import command
from restate_nb.engine.process_frames import BadFrame, Begun, Outcome, Outcomes, SharedMemory
from restate_nb.engine.surroundings import here

_READ: Final = 1 << 18
_CHUNK: Final = 1 << 20  # bytes of what was printed that are read at once
_TAIL: Final = 20_000  # bytes of last words
_PUNCH: Final = 4 << 20  # bytes that were read, after which their space is given back
_ENDS_WITHIN: Final = 5.0  # seconds, by itself
_decoders = codecs.getincrementaldecoder("utf-8")


class Printout:
    """The file that one stream of a worker goes to. It only grows, so that each byte has its place; the space of what
    was read is given back.

    Attributes:
        stream: `stdout` or `stderr`.
        descriptor: of the file.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.descriptor = process_frames.anonymous_file(f"rnb-{stream}")
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | os.O_APPEND)  # whoever writes, writes at its end
        self._at = self._freed = 0
        self._decoder = _decoders(errors="replace")

    def size(self) -> int:
        """How much was written to it."""
        return os.fstat(self.descriptor).st_size

    def forward(self, until: int, attempt: RunningAttempt, *, ends: bool) -> None:
        """Print here what was printed there.

        Args:
            until: up to which size.
            attempt: at the item that has printed it.
            ends: whether it prints no more.
        """
        while self._at < until:
            data = os.pread(self.descriptor, min(_CHUNK, until - self._at), self._at)
            if not data:
                break
            self._at += len(data)
            if text := self._decoder.decode(data, final=ends and self._at == until):
                print_for(attempt, self.stream, text)
        if self._at - self._freed > _PUNCH:
            _give_back(self.descriptor, self._freed, self._at)
            self._freed = self._at

    def tail(self) -> str:
        """The last of what was not forwarded."""
        size = self.size()
        start = max(self._at, size - _TAIL)
        return os.pread(self.descriptor, size - start, start).decode("utf-8", "replace")

    def restart(self) -> None:
        """A program has emptied the file: what is written next is at its start."""
        self._at = self._freed = 0

    def close(self) -> None:
        """It is read no more."""
        os.close(self.descriptor)


def _give_back(descriptor: int, start: int, end: int) -> None:
    """Have a file take no space for what was read. Where the system cannot do that it takes it until it is closed."""
    start, end = start & ~4095, end & ~4095
    with suppress(OSError, AttributeError):
        if sys.platform == "darwin":
            punch = b"".join(each.to_bytes(8, sys.byteorder) for each in (0, start, end - start))
            fcntl.fcntl(descriptor, 99, punch)  # F_PUNCHHOLE
        else:
            import ctypes  # noqa: PLC0415 - for megabytes of output only

            keep_size_and_punch = 3
            offsets = ctypes.c_long(start), ctypes.c_long(end - start)
            ctypes.CDLL(None).fallocate(descriptor, keep_size_and_punch, *offsets)


def print_for(attempt: RunningAttempt, stream: str, text: str) -> None:
    """Print here what an item has printed elsewhere. What stands in the place of this process's stdout may fail: the
    item's outcome is not lost by that."""
    call = attempt.call
    assert call is not None
    try:
        call.context.copy().run(at_item, attempt.entry.position, functools.partial(forward, stream), text)
    except Exception:
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def _perf_counter(begun: Begun) -> float:
    """When it began, on that clock, which need not be the one that two processes share."""
    return time.perf_counter() - (time.monotonic() - begun.clock)


_ALL: Final = 1 << 31  # items: more than a worker ever has


class Worker:
    """A process, and this side of what they share. Used by one thread, but for `kill`, `hold` and `begun_at`.

    Attributes:
        feed: whose items it has; None when it has none.
        ready: whether it reads what it is sent.
        starts_for: for which feed it starts, or loads a function; None once it has done so.
        loads: the ids of functions that it has to load before it gets items.
        owner: the number of whose items it had last.
        flight: the attempts that were sent and have not ended, in their order; the first one may run.
        serial: the number of the first one, among all that were ever sent to it.
        functions: those that it knows, and when each was used last, on `time.monotonic`.
        place: where it was started.
        started: when, on `time.monotonic`.
        free_since: when it had nothing to do any more, the same way.
        recalls: how often it was asked to give back what it has not begun, and has not answered.
        unwanted: serial numbers of attempts in flight that were given up.
        ends: why it is on its way out; empty while it is not.
        ends_by: when it is killed, if it has not ended by itself until then.
        gone: whether nothing comes from it any more.
        has_more: whether there was something to read when it was last looked.
        fault: what is wrong with what it has written; empty when nothing is.
    """

    def __init__(self) -> None:
        self.feed: Any = None
        self.starts_for: Any = None
        self.ready = False
        self.loads: set[int] = set()
        self.owner = 0
        self.flight: deque[RunningAttempt] = deque()
        self.serial = 0
        self.functions: dict[Any, float] = {}
        self.place = here()
        self.started = self.free_since = time.monotonic()
        self.recalls = 0
        self.unwanted: set[int] = set()
        self.ends = self.fault = ""
        self.ends_by = 0.0
        self.gone = False
        self.has_more = True
        self._reader = process_frames.Reader()
        self._unsent: deque[memoryview] = deque()
        self._printed = 0, 0
        with ExitStack() as opened:
            self.socket, theirs = socket.socketpair()
            opened.callback(self.socket.close)
            opened.enter_context(closing(theirs))
            self.socket.setblocking(False)
            self.shared = opened.enter_context(closing(SharedMemory()))
            self._prints = [opened.enter_context(closing(Printout(stream))) for stream in ("stdout", "stderr")]
            memory = self.shared.descriptor
            self._process = subprocess.Popen(
                command(theirs.fileno(), memory),
                stdin=subprocess.DEVNULL,
                stdout=self._prints[0].descriptor,
                stderr=self._prints[1].descriptor,
                pass_fds=[theirs.fileno(), memory],
                process_group=0,  # Ctrl-C is not for it, and what it starts is ended with it
            )
            theirs.close()
            self.shared.close_descriptor()
            self._opened = opened.pop_all()

    # ------------------------------------------------------------ what is sent

    def send(self, *frames: bytes) -> None:
        """Have it read these, as soon as it does."""
        self._unsent.extend(map(memoryview, frames))
        self.flush()

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` is to be called once the socket takes more."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Write what the socket takes. That the worker is gone is found by who reads."""
        while self._unsent:
            try:
                sent = self.socket.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                return
            if sent == len(self._unsent[0]):
                self._unsent.popleft()
            else:
                self._unsent[0] = self._unsent[0][sent:]

    def recall(self, keep: int = 0) -> None:
        """Take back what it has not begun, all but so many; it begins nothing more until it has read this."""
        self.recalls += 1
        self.shared.hold = True
        self.send(process_frames.number_frame(process_frames.RECALL, keep))

    def release(self) -> None:
        """Let it go on after an item that failed, where it holds by itself."""
        self.recall(_ALL)

    def hold(self) -> None:
        """Have it begin nothing from now on; `recall` has to follow, which ends that."""
        with suppress(ValueError):  # it is closed
            self.shared.hold = True

    # ------------------------------------------------------------ what comes

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Read the frames that have come, and see whether it is gone.

        Raises:
            BadFrame: what it has written is none.
        """
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            self.has_more = False
            return
        except OSError:
            data = b""
        if not data:
            self.gone = True
            return
        self._reader.feed(data)
        yield from self._reader

    def take_outcomes(self, group: Outcomes) -> Iterator[tuple[RunningAttempt, Outcome]]:
        """The attempts that have ended, in their order, and how. Those that were known already are left out.

        Raises:
            BadFrame: it reports on another item than those that it has.
        """
        known = self.serial - group.first
        if known < 0:
            raise BadFrame("it has left out an item")
        flight = self.flight
        for outcome in group.ended[known:] if known else group.ended:
            entry = flight[0].entry if flight else None
            if entry is None or entry.position != outcome.position or entry.number != outcome.number:
                raise BadFrame("it reports on another item")
            self.serial += 1
            attempt = flight.popleft()
            printed = outcome.stdout, outcome.stderr
            if printed != self._printed:
                self._see_emptied(printed)
                self._forward(attempt, printed, ends=True)
                self._printed = printed
            yield attempt, outcome

    def take_back(self, count: int) -> list[RunningAttempt]:
        """The attempts that it gives back.

        Raises:
            BadFrame: it does not have so many, or was not asked.
        """
        if count > len(self.flight) or not self.recalls:
            raise BadFrame("it gives back more than it has")
        self.recalls -= 1
        back = [self.flight.pop() for _ in range(count)]
        back.reverse()
        return back

    def begun(self) -> RunningAttempt | None:
        """The attempt that runs, which is told when it has begun; None when none does, or outcomes are on their way."""
        begun = self.shared.begun()
        if begun is None or not self.flight or begun.serial != self.serial:
            return None
        attempt = self.flight[0]
        attempt.started = begun.started
        attempt.clock = _perf_counter(begun)
        return attempt

    def begun_at(self, serial: int) -> float | None:
        """When the item with that serial number began, on `time.perf_counter`; None when it does not run."""
        try:
            begun = self.shared.begun()
        except ValueError:  # it is closed
            return None
        return _perf_counter(begun) if begun is not None and begun.serial == serial else None

    @property
    def lags(self) -> bool:
        """Whether items have ended that no frame has told of, since the next one takes long."""
        begun = self.shared.begun()
        return begun is not None and begun.serial > self.serial

    # ------------------------------------------------------------ what it prints

    def forward_running(self) -> None:
        """Print what the item that runs has printed so far."""
        before, sizes = self.shared.begun(), self._sizes()
        attempt = self.begun()
        if attempt is not None and before == self.shared.begun():  # else it may be another one's
            self._forward(attempt, sizes, ends=False)

    def forward_rest(self, attempt: RunningAttempt) -> None:
        """Print the last words of a process that has ended with this item."""
        self._forward(attempt, self._sizes(), ends=True)

    def last_words(self) -> list[tuple[str, str]]:
        """What it has printed, for no item, by stream: the last of it."""
        return [(printout.stream, printout.tail()) for printout in self._prints]

    def _see_emptied(self, sizes: tuple[int, int]) -> None:
        for printout, before, now in zip(self._prints, self._printed, sizes, strict=True):
            if now < before:
                printout.restart()

    def _sizes(self) -> tuple[int, int]:
        stdout, stderr = self._prints
        return stdout.size(), stderr.size()

    def _forward(self, attempt: RunningAttempt, sizes: tuple[int, int], *, ends: bool) -> None:
        """Print here what an item has printed there; up to these sizes it is its own."""
        for printout, until in zip(self._prints, sizes, strict=True):
            printout.forward(until, attempt, ends=ends)

    # ------------------------------------------------------------ its end

    def end(self, why: str) -> None:
        """Let it end by itself, as it does when the socket is closed."""
        self.expect_end(why)
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def expect_end(self, why: str) -> None:
        """It is on its way out."""
        if not self.ends:
            self.ends, self.ends_by = why, time.monotonic() + _ENDS_WITHIN

    def kill(self) -> None:
        """End it and what it has started, now. From any thread."""
        if self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def destroy(self) -> None:
        """Kill it, and wait for its end."""
        self.kill()
        self._process.wait()
        self.reap()

    def reap(self) -> str:
        """End what it has started, after it has ended itself, and close this side; says how it has ended."""
        code = self._process.returncode
        self._kill_group()
        self._unsent.clear()
        self._opened.close()
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL), which is what happens when memory runs out"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"
