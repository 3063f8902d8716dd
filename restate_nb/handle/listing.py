"""The files that a pattern names, on this machine or in a bucket, with what tells whether one has changed."""

from __future__ import annotations

import datetime as dt
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from restate_nb.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file.

    Attributes:
        path: where it is, as `open` takes it; in a bucket its address.
        size: how many bytes it has.
        modified: when it was written last, in UTC; None where nobody knows.
        etag: changes with its content: the bucket's, or of this machine's files the time and size. None where there is
            none.
    """

    path: str
    size: int
    modified: dt.datetime | None
    etag: str | None


def found(pattern: str) -> Iterator[FoundFile]:
    """The files that a pattern names, in any order.

    Args:
        pattern: a path or an address, with `*` and `?` for parts of a name, and `**` for any folders.

    Raises:
        InvalidInput: it names a folder, or what is not there; or the bucket cannot be asked.
    """
    scheme = urlsplit(pattern).scheme if "://" in pattern else ""
    if scheme in ("", "file"):
        return _local(url2pathname(pattern.removeprefix("file://").removeprefix("localhost")) if scheme else pattern)
    try:
        if scheme in _BUCKETS and find_spec("obstore") is not None:
            return iter(_in_bucket(pattern))
        if find_spec("fsspec") is not None:
            return iter(_by_fsspec(pattern))
    except InvalidInput:
        raise
    except Exception as error:  # of a library, or of the bucket
        why = str(error).strip().split("\n")[0] or "it gave no reason"
        raise InvalidInput(
            f"The files of {pattern!r} cannot be listed: {type(error).__name__}: {why.rstrip('.')}."
        ) from error
    needs = "obstore, pip install 'restate-nb[objects]', or fsspec" if scheme in _BUCKETS else "fsspec"
    raise InvalidInput(f"To list the files of {pattern!r} takes the package {needs}.")


_RETRIES: Final = {"max_retries": 3, "retry_timeout": dt.timedelta(seconds=20)}
_BUCKETS: Final = frozenset({"s3", "gs", "az"})
_WILD: Final = re.compile(r"[*?\[]")


# ---------------------------------------------------------------- this machine


def _local(pattern: str) -> Iterator[FoundFile]:
    try:
        pattern = str(Path(pattern).expanduser()) if pattern.startswith("~") else pattern
    except RuntimeError as error:  # a user of no account, without HOME
        raise InvalidInput(f"{pattern!r} cannot be found: {error}") from error
    if not _WILD.search(pattern) and not os.path.isfile(pattern):  # noqa: PTH113 - a path is shown as it was given
        if os.path.isdir(pattern):  # noqa: PTH112
            folder = pattern.rstrip("/") or "/"
            raise InvalidInput(f"{pattern!r} is a folder. Its files are {os.path.join(folder, '*')!r}.")  # noqa: PTH118
        raise InvalidInput(f"There is no file {pattern!r} in {os.getcwd()}.")  # noqa: PTH109
    for path in glob.iglob(pattern, recursive=True):  # noqa: PTH207 - paths as they were given
        try:
            about = os.stat(path)  # noqa: PTH116
        except OSError:  # deleted since, or a link to what is not there
            continue
        if stat.S_ISREG(about.st_mode):
            yield _described(path, about)


def _described(path: str, about: os.stat_result) -> FoundFile:
    moment = _EPOCH + dt.timedelta(microseconds=about.st_mtime_ns // 1000)
    return FoundFile(path, about.st_size, moment, f"{about.st_mtime_ns:x}-{about.st_size:x}")


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


# ---------------------------------------------------------------- buckets


def _in_bucket(pattern: str) -> list[FoundFile]:
    import obstore  # noqa: PLC0415 - an extra
    from obstore.store import from_url  # noqa: PLC0415

    bucket, _, wanted = pattern.partition("://")[2].partition("/")
    root = f"{pattern.partition('://')[0]}://{bucket}"
    if not bucket or _WILD.search(bucket):
        raise InvalidInput(f"{pattern!r} names no bucket, which has to come first: s3://bucket/folder/*.pdf.")
    open_url: Any = from_url  # its overloads tell stores apart, which the address does
    store = open_url(root, retry_config=_RETRIES)
    if not _WILD.search(wanted):
        if not wanted or wanted.endswith("/"):
            raise InvalidInput(f"{pattern!r} is a folder. Its files are {pattern.rstrip('/') + '/*'!r}.")
        try:
            return [_of_bucket(root, obstore.head(store, wanted))]
        except FileNotFoundError as error:
            raise InvalidInput(f"There is no file {pattern!r}.") from error
    prefix = wanted[: _WILD.search(wanted).start()].rpartition("/")[0]  # type: ignore[union-attr]
    parts = wanted.split("/")
    return [_of_bucket(root, each) for each in _objects(store, prefix, wanted) if fits(parts, each["path"].split("/"))]


def _objects(store: Any, prefix: str, wanted: str) -> Iterable[Mapping[str, Any]]:
    """What is in the folder `prefix`, and in those below it where the pattern goes that far."""
    import obstore  # noqa: PLC0415 - an extra

    if "/" not in wanted[len(prefix) :].strip("/") and "**" not in wanted:
        return obstore.list_with_delimiter(store, prefix or None)["objects"]
    return (each for chunk in obstore.list(store, prefix or None, chunk_size=1000) for each in chunk)


def _of_bucket(root: str, about: Mapping[str, Any]) -> FoundFile:
    etag = about.get("e_tag")
    return FoundFile(f"{root}/{about['path']}", about["size"], about["last_modified"], _unquoted(etag))


def _unquoted(etag: Any) -> str | None:
    return None if etag is None else str(etag).strip('"')


def fits(pattern: Sequence[str], name: Sequence[str]) -> bool:
    """Whether the name of an object fits a pattern as a path would: both in the parts between which `/` stands."""
    if not pattern or not name:
        return not pattern and not name
    if pattern[0] == "**":
        return len(pattern) == 1 or any(fits(pattern[1:], name[start:]) for start in range(len(name)))
    return fnmatchcase(name[0], pattern[0]) and fits(pattern[1:], name[1:])


# ---------------------------------------------------------------- fsspec

_MODIFIED: Final = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")
_ETAG: Final = ("ETag", "etag", "e_tag", "md5Hash", "content_md5", "sha")
"""What the file systems of fsspec call the same thing."""


def _by_fsspec(pattern: str) -> list[FoundFile]:
    import fsspec  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - need not be there

    files, path = fsspec.core.url_to_fs(pattern)
    if _WILD.search(path):
        infos = files.glob(path, detail=True)
    elif files.isdir(path):
        raise InvalidInput(f"{pattern!r} is a folder. Its files are {pattern.rstrip('/') + '/*'!r}.")
    elif not files.exists(path):
        raise InvalidInput(f"There is no file {pattern!r}.")
    else:
        infos = {path: files.info(path)}
    return [
        FoundFile(files.unstrip_protocol(name), info.get("size") or 0, _moment(info), _unquoted(_first(info, _ETAG)))
        for name, info in infos.items()
        if info.get("type") == "file"
    ]


def _first(info: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((info[name] for name in names if info.get(name) is not None), None)


def _moment(info: Mapping[str, Any]) -> dt.datetime | None:
    known = _first(info, _MODIFIED)
    if isinstance(known, (int, float)):
        return dt.datetime.fromtimestamp(known, dt.UTC)
    if isinstance(known, str):
        try:
            known = dt.datetime.fromisoformat(known)
        except ValueError:  # of a form of its own
            return None
    if not isinstance(known, dt.datetime):
        return None
    return known.replace(tzinfo=dt.UTC) if known.tzinfo is None else known.astimezone(dt.UTC)
