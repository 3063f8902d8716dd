"""Which result is it: what a job's function is now, beside what it was when its items ran."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from restate_nb.engine.function import Function
from restate_nb.errors import InvalidInput, InvocationFailed, OlderResults, ServerError
from restate_nb.handle.function_changes import (
    Older,
    code_named,
    differs,
    identity_now,
    listed,
    made_of,
    older_of,
    only_repaired,
    short_code,
)
from restate_nb.handle.record import JobRecord
from restate_nb.results.selected import Recorded
from restate_nb.service.identity import Identity, changed
from restate_nb.service.wire import Made
from restate_nb.tracebacks import caller_level

Fresh = bool | Literal["changed"]
"""What is run again: all for True; for "changed" what older code or content made."""

_FIRST_WATCH_SECONDS: Final = 1.0  # seconds
_LAST_WATCH_SECONDS: Final = 0.5  # seconds


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


@dataclass(slots=True)
class Provenance:
    """Keeps what one job's function is and was.

    Attributes:
        now: what it is since its cell was run last; None while its function is not known here.
        code: what stands for it.
        watched: whether what the function itself changes can be seen here: its items run in this process.
        asked_again: whether what older code made is to run again when the job has ended.
    """

    record: JobRecord
    now: Identity | None = None
    code: str = ""
    watched: bool = False
    asked_again: bool = False
    _function: Function | None = None
    _counted: tuple[tuple[int, int, int], int] = field(default=((-1, -1, -1), 0))

    # ------------------------------------------------------------ the cell is run

    def provide(self, function: Function, identity: Identity, *, finished: bool) -> Older:
        """Take note of the function as it is now; returns what has changed since the job's items ran last."""
        manifest = self.record.manifest
        code = code_named(function, identity)
        last = manifest.made[-1] if manifest.made else Made(since=0, code=manifest.rounds[-1].code, parts={})
        older = Older() if self.record.created and self.now is None else older_of(last, identity, code, manifest.varies)
        if finished and older and only_repaired(manifest, identity, code):
            older = Older()  # the panel counts what is of other code
        self._function, self.now, self.code = function, identity, code
        self.watched = not finished and self._can_vary()
        if finished:
            self.now = identity.without_bindings()
        return older

    def set_executor(self, function: Function, *, finished: bool) -> None:
        """Another executor runs the same function: where it changes things in this process from now on, they are
        watched."""
        self._function = function
        self.watched = self.watched or (not finished and self._can_vary())

    def look_again(self) -> None:
        """Items are to run once more, by a function whose content may have been left alone since."""
        if self._function is not None and self._can_vary():
            self.now = identity_now(self._function)
            self.code = code_named(self._function, self.now)
            self.watched = True

    def _can_vary(self) -> bool:
        """Whether what the function changes is changed in this process."""
        manifest, function = self.record.manifest, self._function
        here = function is not None and function.executor != "process" and manifest.kind in ("local", "durable")
        return here and self.now is not None and bool(self.now.varying)

    async def note(self) -> None:
        """Note that items are run by what the function is now, from now on."""
        assert self.now is not None
        await self.record.change(made=made_of(self.now, self.code, time.time()))

    async def note_if_changed(self) -> None:
        """The same, where it is another one than the last that ran items."""
        if self.now is None:
            return
        made = self.record.manifest.made
        if not made or older_of(made[-1], self.now, self.code, self.record.manifest.varies):
            await self.note()

    # ------------------------------------------------------------ what varies by itself

    async def watch(self, ledger: Recorded) -> None:
        """Look from time to time, until it is cancelled, what the job's function changes: should the process be killed,
        it is known that this does not count."""
        wait = _FIRST_WATCH_SECONDS
        while True:
            await asyncio.sleep(wait)
            wait *= 4
            if self.watched and ledger.done:
                with contextlib.suppress(ServerError, InvocationFailed):  # the next look, or the job's end, says so
                    await self._compare()

    async def settle(self) -> None:
        """The job has ended: note what its function changed, and what others did meanwhile."""
        if not self.watched or self.now is None:
            return
        meanwhile = await self._compare()
        if meanwhile:
            await self.record.change(mixed=meanwhile)
        self.watched = False
        self.now = self.now.without_bindings()

    async def note_before_stop(self) -> None:
        """The session is to stop: what the function changed by now is noted, as far as that can be done quickly."""
        if self.watched and self.record.manifest.unfinished:
            with contextlib.suppress(TimeoutError, ServerError, InvocationFailed):
                await asyncio.wait_for(self._compare(), _LAST_WATCH_SECONDS)

    async def _compare(self) -> list[str]:
        """Note what the function changed; returns what somebody else did."""
        begun, function = self.now, self._function
        assert begun is not None and function is not None
        later = await asyncio.to_thread(identity_now, function)
        if self.now is not begun:  # its cell was run again meanwhile
            return []
        torn = {each.name for each in later.unseen} - {each.name for each in begun.unseen}
        own = {name for name in begun.own_doing(later) if name not in torn}
        await self.record.vary(sorted(own))
        differing = changed(begun.marks, later.marks, {*own, *torn, *self.record.manifest.varies})
        return [name for name in differing if name in begun.parts]

    # ------------------------------------------------------------ what ran which item

    def epochs(self, ledger: Recorded) -> Any:
        """By position, which of `manifest.made` ran the last attempt at an item; -1 for none, or one that is not known.

        Of several that differ only in what varies by itself, it is the first.
        """
        manifest = self.record.manifest
        made = manifest.made
        first_like = np.full(len(made) + 1, -1, dtype=np.int64)
        for number, each in enumerate(made):
            alike = (n for n in range(number) if not differs(made[n], each, manifest.varies))
            first_like[number + 1] = next(alike, number)
        started = np.array(ledger.started)
        places = np.searchsorted(np.array([each.since for each in made]), started, side="right")
        return np.where(started > 0, first_like[places], -1)

    def codes(self, ledger: Recorded) -> list[str | None] | None:
        """What ran each item, in short; None where that is the same for all."""
        made = self.record.manifest.made
        if len(made) < 2 and (not made or made[0].since <= self.record.manifest.created):
            return None
        epochs = self.epochs(ledger)
        begun = epochs[np.array(ledger.started) > 0]
        if len(np.unique(begun)) < 2:
            return None
        return [None if number < 0 else short_code(made[number].code) for number in epochs.tolist()]

    def older_positions(self, ledger: Recorded) -> list[int]:
        """The items that were run by other code, or with other content, than the function has now."""
        if self.now is None:
            return []
        made, varies = self.record.manifest.made, self.record.manifest.varies
        olds = [bool(older) or not older.known for older in (older_of(m, self.now, self.code, varies) for m in made)]
        if not any(olds) and made and made[0].since <= self.record.manifest.created:
            return []
        is_old = np.array([*olds, True])  # the last: what is not known
        old = is_old[self.epochs(ledger)] & (np.array(ledger.started) > 0)
        return [int(position) for position in np.flatnonzero(old)]

    def remark(self, ledger: Recorded) -> str:
        """A word on what the results of a job that has ended are of; empty where they are of what is there now."""
        manifest = self.record.manifest
        if self.now is None or not manifest.made:
            return ""
        older = older_of(manifest.made[-1], self.now, self.code, manifest.varies)
        if older and not only_repaired(manifest, self.now, self.code):
            return f'{older.description()}: fresh="changed" runs again what is older'
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
        if self.now is None or not self.now.unseen or self.record.created:
            return ""
        return f"not seen: {listed([*dict.fromkeys(each.name for each in self.now.unseen)])}; see job.identity()"


def warn_of_older(name: str, older: Older, mixed: Sequence[str], *, finished: bool) -> None:
    """Warn, in the cell that attached to a job, that its results are of something older."""
    if not older and not mixed:
        return
    words, more = [], "fresh=True runs everything again."
    if older and finished:
        words.append(older.description())
        more = 'fresh="changed" runs again what is older, fresh=True everything.'
    elif older:
        words.append(older.description("what is done is"))
        more = 'What is still to start uses it as it is now; fresh="changed" runs the older ones again, too.'
    if mixed and not older:
        words.append(f"{listed(mixed)} {'was' if len(mixed) == 1 else 'were'} changed while it ran")
    warnings.warn(f"{name!r}: {', and '.join(words)}. {more}", OlderResults, stacklevel=caller_level())
