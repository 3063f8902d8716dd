"""What a store offers: runs of bytes go in, and are durable when that returns; references bring them back.

A job has a folder of its own, named at random when the job begins; its manifest names it. Nothing else owns what lies
there: a folder that no manifest names is swept away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from restate_nb.errors import NotReadable, RestateNbError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class StoreUnavailable(RestateNbError):
    """The store takes nothing at present: its disk is full, or it does not answer. Later it may."""


class NotStored(NotReadable):
    """What a reference names is not there, or not as it was written."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """How a store is opened, in other processes too.

    Attributes:
        url: a directory, or the address of a bucket: `s3://bucket/prefix`.
        private: whether nobody but the user can write there.
        options: of the object store, as obstore has them; no secrets of the environment.
    """

    url: str
    private: bool
    options: tuple[tuple[str, str], ...] = ()


class Place(NamedTuple):
    """Where a run of bytes lies in a folder: the segment, and where it begins in it."""

    segment: str
    at: int


class Folder(NamedTuple):
    """A job's folder: its name, how many bytes it has, and when it was last written to, in seconds since 1970."""

    name: str
    size: int
    written: float


class Store(ABC):
    """Where values and items lie that are too large for a journal. Its methods block, and may be called from any
    thread.

    Attributes:
        config: how it is opened elsewhere.
    """

    config: StoreConfig

    @abstractmethod
    def append(self, folder: str, runs: Sequence[Buffer]) -> list[Place]:
        """Write runs of bytes into a folder. They are durable when this returns.

        Raises:
            StoreUnavailable: the disk is full, or the store does not answer. None of them counts then.
        """

    @abstractmethod
    def read(self, folder: str, place: Place, size: int) -> bytes:
        """What lies there; its checksum is the caller's.

        Raises:
            NotStored: there is no such segment, or it ends early.
            StoreUnavailable: the store does not answer.
        """

    @abstractmethod
    def drop(self, folder: str) -> None:
        """Delete a folder with all that is in it; one that is not there is no error."""

    @abstractmethod
    def folders(self) -> Iterator[Folder]:
        """All that there are."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; what comes afterwards opens them again."""
