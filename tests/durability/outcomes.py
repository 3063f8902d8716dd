"""What Restate itself keeps of a job: how many final outcomes each item has in the outputs of its shards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import restate_nb as rnb
from restate_nb.handle.job import runner_of
from restate_nb.service.shard_wire import decode_output
from restate_nb.service.wire import SHARD_HANDLER, items_service, shard_key
from restate_nb.session.session import Session


def final_outcomes(session: Session, job: rnb.Job[Any], round_: int = 0) -> Counter[int]:
    """By position, for one round of a finished job."""
    manifest = runner_of(job).data.manifest
    counts = Counter[int]()

    async def read() -> None:
        for shard in range(10**6):
            key: str | None = shard_key(manifest.name, manifest.generation, round_, shard)
            while key is not None:
                try:
                    body = await session.connection.ingress.attach(items_service(session.name), SHARD_HANDLER, key)
                except LookupError:  # there is no such shard: the one before was the last
                    return
                output = decode_output(body)
                counts.update(position for group in output.groups for position in group.finals())
                key = output.next

    session.io.run(read())
    return counts
