"""The errors that restate_nb raises. Each message says what happened and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class RestateNbError(Exception):
    """The base of every error of this package."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the lines of the user and the message, and not the inside of this package."""
        from restate_nb.environment import ipython_shell  # noqa: PLC0415 - `import restate_nb` need not load it
        from restate_nb.tracebacks import before_package  # noqa: PLC0415

        trace = before_package(self.__traceback__)
        lines: list[str] = ipython_shell().InteractiveTB.structured_traceback(type(self), self, trace)
        return lines


class ServerError(RestateNbError, RuntimeError):
    """restate-server cannot be found, installed, started or reached."""


class InvalidInput(RestateNbError, ValueError):
    """An argument was refused before anything was started."""


class UnknownOption(InvalidInput, TypeError):
    """A function was called with an option or an argument that it does not have. Nothing was started."""


class NotEncodable(RestateNbError, TypeError):
    """An item or a value cannot be written as JSON, or is too large to be kept."""


class NotReadable(RestateNbError, ValueError):
    """What is recorded of an item or a value cannot be brought back: its class, or a package, is not known here."""


class JobMismatch(RestateNbError, ValueError):
    """The name belongs to a job over other items or with other options."""


class OlderResults(UserWarning):
    """A job that was attached to has results of a function, or of what it uses, that is another one today."""


class JobError(RestateNbError, RuntimeError):
    """Values were asked for of a job of which some items failed.

    Attributes:
        frame: the job's frame as it was when the error was raised, one row an item.
    """

    def __init__(self, message: str, frame: pd.DataFrame | None = None) -> None:
        super().__init__(message)
        self.frame = frame


class ItemTimeout(RestateNbError, TimeoutError):
    """An item ran longer than its `timeout`."""


class WorkerDied(RestateNbError, RuntimeError):
    """The process in which an item ran has ended: a crash of native code, `os._exit`, or no memory left."""


class CannotAsk(RestateNbError, RuntimeError):
    """An item called `input()` or `breakpoint()`: it runs in the background, where nobody can answer."""


class NotDurable(RestateNbError, RuntimeError):
    """An operation awaited something that Restate does not record."""


class JournalMismatch(RestateNbError, RuntimeError):
    """A handler's code no longer does what its journal recorded: it was changed, or it is not deterministic."""


class UnsupportedSdk(RestateNbError, ImportError):
    """The installed restate-sdk lacks what `restate_nb.patterns` builds on."""


class InvocationFailed(RestateNbError, RuntimeError):
    """An invocation ended with a terminal error.

    Attributes:
        code: Restate's error code, which follows HTTP: 409 after a cancellation, 500 unless the handler chose another.
        reason: the error's message.
        invocation_id: which invocation.
    """

    def __init__(self, code: int, reason: str, invocation_id: str) -> None:
        super().__init__(f"The invocation {invocation_id} failed with code {code}: {reason}")
        self.code = code
        self.reason = reason
        self.invocation_id = invocation_id
