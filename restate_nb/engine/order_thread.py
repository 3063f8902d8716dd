"""A thread that waits for files, and does what others order; it is there while it has something to look after."""

from __future__ import annotations

import selectors
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class OrderThread(ABC):
    """Started by the first order, it ends when `_is_idle`, and starts again with the next one.

    Attributes:
        selector: what the thread waits for. What is registered there has data that says what it is.
    """

    def __init__(self, name: str) -> None:
        """`name`: of the thread."""
        self._name = name
        self._lock = threading.Lock()
        self._orders: deque[Callable[[], Any]] = deque()
        self._bell: socket.socket | None = None  # wakes the thread, while there is one
        self.selector: selectors.BaseSelector

    def _order(self, order: Callable[[], Any]) -> None:
        """Have the thread do this, soon.

        Raises:
            RuntimeError: the machine gives no thread.
        """
        with self._lock:
            self._orders.append(order)
            if self._bell is None:
                self._start_thread()
                return
        self._ring()

    def _ring(self) -> None:
        """Wake the thread."""
        bell = self._bell
        if bell is not None:
            with suppress(OSError):  # it rings already, or has just been taken down
                bell.send(b"!")

    def _start_thread(self) -> None:
        self._bell, heard = socket.socketpair()
        self._bell.setblocking(False)
        heard.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(heard, selectors.EVENT_READ)
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True, args=(heard,)).start()
        except BaseException:
            self._orders.clear()
            self._end_thread(heard)
            raise

    def _end_thread(self, heard: socket.socket) -> None:
        assert self._bell is not None
        self._bell.close()
        self._bell = None
        heard.close()
        self.selector.close()

    def _work(self, heard: socket.socket) -> None:
        try:
            while True:
                for key, _ in self.selector.select(0.0 if self._orders else self._pause()):
                    if key.data is not None:
                        self._hear(key.data)
                    else:
                        with suppress(BlockingIOError):
                            heard.recv(1 << 16)
                while self._orders:
                    self._orders.popleft()()
                self._go_round()
                with self._lock:
                    if not self._orders and self._is_idle():
                        self._end_thread(heard)
                        return
        except BaseException as error:  # a defect, which `threading.excepthook` reports
            self._break_down(error)
            with self._lock:
                self._end_thread(heard)
            raise

    @abstractmethod
    def _pause(self) -> float | None:
        """Seconds until there is something to look at, even if nothing happens; None for never."""

    @abstractmethod
    def _hear(self, data: Any) -> None:
        """What was registered with this data is ready."""

    @abstractmethod
    def _go_round(self) -> None:
        """Do what follows from what has happened."""

    @abstractmethod
    def _is_idle(self) -> bool:
        """Whether there is nothing to look after. Called with the lock."""

    @abstractmethod
    def _break_down(self, error: BaseException) -> None:
        """The thread ends by a defect: give up all that it looks after."""
