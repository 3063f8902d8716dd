"""The journal of a mock invocation: what the handler did, and what it was answered, in order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from restate_nb.patterns.sdk import Failure, VMException

Answer = bytes | str | list[str] | Failure | None
"""What completes a command: a value as JSON, an invocation id, names of states, a failure, or nothing."""

CANCELLED = 1  # the handle of the cancellation; no command has it


@dataclass(frozen=True, slots=True)
class Entry:
    """One durable step that the handler took.

    Args:
        kind: "run", "sleep", "call", "send", "get", "set", "awakeable", "promise" and so on.
        name: the step's name: of the run, the handler that is called, the state, the promise.
        detail: its input, as text.
    """

    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.name, self.detail)))


class Journal:
    """The entries of one invocation, in the order in which the handler made them, and the answers to them.

    `str(journal)` shows both; two runs that did the same have equal text.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.answers: list[tuple[int, Answer]] = []
        self._answered: dict[int, Answer] = {}

    def answer(self, handle: int, answer: Answer) -> None:
        """Record an answer; a second one to the same handle is passed over."""
        if handle not in self._answered:
            self._answered[handle] = answer
            self.answers.append((handle, answer))

    def entry_of(self, handle: int) -> Entry:
        """The entry that `handle` is the result (or the invocation id) of."""
        return self.entries[(handle - 2) // 2]

    def names(self, kind: str) -> list[str]:
        """The names of all entries of one kind, such as `journal.names("run")`."""
        return [entry.name for entry in self.entries if entry.kind == kind]

    def answered(self, handle: int) -> bool:
        """Whether the answer to `handle` is recorded."""
        return handle in self._answered

    def answer_to(self, handle: int) -> Answer:
        """What was recorded for `handle`."""
        return self._answered[handle]

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        lines = [f"{index:>4} {entry}" for index, entry in enumerate(self.entries)]
        lines += [f"  -> {_handle(handle)} {_text(answer)}" for handle, answer in self.answers]
        return "\n".join(lines)


def handle_of(index: int) -> int:
    """The handle of the result of entry `index`; the next one is that of its invocation id."""
    return 2 * index + 2


def _handle(handle: int) -> str:
    if handle == CANCELLED:
        return "cancelled"
    return f"{(handle - 2) // 2}{' (invocation id)' if handle % 2 else ''}"


def _text(answer: Answer) -> str:
    if isinstance(answer, Failure):
        return f"failed {answer.code}: {answer.message}"
    return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)


def side_by_side(recorded: list[Entry], now: list[Entry]) -> str:
    """Two journals, and where they differ."""
    width = max((len(str(entry)) for entry in recorded), default=8) + 2
    lines = []
    for index, (was, did) in enumerate(itertools.zip_longest(recorded, now)):
        mark = " " if was == did else ">"
        lines.append(f"{mark}{index:>4}  {'' if was is None else was!s:<{width}}  {'' if did is None else did}")
    head = f"      {'recorded':<{width}}  this run"
    return "\n".join([head, *lines])


def mismatch(recorded: list[Entry], now: list[Entry]) -> Exception:
    """The SDK's error for a handler that did something else than its journal says, with both journals in it."""
    return VMException(
        "The handler is not deterministic, or its code was changed: it did something else than its journal says.\n"
        + side_by_side(recorded, now)
    )
