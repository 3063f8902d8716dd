"""Which result is it: what a job's function is now, beside what it was when its items ran."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from restate_nb.engine.function import Function
from restate_nb.errors import InvalidInput, InvocationFailed, JobMismatch, OlderResults, ServerError
from restate_nb.service.identity import Identity, changed, identity_of
from restate_nb.service.variants import Vary
from restate_nb.service.wire import Made, Manifest
from restate_nb.tracebacks import caller_level

if TYPE_CHECKING:
    from restate_nb.handle.runner import JobRunner
    from restate_nb.results.ledger import Ledger

Fresh = bool | Literal["changed"]
"""What is run again: all for True; for "changed" what older code or content made."""

_MOST_PARTS: Final = 500
"""How many parts a job's record tells apart."""

_TOLD: Final = 3
_FIRST_LOOK: Final = 1.0  # seconds
_LAST_LOOK: Final = 0.5  # seconds


def check_fresh(fresh: object) -> None:
    """See that it is a bool or "changed".

    Raises:
        InvalidInput: it is something else.
    """
    if not isinstance(fresh, bool) and fresh != "changed":
        raise InvalidInput(
            f'fresh is True, which drops the job and runs all again, or "changed", which runs again what older code or '
            f"content made, not {fresh!r}."
        )


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
    from restate_nb.service.digest import items_digest  # noqa: PLC0415 - only where there are so many

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

    def words(self, results: str = "the results are") -> str:
        """It in words."""
        found = []
        if self.code:
            found.append(f"{results} of an older {listed(self.code)}")
        if self.data:
            found.append(f"{listed(self.data)} {'has' if len(self.data) == 1 else 'have'} changed since")
        return ", and ".join(found)


def listed(names: Sequence[str]) -> str:
    """Names, as far as they can be shown."""
    told = ", ".join(f"`{name}`" for name in names[:_TOLD])
    return f"{told} and {len(names) - _TOLD} more" if len(names) > _TOLD else told


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
        told: list[str] = code_names
    else:  # what is only gone says less than what is another one
        told = [name for name in code_names if name in now] or code_names
    data = [name for name in names if name not in code_names]
    if told:  # what only the other code uses is not what has changed
        data = [name for name in data if name in before.parts and name in now]
    return Older(tuple(told), tuple(data))


