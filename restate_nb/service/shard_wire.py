"""The request and the output of a shard, as they travel.

In version 1 they were JSON, with an item and an outcome a record. Since version 2 they are MessagePack: positions and
items are columns, and groups are the bytes that stand in the journal. The first byte tells them apart. A shard is
answered in the version in which it came: whoever sent it can read that, and an attempt of another version gives the
very same answer.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Final

import msgspec

from restate_nb.engine import packed
from restate_nb.engine.record import WIRE_VERSION, Attempt, Group, decode_group, encode_records
from restate_nb.service.wire import shard_key

_FIRST_VERSION: Final = 1
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRequest:
    """The input of one shard: some items of one round of one job.

    Attributes:
        version: of the format in which it travels.
        job: the job's name.
        generation: counts the jobs that had this name (`fresh=True` begins a new one), from 1.
        round: 0 for the first run, then one for each `retry_failed`.
        shard: the shard's number within its round, from 0.
        part: 0; then one for each time the shard handed its rest on because its output grew large.
        function: the function's name, for people.
        positions: where each item stands in the job's input.
        items: the items, as `codec.encode` wrote them, one after the other.
        ends: where each ends in `items`.
        recipe: how they are run, for a process that was not told otherwise; see `run_spec.py`.
        folder: of the job in the store, for what is too large for a journal; empty where it has none.
    """

    version: int = WIRE_VERSION
    job: str
    generation: int
    round: int
    shard: int
    part: int = 0
    function: str
    positions: range | array[int]
    items: bytes
    ends: array[int]
    recipe: str | None = None
    folder: str = ""

    def key(self) -> str:
        """The idempotency key of the shard's invocation."""
        return shard_key(self.job, self.generation, self.round, self.shard, self.part)

    def raws(self) -> list[bytes]:
        """The items, each by itself."""
        return packed.each(self.items, self.ends)

    def without(self, ended: Container[int]) -> dict[int, bytes]:
        """The items by position, but those at these positions."""
        pairs = zip(self.positions, self.raws(), strict=True)
        return {position: item for position, item in pairs if position not in ended}

    def next_part(self, ended: Container[int]) -> ShardRequest:
        """The request for what is left when these positions have their outcome."""
        left = self.without(ended)
        items, ends = run_of([*left.values()])
        return replace(self, part=self.part + 1, positions=positions_of([*left]), items=items, ends=ends)


def positions_of(positions: Sequence[int]) -> range | array[int]:
    """Positions as a request has them."""
    if isinstance(positions, range) and positions.step == 1:
        return positions
    return packed.counts(positions, max(positions, default=0))


def run_of(items: Sequence[bytes]) -> tuple[bytes, array[int]]:
    """Items one after the other, and where each ends."""
    ends = list(accumulate(map(len, items)))
    return b"".join(items), packed.counts(ends, ends[-1] if ends else 0)


class _Head(msgspec.Struct, kw_only=True, omit_defaults=True):
    version: int = _FIRST_VERSION
    job: str
    generation: int
    round: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    shard: _Count
    part: _Count = 0
    function: str
    recipe: str | None = None
    folder: str = ""


class _Columns(_Head, kw_only=True, omit_defaults=True):
    count: _Count
    first: _Count | None = None  # of positions that follow one another
    positions: bytes = b""  # else
    ends: bytes
    items: bytes


class _Records(_Head, kw_only=True, omit_defaults=True):
    positions: list[_Count]
    items: list[msgspec.Raw]


_read_columns = msgspec.msgpack.Decoder(_Columns).decode
_read_records = msgspec.json.Decoder(_Records).decode


def encode_request(request: ShardRequest) -> bytes:
    """Write a request, in the version that it has."""
    head = {each.name: getattr(request, each.name) for each in msgspec.structs.fields(_Head)}
    positions = request.positions
    if request.version == _FIRST_VERSION:
        return msgspec.json.encode(
            _Records(**head, positions=list(positions), items=list(map(msgspec.Raw, request.raws())))
        )
    return msgspec.msgpack.encode(
        _Columns(
            **head,
            count=len(positions),
            first=positions.start if isinstance(positions, range) else None,
            positions=b"" if isinstance(positions, range) else packed.pack(positions),
            ends=packed.pack(request.ends),
            items=request.items,
        )
    )


