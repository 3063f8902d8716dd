"""A store in a directory: append-only segments, one fsync a call.

A segment belongs to the process that made it, which appends to nothing else. What a crash leaves at its end, no journal
names. While it is open its process has it locked, so that others can see that its folder is in use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from restate_nb.store.base import HOUR, Folder, NotStored, Place, Store, StoreConfig, StoreUnavailable, check_name

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SUFFIX: Final = ".seg"
SEGMENT_BYTES: Final = 256 * 1024 * 1024
"""A segment of so many bytes gets no more."""
MOST_WRITTEN: Final = 64
"""Segments that are open at once to be written to; of more, the one that was longest not written to is left."""
MOST_READ: Final = 16
"""The same of those that are read."""

_VECTORS: Final = 512  # runs that one call writes: less than any system's IOV_MAX
_WRITE_AT_ONCE: Final = 1 << 20  # bytes: calls of several MB took up to four times the processor's time
_READ_AT_ONCE: Final = 1 << 30  # bytes: one read gives less than 2 GiB
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM})
_sync: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


class LocalStore(Store):
    """A directory with a folder for each job; it is of this machine, or one that machines share.

    In a private one nobody but its user can read or write; else the umask says who may.
    """

    orphan_seconds = HOUR

    def __init__(self, config: StoreConfig) -> None:
        """`config.url` is the directory; it is made when it is first written to."""
        self.config = config
        self._root = Path(config.url)
        self._was_there = False
        self.forget_files()
        _STORES.add(self)

    def forget_files(self) -> None:
        """Know no open files: a fork must not append to what its parent has, nor wait for its locks."""
        self._lock = threading.Lock()
        self._writers: OrderedDict[str, _Writer] = OrderedDict()
        self._readers: OrderedDict[tuple[str, str], _File] = OrderedDict()

    def append(self, folder: str, runs: Sequence[Buffer]) -> list[Place]:
        """Write into the segment of this process; see `Store`."""
        path = self._root / check_name(folder)
        views = [memoryview(run).cast("B") for run in runs]
        self._check_there()
        with self._lock:
            writer = self._writers.pop(folder, None) or _Writer(path, private=self.config.private)
            self._writers[folder] = writer  # the latest last
            if len(self._writers) > MOST_WRITTEN:
                self._writers.popitem(last=False)  # whoever writes to it holds it
        try:
            places = writer.append(views)
        except OSError as error:
            if error.errno in _FULL:
                raise StoreUnavailable(f"The disk of the store {self._root} is full: make room there.") from error
            raise StoreUnavailable(f"The store {self._root} cannot be written: {error}.") from error
        self._was_there = True
        return places

    def _check_there(self) -> None:
        """See that the directory was not deleted: made anew, it would lack all that lay there.

        Raises:
            StoreUnavailable: it was.
        """
        if self._was_there and not self._root.is_dir():
            raise StoreUnavailable(f"The store {self._root} was deleted while it was used.")

    def read(self, folder: str, place: Place, size: int) -> bytes:
        """Read what lies there; see `Store`."""
        return self.read_many(folder, [(place, size)])[0]

    def read_many(self, folder: str, runs: Sequence[tuple[Place, int]]) -> list[bytes]:
        """Read what lies there; runs of one segment that follow each other cost least."""
        check_name(folder)
        found: list[bytes] = []
        file: _File | None = None
        segment, end = "", 0
        for place, size in runs:
            try:
                if file is None or place.segment != segment:
                    segment = check_name(place.segment)
                    file = self._reader(folder, segment)
                    end = os.fstat(file.descriptor).st_size
                if place.at + size > end:  # a file of another machine may have grown since it was opened
                    file = self._reader(folder, segment, anew=True)
                    end = os.fstat(file.descriptor).st_size
                if place.at + size > end:
                    path = self._path(folder, segment)
                    raise NotStored(f"{path} has {end:,} bytes, and what is looked for begins at {place.at:,}.")
                found.append(self._read(file, folder, place, size))
            except OSError as error:
                raise _unreadable(self._path(folder, place.segment), place, size, error) from error
        return found

    def _read(self, file: _File, folder: str, place: Place, size: int) -> bytes:
        """A run of bytes that is there, without a copy of it."""
        if size <= _READ_AT_ONCE:
            content = os.pread(file.descriptor, size, place.at)
            if len(content) == size:
                return content
        with self._path(folder, place.segment).open("rb") as whole:  # reads until it has all
            whole.seek(place.at)
            content = whole.read(size)
        if len(content) != size:
            raise NotStored(f"{self._path(folder, place.segment)} ends early.")
        return content

    def _path(self, folder: str, segment: str) -> Path:
        return self._root / folder / f"{segment}{_SUFFIX}"

    def _reader(self, folder: str, segment: str, *, anew: bool = False) -> _File:
        key = folder, segment
        with self._lock:
            file = self._readers.pop(key, None)
            if file is None or anew:
                path = self._path(folder, segment)
                file = _File(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            self._readers[key] = file
            if len(self._readers) > MOST_READ:
                self._readers.popitem(last=False)
            return file

    def drop(self, folder: str) -> None:
        """Delete the directory of that name; see `Store`."""
        path = self._root / check_name(folder)
        with self._lock:
            writer = self._writers.pop(folder, None)
            for key in [key for key in self._readers if key[0] == folder]:
                del self._readers[key]
        if writer is not None:
            writer.leave()
        while True:
            try:
                _empty(path)
                shutil.rmtree(path)
            except FileNotFoundError:  # of the directory, or of a file that somebody else deletes at the same time
                if not os.path.lexists(path):
                    return
            except OSError as error:
                raise StoreUnavailable(f"The folder {path} cannot be deleted: {error}.") from error

    def folders(self) -> Iterator[Folder]:
        """The directories that there are, but for those that this user may not look into; see `Store`."""
        try:
            paths = list(self._root.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreUnavailable(f"The store {self._root} cannot be read: {error}.") from error
        for path in paths:
            try:
                check_name(path.name)
                found = [path.stat(), *(each.stat() for each in list(os.scandir(path)))]
            except (FileNotFoundError, NotADirectoryError, PermissionError, NotStored):
                continue  # it was just dropped, or is none of ours
            except OSError as error:
                raise StoreUnavailable(f"The folder {path} cannot be read: {error}.") from error
            yield Folder(path.name, sum(each.st_size for each in found[1:]), max(each.st_mtime for each in found))

    def in_use(self, folder: str) -> bool:
        """Whether a process has a segment of it open to write to, where the file system has locks."""
        try:
            segments = list(os.scandir(self._root / check_name(folder)))
        except OSError:  # it is not there, or not ours
            return False
        for each in segments:
            with suppress(OSError):  # it was just deleted; or there are no locks
                file = _File(os.open(each.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
                try:
                    fcntl.flock(file.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False

    def close(self) -> None:
        """Close all files; see `Store`."""
        with self._lock:
            self._writers.clear()
            self._readers.clear()


_STORES: Final[weakref.WeakSet[LocalStore]] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_STORES):
        store.forget_files()


os.register_at_fork(after_in_child=_after_fork)


class _File:
    """A descriptor, which is closed when nobody uses it any more."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)


