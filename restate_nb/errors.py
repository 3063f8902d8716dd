"""The errors that restate_nb raises. Each message says what happened and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class RestateNbError(Exception):
    """The base of every error of this package."""


class ServerError(RestateNbError, RuntimeError):
    """restate-server cannot be found, installed, started or reached."""


class InvalidInput(RestateNbError, ValueError):
    """An argument was refused before anything was started."""


class NotEncodable(RestateNbError, TypeError):
    """An item or a value cannot be written as JSON, or is too large to be kept."""


class JobMismatch(RestateNbError, ValueError):
    """The name belongs to a job over other items or with other options."""


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


class NotDurable(RestateNbError, RuntimeError):
    """An operation awaited something that Restate does not record."""


class JournalMismatch(RestateNbError, RuntimeError):
    """A handler's code no longer does what its journal recorded: it was changed, or it is not deterministic."""


class UnsupportedSdk(RestateNbError, ImportError):
    """The installed restate-sdk lacks what `restate_nb.patterns` builds on."""
