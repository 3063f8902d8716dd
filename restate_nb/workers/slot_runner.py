"""Runs the shards that come to a worker, in slots.

A slot is one of the places that a job has on all workers together: a key of a virtual object, which runs one shard at a
time. In a worker each slot has an active job of its own, whose function and policy are in the shard's request.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from restate import ObjectContext, RunOptions, TerminalError, VirtualObject
from restate.serde import BytesSerde

from restate_nb.engine import seeds
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
from restate_nb.service.shard_wire import ShardRequest, WorkerName, encode_request
from restate_nb.service.wire import SHARD_HANDLER, encode, job_key, lanes_service
from restate_nb.store.base import NotStored, Store
from restate_nb.values.reference import Reference
from restate_nb.workers.served_functions import ServedFunctions

KEPT_SECONDS: Final = 60.0
"""How long a slot without a shard is kept, so that its worker processes serve the next one, too."""

_FUNCTIONS_KEPT: Final = 200  # with their policies, the latest; others are read once more
_KILL_TIMEOUT: Final = 1.0  # seconds for worker processes to be gone
_DRAIN_POLL: Final = 0.05  # seconds
NOT_SERVED: Final = 404


@dataclass(slots=True)
class _Slot:
    """A slot of a job in this process."""

    key: tuple[str, int]  # the slot's own, and the generation of the job
    run: JobRun
    run_spec: str = ""
    code: str = ""
    attempts: int = 0  # of its handler, which are here now
    forgetting: asyncio.TimerHandle | None = None


class SlotRunner:
    """The slots whose shards this process runs.

    A slot's shards come one after the other, to any worker. So a slot starts nothing here while no handler of it is
    here: Restate may have given the shard to another worker.
    """

    def __init__(self, served: ServedFunctions, store: Store | None = None) -> None:
        """`store`: where values lie that are too large for a journal; None where there is none."""
        self._served = served
        self._items = LoopThread("rnb-items")
        self._runs = JobRuns(self._items.loop, store=store)
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._store = store
        self._functions: dict[tuple[str, bool], tuple[Function, RunPolicy, str]] = {}
        self._host = socket.gethostname()
        self.draining = False

    def _function_of(self, run_spec: str, *, stores: bool) -> tuple[Function, RunPolicy, str]:
        """The function, how it is run, and what stands for its code. `stores`: whether its job has a folder in a store.

        Raises:
            TerminalError: it is not served here.
        """
        key = run_spec, stores
        if key not in self._functions:
            if len(self._functions) == _FUNCTIONS_KEPT:
                del self._functions[next(iter(self._functions))]
            try:
                function, policy, _ = read_run_spec(run_spec, durable=False, find=self._served.find)
            except InvalidInput as error:
                raise TerminalError(str(error), NOT_SERVED) from error
            function.keep_in(self._store, parts=stores)
            if self._store is None:
                function.classes.keep_in(_no_store, parts=False)
            self._functions[key] = function, policy, code_of(function.functions, function.version)
        return self._functions[key]

    def begin_attempt(self, slot_key: str, request: ShardRequest) -> _Slot:
        """The slot of a shard whose handler begins, with the function and the policy of the request.

        Raises:
            TerminalError: the request does not name a function, or one that is not served here.
        """
        if request.recipe is None:
            raise TerminalError("The shard does not say how it is run: update restate_nb where it came from.", 400)
        function, policy, code = self._function_of(request.recipe, stores=bool(request.folder))
        key = slot_key, request.generation
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot(key, self._runs.get(*key, request.folder))
            slot.run.listen(lambda *_: None)
        if slot.forgetting is not None:
            slot.forgetting.cancel()
        if slot.run_spec != request.recipe:
            context = contextvars.copy_context()
            context.run(seeds.enter, job_key(request.job, request.generation))
            slot.run.provide(context.run(function.item_call, policy.retry), policy)
            slot.run_spec, slot.code = request.recipe, code
        slot.run.drop_others((request.round, request.shard))
        slot.attempts += 1
        if not self.draining:
            slot.run.resume()
        return slot

    def end_attempt(self, slot: _Slot) -> None:
        """Count a handler of the slot that ended, or whose connection did; after the last one nothing more starts."""
        slot.attempts -= 1
        if not slot.attempts:
            slot.run.pause()
            slot.forgetting = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, slot.key)

    def _forget(self, key: tuple[str, int]) -> None:
        if self._slots.pop(key, None) is not None:
            self._runs.forget(*key)

    def worker_name(self, slot: _Slot) -> WorkerName:
        """This process and the code it has, for the output of a shard."""
        return WorkerName(host=self._host, process=os.getpid(), code=slot.code)

    async def drain(self, within: float) -> bool:
        """Start nothing more, and wait until what runs has ended and is recorded.

        Args:
            within: seconds to wait at most.

        Returns:
            Whether it all did.
        """
        self.draining = True
        for slot in self._slots.values():
            slot.run.pause()
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        await asyncio.sleep(_DRAIN_POLL)  # for the pauses to reach the other loop
        while any(slot.run.busy for slot in self._slots.values() if slot.attempts):
            if loop.time() >= end:
                return False
            await asyncio.sleep(_DRAIN_POLL)
        return True

    def close(self) -> None:
        """End everything; what was not recorded is run again elsewhere."""
        self._runs.close()
        self._items.close()
        self._runs.kill(time.monotonic() + _KILL_TIMEOUT)


def _no_store(_: Reference) -> bytes:
    """Stands for the store of a worker that has none."""
    raise NotStored(
        "The item lies in the session's store, and this worker was started without it: start its workers with "
        "--store, and the address that rnb.start(store=...) or rnb.connect(..., store=...) was given."
    )


def slots_object(workers: str, runner: SlotRunner, *, retention: timedelta) -> VirtualObject:
    """The object that runs shards, one slot a key.

    Args:
        workers: what stands for the session; see `workers_of`.
        runner: the slots of this process.
        retention: how long a job is kept after its end.
    """
    slots = VirtualObject(
        lanes_service(workers),
        description="Runs the items of restate_nb jobs on workers.",
        inactivity_timeout=FOR_EVER,
        abort_timeout=FOR_EVER,
        idempotency_retention=invocation_retention(retention),
        journal_retention=invocation_retention(retention),
        invocation_retry_policy=RETRIES,
    )

    @slots.handler(SHARD_HANDLER, accept="*/*", input_serde=BytesSerde(), output_serde=BytesSerde())
    async def shard(ctx: ObjectContext, body: bytes) -> bytes:
        begun: list[_Slot] = []

        def run_of(request: ShardRequest) -> JobRun:
            begun.append(runner.begin_attempt(ctx.key(), request))
            return begun[0].run

        part = Shard(body, run_of)
        slot = begun[0]
        try:
            await commit(ctx, part.count, part, part.on_group)
            # Recorded, so that an attempt elsewhere, if this one dies now, returns the very same.
            worker = await ctx.run_typed(
                "worker", lambda: encode(runner.worker_name(slot)), RunOptions(serde=BytesSerde())
            )
        finally:
            runner.end_attempt(slot)
        rest = part.rest()
        if rest is None:
            return part.output(None, worker)
        slot.run.drop(part.id)  # another worker may go on with it
        key = rest.key()
        ctx.generic_send(
            lanes_service(workers), SHARD_HANDLER, encode_request(rest), key=ctx.key(), idempotency_key=key
        )
        return part.output(key, worker)

    return slots
