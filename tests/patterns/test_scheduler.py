"""How operations are stepped: one journal for one seed, and clear errors for what cannot be replayed."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
from datetime import timedelta
from typing import Any

import pytest
import restate
from restate import TerminalError

from restate_nb.errors import JournalMismatch, NotDurable
from restate_nb.patterns import OperationFailed, fan_out, fan_out_fail, map_concurrent
from restate_nb.testing import mock_context
from tests.patterns.stress_program import echo_service, expected, make_program, run_program


async def run_on_mock(seed: int, *, replay: bool = False) -> tuple[Any, str]:
    ctx = mock_context(services=[echo_service], replay=replay)
    got = await ctx.mock.invoke(run_program, make_program(seed, crash=False))
    return got, str(ctx.mock.journal)


@pytest.mark.parametrize("seed", [3, 14, 15, 92, 65])
async def test_one_seed_gives_one_journal(seed: int) -> None:
    """Ten runs of a random program, steps of every kind: the same entries and answers, in the same order."""
    runs = [await run_on_mock(seed) for _ in range(10)]
    assert runs[0][0] == expected(make_program(seed, crash=False))
    assert len({journal for _, journal in runs}) == 1


@pytest.mark.parametrize("seed", [*range(100, 111), *range(112, 118)])
async def test_random_programs_survive_replay_at_every_wait_and_forced_failures(seed: int) -> None:
    """The mock suspends them at every wait and fails them where the program says; the oracle knows the result."""
    ctx = mock_context(services=[echo_service], replay=True)
    program = make_program(seed)
    assert await ctx.mock.invoke(run_program, program, max_attempts=50) == expected(program)


async def test_the_work_grows_with_the_number_of_operations() -> None:
    """Counts how often the scheduler looks at a handle, which is what takes its time: linear in the operations."""
    looks: list[int] = []
    for count in (500, 1000, 2000):
        ctx = mock_context()
        seen = 0
        real = ctx.core.is_completed

        def counted(handle: int, real: Any = real) -> bool:
            nonlocal seen
            seen += 1
            return bool(real(handle))

        ctx.core.is_completed = counted  # type: ignore[method-assign]
        await map_concurrent(ctx, range(count), lambda n, ctx=ctx: ctx.run_typed("step", lambda: n))
        looks.append(seen)
    assert looks[2] / looks[1] < 2.1 and looks[1] / looks[0] < 2.1
    assert looks[2] < 2000 * 150, "about the window for each operation"


async def test_ten_thousand_operations_just_work() -> None:
    """The seed's "don't fan out 10,000" does not hold here."""
    ctx = mock_context()
    assert await map_concurrent(ctx, range(10_000), lambda n: n + 1) == list(range(1, 10_001))


async def test_each_operation_has_its_own_contextvars() -> None:
    ctx = mock_context()
    var = contextvars.ContextVar("var", default=0)
    var.set(7)

    async def operation(n: int) -> list[int]:
        before = var.get()
        var.set(n)
        await ctx.sleep(timedelta(seconds=n))
        return [before, var.get()]

    assert await map_concurrent(ctx, [1, 2], operation) == [[7, 1], [7, 2]]
    assert var.get() == 7


async def test_sleep_zero_lets_the_others_go_first() -> None:
    ctx = mock_context()
    log: list[str] = []

    async def operation(name: str) -> None:
        log.append(name + "1")
        await asyncio.sleep(0)
        log.append(name + "2")

    await map_concurrent(ctx, "ab", operation)
    assert log == ["a1", "b1", "a2", "b2"]


async def test_one_future_in_several_waits_wakes_them_all() -> None:
    """Whoever takes its value first, the others see it: alone, in a gather, or after a gather."""
    ctx = mock_context()
    shared, slow = ctx.run_typed("shared", lambda: 1), ctx.sleep(timedelta(hours=1))

    async def gathers() -> int:
        await restate.gather(shared)
        return await shared

    async def alone() -> int:
        return await shared

    async def gathers_more() -> int:
        await restate.gather(shared, slow)
        return await shared

    assert await fan_out_fail(ctx, [gathers, alone, gathers_more, alone, gathers]) == [1] * 5
    assert ctx.mock.now == 3600


class SlowCodec(restate.JournalValueCodec):
    """Turns values around, and really waits to turn them back, as one that asks a key server would."""

    def encode(self, buf: bytes) -> bytes:
        return buf[::-1]

    async def decode(self, buf: bytes) -> bytes:
        await asyncio.sleep(0.001)
        return buf[::-1]


