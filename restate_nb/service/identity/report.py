"""What an identity is made of: the parts that counted, and what could not be seen."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal["code", "data", "held", "bound"]
"""Code; data that code names or closes over; what the object holds that was passed as the function; and what was bound
to the function by `functools.partial`, which counts like an item."""

SHORT: Final = 8
"""Hexadecimal digits of a part's digest in a job's record."""

_BELOW: Final = ".[(:"


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that counted.

    Attributes:
        name: as the user knows it: `f`, `helper`, `cfg['model']`, `Model.k`.
        kind: see `Kind`.
        digest: of its content, in hexadecimal digits.
        root: the name that it hangs on: `cfg` for `cfg['model']`.
        may_vary: whether the code could change it while it runs.
    """

    name: str
    kind: Kind
    digest: str
    root: str
    may_vary: bool

    @property
    def mark(self) -> str:
        """What a job's record has of it: the kind's first letter, and the first digits of the digest."""
        return f"{self.kind[0]}{self.digest[:SHORT]}"


@dataclass(frozen=True, slots=True)
class Unseen:
    """One thing that counted by its type alone, or only in part.

    Attributes:
        name: where it is, as in `Part`.
        type: its type's name.
        why: what hinders.
    """

    name: str
    type: str
    why: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What a function is, by content, at one moment.

    Attributes:
        parts: by name, in the order in which they were met.
        unseen: what could not be seen.
        bindings: what the names of data are bound to, by name. It keeps those things alive: see `without_bindings`.
        assigned: names that the code itself binds anew (`global`, `nonlocal`).
    """

    parts: Mapping[str, Part]
    unseen: tuple[Unseen, ...] = ()
    bindings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    assigned: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """The digest of all parts, as 16 hexadecimal digits."""
        return digest_of(self.parts.values())

    @property
    def base(self) -> str:
        """The digest of what cannot vary while the job runs, as 16 hexadecimal digits."""
        return digest_of(part for part in self.parts.values() if not part.may_vary)

    @property
    def varying(self) -> dict[str, str]:
        """The marks of what may vary while the job runs."""
        return {name: part.mark for name, part in self.parts.items() if part.may_vary}

    @property
    def marks(self) -> dict[str, str]:
        """The marks of all parts, as a job's record has them."""
        return {name: part.mark for name, part in self.parts.items()}

    @property
    def bound(self) -> dict[str, str]:
        """The marks of what was bound to the function."""
        return {name: part.mark for name, part in self.parts.items() if part.kind == "bound"}

    def under_version(self, version: str | int) -> Identity:
        """The same, with a version that stands for the code and for what it names."""
        digest = hashlib.blake2b(f"version {version}".encode(), digest_size=16).hexdigest()
        given = {name: part for name, part in self.parts.items() if part.kind in ("held", "bound")}
        kept = {"version": Part("version", "code", digest, "version", False), **given}
        roots = {part.root for part in given.values()}
        bindings = {name: value for name, value in self.bindings.items() if name in roots}
        return Identity(kept, tuple(each for each in self.unseen if each.name in given), bindings, self.assigned)

    def without_bindings(self) -> Identity:
        """The same, keeping nothing of the user's alive."""
        return Identity(self.parts, self.unseen, {}, self.assigned)

    def own_doing(self, now: Identity) -> set[str]:
        """What differs in `now`, and is taken as done by the function itself, which may be running: things that were
        changed in place, and names that its own code binds anew."""
        found = set()
        for name in changed(self.marks, now.marks):
            part = self.parts.get(name) or now.parts[name]
            same = part.root in self.bindings and self.bindings[part.root] is now.bindings.get(part.root)
            if part.may_vary and (same or part.root in self.assigned):
                found.add(name)
        return found


def digest_of(parts: Iterable[Part]) -> str:
    """The digest of parts, in whatever order, as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for part in sorted(parts, key=lambda each: each.name):
        for text in (part.name, part.kind, part.digest):
            raw = text.encode("utf-8", "backslashreplace")
            digest.update(len(raw).to_bytes(8, "big"))
            digest.update(raw)
    return digest.hexdigest()


def changed(before: Mapping[str, str], now: Mapping[str, str], varies: Collection[str] = ()) -> list[str]:
    """The names of the parts that differ.

    Args:
        before: marks by name.
        now: marks by name.
        varies: names of parts that vary by themselves. What appears or disappears inside of such a part does, too.
    """
    kept = set(varies)
    return [
        name
        for name in {**before, **now}
        if before.get(name) != now.get(name)
        and name not in kept
        and not ((name not in before or name not in now) and _is_below(name, kept))
    ]


def _is_below(name: str, containers: Collection[str]) -> bool:
    return any(name[len(each) : len(each) + 1] in _BELOW and name.startswith(each) for each in containers if each)
