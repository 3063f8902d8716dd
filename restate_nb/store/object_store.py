"""A store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure. It goes through obstore.

An append is an object, which is there as a whole or not at all. Where the bucket is reached, and with which
credentials, the environment says, as obstore reads it: `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`.
"""

from __future__ import annotations

import io
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NoReturn

from restate_nb.errors import InvalidInput
from restate_nb.store.base import Folder, NotStored, Place, Store, StoreConfig, StoreUnavailable, check_name

if TYPE_CHECKING:
    from types import ModuleType

    from typing_extensions import Buffer

WHOLE_BYTES: Final = 16 * 1024 * 1024
"""More is sent and fetched in portions of so many bytes: a request has half a minute."""

_LISTED: Final = 1_000  # objects a request
_RETRIES: Final = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
_PAST_THE_END: Final = "416 Range Not Satisfiable"

_MEANS: Final = (
    ("NoSuchBucket|BucketNotFound|ContainerNotFound", "there is no such bucket"),
    (
        "/latest/api/token|/latest/meta-data/|computeMetadata|/metadata/identity|must be specified",
        "no credentials were found. They come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_REGION and AWS_ENDPOINT_URL for s3://, GOOGLE_APPLICATION_CREDENTIALS for gs://, "
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for az://",
    ),
    (
        "401 Unauthorized|403 Forbidden|InvalidAccessKeyId",
        "it does not let us in: look at the credentials, and at what they may do",
    ),
    ("builder error", "its address is no https://, which AWS_ALLOW_HTTP=true allows"),
)
"""What stands in a message of obstore, and what it means."""

_used_in = 0
"""The process that has used obstore: its threads are not in forks of it, which would wait for them for ever."""