async def test_a_journal_codec_that_waits_for_asyncio_works_in_operations_and_after_them() -> None:
    ctx = mock_context()
    ctx.journal_codec = SlowCodec()
    shared, later = ctx.run_typed("shared", lambda: 12), ctx.run_typed("later", lambda: 34)

    async def operation(n: int) -> int:
        return n * 100 + await ctx.run_typed("own", lambda: n) + await shared

    assert await map_concurrent(ctx, range(10, 20), operation) == [n * 101 + 12 for n in range(10, 20)]
    assert await later == 34


# What is not durable.


async def _sleep() -> None:
    await asyncio.sleep(0.01)


async def _future() -> None:
    await asyncio.get_running_loop().create_future()


async def _task() -> None:
    await asyncio.create_task(_sleep())


async def _gather() -> None:
    coroutines = [_sleep(), _sleep()]
    try:
        await asyncio.gather(*coroutines)
    finally:
        for coroutine in coroutines:
            coroutine.close()


async def _thread() -> None:
    await asyncio.to_thread(time.sleep, 0)


async def _timeout() -> None:
    async with asyncio.timeout(1):
        pass


async def _wait_for() -> None:
    waiting = _sleep()
    try:
        await asyncio.wait_for(waiting, 1)
    finally:
        waiting.close()


async def _queue() -> None:
    await asyncio.Queue[int]().get()


@pytest.mark.parametrize(
    "operation", [_sleep, _future, _task, _gather, _thread, _timeout, _wait_for, _queue], ids=lambda op: op.__name__
)
async def test_what_is_not_durable_is_refused_with_the_right_code(operation: Any) -> None:
    ctx = mock_context()
    with pytest.raises(NotDurable) as caught:
        await fan_out(ctx, [lambda: 1, operation])
    message = str(caught.value)
    assert message.startswith(f"operation 1 ({operation.__name__}) of fan_out ")
    assert "wrong: await asyncio.sleep(1)" in message and "right: await ctx.sleep(timedelta(seconds=1))" in message


async def test_a_task_that_runs_already_is_refused_where_it_is_awaited() -> None:
    ctx = mock_context()
    task = asyncio.create_task(_sleep())

    async def operation() -> None:
        await task

    with pytest.raises(NotDurable, match=r"operation 0 \(operation\) of fan_out awaited a future or a task"):
        await fan_out(ctx, [operation])
    await task


async def test_a_durable_future_that_a_task_waits_for_is_refused() -> None:
    ctx = mock_context()
    future = ctx.sleep(timedelta(seconds=1))
    task = asyncio.ensure_future(future)
    await asyncio.sleep(0)

    async def operation() -> None:
        await future

    with pytest.raises(NotDurable, match="awaited a durable future that an asyncio task waits for already"):
        await fan_out(ctx, [operation])
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_context_used_in_a_run_action_fails_that_step_for_good() -> None:
    """It would read the journal beside the operations. Trying the step again, as for other errors, would not help."""
    ctx = mock_context()

    async def action() -> int:
        return await ctx.run_typed("inner", lambda: 1)

    async def helper() -> list[int]:
        return await map_concurrent(ctx, [1], lambda n: n)

    for wrong in (action, helper):
        ctx = mock_context()
        with pytest.raises(OperationFailed, match="ctx was used outside of the operation that it belongs to"):
            await fan_out_fail(ctx, [lambda wrong=wrong, ctx=ctx: ctx.run_typed("outer", wrong)])
        assert ctx.mock.runs == {"outer": 1}


async def test_the_running_loop_is_untouched_outside_of_operations() -> None:
    ctx = mock_context()
    loop = asyncio.get_running_loop()
    seen: list[Any] = []

    async def action() -> None:
        seen.append(asyncio.get_running_loop())
        await asyncio.sleep(0.001)

    async def operation() -> None:
        await ctx.run_typed("a", action)
        assert asyncio.current_task() is handler_task

    handler_task = asyncio.current_task()
    await fan_out(ctx, [operation])
    assert seen == [loop] and asyncio.get_running_loop() is loop
    assert "create_poll_or_cancel_coroutine" not in vars(ctx)


# Exceptions that are not terminal, cancellation, what is left behind.


async def test_an_exception_that_is_not_terminal_reaches_the_caller_before_any_other_step() -> None:
    """Both operations are woken by the same answer; the second may not take a step once the first has failed."""
    ctx = mock_context()
    shared = ctx.run_typed("shared", lambda: 1)

    async def failing() -> None:
        await shared
        raise RuntimeError("boom")

    async def other() -> None:
        await shared
        await ctx.run_typed("too late", lambda: 1)

    async def nested(inner: Any) -> None:
        await fan_out(ctx, [inner])

    for pair in ([failing, other], [lambda: nested(failing), lambda: nested(other)]):
        with pytest.raises(RuntimeError, match="boom"):
            await fan_out(ctx, pair)
        assert ctx.mock.journal.names("run") == ["shared"]


