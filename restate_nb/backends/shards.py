"""The shards of a job: how its items are cut into them, and how Restate is given one and asked for its outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from restate_nb.errors import InvocationFailed
from restate_nb.results.ledger import Ledger
from restate_nb.results.spool import Spool
from restate_nb.server.http import UnknownInvocation
from restate_nb.server.ingress import Ingress
from restate_nb.service.shard_wire import ShardRequest, encode_request, positions_of, run_of
from restate_nb.service.wire import SHARD_HANDLER, Manifest, service_of, shard_key


class Shards:
    """The shards of one job."""

    def __init__(self, ingress: Ingress, session: str, manifest: Manifest, encoded: Spool) -> None:
        """`session`: whose job it is, or what stands for its workers; `encoded`: the items."""
        self._ingress = ingress
        self._manifest = manifest
        self._encoded = encoded
        self._service = service_of(session, manifest)

    def size(self, positions: Sequence[int]) -> int:
        """Bytes of these items."""
        return self._encoded.size_of(positions)

    def cut(self, positions: Sequence[int], most_items: int, most_bytes: int) -> list[Sequence[int]]:
        """The positions of each shard. They depend on nothing that may be another when the cell is run again.

        Args:
            positions: of all items.
            most_items: of a shard.
            most_bytes: of a shard, if it has more than one item.
        """
        shards: list[Sequence[int]] = []
        ends = self._encoded.lengths(positions).cumsum()
        begin = taken = 0
        while begin < len(positions):
            fit = int(ends.searchsorted(taken + most_bytes, side="right"))
            end = max(min(fit, begin + most_items), begin + 1)
            shards.append(positions[begin:end])
            begin, taken = end, int(ends[end - 1])
        return shards

    async def submit(
        self, round_: int, shard: int, positions: Sequence[int], *, lane: str | None = None, run_spec: str | None = None
    ) -> None:
        """Give a shard to Restate, for as long as it takes; one that is there already stays as it is.

        Args:
            round_: of the job.
            shard: its number in the round.
            positions: of its items.
            lane: the key of the object that runs it, where workers do.
            run_spec: how its items are run, for a process that was not told otherwise.
        """
        items, ends = run_of(self._encoded.take(positions))
        request = ShardRequest(
            job=self._manifest.name,
            generation=self._manifest.generation,
            round=round_,
            shard=shard,
            function=self._manifest.function,
            positions=positions_of(positions),
            items=items,
            ends=ends,
            recipe=run_spec,
            folder=self._manifest.folder,
        )
        await self._ingress.send(
            self._service,
            SHARD_HANDLER,
            encode_request(request),
            key=lane,
            idempotency_key=request.key(),
            patience=None,
        )

    def key(self, round_: int, shard: int) -> str:
        """The idempotency key of a shard's first part."""
        return shard_key(self._manifest.name, self._manifest.generation, round_, shard)

    async def attach(self, key: str, *, lane: str | None = None) -> bytes:
        """Wait for the output of a part of a shard.

        Args:
            key: its idempotency key.
            lane: as in `submit`.

        Raises:
            UnknownInvocation: Restate has no such part.
            InvocationFailed: it was ended from outside.
        """
        return await self._ingress.attach(self._service, SHARD_HANDLER, key, key=lane)


def unended(ledger: Ledger, positions: Sequence[int]) -> list[int]:
    """Which of these items have no outcome."""
    return [position for position in positions if not ledger.knows([position])]


def why_ended_outside(failure: InvocationFailed | UnknownInvocation) -> str:
    """Why items have no outcome whose invocation was ended, or purged, in the Restate UI or CLI."""
    if isinstance(failure, UnknownInvocation):
        return f"Restate keeps this part of the job no longer: {failure} job.retry_failed() runs its items again."
    return f"Restate ended this part of the job: {failure}"
