"""Variants: jobs without a name of their own that differ only in the data of their functions.

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
_MAX_VARIANTS: Final = 200
"""How many are kept of a key; the oldest are forgotten first, and are then found by their names alone."""


class Variant(msgspec.Struct, kw_only=True):
    """One of these jobs.

    Attributes:
        job: its name.
        parts: the marks of what may vary, as they were when it began.
        varies: the names of those that the function itself changed.
        at: when it was last request for, in seconds since 1970.
    """

    job: str
    parts: dict[str, str]
    at: float
    varies: list[str] = []


class Variants(msgspec.Struct, kw_only=True):
    """The state of one key."""

    kept: list[Variant]


class Vary(msgspec.Struct, kw_only=True):
    """A request: note that these parts of a job are changed by its function itself."""

    job: str
    varies: list[str]


class Expire(msgspec.Struct, kw_only=True):
    """A request: forget the variants that no cell request for since `before`, in seconds since 1970."""

    before: float


def variants_key(base: str) -> str:
    """The key under which the variants of a job are kept."""
    return f"variants of {base}"


def find_variant(kept: Sequence[Variant], wanted: Variant) -> Variant | None:
    """The variant that equals the wanted one, but for parts that its function changes; the latest of several."""
    fitting = [each for each in kept if not changed(each.parts, wanted.parts, each.varies)]
    return max(fitting, key=lambda each: (each.job == wanted.job, each.at), default=None)


def claim_variant(kept: Sequence[Variant], wanted: Variant) -> tuple[list[Variant], str]:
    """The variants after the wanted one was found among them or added, and the name of its job."""
    found = find_variant(kept, wanted)
    if found is None:
        others = [each for each in kept if each.job != wanted.job]
        return [*others[-_MAX_VARIANTS + 1 :], wanted], wanted.job
    found.at = wanted.at
    return list(kept), found.job


def note_varying(kept: Sequence[Variant], request: Vary) -> list[Variant]:
    """The variants after it was noted which parts of one of them vary."""
    for each in kept:
        if each.job == request.job:
            each.varies = [*dict.fromkeys((*each.varies, *request.varies))]
    return list(kept)


def check_body(request: object) -> None:
    """Refuse a request without a body, of which the SDK makes None, whatever the annotation.

    Raises:
        TerminalError: it is one.
    """
    if request is None:
        raise TerminalError("The request has no body.", status_code=400)


def add_variant_handlers(jobs: VirtualObject, retention: timedelta) -> None:
    """Give the jobs object the handlers that keep variants, each under a key of its own."""

    async def kept(ctx: ObjectContext) -> list[Variant]:
        there = await ctx.get(_STATE, type_hint=Variants)
        return [] if there is None else there.kept

    @jobs.handler("claim")
    async def claim(ctx: ObjectContext, request: Variant) -> str:
        check_body(request)
        variants, job = claim_variant(await kept(ctx), request)
        ctx.set(_STATE, Variants(kept=variants))
        ctx.object_send(expire, ctx.key(), Expire(before=request.at), send_delay=retention)
        return job

    @jobs.handler("vary")
    async def vary(ctx: ObjectContext, request: Vary) -> None:
        check_body(request)
        ctx.set(_STATE, Variants(kept=note_varying(await kept(ctx), request)))

    @jobs.handler("expire")
    async def expire(ctx: ObjectContext, request: Expire) -> None:
        check_body(request)
        left = [each for each in await kept(ctx) if each.at > request.before]
        if left:
            ctx.set(_STATE, Variants(kept=left))
        else:
            ctx.clear(_STATE)