class ObjectStore(Store):
    """A prefix in a bucket, with a folder for each job."""

    def __init__(self, config: StoreConfig) -> None:
        """`config.url` is the address.

        Raises:
            InvalidInput: obstore is not installed, or takes no such address.
        """
        self.config = config
        try:
            import obstore  # noqa: PLC0415 - an extra
            from obstore.store import from_url  # noqa: PLC0415
        except ImportError as error:
            raise InvalidInput(
                f"The store {config.url} needs the package obstore: pip install 'restate-nb[objects]'"
            ) from error
        self._obstore: ModuleType = obstore
        open_url: Any = from_url  # its overloads tell stores apart, which the address does
        try:
            self._bucket = open_url(config.url, config=dict(config.options), retry_config=_RETRIES)
        except Exception as error:
            raise InvalidInput(f"The store {config.url} cannot be opened: {_told(error)}.") from error

    def append(self, folder: str, runs: Sequence[Buffer]) -> list[Place]:
        """Write an object; see `Store`."""
        check_name(folder)
        name = uuid.uuid4().hex
        views = [memoryview(run).cast("B") for run in runs]
        places, at = [], 0
        for view in views:
            places.append(Place(name, at))
            at += len(view)
        filled = [view for view in views if len(view)]
        with self._asking("written"):
            self._obstore.put(
                self._bucket,
                f"{folder}/{name}",
                filled[0] if len(filled) == 1 else filled or b"",
                use_multipart=at > WHOLE_BYTES,
                chunk_size=WHOLE_BYTES,
                max_concurrency=4,
            )
        return places

    def read(self, folder: str, place: Place, size: int) -> bytes:
        """Fetch it; see `Store`."""
        path = f"{check_name(folder)}/{check_name(place.segment)}"
        content = io.BytesIO()
        with self._reading(path, place.at, size):
            for begin in range(0, size, WHOLE_BYTES):
                length = min(WHOLE_BYTES, size - begin)
                run = self._obstore.get_range(self._bucket, path, start=place.at + begin, length=length)
                if content.write(run) != length:
                    self._miss(path, place.at, size)
        return content.getvalue()

    def read_many(self, folder: str, runs: Sequence[tuple[Place, int]]) -> list[bytes]:
        """Fetch them; what lies together in an object, in one request."""
        found: list[bytes] = []
        for segment, group in groupby(runs, key=lambda run: run[0].segment):
            here = list(group)
            if any(size == 0 or size > WHOLE_BYTES for _, size in here):
                found += (self.read(folder, place, size) for place, size in here)
                continue
            path = f"{check_name(folder)}/{check_name(segment)}"
            starts, lengths = [place.at for place, _ in here], [size for _, size in here]
            with self._reading(path, min(starts), sum(lengths)):
                got = self._obstore.get_ranges(self._bucket, path, starts=starts, lengths=lengths)
            for at, size, run in zip(starts, lengths, got, strict=True):
                if len(run) != size:
                    self._miss(path, at, size)
                found.append(bytes(run))
        return found

    def drop(self, folder: str) -> None:
        """Delete the objects of that prefix; see `Store`."""
        check_name(folder)
        with self._asking("cleaned up"):
            while True:
                paths = [each["path"] for each in next(self._listed(folder), ())]
                if not paths:
                    return
                with suppress(FileNotFoundError):  # somebody else deletes it at the same time
                    self._obstore.delete(self._bucket, paths)

    def folders(self) -> Iterator[Folder]:
        """What the objects' names begin with; see `Store`."""
        found: dict[str, Folder] = {}
        with self._asking("read"):
            for objects in self._listed(None):
                for each in objects:
                    name, _, rest = each["path"].partition("/")
                    with suppress(NotStored):  # it is none of ours
                        if rest:
                            size, written = each["size"], each["last_modified"].timestamp()
                            before = found.get(check_name(name), Folder(name, 0, 0.0))
                            found[name] = Folder(name, before.size + size, max(before.written, written))
        yield from found.values()

    def _listed(self, folder: str | None) -> Iterator[Sequence[dict[str, Any]]]:
        return iter(self._obstore.list(self._bucket, folder, chunk_size=_LISTED))

    def close(self) -> None:
        """Connections close by themselves; see `Store`."""

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Say in words what obstore says.

        Raises:
            StoreUnavailable: it could not be done.
            InvalidInput: this process is a fork of one that has used obstore.
        """
        global _used_in  # noqa: PLW0603 - obstore's threads are the process's
        if _used_in and _used_in != os.getpid():
            raise InvalidInput(
                f"This process was forked from one that has used the store {self.config.url}, whose connections are "
                "not in it. Start it with multiprocessing.get_context('spawn')."
            )
        _used_in = os.getpid()
        try:
            yield
        except (NotStored, StoreUnavailable):
            raise
        except Exception as error:
            raise StoreUnavailable(f"The store {self.config.url} cannot be {what}: {_told(error)}.") from error

    @contextmanager
    def _reading(self, path: str, at: int, size: int) -> Iterator[None]:
        with self._asking("read"):
            try:
                yield
            except FileNotFoundError:
                self._miss(path, at, size)
            except Exception as error:
                if _PAST_THE_END in str(error):
                    self._miss(path, at, size)
                raise

    def _miss(self, path: str, at: int, size: int) -> NoReturn:
        raise NotStored(
            f"{self.config.url}/{path} is not there, or ends early: {size:,} bytes are to lie in it from {at:,} on. "
            "Its job was deleted, or it is missing in a copy of the store, or this session was given another store= "
            "than the one that wrote it."
        )


def _told(error: Exception) -> str:
    """What obstore says, in a line, and what it means where that is known."""
    whole = str(error).partition("Debug source")[0]
    answer = re.search(r"<Message>([^<]+)", whole)
    line = (whole.partition("\n")[0].partition(": <?xml")[0] + (f": {answer[1]}" if answer else ""))[:400].rstrip(". ")
    for found, means in _MEANS:
        if re.search(found, whole):
            return f"{means} ({line})"
    return line
