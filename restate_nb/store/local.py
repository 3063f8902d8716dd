"""A store in a directory of this machine: append-only segments, one fsync a call.

A segment belongs to the process that writes it. What a crash leaves at its end, no journal names.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from restate_nb.store.base import Folder, NotStored, Place, Store, StoreConfig, StoreUnavailable

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SUFFIX: Final = ".seg"


class LocalStore(Store):
    """A directory with a folder for each job."""

    def __init__(self, config: StoreConfig) -> None:
        """`config.url` is the directory; it is made when it is first written to."""
        self.config = config
        self._root = Path(config.url)
        self._lock = threading.Lock()
        self._segments: dict[str, str] = {}  # that this process appends to, by folder

    def append(self, folder: str, runs: Sequence[Buffer]) -> list[Place]:
        """Write into the segment of this process; see `Store`."""
        with self._lock:
            segment = self._segments.get(folder) or uuid.uuid4().hex
            path = self._root / folder / f"{segment}{_SUFFIX}"
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with path.open("ab") as file:
                    at = file.tell()
                    places = []
                    for run in runs:
                        places.append(Place(segment, at))
                        at += file.write(run)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                self._segments.pop(folder, None)
                raise StoreUnavailable(f"The store {self._root} cannot be written: {error}.") from error
            self._segments[folder] = segment
            return places

    def read(self, folder: str, place: Place, size: int) -> bytes:
        """Read what lies there; see `Store`."""
        path = self._root / folder / f"{place.segment}{_SUFFIX}"
        try:
            with path.open("rb") as file:
                content = os.pread(file.fileno(), size, place.at)
        except OSError as error:
            raise NotStored(f"{path} cannot be read: {error}.") from error
        if len(content) != size:
            raise NotStored(f"{path} ends early.")
        return content

    def drop(self, folder: str) -> None:
        """Delete the directory of that name."""
        self._segments.pop(folder, None)
        shutil.rmtree(self._root / folder, ignore_errors=True)

    def folders(self) -> Iterator[Folder]:
        """The directories that there are."""
        for path in self._root.iterdir() if self._root.is_dir() else ():
            stats = [each.stat() for each in path.iterdir()]
            yield Folder(path.name, sum(each.st_size for each in stats), max((s.st_mtime for s in stats), default=0.0))

    def close(self) -> None:
        """Nothing is held open."""
        self._segments.clear()
