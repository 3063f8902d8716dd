"""What `job.identity()` shows: what counted, what could not be seen, and what has changed."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from restate_nb.handle.function_changes import short_code
from restate_nb.handle.provenance import Provenance
from restate_nb.service.identity import changed
from restate_nb.service.wire import Manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS = {"c": "code", "d": "data", "h": "data", "b": "bound"}


@dataclass(frozen=True, slots=True)
class Row:
    """One part.

    Attributes:
        name: as its owner knows it.
        kind: code, data (what code names, closes over or holds), or bound (by `functools.partial`).
        digest: the first digits of the digest of its content, as it is now.
        state: "" where it is as it was; "changed since", "new", "gone", "varies by itself", "changed while it ran".
    """

    name: str
    kind: str
    digest: str
    state: str


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job it is.

    Attributes:
        job: its name.
        rows: what counted.
        unseen: what counted by its type alone, or in part: name and reason.
        codes: what ran its items: since when (UTC), and what the column `code` calls it.
        note: a word on what cannot be told; often empty.
    """

    job: str
    rows: tuple[Row, ...]
    unseen: tuple[tuple[str, str], ...]
    codes: tuple[tuple[pd.Timestamp, str], ...]
    note: str = ""

    def frame(self) -> pd.DataFrame:
        """What counted, one row a part: `name`, `kind`, `digest`, `state`.

        Example:
            job.identity().frame().query("state != ''")
        """
        columns = ["name", "kind", "digest", "state"]
        return pd.DataFrame([(row.name, row.kind, row.digest, row.state) for row in self.rows], columns=columns)

    def __repr__(self) -> str:
        lines = [f"<identity of the job {self.job!r}: {len(self.rows):,} parts counted>"]
        width = max((len(row.name) for row in self.rows), default=0)
        lines += [f"  {row.name:{width}}  {row.kind:5}  {row.digest}  {row.state}".rstrip() for row in self.rows]
        lines += [f"  not seen: {name}: {why}" for name, why in self.unseen]
        if len(self.codes) > 1:
            lines += [f"  since {since:%Y-%m-%d %H:%M:%S} UTC: {code}" for since, code in self.codes]
        return "\n".join([*lines, f"  {self.note}"] if self.note else lines)

    def _repr_html_(self) -> str:
        def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
            heads = "".join(f"<th style='text-align:left'>{each}</th>" for each in head)
            body = "".join(
                "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(each)}</td>" for each in row) + "</tr>"
                for row in rows
            )
            return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"

        shown = table([(row.name, row.kind, row.digest, row.state) for row in self.rows], _HEAD)
        if self.unseen:
            shown += table(self.unseen, ("not seen", "why"))
        if len(self.codes) > 1:
            shown += table(
                [(f"{since:%Y-%m-%d %H:%M:%S}", code) for since, code in self.codes], ("since (UTC)", "code")
            )
        return f"<div>{shown}{html.escape(self.note)}</div>"


_HEAD = ("name", "kind", "digest", "")


def identity_of_job(job: str, manifest: Manifest, provenance: Provenance) -> JobIdentity:
    """What is known of a job's identity, from its record, and from its cell where that was run here."""
    last = manifest.made[-1] if manifest.made else None
    before = {} if last is None else last.parts
    now = dict(before) if provenance.now is None else provenance.now.marks
    differing = set(changed(before, now, manifest.varies)) if before else set()
    rows = [
        Row(name, _KINDS[mark[0]], mark[1:], _state(name, before, now, differing, manifest))
        for name, mark in {**before, **now}.items()
    ]
    if provenance.now is not None:
        unseen = tuple((each.name, f"{each.type}: {each.why}") for each in provenance.now.unseen)
    else:
        unseen = () if last is None else tuple(last.unseen.items())
    codes = tuple((pd.Timestamp(each.since, unit="s", tz="UTC"), short_code(each.code)) for each in manifest.made)
    note = ""
    if last is None or not before:
        note = "An earlier version of restate_nb recorded the job, and not what counted: it cannot be compared."
    return JobIdentity(job, tuple(rows), unseen, codes, note)


def _state(name: str, before: dict[str, str], now: dict[str, str], differing: set[str], manifest: Manifest) -> str:
    if name in manifest.varies:
        return "varies by itself"
    if name in manifest.mixed:
        return "changed while it ran"
    if name not in differing:
        return ""
    return "new" if name not in before else "gone" if name not in now else "changed since"
