"""What a store offers: runs of bytes go in, and are durable when that returns; references bring them back.

A job has a folder of its own, named at random when the job begins; its manifest names it. Nothing else owns what lies
there: a folder that no manifest names is swept away.
"""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

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
        shared: whether it was given by its address, so that workers can be given it, too.
    """

    url: str
    private: bool
    options: tuple[tuple[str, str], ...] = ()
    shared: bool = False


HOUR: Final = 3600.0

_NAME: Final = re.compile(r"[0-9a-z][0-9a-z-]{0,63}")


def check_name(name: str) -> str:
    """A name of a folder or a segment that leads nowhere else: it may come from what others wrote.

    Raises:
        NotStored: it is none.
    """
    if _NAME.fullmatch(name) is None:
        raise NotStored(f"{name[:80]!r} is no name in a store of restate_nb.")
    return name


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
        owner: stands before the names of the folders of a session, where it shares the store: another Restate may have
            a session of that name, and keep its values there, too. Empty where that cannot be, or is not known.
        orphan_seconds: for how long a folder that no job names has not been written to when it is nobody's: a process
            may still read the items of a job that is to begin. It is long where `in_use` cannot tell.
    """

    config: StoreConfig
    owner: str = ""
    orphan_seconds: float = 24 * HOUR

    def new_folder(self) -> str:
        """A name for the folder of a job that is about to begin; nothing is made yet."""
        return f"{self.owner}-{uuid.uuid4().hex}" if self.owner else uuid.uuid4().hex

    @abstractmethod
    def append(self, folder: str, runs: Sequence[Buffer]) -> list[Place]:
        """Write runs of bytes into a folder. They are durable when this returns.

        Raises:
            StoreUnavailable: the disk is full, or the store does not answer. None of them counts then.
            NotStored: that is no name of a folder.
        """

    @abstractmethod
    def read(self, folder: str, place: Place, size: int) -> bytes:
        """What lies there; its checksum is the caller's.

        Raises:
            NotStored: there is no such segment, or it ends early.
            StoreUnavailable: the store does not answer.
        """

    def read_many(self, folder: str, runs: Sequence[tuple[Place, int]]) -> list[bytes]:
        """What lies at each of these places of a folder; as `read`, for many small runs."""
        return [self.read(folder, place, size) for place, size in runs]

    @abstractmethod
    def drop(self, folder: str) -> None:
        """Delete a folder with all that is in it; one that is not there is no error.

        Raises:
            StoreUnavailable: something of it is left.
            NotStored: that is no name of a folder.
        """

    @abstractmethod
    def folders(self) -> Iterator[Folder]:
        """All that there are.

        Raises:
            StoreUnavailable: the store does not answer.
        """

    def in_use(self, folder: str) -> bool:
        """Whether a process is known to write there now."""
        check_name(folder)
        return False

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; what comes afterwards opens them again."""
