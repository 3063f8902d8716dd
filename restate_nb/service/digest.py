"""Digests: of functions, by what they are and name (`identity`), and of the items of a job."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from restate_nb.service.identity import identity_of
from restate_nb.values.reference import content_of

_AT_ONCE: Final = 100_000


def code_of(functions: Sequence[Callable[..., Any]], version: str | int | None) -> str:
    """What stands for the code of functions: the version that the user gave it, or else the digest of what they are."""
    if version is not None:
        return f"version {version}"
    return identity_of({str(place): fn for place, fn in enumerate(functions)}).digest


def code_base(fn: Callable[..., Any]) -> str:
    """The digest of a callable and of what it names but cannot change while it runs, as 16 hexadecimal digits."""
    return identity_of({"0": fn}).base


def code_digest(fn: Callable[..., Any]) -> str:
    """The digest of a callable and of what it names, as 16 hexadecimal digits."""
    return code_of([fn], None)


def stored_items_digest(items: Sequence[bytes]) -> str:
    """The same of items of which some lie in the store: what they hold counts, and not where they lie."""
    return items_digest((len(content_of(raw)) for raw in items), map(content_of, items))


def items_digest(sizes: Iterable[int], chunks: Iterable[bytes]) -> str:
    """The digest of encoded items, in order, as 16 hexadecimal digits.

    Args:
        sizes: how many bytes each item has.
        chunks: all of these bytes, in pieces of any size.
    """
    digest = hashlib.blake2b(digest_size=8)
    remaining, before = iter(sizes), b""
    while some := list(itertools.islice(remaining, _AT_ONCE)):
        digest.update(before + msgspec.json.encode(some)[1:-1])  # they are written without spaces
        before = b","
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
