"""What Restate knows of jobs, read back without their cells: manifests and items."""

from __future__ import annotations

from typing import Any

import msgspec

from restate_nb.engine.target import Passing, Target
from restate_nb.errors import InvalidInput
from restate_nb.notebook.spool import Spool
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.service.durable import request_decoder as durable_decoder
from restate_nb.service.wire import Manifest, job_key, jobs_service, manifest_decoder, request_decoder


async def read_manifests(admin: Admin) -> list[tuple[str, Manifest]]:
    """The session and the manifest of every job on the server."""
    head, _, tail = jobs_service("*").partition("*")
    rows = await admin.query("select service_name, value_utf8 from state where key = 'manifest'")
    found = []
    for row in rows:
        service = row["service_name"]
        if service.startswith(head) and service.endswith(tail):
            session = service.removeprefix(head).removesuffix(tail)
            found.append((session, manifest_decoder.decode(row["value_utf8"])))
    return found


async def read_items_back(admin: Admin, manifest: Manifest) -> Spool:
    """A job's encoded items, from the inputs of its invocations.

    Raises:
        InvalidInput: not all of them were submitted before the process that did so ended.
    """
    prefix = sql_literal(f"{job_key(manifest.name, manifest.generation)}/0/")
    rows = await admin.query(
        "select j.entry_json from sys_journal j join sys_invocation i on i.id = j.id "
        f"where j.index = 0 and starts_with(i.idempotency_key, {prefix})"
    )
    items: dict[int, bytes] = {}
    for row in rows:
        body = bytes(_input_decoder.decode(row["entry_json"]).Command.Input.payload)
        if manifest.durable:
            single = durable_decoder.decode(body)
            items[single.position] = bytes(single.item)
        else:
            request = request_decoder.decode(body)
            items.update(zip(request.positions, map(bytes, request.items), strict=True))
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
    target = Target(unknown, passing)
    target.name, target.durable = manifest.function, manifest.durable
    return target


class _Input(msgspec.Struct):
    payload: list[int]


class _Command(msgspec.Struct):
    Input: _Input


class _Entry(msgspec.Struct):
    Command: _Command


_input_decoder = msgspec.json.Decoder(_Entry)
