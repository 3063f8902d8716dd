"""From what a user gives as `store=` to a store, in this process and in others."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from restate_nb.errors import InvalidInput
from restate_nb.store.base import NotStored, Store, StoreConfig, StoreUnavailable
from restate_nb.store.local import LocalStore, make_directory

SCHEMES: Final = ("s3", "gs", "az")
"""Of object stores: Amazon S3 and all that speak like it, Google Cloud Storage, Azure Blob Storage."""

_TAKES: Final = "a directory, or the address of a bucket, such as s3://bucket/prefix, gs://... or az://..."


def parse_store(value: object, called: str = "store=") -> StoreConfig:
    """Where a store is, as a user says it: a directory, a `file://` address, or that of a bucket.

    Args:
        value: what was given.
        called: the option, for messages.

    Raises:
        InvalidInput: it is nothing of the kind.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidInput(
            f"{called} takes {_TAKES}, as text: workers and other processes open it, too. A {type(value).__name__} "
            "cannot be sent to them; credentials and options come from the environment, as AWS_ENDPOINT_URL does."
        )
    text = os.fspath(value)
    if isinstance(value, str) and "://" in value:
        return _parse_address(value, called)
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f"{called} takes {_TAKES}; {value!r} is neither.")
    return _directory(text, called)


def _parse_address(address: str, called: str) -> StoreConfig:
    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return _directory(url2pathname(parts.path), called)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"{called} holds no credentials, since it is shown and passed on: the environment has them.")
    if parts.scheme not in SCHEMES or not parts.netloc or parts.query or parts.fragment:
        raise InvalidInput(f"{called} takes {_TAKES}; {address!r} is neither.")
    return StoreConfig(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", private=False, shared=True)


def _directory(text: str, called: str) -> StoreConfig:
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError as error:  # a user of no account, without HOME
        raise InvalidInput(f"{called} {text!r} cannot be found: {error} Give an absolute path.") from error
    return StoreConfig(str(path), private=not _writers(path), shared=True)


def session_store(config: StoreConfig, session: str) -> StoreConfig:
    """The part of a store that is a session's.

    Args:
        config: the whole.
        session: the session's name.
    """
    case = "" if session == session.lower() else f".{owner_of(session)[:6]}"  # which some file systems do not tell
    return replace(config, url=f"{config.url}/{session}{case}")


def owner_of(told: str) -> str:
    """A `Store.owner`, of what tells owners apart."""
    return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()


def open_store(config: StoreConfig) -> Store:
    """Open a store. Nothing is asked of a bucket yet; see `probe`.

    Raises:
        InvalidInput: it is said to be private, and others can write there; or a package is missing.
    """
    if "://" in config.url:
        from restate_nb.store.object_store import ObjectStore  # noqa: PLC0415 - others need none of it

        return ObjectStore(config)
    if config.private:
        path = Path(config.url)
        try:
            make_directory(path, 0o700)  # so that nobody else does
        except OSError as error:
            raise InvalidInput(f"The store {path} cannot be made: {error}.") from error
        if writers := _writers(path):
            raise InvalidInput(f"The store {path} is not private: {writers}.")
    return LocalStore(config)


def probe(store: Store) -> None:
    """See that a store takes something, gives it back, and deletes it.

    Raises:
        InvalidInput: one of them it does not.
    """
    folder, content = store.new_folder(), b"restate_nb"
    try:
        [place] = store.append(folder, [content])
        same = store.read(folder, place, len(content)) == content
        store.drop(folder)
    except (StoreUnavailable, NotStored) as error:
        raise InvalidInput(f"Values cannot be kept in {store.config.url}. {error}") from error
    if not same:
        raise InvalidInput(f"Values cannot be kept in {store.config.url}, which gives other bytes back.")


def _writers(path: Path) -> str:
    """Who else may write in a directory, in words; empty where nobody may, as where it is not made yet."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"it cannot be looked at ({error.strerror})"
    if found.st_uid != os.geteuid():
        return f"it belongs to the user with the number {found.st_uid}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write there (its mode is {stat.S_IMODE(found.st_mode):o}; chmod 700 makes it private)"
    return ""
