"""The program of a worker process: it reads items from a socket, calls the function, and writes reports.

Frames are a length of eight bytes and as many bytes. The first frame is the function, pickled; each further one is an
item. An item is answered by an empty frame when the function is about to be called, and then by its report.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final

import msgspec

from restate_nb.engine import asking
from restate_nb.engine.attempt import Report, RunningAttempt
from restate_nb.engine.codec import decode, encode
from restate_nb.engine.outbox import Entry
from restate_nb.policy import NO_RETRY, Retry

_LENGTH: Final = struct.Struct("<Q")
_ITEM: Final = struct.Struct("<QI")  # position, number of the attempt
_LAST_WORDS: Final = 2.0  # seconds for the interpreter's own end once the parent is gone

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Report)


# ---------------------------------------------------------------- frames, on both sides


def framed(frame: bytes) -> bytes:
    """A frame as it is written."""
    return _LENGTH.pack(len(frame)) + frame


def receive(recv: Callable[[int], bytes]) -> bytes | None:
    """Read a frame by `recv`, a socket's; None when the other side is gone."""
    head = _read(recv, _LENGTH.size)
    return None if head is None else _read(recv, _LENGTH.unpack(head)[0])


def _read(recv: Callable[[int], bytes], size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def item_frame(position: int, number: int, payload: bytes) -> bytes:
    """An item, as the worker reads it."""
    return _ITEM.pack(position, number) + payload


def report_of(frame: bytes) -> Report:
    """The report, as the worker wrote it."""
    return _decoder.decode(frame)


# ---------------------------------------------------------------- the function, as it is pickled


def call_value(fn: Callable[[Any], Any], raw: bytes) -> Any:
    """Call with the encoded item."""
    return fn(decode(raw))


def call_args(fn: Callable[..., Any], raw: bytes) -> Any:
    """Call with the encoded item's elements."""
    return fn(*decode(raw))


def call_kwargs(fn: Callable[..., Any], raw: bytes) -> Any:
    """Call with the encoded item's entries by name."""
    return fn(**decode(raw))


def call_pickled(fn: Callable[..., Any], raw: bytes) -> Any:
    """Call with arguments that the parent has rebuilt to the function's annotations."""
    args, kwargs = pickle.loads(raw)
    return fn(*args, **kwargs)


# ---------------------------------------------------------------- the worker


def main(descriptor: int) -> None:
    """Serve the parent until it closes the socket, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)  # else what the function starts would keep it open
    for file in (sys.stdout, sys.stderr):
        assert isinstance(file, io.TextIOWrapper)  # pipes to the parent, which prints what it reads
        file.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)
    asking.refuse()
    inbox: SimpleQueue[bytes | None] = SimpleQueue()
    threading.Thread(target=_watch, args=(sock, inbox), daemon=True).start()
    function = inbox.get()
    if function is None:
        return
    work = _Worker(function)
    while (frame := inbox.get()) is not None:
        position, number = _ITEM.unpack_from(frame)
        work.load()
        try:
            sock.sendall(framed(b""))
            report = work.run(position, number, frame[_ITEM.size :])
            _flush()  # before the report: what is printed is then known to be this item's
            sock.sendall(framed(_encoder.encode(report)))
        except OSError:  # the parent is gone
            return


def _flush() -> None:
    for file in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # the function may have put something else there
            file.flush()


def _watch(sock: socket.socket, inbox: SimpleQueue[bytes | None]) -> None:
    """Read in a thread, so that the parent's death is seen while an item runs."""
    try:
        while (frame := receive(sock.recv)) is not None:
            inbox.put(frame)
    except OSError:
        pass
    inbox.put(None)
    time.sleep(_LAST_WORDS)
    os._exit(0)


class _Worker:
    def __init__(self, function: bytes) -> None:
        self._function = function
        self._call: Callable[[bytes], Any] | None = None
        self._retry: Retry = NO_RETRY
        self._encode: Callable[[Any], bytes] = encode
        self._failed: BaseException | None = None
        self.loop_runner: asyncio.Runner | None = None

    def load(self) -> None:
        """Unpickle the function, the first time: that imports what it needs, and may take seconds."""
        if self._call is None and self._failed is None:
            try:
                self._call, self._retry, *classes = pickle.loads(self._function)
                self._encode = functools.partial(encode, classes=classes[0] if classes else None)
            except BaseException as error:
                with suppress(Exception):  # a class may have something else in the place of notes
                    error.add_note("The function could not be loaded in its worker process: this is why.")
                self._failed = error

    def run(self, position: int, number: int, payload: bytes) -> Report:
        """One attempt at an item."""
        retry = NO_RETRY if self._call is None else self._retry
        attempt = RunningAttempt(Entry(position, payload, number), retry, time.time(), time.perf_counter())
        if self._call is None:
            assert self._failed is not None
            return attempt.report(attempt.raised(self._failed))
        result = attempt.make(self._call, self._encode)
        if isinstance(result, (bytes, Report)):
            return attempt.report(result)
        try:
            return attempt.report(attempt.returned(self._await(result), self._encode))
        except BaseException as error:
            return attempt.report(attempt.raised(error))

    def _await(self, awaitable: Awaitable[Any]) -> Any:
        """On one loop for all items of this worker, so that clients and pools of connections live on between them."""

        async def wait() -> Any:
            return await awaitable

        if self.loop_runner is None:
            self.loop_runner = asyncio.Runner()
        loop = self.loop_runner.get_loop()
        item = loop.create_task(wait())
        while True:
            try:
                return loop.run_until_complete(item)
            except (SystemExit, KeyboardInterrupt) as error:  # of any task or callback: asyncio lets these two out
                if item.done():
                    raise
                _report_orphan(loop, error)


def _report_orphan(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    """Say what has ended a task or a callback that no item waits for, or not this one."""
    loop.call_exception_handler(
        {"message": f"{type(error).__name__} in a task or callback; the item goes on", "exception": error}
    )


BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from restate_nb.engine.process_child import main; main(int(sys.argv.pop()))"
)
"""What the interpreter is started with, and then the socket's descriptor and the parent's `sys.path`."""


def command(descriptor: int) -> list[str]:
    """How to start a worker."""
    path = _encoder.encode([each for each in sys.path if isinstance(each, str)]).decode()
    return [sys.executable, "-u", "-c", BOOT, str(descriptor), path]
