"""What a worker does with the shards that come to it: one run a lane, provided from the shard's own recipe."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from restate import ObjectContext, RunOptions, TerminalError, VirtualObject
from restate.serde import BytesSerde

from restate_nb.engine.function import Function
from restate_nb.engine.group_commit import commit
from restate_nb.engine.loop_thread import LoopThread
from restate_nb.errors import InvalidInput
from restate_nb.policy import RunPolicy
from restate_nb.service.active_jobs import JobRun, JobRuns
from restate_nb.service.digest import code_of
from restate_nb.service.job_object import FOR_EVER, RETRIES, invocation_retention
from restate_nb.service.run_spec import read_run_spec
from restate_nb.service.shard_handler import Shard
from restate_nb.service.wire import (
    SHARD_HANDLER,
    ShardRequest,
    WorkerName,
    encode,
    encode_output,
    lanes_service,
)
from restate_nb.workers.served_functions import Served

KEPT_SECONDS: Final = 60.0
"""How long the run of a lane is kept without a shard, so that its worker processes serve the next one, too."""

_RECIPES_KEPT: Final = 200  # functions with their options, the latest; others are read once more
_END: Final = 1.0  # seconds for worker processes to be gone
_LOOK: Final = 0.05
NOT_SERVED: Final = 404


@dataclass(slots=True)
class _Member:
    """A lane in this process."""

    key: tuple[str, int]  # the lane and the generation
    run: JobRun
    recipe: str = ""
    inside: int = 0  # attempts of its handler
    code: str = ""
    forgetting: asyncio.TimerHandle | None = None


class SlotRunner:
    """The lanes whose shards this process runs.

    A lane's shards come one after the other, to any worker. So its run here starts nothing while no handler of it is
    here: Restate may have given the shard to another worker.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._items = LoopThread("rnb-items")
        self._runs = JobRuns(self._items.loop)
        self._members: dict[tuple[str, int], _Member] = {}
        self._recipes: dict[str, tuple[Function, RunPolicy, str]] = {}
        self._host = socket.gethostname()
        self.draining = False

    def recipe(self, request: ShardRequest) -> tuple[Function, RunPolicy, str]:
        """The function, how it is run, and what stands for its code.

        Raises:
            TerminalError: it is not served here.
        """
        text = request.recipe
        if text is None:
            raise TerminalError("The shard does not say how it is run: update restate_nb where it came from.", 400)
        if text not in self._recipes:
            if len(self._recipes) == _RECIPES_KEPT:
                del self._recipes[next(iter(self._recipes))]
            try:
                target, policy, _ = read_run_spec(text, durable=False, find=self._served.find)
            except InvalidInput as error:
                raise TerminalError(str(error), NOT_SERVED) from error
            self._recipes[text] = target, policy, code_of(target.functions, target.version)
        return self._recipes[text]

    def enter(self, lane: str, request: ShardRequest) -> _Member:
        """A handler of the lane begins."""
        target, policy, code = self.recipe(request)
        key = lane, request.generation
        member = self._members.get(key)
        if member is None:
            member = self._members[key] = _Member(key, self._runs.get(*key))
            member.run.listen(lambda *_: None)
        if member.forgetting is not None:
            member.forgetting.cancel()
        assert request.recipe is not None
        if member.recipe != request.recipe:
            member.run.provide(target.work(policy.retry), policy)
            member.recipe, member.code = request.recipe, code
        member.run.drop_others((request.round, request.shard))
        member.inside += 1
        if not self.draining:
            member.run.resume()
        return member

    def leave(self, member: _Member) -> None:
        """A handler of the lane ended, or its connection did."""
        member.inside -= 1
        if not member.inside:
            member.run.pause()
            member.forgetting = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, member.key)

    def _forget(self, key: tuple[str, int]) -> None:
        if self._members.pop(key, None) is not None:
            self._runs.forget(*key)

    def name(self, member: _Member) -> WorkerName:
        """This process, as the output of a shard tells it."""
        return WorkerName(host=self._host, process=os.getpid(), code=member.code)

    async def drain(self, within: float) -> bool:
        """Start nothing more, and wait until what runs has ended and is recorded.

        Args:
            within: seconds to wait at most.

        Returns:
            Whether it all did.
        """
        self.draining = True
        for member in self._members.values():
            member.run.pause()
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        await asyncio.sleep(_LOOK)  # for the pauses to reach the other loop
        while any(member.run.busy for member in self._members.values() if member.inside):
            if loop.time() >= end:
                return False
            await asyncio.sleep(_LOOK)
        return True

    def close(self) -> None:
        """End everything; what was not recorded is run again elsewhere."""
        self._runs.close()
        self._items.close()
        self._runs.kill(time.monotonic() + _END)


def lanes_of(workers: str, crew: SlotRunner, *, retention: timedelta) -> VirtualObject:
    """The object that runs shards, one lane a key.

    Args:
        workers: what stands for the session; see `workers_of`.
        crew: the lanes of this process.
        retention: how long a job is kept after its end.
    """
    lanes = VirtualObject(
        lanes_service(workers),
        description="Runs the items of restate_nb jobs on workers.",
        inactivity_timeout=FOR_EVER,
        abort_timeout=FOR_EVER,
        idempotency_retention=invocation_retention(retention),
        journal_retention=invocation_retention(retention),
        invocation_retry_policy=RETRIES,
    )

    @lanes.handler(SHARD_HANDLER, accept="*/*", input_serde=BytesSerde(), output_serde=BytesSerde())
    async def shard(ctx: ObjectContext, body: bytes) -> bytes:
        lane = ctx.key()
        entered: list[_Member] = []

        def run_of(request: ShardRequest) -> JobRun:
            entered.append(crew.enter(lane, request))
            return entered[0].run

        part = Shard(body, run_of)
        member = entered[0]
        try:
            await commit(ctx, part.count, part, part.on_group)
            # Recorded, so that an attempt elsewhere, if this one dies now, returns the very same.
            worker = await ctx.run_typed("worker", lambda: encode(crew.name(member)), RunOptions(serde=BytesSerde()))
        finally:
            crew.leave(member)
        rest = part.rest()
        if rest is None:
            return encode_output(part.groups, None, worker)
        member.run.drop(part.id)  # another worker may go on with it
        ctx.generic_send(lanes_service(workers), SHARD_HANDLER, encode(rest), key=lane, idempotency_key=rest.key())
        return encode_output(part.groups, rest.key(), worker)

    return lanes
