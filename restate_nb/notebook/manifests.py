"""What Restate knows of jobs, read back without their cells: manifests and items."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Final

import msgspec

from restate_nb.engine.objects import Classes
from restate_nb.engine.target import Passing, Target
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.notebook.received import received
from restate_nb.notebook.spool import Spool
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.service.durable import request_decoder as durable_decoder
from restate_nb.service.wire import Manifest, job_key, jobs_service, manifest_decoder, request_decoder

_log: Final = logging.getLogger("restate_nb.jobs")


async def read_manifests(admin: Admin) -> list[tuple[str, Manifest]]:
    """The session and the manifest of every job on the server. Records that cannot be read are left out, and logged:
    they may be those of others.

    Raises:
        ServerError: what the server answers is nothing of the kind.
    """
    head, _, tail = jobs_service("*").partition("*")
    rows = await admin.query("select service_name, value_utf8 from state where key = 'manifest'")
    found = []
    for row in rows:
        service, text = row.get("service_name"), row.get("value_utf8")
        if not isinstance(service, str) or not service.startswith(head) or not service.endswith(tail):
            continue
        session = service.removeprefix(head).removesuffix(tail)
        try:
            manifest = received(manifest_decoder, text if isinstance(text, str) else b"", "the record of a job")
        except ServerError as error:
            _log.warning("A job of the session %r is left out. %s", session[:60], error)
        else:
            found.append((session, manifest))
    return found


async def read_items_back(admin: Admin, manifest: Manifest) -> Spool:
    """A job's encoded items, from the inputs of its invocations.

    Raises:
        InvalidInput: not all of them were submitted before the process that did so ended.
        ServerError: what the server gives is none of a job.
    """
    what = f"the items of {manifest.name!r}"
    prefix = sql_literal(f"{job_key(manifest.name, manifest.generation)}/0/")
    rows = await admin.query(
        "select j.entry_json from sys_journal j join sys_invocation i on i.id = j.id "
        f"where j.index = 0 and starts_with(i.idempotency_key, {prefix})"
    )
    items: dict[int, bytes] = {}
    for row in rows:
        text = row.get("entry_json")
        body = bytes(received(_input_decoder, text if isinstance(text, str) else b"", what).Command.Input.payload)
        if manifest.durable:
            single = received(durable_decoder, body, what)
            items[single.position] = bytes(single.item)
        else:
            request = received(request_decoder, body, what)
            items.update(zip(request.positions, map(bytes, request.items), strict=False))
    items = {position: item for position, item in items.items() if 0 <= position < manifest.total}
    if len(items) < manifest.total:
        raise InvalidInput(
            f"Of {manifest.total:,} items of {manifest.name!r} {len(items):,} were submitted when its process ended. "
            "Run its cell again, which has the rest."
        )
    return Spool(items[position] for position in range(manifest.total))


def unknown_function(manifest: Manifest) -> Target:
    """Stands for the function of a job whose cell was not run in this process."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{manifest.function} is not known here")

    passing: Passing = "value"
    for each in ("args", "kwargs"):
        if manifest.options.startswith(each):
            passing = each
    target = Target(unknown, passing, classes=Classes(plain=True))
    target.name, target.durable = manifest.function, manifest.durable
    return target


class _Input(msgspec.Struct):
    payload: list[Annotated[int, msgspec.Meta(ge=0, le=255)]]


class _Command(msgspec.Struct):
    Input: _Input


class _Entry(msgspec.Struct):
    Command: _Command


_input_decoder = msgspec.json.Decoder(_Entry)
