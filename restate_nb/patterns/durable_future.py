"""The coroutine behind a durable future, driven without an asyncio task; and what coroutines yield to be woken."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

from restate_nb.patterns.sdk import Tree


class Park:
    """What a coroutine yields to say: wake me when this is resolved."""

    __slots__ = ("tree",)

    def __init__(self, tree: Tree) -> None:
        self.tree = tree


class Foreign:
    """A future of asyncio that the SDK itself waits for: the whole invocation waits with it."""

    __slots__ = ("future",)

    def __init__(self, future: object) -> None:
        self.future = future


@coroutine
def pause(value: object) -> Generator[Any, Any, Any]:
    """Hand `value` to whoever steps this coroutine."""
    return (yield value)


class DurableFuture:
    """The SDK's coroutine that fetches a result once, for any number of operations (and the handler) to await.

    Nobody owns it: whoever waits first takes it as far as it goes. An exception thrown into one of those who wait
    (a cancellation, a sibling's failure) leaves it where it is, for the others.

    Args:
        begin: makes the SDK's coroutine, or gives it if it was made already; called at most once.
        wait: waits until a tree is resolved, in an operation or in the handler.
        send: takes the coroutine one step further.
        first: what the coroutine is known to wait for first, if that is not there yet.
    """

    __slots__ = ("_begin", "_coroutine", "_error", "_finished", "_first", "_send", "_tree", "_value", "_wait")

    def __init__(
        self,
        begin: Callable[[], Coroutine[Any, Any, Any]],
        wait: Callable[[Tree], Generator[Any, Any, None]],
        send: Callable[[Coroutine[Any, Any, Any]], Any],
        first: Callable[[], Tree | None] | None = None,
    ) -> None:
        self._begin = begin
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._wait = wait
        self._send = send
        self._first = first
        self._tree: Tree | None = None
        self._finished = False
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether the result is known."""
        return self._finished

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._coroutine is None and self._first is not None:
            self._tree = self._first()
        while not self._finished:
            if self._tree is not None:
                yield from self._wait(self._tree)
            if not self._finished:
                yield from self._advance()
        if self._error is not None:
            raise self._error
        return self._value

    def _advance(self) -> Generator[Any, Any, None]:
        self._tree = None
        if self._coroutine is None:
            self._coroutine = self._begin()
        try:
            while True:
                step = self._send(self._coroutine)
                if isinstance(step, Park):
                    self._tree = step.tree
                    return
                yield step  # the SDK itself waits: for a journal codec, or to send its last words
        except StopIteration as end:
            self._value = end.value
        except BaseException as error:
            self._error = error
        self._finished = True
