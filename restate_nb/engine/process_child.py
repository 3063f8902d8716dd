"""The program of a worker process: it reads functions and items from a socket, calls, and writes outcomes in groups.

Two threads: one reads the socket all the time, so that items can be taken back while another one runs, and the parent's
death is seen. The main thread takes the items one by one. `process_frames` has what is said.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from restate_nb.engine import asking, process_frames
from restate_nb.engine.attempt import Ended, Report, RunningAttempt
from restate_nb.engine.outbox import Entry
from restate_nb.engine.output import belong_to
from restate_nb.engine.process_frames import Item, Outcome, SharedMemory
from restate_nb.engine.surroundings import Surroundings, own_memory
from restate_nb.policy import NO_RETRY, Retry
from restate_nb.values.codec import decode, encode
from restate_nb.values.reference import is_reference

if TYPE_CHECKING:
    import asyncio

    from restate_nb.values.classes import Classes

_LAST_WORDS: Final = 2.0  # seconds for the interpreter's own end once the parent is gone
_SEND_EVERY: Final = 0.01  # seconds between groups of outcomes, while there are further items
_MANY_BYTES: Final = 128 * 1024  # of outcomes, which are sent at once
_READ: Final = 1 << 18
_now = time.monotonic


# ---------------------------------------------------------------- the function, as it is pickled


Rebuilds = Mapping[str | int, Callable[[Any], Any]]
"""Turns arguments, by place or name, into what the function is annotated to take."""


def call_value(fn: Callable[[Any], Any], classes: Classes, rebuilds: Rebuilds, raw: bytes) -> Any:
    """Call with the encoded item."""
    value = decode(raw, classes)
    return fn(rebuilds[0](value) if rebuilds else value)


def call_args(fn: Callable[..., Any], classes: Classes, rebuilds: Rebuilds, raw: bytes) -> Any:
    """Call with the encoded item's elements."""
    values = decode(raw, classes)
    return fn(*(rebuilds[at](each) if at in rebuilds else each for at, each in enumerate(values)))


def call_kwargs(fn: Callable[..., Any], classes: Classes, rebuilds: Rebuilds, raw: bytes) -> Any:
    """Call with the encoded item's entries by name."""
    values = decode(raw, classes)
    return fn(**{name: rebuilds[name](each) if name in rebuilds else each for name, each in values.items()})


def call_pickled(fn: Callable[..., Any], whole: Callable[[bytes], Any] | None, raw: bytes) -> Any:
    """Call with arguments that the parent has rebuilt to the function's annotations.

    Args:
        fn: the function.
        whole: calls it with an encoded item instead, for those that lie in the store; None where the parent reads them.
        raw: the arguments pickled, or the encoded item.
    """
    if whole is not None and is_reference(raw):
        return whole(raw)
    args, kwargs = pickle.loads(raw)
    return fn(*args, **kwargs)


# ---------------------------------------------------------------- what is to do


class _Load(NamedTuple):
    function: int
    owner: int
    pickled: bytes


class _Forget(NamedTuple):
    functions: list[int]


_Order = _Load | _Forget


class _Inbox:
    """What was read and is not begun."""

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._todo: deque[Item | _Order] = deque()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed = False

    def put(self, *todo: Item | _Order) -> None:
        """This was read."""
        with self._lock:
            self._todo.extend(todo)
        self._news.set()

    def close(self) -> None:
        """Nothing comes any more, and nothing is to be begun."""
        self._closed = True
        self._news.set()

    def take(self) -> Item | _Order | None:
        """The next; None when there is nothing now."""
        with self._lock:
            if self._todo and not self._shared.hold and not self._closed:
                return self._todo.popleft()
        return None

    def wait(self) -> bool:
        """Wait until there may be something to take; False when nothing comes any more."""
        self._news.wait()
        self._news.clear()
        return not self._closed

    def give_back(self, keep: int) -> int:
        """Drop the last items, all but so many; says how many that were. From here on the others may begin."""
        with self._lock:
            items = [each for each in self._todo if not isinstance(each, _Order)]
            dropped = items[keep:]
            if dropped:
                gone = set(map(id, dropped))
                self._todo = deque(each for each in self._todo if id(each) not in gone)
            self._shared.hold = False
        self._news.set()
        return len(dropped)


# ---------------------------------------------------------------- the functions


