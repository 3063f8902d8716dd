"""Jobs without a name of their own that differ in data only: which of them it is that a cell asks for.

The name of such a job is a digest of what its function was when it began. Some of that the function itself changes,
such as a list that it appends to; so the job is looked for by what does not vary by itself. One key of the session's
jobs object keeps the jobs over the same code and items.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec
from restate import ObjectContext, TerminalError, VirtualObject

from restate_nb.service.identity.report import changed

_STATE: Final = "variants"
_MOST: Final = 200
"""How many are kept of a key; the oldest are forgotten first, and are then found by their names alone."""


class Variant(msgspec.Struct, kw_only=True):
    """One job.

    Attributes:
        job: its name.
        parts: the marks of what may vary, as they were when it began.
        varies: the names of those that the function itself changed.
        at: when it was last asked for, in seconds since 1970.
    """

    job: str
    parts: dict[str, str]
    at: float
    varies: list[str] = []


class Variants(msgspec.Struct, kw_only=True):
    """What one key keeps."""

    kept: list[Variant]


class Vary(msgspec.Struct, kw_only=True):
    """These parts of a job vary by themselves."""

    job: str
    varies: list[str]


class Expire(msgspec.Struct, kw_only=True):
    """Forget what nobody has asked for since then, in seconds since 1970."""

    before: float


def variants_key(base: str) -> str:
    """The key under which the variants of a job are kept."""
    return f"variants of {base}"


def chosen(kept: Sequence[Variant], wanted: Variant) -> Variant | None:
    """The one of these that is the wanted one, as far as it does not vary by itself; the latest of several."""
    fitting = [each for each in kept if not changed(each.parts, wanted.parts, each.varies)]
    return max(fitting, key=lambda each: (each.job == wanted.job, each.at), default=None)


def claimed(kept: Sequence[Variant], wanted: Variant) -> tuple[list[Variant], str]:
    """The variants with the wanted one among them, and the name of its job."""
    found = chosen(kept, wanted)
    if found is None:
        others = [each for each in kept if each.job != wanted.job]
        return [*others[-_MOST + 1 :], wanted], wanted.job
    found.at = wanted.at
    return list(kept), found.job


def varied(kept: Sequence[Variant], asked: Vary) -> list[Variant]:
    """The variants with what varies noted."""
    for each in kept:
        if each.job == asked.job:
            each.varies = [*dict.fromkeys((*each.varies, *asked.varies))]
    return list(kept)


def add_variant_handlers(jobs: VirtualObject, retention: timedelta) -> None:
    """Give the jobs object the handlers that keep variants, each under a key of its own."""

    async def kept(ctx: ObjectContext) -> list[Variant]:
        there = await ctx.get(_STATE, type_hint=Variants)
        return [] if there is None else there.kept

    @jobs.handler("claim")
    async def claim(ctx: ObjectContext, asked: Variant) -> str:
        if asked is None:
            raise TerminalError("The request has no body.", status_code=400)
        variants, job = claimed(await kept(ctx), asked)
        ctx.set(_STATE, Variants(kept=variants))
        ctx.object_send(expire, ctx.key(), Expire(before=asked.at), send_delay=retention)
        return job

    @jobs.handler("vary")
    async def vary(ctx: ObjectContext, asked: Vary) -> None:
        if asked is None:
            raise TerminalError("The request has no body.", status_code=400)
        ctx.set(_STATE, Variants(kept=varied(await kept(ctx), asked)))

    @jobs.handler("expire")
    async def expire(ctx: ObjectContext, asked: Expire) -> None:
        if asked is None:
            raise TerminalError("The request has no body.", status_code=400)
        left = [each for each in await kept(ctx) if each.at > asked.before]
        if left:
            ctx.set(_STATE, Variants(kept=left))
        else:
            ctx.clear(_STATE)
