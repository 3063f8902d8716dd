"""One shard in its handler: what is left of it, what is recorded, and the rest that it hands on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Final

import msgspec
from restate import TerminalError

from restate_nb.engine.outbox import Entry, ShardQueue, entries
from restate_nb.engine.record import WIRE_VERSION, Attempt, Group, decode_group
from restate_nb.service.active_jobs import JobRun
from restate_nb.service.wire import ShardRequest, request_decoder

HANDOVER_BYTES: Final = 12 * 1024 * 1024
"""A shard whose output reaches this hands its rest on. With one group on top (at most 16 MiB, when it holds a single
value of the largest size) it stays under the 32 MiB that restate-server can move."""


def read_request(body: bytes) -> ShardRequest:
    """The request of a shard.

    Raises:
        TerminalError: it is none that this version can read.
    """
    try:
        request = request_decoder.decode(body)
        if request.version > WIRE_VERSION:
            raise ValueError(f"it was written by a newer restate_nb (format {request.version})")
        if len(request.positions) != len(request.items):
            raise ValueError("it has not one item a position")
        if len(set(request.positions)) != len(request.positions):
            raise ValueError("it has two items at one position")
    except (ValueError, RecursionError) as error:
        raise TerminalError(f"This is no shard that restate_nb can read: {error}.", status_code=400) from error
    return request


class Shard:
    """One attempt of a shard's handler. It keeps the request as it came, and reads it again when its turn comes."""

    def __init__(self, body: bytes, run_of: Callable[[ShardRequest], JobRun]) -> None:
        """`run_of` gives the job, in this process, that the shard is of."""
        request = read_request(body)
        self.count = len(request.positions)
        self.groups: list[bytes] = []
        self._body = body
        self._round = request.round
        self.id = request.round, request.shard
        self._run = run_of(request)
        self._size = 0
        self._open = self.count

    def queue(self, ended: set[int], failed: Mapping[int, Attempt]) -> ShardQueue:
        def load() -> Iterable[Entry]:
            return entries(_items(request_decoder.decode(self._body), ended), failed)

        return self._run.queue(self.id, self.count - len(ended), load, ended)

    def recorded(self, raw: bytes) -> Group:
        return self._run.recorded(self.id, raw)

    def cancel(self) -> None:
        self._run.cancel_shard(self.id)

    def on_group(self, raw: bytes, group: Group) -> bool:
        self.groups.append(raw)
        self._size += len(raw)
        self._open -= group.final_count
        self._run.publish(self._round, group)
        return self._size < HANDOVER_BYTES

    def rest(self) -> ShardRequest | None:
        """The request for what has no outcome yet. Without any, None, and the queue is let go."""
        if not self._open:
            self._run.finish(self.id)
            return None
        ended = {position for raw in self.groups for position in decode_group(raw).finals()}
        request = request_decoder.decode(self._body)
        left = _items(request, ended)
        items = list(map(msgspec.Raw, left.values()))
        return msgspec.structs.replace(request, part=request.part + 1, positions=list(left), items=items)


def _items(request: ShardRequest, without: Container[int]) -> dict[int, bytes]:
    pairs = zip(request.positions, request.items, strict=True)
    return {position: bytes(item) for position, item in pairs if position not in without}