class _Segment(_File):
    """One that this process appends to.

    Attributes:
        path: of the file.
        size: how many bytes of it count. What may lie beyond is of a call that failed.
    """

    __slots__ = ("path", "size")

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode))
        self.path = path
        self.size = 0
        with suppress(OSError):  # no locks there: then its folder's age alone says whether it may be swept
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, views: Sequence[memoryview]) -> None:
        """Write at the end; durable when this returns, and counted then.

        Raises:
            OSError: it was not written.
        """
        at = self.size
        for portion in _portions(views):
            while portion:
                written = os.pwritev(self.descriptor, portion, at)
                at += written
                while portion and written >= len(portion[0]):
                    written -= len(portion.pop(0))
                if written:
                    portion[0] = portion[0][written:]
        _sync(self.descriptor)
        self.size = at

    def give_up(self) -> None:
        """Free what does not count: a disk may be full, and whoever holds the error keeps this file open. What a failed
        fsync has left, nothing may follow."""
        with suppress(OSError):
            os.ftruncate(self.descriptor, self.size)
        with suppress(OSError):
            if not self.size:
                self.path.unlink()


def _portions(views: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """What one call writes, after the other; nothing is copied."""
    portion: list[memoryview] = []
    room = _WRITE_AT_ONCE
    for view in views:
        left = view
        while len(left):
            portion.append(left[:room])
            room -= len(portion[-1])
            left = left[len(portion[-1]) :]
            if not room or len(portion) == _VECTORS:
                yield portion
                portion, room = [], _WRITE_AT_ONCE
    if portion:
        yield portion


class _Writer:
    """What this process writes into one folder."""

    def __init__(self, folder: Path, *, private: bool) -> None:
        self._folder = folder
        self._modes = (0o700, 0o600) if private else (0o777, 0o666)  # of which the umask takes away
        self._segment: _Segment | None = None
        self._lock = threading.Lock()

    def append(self, views: Sequence[memoryview]) -> list[Place]:
        """Write runs, in one segment.

        Raises:
            OSError: none of them counts.
        """
        with self._lock:
            while True:
                segment = self._segment
                if segment is None or segment.size >= SEGMENT_BYTES:
                    segment = self._segment = self._make()
                begin = segment.size
                try:
                    segment.write(views)
                    if os.fstat(segment.descriptor).st_nlink:
                        break
                    self._segment = None  # somebody has deleted it
                except BaseException:
                    self._segment = None
                    segment.give_up()
                    raise
        name = segment.path.stem
        places = []
        for view in views:
            places.append(Place(name, begin))
            begin += len(view)
        return places

    def leave(self) -> None:
        """Write no more to what there is."""
        with self._lock:
            self._segment = None

    def _make(self) -> _Segment:
        make_directory(self._folder, self._modes[0])
        segment = _Segment(self._folder / f"{uuid.uuid4().hex}{_SUFFIX}", self._modes[1])
        try:
            _sync_directory(self._folder)
        except BaseException:
            segment.give_up()
            raise
        return segment


def make_directory(path: Path, mode: int) -> None:
    """Make a directory and those that it lies in, durably, where they are missing.

    Raises:
        OSError: it cannot be made, or is a file.
    """
    missing = [path]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        if not each.is_dir():
            each.mkdir(mode, exist_ok=True)
        _sync_directory(each.parent)


def _sync_directory(path: Path) -> None:
    """Make entries of a directory durable."""
    file = _File(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        os.fsync(file.descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing of the kind
            raise


def _empty(folder: Path) -> None:
    """Give back what the files of a folder take: another process may have them open, as a worker has for long. One that
    has another name, too, in a backup of hard links, stays as it is."""
    if folder.is_symlink():
        return
    for each in list(os.scandir(folder)):
        if each.is_file(follow_symlinks=False):
            with suppress(FileNotFoundError, PermissionError):
                file = _File(os.open(each.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
                if os.fstat(file.descriptor).st_nlink == 1:
                    os.ftruncate(file.descriptor, 0)


def _unreadable(path: Path, place: Place, size: int, error: OSError) -> NotStored | StoreUnavailable:
    """What the system says about a file that is read, in words."""
    if isinstance(error, FileNotFoundError):
        return NotStored(
            f"{path} is not there, in which {size:,} bytes lie from {place.at:,} on: its job was deleted, or it is "
            "missing in a copy of the store, or this session was given another store= than the one that wrote it."
        )
    if error.errno in _NOT_THERE:
        return NotStored(f"{path} cannot be read: {error}.")
    return StoreUnavailable(f"{path} cannot be read: {error}.")