class Loaded:
    """A function, unpickled."""

    def __init__(self, pickled: bytes) -> None:
        self.retry: Retry = NO_RETRY
        self._call: Callable[[bytes], Any] | None = None
        self._encode: Callable[[Any], bytes] = encode
        self._failed: BaseException | None = None
        self.load(pickled)

    def load(self, pickled: bytes) -> None:
        """Unpickle it: that imports what it needs, and may take seconds."""
        try:
            self._call, self.retry, *more = pickle.loads(pickled)
            if more:
                classes, load = more
                classes.keep_in(load, parts=classes.parts, pickles=classes.pickles)
                self._encode = functools.partial(encode, classes=classes)
        except BaseException as error:
            with suppress(Exception):  # a class may have something else in the place of notes
                error.add_note("The function could not be loaded in its worker process: this is why.")
            self._failed = error

    def run(self, attempt: RunningAttempt, awaited: Callable[[Awaitable[Any]], Any]) -> Ended:
        """Make an attempt; `awaited` waits for what the call returns to be awaited."""
        if self._call is None:
            assert self._failed is not None
            attempt.begin()
            return attempt.raised(self._failed)
        belong_to(attempt.entry.position)
        ended = attempt.make(self._call, self._encode)
        if isinstance(ended, (bytes, Report)):
            return ended
        try:
            return attempt.returned(awaited(ended), self._encode)
        except BaseException as error:
            return attempt.raised(error)


class OneLoop:
    """Awaits what items return, on one loop for all of them, so that clients and pools of connections live on."""

    def __init__(self) -> None:
        self.runner: asyncio.Runner | None = None

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """What it gives."""
        import asyncio  # noqa: PLC0415 - a third of a worker's start, and few items are awaited

        async def wait() -> Any:
            return await awaitable

        if self.runner is None:
            self.runner = asyncio.Runner()
        loop = self.runner.get_loop()
        item = loop.create_task(wait())
        while True:
            try:
                return loop.run_until_complete(item)
            except (SystemExit, KeyboardInterrupt) as error:  # of any task or callback: asyncio lets these two out
                if item.done():
                    raise
                says = f"{type(error).__name__} in a task or callback; the item goes on"
                loop.call_exception_handler({"message": says, "exception": error})


# ---------------------------------------------------------------- the outcomes


class _Printed:
    """What this process and those that it starts print: two files, which the parent reads."""

    def __init__(self) -> None:
        self._own = os.dup(1), os.dup(2)  # the function may close those
        self._files = [os.fstat(each) for each in self._own]

    def sizes(self) -> tuple[int, int]:
        """Of both files, with what is still in Python's buffers."""
        for file in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105 - which is faster, and this is for every item
                file.flush()
            except (AttributeError, OSError, ValueError):  # the function may have put something else there
                pass
        out, err = self._own
        return os.lseek(out, 0, os.SEEK_END), os.lseek(err, 0, os.SEEK_END)

    def moved(self) -> bool:
        """Whether a function has put something else in the place of one of them."""
        try:
            now = [os.fstat(each) for each in (1, 2)]
        except OSError:
            return True
        return [(each.st_dev, each.st_ino) for each in now] != [(each.st_dev, each.st_ino) for each in self._files]


class _Outbox:
    """Outcomes on their way to the parent."""

    def __init__(self, sock: socket.socket, shared: SharedMemory) -> None:
        self._sock = sock
        self._shared = shared
        self._group: list[bytes] = []
        self._size = 0
        self._next = 0  # serial number of the group's first one
        self._sent = 0.0  # on time.monotonic
        self._lock = threading.Lock()  # the reader sends, too

    def add(self, outcome: Outcome) -> None:
        """An item has ended."""
        encoded = process_frames.encode_outcome(outcome)
        if not self._shared.keep(self._next + len(self._group), encoded):
            self.flush()
            self._shared.keep(self._next, encoded)  # one that is too large is sent at once
        self._group.append(encoded)
        self._size += len(encoded)
        self._shared.end()
        if self._size > _MANY_BYTES or _now() - self._sent > _SEND_EVERY:
            self.flush()

    def flush(self) -> None:
        """Send what there is."""
        if not self._group:
            return
        self.send(process_frames.outcomes_frame(self._next, self._group))
        self._shared.drop_kept()
        self._next += len(self._group)
        self._group.clear()
        self._size = 0
        self._sent = time.monotonic()

    def send(self, frame: bytes) -> None:
        """Send a frame.

        Raises:
            OSError: the parent is gone, or the function has closed the socket.
        """
        with self._lock:
            self._sock.sendall(frame)


# ---------------------------------------------------------------- the worker