@dataclass(slots=True)
class Provenance:
    """Keeps what one job's function is and was.

    Attributes:
        now: what it is since its cell was run last; None while its function is not known here.
        code: what stands for it.
        watched: whether what the function itself changes can be seen here: its items run in this process.
        asked_again: whether what older code made is to run again when the job has ended.
    """

    driver: JobRunner
    now: Identity | None = None
    code: str = ""
    watched: bool = False
    asked_again: bool = False
    _target: Function | None = None
    _counted: tuple[tuple[int, int, int], int] = field(default=((-1, -1, -1), 0))

    # ------------------------------------------------------------ the cell is run

    def bring(self, target: Function, identity: Identity, *, finished: bool) -> Older:
        """The function as it is now; returns what has changed since the job's items ran last."""
        manifest = self.driver.manifest
        code = code_named(target, identity)
        last = manifest.made[-1] if manifest.made else Made(since=0, code=manifest.rounds[-1].code, parts={})
        older = Older() if self.driver.created and self.now is None else older_of(last, identity, code, manifest.varies)
        if finished and older and _only_repaired(manifest, identity, code):
            older = Older()  # the panel counts what is of other code
        self._target, self.now, self.code = target, identity, code
        self.watched = not finished and self._can_vary()
        if finished:
            self.now = identity.without_bindings()
        return older

    def run_here(self) -> None:
        """Items are to run once more, by a function whose content may have been left alone since."""
        if self._target is not None and self._can_vary():
            self.now = identity_now(self._target)
            self.code = code_named(self._target, self.now)
            self.watched = True

    def _can_vary(self) -> bool:
        """Whether what the function changes is changed in this process."""
        manifest, target = self.driver.manifest, self._target
        here = target is not None and target.executor != "process" and manifest.kind in ("local", "durable")
        return here and self.now is not None and bool(self.now.varying)

    async def record(self) -> None:
        """Note that items are run by what the function is now, from now on."""
        assert self.now is not None
        await self.driver._change(made=made_of(self.now, self.code, time.time()))

    async def record_if_changed(self) -> None:
        """The same, where it is another one than the last that ran items."""
        if self.now is None:
            return
        made = self.driver.manifest.made
        if not made or older_of(made[-1], self.now, self.code, self.driver.manifest.varies):
            await self.record()

    # ------------------------------------------------------------ what varies by itself

    async def vary(self, names: Sequence[str]) -> None:
        """Note that these parts vary by themselves."""
        news = [name for name in names if name not in self.driver.manifest.varies]
        if news:
            base = self.driver.manifest.base
            if base:
                await self.driver._connection.job_store.vary(base, Vary(job=self.driver.manifest.name, varies=news))
            await self.driver._change(varies=news)

    async def watch(self, ledger: Ledger) -> None:
        """Look from time to time, while the job runs, what its function changes: should the process be killed, it is
        known that this does not count."""
        wait = _FIRST_LOOK
        while self.watched:
            await asyncio.sleep(wait)
            wait *= 4
            if ledger.done:
                with contextlib.suppress(ServerError, InvocationFailed):  # the next look, or the job's end, says so
                    await self._look()

    async def settle(self) -> None:
        """The job has ended: note what its function changed, and what others did meanwhile."""
        if not self.watched or self.now is None:
            return
        meanwhile = await self._look()
        if meanwhile:
            await self.driver._change(mixed=meanwhile)
        self.watched = False
        self.now = self.now.without_bindings()

    async def look_once_more(self) -> None:
        """The session is to stop: what the function changed by now is noted, as far as that can be done quickly."""
        if self.watched and self.driver.manifest.unfinished:
            with contextlib.suppress(TimeoutError, ServerError, InvocationFailed):
                await asyncio.wait_for(self._look(), _LAST_LOOK)

    async def _look(self) -> list[str]:
        """Note what the function changed; returns what somebody else did."""
        begun, target = self.now, self._target
        assert begun is not None and target is not None
        later = await asyncio.to_thread(identity_now, target)
        if self.now is not begun:  # its cell was run again meanwhile
            return []
        torn = {each.name for each in later.unseen} - {each.name for each in begun.unseen}
        own = {name for name in begun.own_doing(later) if name not in torn}
        await self.vary(sorted(own))
        differing = changed(begun.marks, later.marks, {*own, *torn, *self.driver.manifest.varies})
        return [name for name in differing if name in begun.parts]

    # ------------------------------------------------------------ what ran which item

    def epochs(self, ledger: Ledger) -> Any:
        """By position, which of `manifest.made` ran the last attempt at an item; -1 for none, or one that is not known.

        Of several that differ only in what varies by itself, it is the first.
        """
        manifest = self.driver.manifest
        made = manifest.made
        first_like = np.full(len(made) + 1, -1, dtype=np.int64)
        for number, each in enumerate(made):
            alike = (n for n in range(number) if not _differs(made[n], each, manifest.varies))
            first_like[number + 1] = next(alike, number)
        started = np.array(ledger.started)
        places = np.searchsorted(np.array([each.since for each in made]), started, side="right")
        return np.where(started > 0, first_like[places], -1)

    def codes(self, ledger: Ledger) -> list[str | None] | None:
        """What ran each item, in short; None where that is the same for all."""
        made = self.driver.manifest.made
        if len(made) < 2 and (not made or made[0].since <= self.driver.manifest.created):
            return None
        epochs = self.epochs(ledger)
        begun = epochs[np.array(ledger.started) > 0]
        if len(np.unique(begun)) < 2:
            return None
        return [None if number < 0 else short_code(made[number].code) for number in epochs.tolist()]

    def older_positions(self, ledger: Ledger) -> list[int]:
        """The items that were run by other code, or with other content, than the function has now."""
        if self.now is None:
            return []
        made, varies = self.driver.manifest.made, self.driver.manifest.varies
        olds = [bool(older) or not older.known for older in (older_of(m, self.now, self.code, varies) for m in made)]
        if not any(olds) and made and made[0].since <= self.driver.manifest.created:
            return []
        is_old = np.array([*olds, True])  # the last: what is not known
        old = is_old[self.epochs(ledger)] & (np.array(ledger.started) > 0)
        return [int(position) for position in np.flatnonzero(old)]

    def remark(self, ledger: Ledger) -> str:
        """A word on what the results of a job that has ended are of; empty where they are of what is there now."""
        manifest = self.driver.manifest
        if self.now is None or not manifest.made:
            return ""
        older = older_of(manifest.made[-1], self.now, self.code, manifest.varies)
        if older and not _only_repaired(manifest, self.now, self.code):
            return f'{older.words()}: fresh="changed" runs again what is older'
        state = (ledger.done, len(manifest.made), len(manifest.rounds))
        if len(manifest.made) > 1 and self._counted[0] != state:
            self._counted = state, len(self.older_positions(ledger))
        if len(manifest.made) > 1 and self._counted[1]:
            return f"{self._counted[1]:,} of {ledger.done:,} are of other code: see the column `code`"
        if manifest.mixed:
            return f"{listed(manifest.mixed)} {'was' if len(manifest.mixed) == 1 else 'were'} changed while it ran"
        return self.unseen_remark()

    def unseen_remark(self) -> str:
        """A word on what could not be seen, where that may matter: the job has results of an earlier run."""
        if self.now is None or not self.now.unseen or self.driver.created:
            return ""
        return f"not seen: {listed([*dict.fromkeys(each.name for each in self.now.unseen)])}; see job.identity()"


def _only_repaired(manifest: Manifest, identity: Identity, code: str) -> bool:
    """Whether the job was run by this function, and by others only where they were to run some of its items again, such
    as those that had failed."""
    first, *later = manifest.made
    repairs = {each.code for each in manifest.rounds[1:] if each.positions is not None}
    repaired = {position for each in manifest.rounds[1:] for position in each.chosen(manifest.total) or ()}
    begun = older_of(first, identity, code, manifest.varies)
    return begun.known and not begun and all(m.code in repairs for m in later) and len(repaired) < manifest.total


def _differs(one: Made, other: Made, varies: Sequence[str]) -> bool:
    if one.parts and other.parts:
        return bool(changed(one.parts, other.parts, varies))
    return one.code != other.code


def short_code(code: str) -> str:
    """What stands for code, as a column shows it."""
    return code if code.startswith("version ") else code[:8]


def warn_of_older(name: str, older: Older, mixed: Sequence[str], *, finished: bool) -> None:
    """Warn, in the cell that attached to a job, that its results are of something older."""
    if not older and not mixed:
        return
    words, more = [], "fresh=True runs everything again."
    if older and finished:
        words.append(older.words())
        more = 'fresh="changed" runs again what is older, fresh=True everything.'
    elif older:
        words.append(older.words("what is done is"))
        more = 'What is still to start uses it as it is now; fresh="changed" runs the older ones again, too.'
    if mixed and not older:
        words.append(f"{listed(mixed)} {'was' if len(mixed) == 1 else 'were'} changed while it ran")
    warnings.warn(f"{name!r}: {', and '.join(words)}. {more}", OlderResults, stacklevel=caller_level())
