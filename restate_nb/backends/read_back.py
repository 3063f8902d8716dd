"""What Restate knows of jobs, read back without their cells: manifests and items."""

from __future__ import annotations

import logging
from typing import Any, Final

from restate_nb.backends.journal_inputs import inputs_of
from restate_nb.engine.function import Function, Passing
from restate_nb.engine.objects import Classes
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.results.spool import Spool
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.service.durable_handler import request_decoder as durable_decoder
from restate_nb.service.received import received
from restate_nb.service.wire import (
    Manifest,
    job_key,
    jobs_service,
    manifest_decoder,
    request_decoder,
    service_of,
)

_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_AT_ONCE: Final = 1_000  # records

_log: Final = logging.getLogger("restate_nb.jobs")


async def read_manifests(admin: Admin) -> list[tuple[str, Manifest]]:
    """The session and the manifest of every job on the server. Records that cannot be read are left out, and logged:
    they may be those of others.

    Raises:
        ServerError: what the server answers is nothing of the kind.
    """
    found = []
    for session, keys in await _listed(admin):
        rows = await admin.query(
            f"select value_utf8 from state where key = 'manifest' and service_name = "
            f"{sql_literal(jobs_service(session))} and service_key in ({', '.join(map(sql_literal, keys))})"
        )
        for row in rows:
            text = row.get("value_utf8")
            try:
                manifest = received(manifest_decoder, text if isinstance(text, str) else b"", "the record of a job")
            except ServerError as error:
                _log.warning("A job of the session %r is left out. %s", session[:60], error)
            else:
                found.append((session, manifest))
    return found


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


async def read_items_back(admin: Admin, session: str, manifest: Manifest) -> Spool:
    """A job's encoded items, from the inputs of its invocations, some MB at a time.

    Args:
        admin: where to ask.
        session: whose job it is, or what stands for its workers.
        manifest: of the job.

    Raises:
        InvalidInput: not all of them were submitted before the process that did so ended.
        ServerError: what the server gives is none of a job.
    """
    what = f"the items of {manifest.name!r}"
    items = Spool()
    async for body in inputs_of(admin, await _first_round(admin, session, manifest)):
        if manifest.durable:
            single = received(durable_decoder, body, what)
            positions, raws = [single.position], [single.item]
        else:
            request = received(request_decoder, body, what)
            positions, raws = request.positions, request.items
        for position, raw in zip(positions, raws, strict=False):
            if position != len(items):
                raise _not_all(manifest, len(items))
            items.append(bytes(raw))
    if len(items) != manifest.total:
        raise _not_all(manifest, len(items))
    return items


async def _first_round(admin: Admin, session: str, manifest: Manifest) -> list[str]:
    """The invocations that have all items, each once, in the order of these."""
    rows = await admin.query(
        "select id, idempotency_key as key from sys_invocation "
        f"where target_service_name = {sql_literal(service_of(session, manifest))} and "
        f"starts_with(idempotency_key, {sql_literal(f'{job_key(manifest.name, manifest.generation)}/0/')})",
        texts=["id", "key"],
    )
    numbers = ((row["key"].rpartition("/"), row["id"]) for row in rows)
    prefix = f"{job_key(manifest.name, manifest.generation)}/0"
    # What goes on with the rest of a shard has a number with a dot, and items that the shard has, too.
    mine = [(int(number), id_) for (head, _, number), id_ in numbers if head == prefix and number.isdecimal()]
    return [id_ for _, id_ in sorted(mine)]


def _not_all(manifest: Manifest, found: int) -> InvalidInput:
    return InvalidInput(
        f"Of {manifest.total:,} items of {manifest.name!r} Restate has the first {found:,}: the others were not "
        "submitted when its process ended, or were purged. Run its cell again, which has all."
    )


def unknown_function(manifest: Manifest) -> Function:
    """Stands for the function of a job whose cell was not run in this process."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{manifest.function} is not known here")

    passing: Passing = "value"
    for each in ("args", "kwargs"):
        if manifest.options.startswith(each):
            passing = each
    target = Function(unknown, passing, classes=Classes(plain=True))
    target.name, target.durable = manifest.function, manifest.durable
    return target
