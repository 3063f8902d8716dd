"""What became of operations: one `Outcome` each, and a `FanOutResult` of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any, Generic, TypeVar, TypeVarTuple, overload

from restate.exceptions import TerminalError

from restate_nb.errors import RestateNbError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")


_LONGEST_ITEM = 80


def described(index: int, name: str, item: object) -> str:
    """An operation, for people: its index, its function, and what it is applied to."""
    if item is None:
        return f"operation {index} ({name})" if name else f"operation {index}"
    try:
        text = repr(item)
    except Exception:  # the item's own code
        text = f"a {type(item).__name__}"
    text = text if len(text) <= _LONGEST_ITEM else f"{text[:_LONGEST_ITEM]}..."
    return f"operation {index} ({name}, {text})" if name else f"operation {index} ({text})"


class OperationFailed(RestateNbError, TerminalError):
    """An operation ended in a TerminalError.

    Raised by `fan_out_fail`, `map_concurrent`, `BatchProcessor`, `parallel_invoke`, `race`, `first_completed`, `group`
    and `FanOutResult.raise_if_failed`. It is a TerminalError itself, so a handler that lets it pass fails with the
    cause's status code; catch it to compensate.

    Attributes:
        index: which operation, counted from 0 in the order they were given.
        cause: the TerminalError that it ended in.
        name: the name of its function; empty for a lambda.
        item: what it was applied to, where that is known; None otherwise.
    """

    def __init__(
        self,
        index: int,
        cause: TerminalError,
        *,
        name: str = "",
        item: object = None,
        outcomes: Callable[[], FanOutResult[Any]] | None = None,
    ) -> None:
        message = f"{described(index, name, item)} failed: {cause.message}"
        super().__init__(message, cause.status_code, cause.metadata)
        self.index = index
        self.cause = cause
        self.name = name
        self.item = item
        self._outcomes = outcomes
        self.__cause__ = cause

    @property
    def result(self) -> FanOutResult[Any]:
        """What became of all operations: those that had ended have their values, and the others the reason."""
        if self._outcomes is not None:
            return self._outcomes()
        return FanOutResult((Outcome(self.index, error=self.cause, name=self.name, item=self.item),))


class OperationTimeout(RestateNbError, TerminalError, TimeoutError):
    """An operation took longer than its `with_timeout` allowed. Its status code is 408."""

    def __init__(self, seconds: float) -> None:
        TerminalError.__init__(self, f"the operation took longer than its timeout of {seconds:g} s", 408)
        self.args = (self.message,)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How one operation ended.

    Args:
        index: its place among the operations, from 0.
        value: what it returned; None when it failed.
        error: the TerminalError that it ended in; None when it succeeded.
        name: of one that failed, the name of its function; empty for a lambda.
        item: of one that failed, what it was applied to, where that is known.
    """

    index: int
    value: T | None = None
    error: TerminalError | None = None
    name: str = field(default="", compare=False, repr=False)
    item: Any = field(default=None, compare=False, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the operation succeeded."""
        return self.error is None

    def failure(self, outcomes: Callable[[], FanOutResult[Any]] | None = None) -> OperationFailed:
        """The error to raise for an operation that failed; `outcomes` gives those of all."""
        assert self.error is not None
        return OperationFailed(self.index, self.error, name=self.name, item=self.item, outcomes=outcomes)

    def unwrap(self) -> T:
        """The value.

        Raises:
            OperationFailed: the operation failed.
        """
        if self.error is not None:
            raise self.failure() from self.error
        return self.value  # type: ignore[return-value]  # T may itself include None


@dataclass(frozen=True, slots=True, repr=False)
class FanOutResult(Generic[T]):
    """The outcomes of a `fan_out`, in the order of its operations.

    Iterate over it for the `Outcome` of each operation; index it for one.

    Example:
        >>> result = FanOutResult((Outcome(0, "a"), Outcome(1, error=TerminalError("no stock"))))
        >>> result.results, result.success, result.failed
        (['a', None], 1, 1)
        >>> [outcome.index for outcome in result if not outcome.ok]
        [1]
        >>> result
        FanOutResult(1 ok, 1 failed; first: operation 1 failed: no stock)
    """

    outcomes: tuple[Outcome[T], ...]

    @property
    def results(self) -> list[T | None]:
        """Every value, None where the operation failed."""
        return [outcome.value for outcome in self.outcomes]

    @property
    def errors(self) -> list[TerminalError | None]:
        """Every error, None where the operation succeeded."""
        return [outcome.error for outcome in self.outcomes]

    @property
    def failed(self) -> int:
        """How many operations failed."""
        return len(self.outcomes) - self.success

    @property
    def success(self) -> int:
        """How many operations succeeded."""
        return sum(outcome.ok for outcome in self.outcomes)

    def values(self) -> list[T]:
        """Every value, when all succeeded.

        Raises:
            OperationFailed: an operation failed.
        """
        self.raise_if_failed()
        return [outcome.unwrap() for outcome in self.outcomes]

    def raise_if_failed(self) -> None:
        """Do nothing when all succeeded.

        Raises:
            OperationFailed: of the first that failed, in input order.
        """
        failed = next((outcome for outcome in self.outcomes if outcome.error is not None), None)
        if failed is not None:
            raise failed.failure(lambda: self) from failed.error

    def __iter__(self) -> Iterator[Outcome[T]]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome[T]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Outcome[T], ...]: ...
    def __getitem__(self, index: int | slice) -> Outcome[T] | tuple[Outcome[T], ...]:
        return self.outcomes[index]

    def __repr__(self) -> str:
        text = f"{self.success:,} ok, {self.failed:,} failed"
        first = next((outcome.failure() for outcome in self.outcomes if not outcome.ok), None)
        if first is not None:
            text += f"; first: {first}"
        return f"{type(self).__name__}({text})"

    def _repr_html_(self) -> str:
        shown = sorted(self.outcomes, key=lambda outcome: outcome.ok)[:20]  # the failures first
        rows = "".join(
            f"<tr><td>{o.index}</td><td>{'ok' if o.ok else 'failed'}</td>"
            f"<td>{escape(repr(o.value) if o.error is None else o.error.message)[:200]}</td></tr>"
            for o in shown
        )
        more = f"<p>and {len(self) - len(shown):,} more</p>" if len(self) > len(shown) else ""
        head = "<tr><th>operation</th><th>status</th><th>value or error</th></tr>"
        return f"<p>{self.success:,} ok, {self.failed:,} failed</p><table>{head}{rows}</table>{more}"


class FanOutTuple(FanOutResult[Any], Generic[*Ts]):
    """The outcomes of a `fan_out` over a tuple of operations of different types: `values()` is a tuple, too."""

    __slots__ = ()

    def values(self) -> tuple[*Ts]:  # type: ignore[override]  # a list cannot hold one type per place
        """Every value, each of its operation's own type, when all succeeded.

        Raises:
            OperationFailed: an operation failed.
        """
        self.raise_if_failed()
        return tuple(outcome.unwrap() for outcome in self.outcomes)