class _Worker:
    def __init__(self, sock: socket.socket, shared: SharedMemory) -> None:
        self._sock = sock
        self._shared = shared
        self._inbox = _Inbox(shared)
        self._outbox = _Outbox(sock, shared)
        self._printed = _Printed()
        self._loop = OneLoop()
        self._functions: dict[int, tuple[Loaded, int]] = {}  # with their owners
        self._owner = 0
        self._surroundings = Surroundings()
        self._memory = own_memory()
        self._forked = False
        os.register_at_fork(after_in_child=self._note_fork)
        self._serial = 0
        self._sizes = 0, 0

    def _note_fork(self) -> None:
        self._forked = True

    def serve(self) -> None:
        """Do what is read, until the parent is gone."""
        threading.Thread(target=self._read, name="rnb-reader", daemon=True).start()
        self._outbox.send(process_frames.framed(process_frames.READY))
        while True:
            todo = self._inbox.take()
            if todo is None:
                self._outbox.flush()
                if not self._inbox.wait():
                    return
            elif isinstance(todo, _Load):
                if not self._load(todo):
                    return
            elif isinstance(todo, _Forget):
                self._forget(todo.functions)
            elif not self._run(*todo):
                return
            del todo  # an idle worker keeps no item alive

    def _read(self) -> None:
        """Read in a thread, so that the parent's death is seen while an item runs."""
        reader = process_frames.Reader(process_frames.FUNCTION)
        with suppress(OSError):
            while data := self._sock.recv(_READ):
                reader.feed(data)
                for kind, content in reader:
                    self._take_in(kind, content)
                    del content
        self._inbox.close()
        time.sleep(_LAST_WORDS)
        os._exit(0)

    def _take_in(self, kind: int, content: bytes) -> None:
        if kind == process_frames.BATCH:
            self._inbox.put(*process_frames.read_batch(content))
        elif kind == process_frames.FUNCTION:
            self._inbox.put(_Load(*process_frames.read_function(content)))
        elif kind == process_frames.FORGET:
            self._inbox.put(_Forget(process_frames.read_forget(content)))
        elif kind == process_frames.RECALL:
            back = self._inbox.give_back(process_frames.read_number(content))
            self._outbox.send(process_frames.number_frame(process_frames.RETURNED, back))

    def _load(self, order: _Load) -> bool:
        """Load a function; False when another worker has to, since this one knows an older world."""
        if order.owner != self._owner and not self._turn_to(order.owner, loads=True):
            return False
        self._shared.loading = order.function
        self._surroundings.before_loading()
        self._functions[order.function] = Loaded(order.pickled), order.owner
        self._surroundings.after_loading()
        self._shared.loading = None
        self._outbox.send(process_frames.number_frame(process_frames.LOADED, order.function))
        return True

    def _turn_to(self, owner: int, *, loads: bool = False) -> bool:
        """Items of another job come; False when this process is not as it was when it started."""
        if self._owner and (self._printed.moved() or self._surroundings.changed(modules=loads)):
            self._outbox.flush()
            self._outbox.send(process_frames.framed(process_frames.STALE))
            return False
        self._owner = owner
        return True

    def _forget(self, functions: list[int]) -> None:
        import gc  # noqa: PLC0415

        for function in functions:
            self._functions.pop(function, None)
        gc.collect()
        grown = max(0, own_memory() - self._memory)
        self._outbox.send(process_frames.number_frame(process_frames.GROWN, grown))

    def _run(self, function: int, position: int, number: int, payload: bytes) -> bool:
        """Make an attempt at an item; False when another worker has to."""
        loaded, owner = self._functions[function]
        if owner != self._owner and not self._turn_to(owner):
            return False
        self._shared.begin(self._serial, *self._sizes)
        self._serial += 1
        attempt = RunningAttempt(Entry(position, payload, number), loaded.retry)
        ended = loaded.run(attempt, self._loop.wait_for)
        if self._forked:  # the function has, and this is not the worker
            os._exit(0)
        self._sizes = sizes = self._printed.sizes()
        if isinstance(ended, bytes):
            self._outbox.add(Outcome(position, number, *sizes, attempt.started, attempt.ran, ended))
        else:
            self._shared.hold = True  # whether more is to begin after that, the parent says
            self._outbox.add(_failed(ended, *sizes))
            self._outbox.flush()
        return True


def _failed(report: Report, stdout: int, stderr: int) -> Outcome:
    attempt = report.attempt
    return Outcome(
        attempt.position,
        attempt.number,
        stdout,
        stderr,
        attempt.started,
        attempt.ran,
        b"",
        attempt.status,
        attempt.failure,
        report.pushback,
    )


def main(descriptor: int, memory: int) -> None:
    """Serve the parent until it closes the socket, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)  # else what the function starts would keep it open
    shared = SharedMemory(memory)
    shared.close_descriptor()
    for file in (sys.stdout, sys.stderr):
        assert isinstance(file, io.TextIOWrapper)  # files of the parent, which prints what it reads
        file.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)
    asking.refuse()
    with suppress(OSError):  # the parent is gone
        _Worker(sock, shared).serve()


BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from restate_nb.engine.process_child import main; main(*map(int, sys.argv.pop().split()))"
)
"""What the interpreter is started with, and then the descriptors and the parent's `sys.path`."""


def command(descriptor: int, memory: int) -> list[str]:
    """How to start a worker."""
    path = msgspec.json.encode([each for each in sys.path if isinstance(each, str)]).decode()
    return [sys.executable, "-u", "-c", BOOT, f"{descriptor} {memory}", path]