def decode_request(body: bytes) -> ShardRequest:
    """Read a request, of any version.

    Raises:
        ValueError: it is none that this version can read.
    """
    read = _read_records(body) if _is_json(body) else _read_columns(body)
    _check_version(read.version, _FIRST_VERSION if isinstance(read, _Records) else WIRE_VERSION)
    if isinstance(read, _Records):
        if len(read.positions) != len(read.items):
            raise ValueError("it has not one item a position")
        positions = positions_of(read.positions)
        items, ends = run_of(list(map(bytes, read.items)))
    else:
        positions = _positions(read)
        items, ends = read.items, packed.unpack_ends(read.ends, read.count, len(read.items))
    if not isinstance(positions, range) and len(set(positions)) != len(positions):
        raise ValueError("it has two items at one position")
    head = {each.name: getattr(read, each.name) for each in msgspec.structs.fields(_Head)}
    return ShardRequest(**head, positions=positions, items=items, ends=ends)


def _positions(read: _Columns) -> range | array[int]:
    if read.first is None:
        return packed.unpack_counts(read.positions, read.count)
    if read.first + read.count > 2**63:
        raise ValueError("a position is too large")
    return range(read.first, read.first + read.count)


# ---------------------------------------------------------------- outputs


class WorkerName(msgspec.Struct, kw_only=True, frozen=True):
    """Who ended a shard.

    Attributes:
        host: the machine's name.
        process: the process' id there.
        code: the digest of the function's code there, or its version.
    """

    host: str
    process: int
    code: str


class ShardOutput(msgspec.Struct, kw_only=True):
    """The output of one shard: what stands in its journal, and the key of the shard that goes on.

    Attributes:
        version: of the format in which it travelled.
        groups: all that was recorded, in order.
        next: the idempotency key of the next part; None when this is the last.
        worker: who ended it; None where that is the session's own process.
    """

    version: int
    groups: list[Group]
    next: str | None = None
    worker: WorkerName | None = None


class _Packed(msgspec.Struct, kw_only=True, omit_defaults=True):
    version: int
    next: str | None = None
    worker: WorkerName | None = None
    groups: list[bytes]


class _Output1(msgspec.Struct, kw_only=True):
    version: int
    groups: list[list[Attempt]]
    next: str | None = None
    worker: WorkerName | None = None


class _Next(msgspec.Struct):
    next: str | None = None


_read_packed = msgspec.msgpack.Decoder(_Packed).decode
_read_output_1 = msgspec.json.Decoder(_Output1).decode
_read_next = msgspec.msgpack.Decoder(_Next).decode
_read_next_1 = msgspec.json.Decoder(_Next).decode
_read_worker = msgspec.json.Decoder(WorkerName).decode


def encode_output(groups: list[bytes], next_key: str | None, worker: bytes | None = None) -> bytes:
    """Write a shard's output without decoding the groups; `worker` is a `WorkerName` as JSON."""
    name = None if worker is None else _read_worker(worker)
    return msgspec.msgpack.encode(_Packed(version=WIRE_VERSION, next=next_key, worker=name, groups=groups))


def encode_output_1(groups: list[bytes], next_key: str | None, worker: bytes | None = None) -> bytes:
    """The same in version 1, of groups in version 1."""
    head = b'{"version":%d,"next":%s,' % (_FIRST_VERSION, msgspec.json.encode(next_key))
    if worker is not None:
        head += b'"worker":%s,' % worker
    return head + b'"groups":[' + b",".join(groups) + b"]}"


def decode_output(body: bytes) -> ShardOutput:
    """Read an output, of any version.

    Raises:
        ValueError: it is none that this version can read.
    """
    if _is_json(body):
        read = _read_output_1(body)
        _check_version(read.version, _FIRST_VERSION)
        groups = [*map(Group.of, read.groups)]
        return ShardOutput(version=read.version, groups=groups, next=read.next, worker=read.worker)
    raw = _read_packed(body)
    _check_version(raw.version, WIRE_VERSION)
    return ShardOutput(version=raw.version, groups=[*map(decode_group, raw.groups)], next=raw.next, worker=raw.worker)


def next_of(body: bytes) -> str | None:
    """The `next` of an output, without reading all the rest.

    Raises:
        ValueError: it is none that this version can read.
    """
    return (_read_next_1(body) if _is_json(body) else _read_next(body)).next


def in_version_1(raw: bytes) -> bytes:
    """A group in version 1, whatever it is in."""
    return raw if _is_json(raw) else encode_records(decode_group(raw))


def _is_json(body: bytes) -> bool:
    return body[:1] < b"\x80"  # where MessagePack has numbers alone


def _check_version(version: int, known: int) -> None:
    if version > known:
        raise ValueError(f"it was written by a newer restate_nb (format {version})")
