"""The manifests of jobs: kept in an object in Restate or, where nobody serves that object, in this process."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final, Protocol
from uuid import uuid4

import msgspec

from restate_nb.errors import InvalidInput, ServerError
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.server.http import DEFAULT_PATIENCE, Rejected, UnknownInvocation
from restate_nb.server.ingress import Ingress
from restate_nb.service.variants import Variant, Vary, variants_key
from restate_nb.service.wire import (
    OWNER_KEY,
    Change,
    Forget,
    Manifest,
    Open,
    apply_change,
    decode_received,
    encode,
    jobs_service,
    manifest_decoder,
)

_IN_VAIN: Final = 5  # attempts
NOT_FOUND: Final = 404
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_AT_ONCE: Final = 1_000  # records
_FOLDER: Final = re.compile(r'"folder":"([0-9a-z][0-9a-z-]*)"')
_name_decoder: Final = msgspec.json.Decoder(str)

_log: Final = logging.getLogger("restate_nb.jobs")


class JobStore(Protocol):
    """Keeps manifests, one a job name.

    Attributes:
        begins_anew: whether a job can begin anew under its name.
    """

    begins_anew: bool

    async def ready(self) -> None:
        """See to it that they can be kept."""

    async def open(self, wanted: Manifest, *, fresh: bool) -> tuple[Manifest, bool]:
        """The manifest of the job of this name: the one that is there, or else (or if `fresh`) this one.

        Returns:
            The manifest, and whether it is known to be new.
        """
        ...

    async def kill_stuck_requests(self, name: str, admin: Admin | None) -> None:
        """Kill requests that would keep a job of this name from beginning anew."""

    async def change(self, manifest: Manifest, change: Change, *, patient: bool = False) -> Manifest:
        """Change it, and return how it is now; `patient`: wait for as long as Restate is away."""
        ...

    async def forget(self, manifest: Manifest) -> None:
        """Drop it."""

    async def claim(self, base: str, wanted: Variant) -> str:
        """The name of the job that this one is, by what does not vary by itself; its own, where there is none."""
        ...

    async def vary(self, base: str, asked: Vary) -> None:
        """Note what varies by itself."""

    async def store_owner(self) -> str:
        """What the names of the session's folders in a store begin with, in whatever process; empty where nobody can
        keep that."""
        ...


class ObjectJobStore:
    """Manifests in the session's jobs object, which `service/job_object.py` defines.

    Args:
        ingress: the way there.
        session: the session's name.
        register: has Restate send what is new to this process, which serves the object.
    """

    begins_anew = True

    def __init__(self, ingress: Ingress, session: str, register: Callable[[], Awaitable[None]]) -> None:
        self._ingress = ingress
        self._service = jobs_service(session)
        self._register = register

    async def ready(self) -> None:
        await self._register()

    async def open(self, wanted: Manifest, *, fresh: bool) -> tuple[Manifest, bool]:
        manifest = await self._ask("open", wanted.name, Open(manifest=wanted, fresh=fresh))
        if not manifest.opened_by:  # workers of before there was this
            return manifest, manifest.created == wanted.created
        return manifest, manifest.opened_by == wanted.opened_by

    async def kill_stuck_requests(self, name: str, admin: Admin | None) -> None:
        """Kill requests about the record of this name that Restate has tried in vain: it takes one at a time, and one
        that outgrew what Restate moves (versions of before let records grow so large) would hold up all to come."""
        if admin is None:
            return
        rows = await admin.query(
            f"select id from sys_invocation where target_service_name = {sql_literal(self._service)} "
            f"and target_service_key = {sql_literal(name)} and status in ('backing-off', 'paused') "
            f"and retry_count >= {_IN_VAIN}",
            texts=["id"],
        )
        for row in rows:
            with suppress(UnknownInvocation):  # it has ended
                await admin.kill(row["id"])

    async def change(self, manifest: Manifest, change: Change, *, patient: bool = False) -> Manifest:
        return await self._ask("change", manifest.name, change, None if patient else DEFAULT_PATIENCE)

    async def forget(self, manifest: Manifest) -> None:
        forget = encode(Forget(generation=manifest.generation, now=True))
        await self._ingress.call(self._service, "forget", forget, key=manifest.name, idempotency_key=uuid4().hex)

    async def claim(self, base: str, wanted: Variant) -> str:
        key = variants_key(base)
        try:
            answer = await self._ingress.call(
                self._service, "claim", encode(wanted), key=key, idempotency_key=uuid4().hex
            )
        except Rejected as error:
            if error.status == NOT_FOUND:  # workers of before there was this: the name is all that is known
                return wanted.job
            raise
        return decode_received(_name_decoder, answer, f"the name of the job {wanted.job!r}")

    async def vary(self, base: str, asked: Vary) -> None:
        await self._ingress.call(
            self._service, "vary", encode(asked), key=variants_key(base), idempotency_key=uuid4().hex
        )

    async def store_owner(self) -> str:
        try:
            answer = await self._ingress.call(self._service, "owner", b"", key=OWNER_KEY, idempotency_key=uuid4().hex)
        except Rejected as error:
            if error.status == NOT_FOUND:  # another process serves the session, of before there was this
                return ""
            raise
        return decode_received(_name_decoder, answer, "the owner of the store")

    async def _ask(
        self, handler: str, name: str, asked: Open | Change, patience: float | None = DEFAULT_PATIENCE
    ) -> Manifest:
        # With a key of its own the request can be sent again when its answer is lost, and still counts once.
        answer = await self._ingress.call(
            self._service, handler, encode(asked), key=name, idempotency_key=uuid4().hex, patience=patience
        )
        return decode_received(manifest_decoder, answer, f"the record of the job {name!r}")


def job_store_of(
    ingress: Ingress, session: str, register: Callable[[], Awaitable[None]], *, reachable: bool
) -> JobStore:
    """Where manifests are kept: in the object that this process serves, if Restate can reach it; else only here.

    That Restate lists such an object says nothing: whoever served it may be gone, and a call of it would wait for ever.
    """
    return ObjectJobStore(ingress, session, register) if reachable else LocalJobStore()


class LocalJobStore:
    """Manifests in this process only, for a session whose services Restate cannot reach.

    A job is then known by its invocations alone: the generation, which is part of their keys, is a digest of what the
    job is over, so that other items under the same name are another job, and the same ones are found again from any
    process. That a job was cancelled, paused or tried again is forgotten with the process.
    """

    begins_anew = False

    def __init__(self) -> None:
        self._manifests: dict[tuple[str, int], Manifest] = {}

    async def ready(self) -> None:
        pass

    async def open(self, wanted: Manifest, *, fresh: bool) -> tuple[Manifest, bool]:
        if fresh:
            raise InvalidInput(
                "fresh=True needs a record of the job, and this session has none: Restate cannot reach this process "
                "(see endpoint= of rnb.connect). Give the job another name= to run it afresh."
            )
        over = f"{wanted.items} {wanted.total} {wanted.options}".encode()
        generation = int.from_bytes(hashlib.blake2b(over, digest_size=6).digest())
        wanted = msgspec.structs.replace(wanted, generation=generation)
        return self._manifests.setdefault((wanted.name, generation), wanted), False

    async def kill_stuck_requests(self, name: str, admin: Admin | None) -> None:
        pass

    async def change(self, manifest: Manifest, change: Change, *, patient: bool = False) -> Manifest:
        return apply_change(manifest, change)

    async def forget(self, manifest: Manifest) -> None:
        self._manifests.pop((manifest.name, manifest.generation), None)

    async def claim(self, base: str, wanted: Variant) -> str:
        return wanted.job

    async def vary(self, base: str, asked: Vary) -> None:
        """It is forgotten with the process."""

    async def store_owner(self) -> str:
        return ""


async def read_manifests(admin: Admin) -> list[tuple[str, Manifest]]:
    """The session and the manifest of every job on the server. Records that cannot be read are left out, and logged:
    they may be those of others.

    Raises:
        ServerError: what the server answers is nothing of the kind.
    """
    found = []
    async for session, text in _records(admin):
        try:
            manifest = decode_received(manifest_decoder, text, "the record of a job")
        except ServerError as error:
            _log.warning("A job of the session %r is left out. %s", session[:60], error)
        else:
            found.append((session, manifest))
    return found


async def read_folders(admin: Admin, sessions: Collection[str]) -> set[str]:
    """The folders in the store that jobs of these sessions name, those included whose records this version cannot read.
    There may be more, as where a variable's name is `folder`.

    Raises:
        ServerError: what the server answers is nothing of the kind.
    """
    found: set[str] = set()
    async for session, text in _records(admin, sessions):
        if not text:
            raise ServerError(f"The record of a job of the session {session!r} cannot be read.")
        found.update(_FOLDER.findall(text))
    return found


async def _records(admin: Admin, sessions: Collection[str] | None = None) -> AsyncIterator[tuple[str, str]]:
    """Sessions and the records of their jobs, as they are written; by default of all sessions."""
    for session, keys in await _listed(admin):
        if sessions is not None and session not in sessions:
            continue
        rows = await admin.query(
            f"select value_utf8 from state where key = 'manifest' and service_name = "
            f"{sql_literal(jobs_service(session))} and service_key in ({', '.join(map(sql_literal, keys))})"
        )
        for row in rows:
            text = row.get("value_utf8")
            yield session, text if isinstance(text, str) else ""


async def _listed(admin: Admin) -> list[tuple[str, list[str]]]:
    """Sessions and names of their jobs, in portions whose records restate-server can give at once."""
    head, _, tail = jobs_service("*").partition("*")
    rows = await admin.query(
        "select service_name, service_key, octet_length(value_utf8) as size from state where key = 'manifest'"
    )
    portions: list[tuple[str, list[str]]] = []
    room = 0
    for row in sorted(rows, key=lambda row: str(row.get("service_name"))):
        service, name, size = row.get("service_name"), row.get("service_key"), row.get("size")
        if not (isinstance(service, str) and isinstance(name, str)):
            continue
        if not service.startswith(head) or not service.endswith(tail):
            continue
        session, size = service.removeprefix(head).removesuffix(tail), size if isinstance(size, int) else 0
        if not portions or portions[-1][0] != session or size > room or len(portions[-1][1]) >= _AT_ONCE:
            portions.append((session, []))
            room = _BYTES_AT_ONCE
        portions[-1][1].append(name)
        room -= size
    return portions
