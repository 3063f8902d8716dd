"""One shard in its handler: what is left of it, what is recorded, and the rest that it hands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from restate import TerminalError

from restate_nb.engine.outbox import Entry, ShardQueue, entries
from restate_nb.engine.record import Attempt, Group, decode_group
from restate_nb.service.active_jobs import JobRun
from restate_nb.service.shard_wire import ShardRequest, decode_request, encode_output, encode_output_1, in_version_1

HANDOVER_BYTES: Final = 12 * 1024 * 1024
"""A shard whose output reaches this hands its rest on. With one group on top (at most 16 MiB, when it holds a single
value of the largest size) it stays under the 32 MiB that restate-server can move."""

UNREADABLE: Final = "This is no shard that restate_nb can read"
"""How the failure of a shard begins whose request cannot be read, in every version."""


def read_request(body: bytes) -> ShardRequest:
    """The request of a shard.

    Raises:
        TerminalError: it is none that this version can read.
    """
    try:
        return decode_request(body)
    except (ValueError, RecursionError) as error:
        raise TerminalError(f"{UNREADABLE}: {error}.", status_code=400) from error


class Shard:
    """One attempt of a shard's handler. It keeps the request as it came, and reads it again when its turn comes."""

    def __init__(self, body: bytes, run_of: Callable[[ShardRequest], JobRun]) -> None:
        """`run_of` gives the job, in this process, that the shard is of."""
        request = read_request(body)
        self.count = len(request.positions)
        self.groups: list[bytes] = []
        self._body = body
        self._round = request.round
        self._version = request.version
        self.id = request.round, request.shard
        self._run = run_of(request)
        self._size = 0
        self._open = self.count

    def queue(self, ended: set[int], failed: Mapping[int, Attempt]) -> ShardQueue:
        def load() -> Iterable[Entry]:
            return entries(decode_request(self._body).without(ended), failed)

        return self._run.queue(self.id, self.count - len(ended), load, ended)

    def recorded(self, raw: bytes) -> Group:
        return self._run.recorded(self.id, raw)

    def cancel(self) -> None:
        self._run.cancel_shard(self.id)

    def on_group(self, raw: bytes, group: Group) -> bool:
        if self._version == 1:
            raw = in_version_1(raw)
        self.groups.append(raw)
        self._size += len(raw)
        self._open -= group.final_count
        self._run.publish(self._round, group)
        return self._size < HANDOVER_BYTES

    def output(self, next_key: str | None, worker: bytes | None = None) -> bytes:
        """The output, in the version of the request.

        Args:
            next_key: the key of the part that goes on; None when there is none.
            worker: who has run it, encoded.
        """
        encode = encode_output_1 if self._version == 1 else encode_output
        return encode(self.groups, next_key, worker)

    def rest(self) -> ShardRequest | None:
        """The request for what has no outcome yet. Without any, None, and the queue is let go."""
        if not self._open:
            self._run.finish(self.id)
            return None
        ended = {position for raw in self.groups for position in decode_group(raw).finals()}
        return decode_request(self._body).next_part(ended)