async def test_an_exception_can_be_caught_where_the_helper_was_called() -> None:
    ctx = mock_context(replay=True)

    async def handler(ctx: restate.Context) -> list[Any]:
        async def failing() -> None:
            await ctx.run_typed("a", lambda: 1)
            raise ValueError("own")

        async def parent() -> str:
            try:
                await fan_out(ctx, [failing, lambda: ctx.sleep(timedelta(days=1))])
            except ValueError as error:
                return f"caught {error}"
            return "not raised"

        return (await fan_out(ctx, [parent, parent])).results

    assert await ctx.mock.invoke(handler) == ["caught own", "caught own"]


async def test_cancellation_reaches_every_operation_and_then_the_handler() -> None:
    """Once, as 409; nothing new starts; cleanups may take durable steps; it is never an operation's failure."""
    for replay in (False, True):
        ctx = mock_context(replay=replay)
        log: list[str] = []

        async def handler(ctx: restate.Context, log: list[str] = log) -> None:
            async def operation(name: str) -> str:
                try:
                    await ctx.sleep(timedelta(days=1))
                except TerminalError as error:
                    await ctx.run_typed(f"undo {name}", lambda: None)
                    log.append(f"{name} {error.status_code}")
                    if name == "stubborn":
                        return "as if nothing had happened"
                    raise
                return "slept"

            async def nested() -> None:
                await map_concurrent(ctx, ["inner", "stubborn"], operation)

            await fan_out(ctx, [lambda: operation("outer"), nested, lambda: operation("never")], max_concurrent=2)

        ctx.mock.cancel(after=10)
        with pytest.raises(TerminalError, match="cancelled") as caught:
            await ctx.mock.invoke(handler)
        assert caught.value.status_code == 409
        assert log[-3:] == ["outer 409", "inner 409", "stubborn 409"]
        assert ctx.mock.now == 10
        assert ctx.mock.journal.names("run") == ["undo outer", "undo inner", "undo stubborn"]


async def test_what_a_failed_attempt_leaves_behind_takes_no_more_steps() -> None:
    """Its `finally` runs when the attempt is over, and its durable steps reach no journal."""
    ctx = mock_context()
    log: list[str] = []

    async def handler(ctx: restate.Context) -> None:
        async def waiting() -> None:
            try:
                await ctx.sleep(timedelta(days=1))
            finally:
                log.append(f"finally, attempt over: {ctx.request().attempt_finished_event.is_set()}")
                await ctx.run_typed("cleanup", lambda: log.append("never"))

        async def failing() -> None:
            await ctx.run_typed("a", lambda: 1)
            raise RuntimeError("boom")

        await fan_out(ctx, [waiting, failing])

    with pytest.raises(RuntimeError, match="boom"):
        await ctx.mock.invoke(handler)
    await asyncio.sleep(0.01)
    gc.collect()
    assert log == ["finally, attempt over: True"]


# Handlers that were edited between two attempts.


def edited(second: str) -> Any:
    """A handler that fails its first attempt after the operation `enrich` took two steps, and then is another."""
    attempts: list[int] = []

    async def handler(ctx: restate.Context) -> int:
        attempts.append(1)

        async def steady() -> int:
            return await ctx.run_typed("a", lambda: 1)

        async def enrich() -> int:
            await ctx.run_typed("fetch", lambda: 1)
            if len(attempts) == 1 or second == "same":
                await ctx.run_typed("price", lambda: 1)
            elif second == "renamed":
                await ctx.run_typed("cost", lambda: 1)
            elif second == "other kind":
                await ctx.sleep(timedelta(seconds=1))
            if len(attempts) == 1:
                raise RuntimeError("first attempt")
            return 2

        return sum(await fan_out_fail(ctx, [steady, enrich]))

    return handler


@pytest.mark.parametrize(
    ("second", "step"), [("renamed", "run cost"), ("other kind", "sleep 1 s")], ids=["renamed", "other kind"]
)
async def test_an_edited_operation_is_named_with_its_step_and_both_journals(second: str, step: str) -> None:
    with pytest.raises(JournalMismatch) as caught:
        await mock_context().mock.invoke(edited(second), max_attempts=2)
    message = str(caught.value)
    assert message.startswith("operation 1 (enrich) of fan_out_fail, after 1 of its steps: ")
    assert "recorded" in message and "this run" in message
    assert any(line.startswith(">") and "run price" in line and step in line for line in message.splitlines())


async def test_a_step_that_is_gone_is_shown_with_both_journals() -> None:
    """Nobody asks for it any more, so no operation can be named."""
    with pytest.raises(JournalMismatch, match=r">.*run price"):
        await mock_context().mock.invoke(edited("gone"), max_attempts=2)


async def test_an_operation_that_was_not_edited_goes_on() -> None:
    assert await mock_context().mock.invoke(edited("same"), max_attempts=2) == 3
