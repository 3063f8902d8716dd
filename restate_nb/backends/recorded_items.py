"""The items of a job and what stands for its function, read back from Restate without the job's cell.

Items are the inputs of invocations. They are read from journals, a few at a time, however large they are together.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from typing import Final

from restate_nb.backends.introspection import JobInvocations
from restate_nb.engine.function import Function, Passing, not_here
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.results.spool import Spool
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.service.durable_handler import request_decoder as durable_decoder
from restate_nb.service.shard_wire import decode_request
from restate_nb.service.wire import Manifest, decode_received, decoding
from restate_nb.values.classes import Classes

IDS_AT_ONCE: Final = 1_000
BYTES_AT_ONCE: Final = 8 * 1024 * 1024
"""Of a query's answer: restate-server has 64 MiB in all for what it queries."""

# An input stands in the journal as the message of Restate's service protocol that brings it to a handler, InputCommand:
# its field 14 is a Value, whose field 1 is the bytes.
_VALUE, _CONTENT, _LENGTH_DELIMITED = 14, 1, 2


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
    invocations = await JobInvocations.of(session, manifest).first_round(admin)
    async for body in inputs_of(admin, invocations):
        if manifest.kind == "durable":
            single = decode_received(durable_decoder, body, what)
            pairs = [(single.position, bytes(single.item))]
        else:
            with decoding(what):
                request = decode_request(body)
            pairs = [*zip(request.positions, request.raws(), strict=True)]
        for position, raw in pairs:
            if position != len(items):
                raise _not_all(manifest, len(items))
            items.append(raw)
    if len(items) != manifest.total:
        raise _not_all(manifest, len(items))
    return items


def unknown_function(manifest: Manifest) -> Function:
    """Stands for the function of a job whose cell was not run in this process."""
    passing: Passing = "value"
    for each in ("args", "kwargs"):
        if manifest.options.startswith(each):
            passing = each
    absent = not_here(NotImplementedError, f"{manifest.function} is not known here")
    function = Function(absent, passing, classes=Classes(plain=True))
    function.name, function.durable = manifest.function, manifest.durable
    return function


def _not_all(manifest: Manifest, found: int) -> InvalidInput:
    return InvalidInput(
        f"Of {manifest.total:,} items of {manifest.name!r} Restate has the first {found:,}: the others were not "
        "submitted when its process ended, or were purged. Run its cell again, which has all."
    )


async def inputs_of(admin: Admin, invocations: Sequence[str]) -> AsyncIterator[bytes]:
    """The inputs of these invocations, in this order.

    Args:
        admin: where to ask.
        invocations: their ids.

    Raises:
        ServerError: one has no journal any more, or it is nothing that this version can read.
    """
    for start in range(0, len(invocations), IDS_AT_ONCE):
        page = invocations[start : start + IDS_AT_ONCE]
        rows = await admin.query(
            f"select id, raw_length from sys_journal where index = 0 and id in {_among(page)}", texts=["id"]
        )
        sizes = {row["id"]: _length(row.get("raw_length")) for row in rows}
        for some in _in_parts(page, sizes):
            read = await admin.query(
                f"select id, encode(raw, 'base64') as raw from sys_journal where index = 0 and id in {_among(some)}",
                texts=["id", "raw"],
            )
            found: dict[str, str] = {row["id"]: row["raw"] for row in read}
            del read
            for invocation in some:
                if invocation not in found:
                    raise ServerError(f"Restate no longer has the input of the invocation {invocation}.")
                yield input_of(found.pop(invocation), invocation)


def _length(size: object) -> int:
    return size if isinstance(size, int) else BYTES_AT_ONCE  # unknown: it is read alone


def _among(invocations: Sequence[str]) -> str:
    return f"({', '.join(map(sql_literal, invocations))})"


def _in_parts(page: Sequence[str], sizes: dict[str, int]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    size = 0
    for invocation in page:
        size += sizes.get(invocation, 0)
        if parts[-1] and size > BYTES_AT_ONCE:
            parts.append([])
            size = sizes.get(invocation, 0)
        parts[-1].append(invocation)
    return parts


def input_of(text: str, invocation: str) -> bytes:
    """The input in the first entry of a journal, which is given as base64.

    Raises:
        ServerError: it is nothing that this version can read.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)  # the server leaves out the padding
        return bytes(_field(_field(memoryview(raw), _VALUE), _CONTENT))
    except (IndexError, ValueError, binascii.Error) as error:
        raise ServerError(
            f"The journal of the invocation {invocation} cannot be read: {error or 'it ends early'}."
        ) from None


def _field(message: memoryview, wanted: int) -> memoryview:
    """A field of bytes in a message of protobuf; empty when it is not there, as an empty one is not written.

    Raises:
        ValueError: it is no such message.
        IndexError: it ends early.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            _, at = _varint(message, at)
        elif tag & 7 == _LENGTH_DELIMITED:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise IndexError
            if tag >> 3 == wanted:
                return message[at : at + length]
            at += length
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("it is no message of the service protocol")
    return message[:0]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number in it has no end")
