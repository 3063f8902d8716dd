"""What a job's function is, and in what that differs from what it was when its items ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from restate_nb.engine.function import Function
from restate_nb.errors import JobMismatch
from restate_nb.service.digest import items_digest
from restate_nb.service.identity import Identity, changed, identity_of
from restate_nb.service.wire import Made, Manifest

_MOST_PARTS: Final = 500
"""How many parts a job's record tells apart."""

_NAMED: Final = 3  # parts that a message names


def identity_now(target: Function) -> Identity:
    """What a job's function is, at this moment."""
    version = target.version
    if target.is_elsewhere:
        known = target.known_as or target.name
        return identity_of({}).under_version(known if version in (None, known) else f"{known}, version {version}")
    identity = identity_of(dict(zip(target.labels, target.functions, strict=True)))
    return identity if version is None else identity.under_version(version)


def code_named(target: Function, identity: Identity) -> str:
    """What stands for the code: the version that was given, or else the digest of all that counted."""
    return identity.digest if target.version is None else f"version {target.version}"


def made_of(identity: Identity, code: str, since: float) -> Made:
    """What the function is from a time on, in seconds since 1970, as a job's record has it."""
    return Made(
        since=since,
        code=code,
        parts=_compact(identity.marks),
        unseen={each.name: f"{each.type}: {each.why}" for each in identity.unseen[:_MOST_PARTS]},
    )


def bound_of(identity: Identity) -> dict[str, str]:
    """The marks of what was bound to a job's functions, as its record has them."""
    return _compact(identity.bound)


def _compact(marks: Mapping[str, str]) -> dict[str, str]:
    if len(marks) <= _MOST_PARTS:
        return dict(marks)
    listed = list(marks.items())
    rest = [f"{name}\0{mark}".encode() for name, mark in listed[_MOST_PARTS - 1 :]]
    return {**dict(listed[: _MOST_PARTS - 1]), "all others": f"d{items_digest(map(len, rest), rest)[:8]}"}


def swapped(before: Mapping[str, str], now: Mapping[str, str], labels: Sequence[str]) -> list[str]:
    """The operations that stand where others of them stood: the list has another order.

    Args:
        before: marks of parts, by name.
        now: the same, of now.
        labels: the names of the operations.
    """
    old, new = ({label: _of_operation(marks, label) for label in labels} for marks in (before, now))
    stood = list(old.values())
    return [label for label in labels if new[label] and new[label] != old[label] and new[label] in stood]


def _of_operation(marks: Mapping[str, str], label: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (name[len(label) :], mark)
            for name, mark in marks.items()
            if name == label or (name.startswith(label) and name[len(label)] in ".([")
        )
    )


def check_bound(there: Manifest, wanted: Manifest) -> None:
    """See that a job has the same arguments bound to its functions, and its operations in the same order. Another
    function may have others: that its results are of the older one is said.

    Raises:
        JobMismatch: it has others. Records of an earlier version do not tell, and pass.
    """
    if not there.made or not wanted.made:
        return
    before, now = there.made[0].parts, wanted.made[0].parts
    operations = there.options.startswith("operations")
    moved = swapped(before, now, _labels(wanted) if operations else [])
    others = changed(there.bound or {}, wanted.bound or {}, there.varies) if there.bound is not None else []
    if not operations:
        others = [name for name in others if (label := name.partition("(")[0]) in before and label in now]
    if not moved and not others:
        return
    if moved:
        what = f"with its operations in another order: {listed(moved)} now {'is' if len(moved) == 1 else 'are'} others"
    else:
        what = f"with other arguments bound to its function: {listed(others)}"
    raise JobMismatch(
        f"There is a job {wanted.name!r} {what}. Give this one another name=, or drop the old job and its outcomes "
        "with fresh=True."
    )


def _labels(manifest: Manifest) -> list[str]:
    """The names of a job's operations, of which each has a part of that name, or parts that begin with it."""
    return [name for name, mark in manifest.made[0].parts.items() if mark.startswith(("c", "h")) and "." not in name]


@dataclass(frozen=True, slots=True)
class Older:
    """What has changed since a job's items ran, or ran last.

    Attributes:
        code: names of functions and classes.
        data: names of what they use.
        known: whether the record tells at all; one of an earlier version may not.
    """

    code: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    known: bool = True

    def __bool__(self) -> bool:
        return bool(self.code or self.data)

    def description(self, results: str = "the results are") -> str:
        """It in words."""
        found = []
        if self.code:
            found.append(f"{results} of an older {listed(self.code)}")
        if self.data:
            found.append(f"{listed(self.data)} {'has' if len(self.data) == 1 else 'have'} changed since")
        return ", and ".join(found)


def listed(names: Sequence[str]) -> str:
    """Names, as far as they can be shown."""
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def older_of(before: Made | None, identity: Identity, code: str, varies: Sequence[str]) -> Older:
    """What differs between what ran items and what the function is now."""
    if before is None:
        return Older(known=False)
    if not before.parts:  # of before this was recorded
        both_versions = before.code.startswith("version ") and code.startswith("version ")
        return Older(("version",) if before.code != code else ()) if both_versions else Older(known=False)
    now = _compact(identity.marks)
    names = changed(before.parts, now, varies)
    code_names = [name for name in names if (now.get(name) or before.parts[name])[0] == "c"]
    if code_names == ["version"] or not code_names:
        shown: list[str] = code_names
    else:  # what is only gone says less than what is another one
        shown = [name for name in code_names if name in now] or code_names
    data = [name for name in names if name not in code_names]
    if shown:  # what only the other code uses is not what has changed
        data = [name for name in data if name in before.parts and name in now]
    return Older(tuple(shown), tuple(data))


def only_repaired(manifest: Manifest, identity: Identity, code: str) -> bool:
    """Whether the job was run by this function, and by others only where they were to run some of its items again, such
    as those that had failed."""
    first, *later = manifest.made
    rounds = [each for each in manifest.rounds[1:] if each.of_some]
    repairs = {each.code for each in rounds}
    repaired = {position for each in rounds for position in each.chosen(manifest.total)}
    begun = older_of(first, identity, code, manifest.varies)
    return begun.known and not begun and all(m.code in repairs for m in later) and len(repaired) < manifest.total


def differs(one: Made, other: Made, varies: Sequence[str]) -> bool:
    """Whether two of what ran items differ in more than what varies by itself."""
    if one.parts and other.parts:
        return bool(changed(one.parts, other.parts, varies))
    return one.code != other.code


def short_code(code: str) -> str:
    """What stands for code, as a column shows it."""
    return code if code.startswith("version ") else code[:8]
