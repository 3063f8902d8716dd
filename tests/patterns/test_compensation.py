"""Compensation always runs: operations that others stop for good, and blocks of `compensate`, undo what they did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import restate
from restate import TerminalError

import restate_nb as rnb
from restate_nb.errors import InvalidInput, InvocationFailed
from restate_nb.patterns import (
    CompensationFailed,
    compensate,
    fan_out,
    fan_out_fail,
    group,
    map_concurrent,
    race,
)
from restate_nb.patterns.scheduler import scheduler_of
from restate_nb.session.session import Session
from restate_nb.testing import LocalServer, mock_context, running_server
from tests.support import eventually

service = restate.Service("Compensation")
log: list[str] = []  # what the handlers on a server did


def final(ctx: Any) -> Any:
    """Let any exception end the invocation, as `rnb.call` and `rnb.map` do."""
    scheduler_of(ctx).is_final = lambda error: isinstance(error, Exception)
    return ctx


def charging(ctx: Any, log: list[str], name: str = "charge") -> Callable[[], Any]:
    """An operation that does something, waits, and undoes it when it is stopped."""

    async def charge() -> str:
        await ctx.run_typed(name, lambda: log.append(name))
        try:
            await ctx.sleep(timedelta(days=1))
        except TerminalError as error:
            line = f"refund {name} {error.status_code}"
            await ctx.run_typed("refund", lambda: log.append(line))
            raise
        finally:
            await ctx.run_typed("finally", lambda: log.append(f"finally {name}"))
        return name

    return charge


def raising(ctx: Any, error: BaseException) -> Callable[[], Any]:
    async def bad() -> None:
        await ctx.sleep(timedelta(seconds=1))
        raise error

    return bad


UNDONE = ["charge", "refund charge 409", "finally charge"]


# A plain exception that ends the invocation.


async def test_a_plain_exception_that_is_final_lets_the_others_compensate_and_is_raised() -> None:
    ctx = final(mock_context())
    seen: list[str] = []
    with pytest.raises(ValueError, match="plain"):
        await fan_out_fail(ctx, [charging(ctx, seen), raising(ctx, ValueError("plain"))])
    assert seen == UNDONE
    assert ctx.mock.now == 1


async def test_one_that_is_not_final_ends_the_attempt_and_nobody_compensates() -> None:
    ctx = mock_context()
    seen: list[str] = []
    with pytest.raises(ValueError, match="plain"):
        await fan_out_fail(ctx, [charging(ctx, seen), raising(ctx, ValueError("plain"))])
    assert seen == ["charge"]


@pytest.mark.parametrize("where", ["inside", "outside", "group", "race", "best effort"])
async def test_that_holds_at_every_depth_and_in_every_helper(where: str) -> None:
    ctx = final(mock_context())
    seen: list[str] = []
    charge, bad = charging(ctx, seen), raising(ctx, ValueError("plain"))

    async def grouped() -> None:
        async with group(ctx) as g:
            g.start(charge)
            g.start(bad)
            await ctx.sleep(timedelta(days=1))

    shapes: dict[str, Callable[[], Any]] = {
        "inside": lambda: fan_out(ctx, [charge, lambda: map_concurrent(ctx, [1], lambda _: bad())]),
        "outside": lambda: fan_out(ctx, [bad, lambda: map_concurrent(ctx, [1], lambda _: charge())]),
        "group": grouped,
        "race": lambda: race(ctx, [charge, bad]),
        "best effort": lambda: fan_out(ctx, [charge, bad]),
    }
    with pytest.raises(ValueError, match="plain"):
        await shapes[where]()
    assert seen == UNDONE


async def test_an_exception_in_a_compensation_is_noted_on_the_first_one() -> None:
    ctx = final(mock_context())

    async def clumsy() -> None:
        try:
            await ctx.sleep(timedelta(days=1))
        except TerminalError:
            raise KeyError("lost") from None

    with pytest.raises(ValueError, match="plain") as caught:
        await fan_out(ctx, [clumsy, raising(ctx, ValueError("plain"))])
    assert caught.value.__notes__ == ["While it was stopped, operation 0 (clumsy) of fan_out raised KeyError: 'lost'"]


async def test_misuse_ends_the_invocation_and_lets_the_others_compensate() -> None:
    """It is no operation's outcome, not even of fan_out, and is not tried again: it is a TerminalError."""
    ctx = mock_context()
    seen: list[str] = []

    async def misuse() -> None:
        await ctx.sleep(timedelta(seconds=1))
        await fan_out(ctx, [3])  # type: ignore[arg-type]

    with pytest.raises(InvalidInput) as caught:
        await fan_out(ctx, [charging(ctx, seen), misuse])
    assert isinstance(caught.value, TerminalError)
    assert seen == UNDONE


@pytest.mark.parametrize("by", ["an outer failure", "a cancellation"])
async def test_who_compensates_is_not_disturbed(by: str) -> None:
    """Neither by an operation of an outer helper that fails meanwhile, nor by the invocation's cancellation."""
    seen: list[str] = []

    async def handler(ctx: Any) -> None:
        async def slow_to_undo() -> None:
            try:
                await ctx.sleep(timedelta(days=1))
            finally:
                await ctx.sleep(timedelta(seconds=60))
                await ctx.run_typed("refund", lambda: seen.append("refund"))

        async def late() -> None:
            await ctx.sleep(timedelta(seconds=30))
            raise TerminalError("late")

        async def inner() -> None:
            await fan_out_fail(ctx, [slow_to_undo, raising(ctx, TerminalError("first"))])

        await fan_out_fail(ctx, [inner, late])

    ctx = mock_context()
    if by == "a cancellation":
        ctx.mock.cancel(after=20)
    with pytest.raises(TerminalError, match="late" if by == "an outer failure" else "cancelled"):
        await ctx.mock.invoke(handler)
    assert (seen, ctx.mock.now) == (["refund"], 61)


# compensate.


async def test_a_block_that_fails_is_undone_from_its_last_step_on() -> None:
    ctx = mock_context()
    seen: list[str] = []

    async def undo_step(name: str) -> None:
        await ctx.run_typed(f"undo {name}", lambda: seen.append(f"undo {name}"))

    async def trip(fails: bool) -> str:
        async with compensate(ctx) as undo:
            for name in ("flight", "hotel"):
                await ctx.run_typed(name, lambda: None)
                undo(undo_step, name)
            undo(seen.append, "a plain function")
            if fails:
                raise TerminalError("no car", 404)
        return "booked"

    assert await trip(False) == "booked"
    assert seen == []
    with pytest.raises(TerminalError, match=r"^no car$"):
        await trip(True)
    assert seen == ["a plain function", "undo hotel", "undo flight"]
    with pytest.raises(InvalidInput, match="undo takes a function and its arguments"):
        async with compensate(ctx) as undo:
            undo(3)  # type: ignore[arg-type]


async def test_each_step_is_undone_whatever_becomes_of_the_others() -> None:
    ctx = mock_context()
    seen: list[str] = []

    async def refund() -> None:
        raise TerminalError("the bank is closed")

    with pytest.raises(CompensationFailed) as caught:
        async with compensate(ctx) as undo:
            undo(seen.append, "first")
            undo(refund)
            raise TerminalError("no car", 404)
    error = caught.value
    assert str(error) == "no car; and it could not be undone: refund: the bank is closed"
    assert (error.status_code, str(error.cause), len(error.failures)) == (404, "no car", 1)
    assert seen == ["first"]


async def test_a_plain_exception_is_undone_only_where_it_is_final() -> None:
    seen: list[str] = []

    async def handler(ctx: Any) -> None:
        async with compensate(ctx) as undo:
            undo(seen.append, "undone")
            raise ValueError("plain")

    for ctx, expected in ((mock_context(), []), (final(mock_context()), ["undone"])):
        with pytest.raises(ValueError, match="plain"):
            await handler(ctx)
        assert seen == expected


async def test_a_cancellation_is_undone_and_one_that_comes_then_does_not_disturb() -> None:
    ctx = mock_context()
    seen: list[str] = []

    async def handler(ctx: Any) -> None:
        async def refund() -> None:
            await ctx.sleep(timedelta(seconds=60))
            await ctx.run_typed("refund", lambda: seen.append("refund"))

        async with compensate(ctx) as undo:
            undo(refund)
            undo(refund)
            raise TerminalError("no stock")

    ctx.mock.cancel(after=20)
    with pytest.raises(TerminalError, match="no stock"):
        await ctx.mock.invoke(handler)
    assert (seen, ctx.mock.now) == (["refund", "refund"], 120)


# On the real server.


@service.handler()
async def saga(ctx: restate.Context, name: str) -> None:
    async def undo_step(step: str) -> None:
        await ctx.run_typed(f"undo {step}", lambda: log.append(f"{name} undoes {step}"))

    async def book(step: str) -> None:
        async with compensate(ctx) as undo:
            await ctx.run_typed(step, lambda: None)
            undo(undo_step, step)
            await ctx.sleep(timedelta(milliseconds=20))
            if step == "car":
                raise TerminalError("no car", 404)
            await ctx.sleep(timedelta(days=1))

    async with group(ctx) as g:
        for step in ("flight", "hotel", "car"):
            g.start(book, step)


@service.handler()
async def misused(ctx: restate.Context, name: str) -> None:
    async def operation() -> None:
        await fan_out(ctx, [3])  # type: ignore[arg-type]

    await fan_out(ctx, [operation, charging(ctx, log, name)])


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "always_replay"])
def server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    with running_server(service, always_replay=request.param) as running:
        yield running


async def test_a_saga_of_operations_is_undone_on_the_server(
    server: LocalServer, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    with pytest.raises(InvocationFailed, match=r"operation 2 \(book, 'car'\) failed: no car") as caught:
        await server.call(saga, name)
    assert caught.value.code == 404
    assert {line for line in log if line.startswith(name)} == {
        f"{name} undoes {step}" for step in ("flight", "hotel", "car")
    }


async def test_misuse_ends_an_invocation_on_the_server_instead_of_being_tried_for_ever(
    server: LocalServer, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    with pytest.raises(InvocationFailed, match="Operation 0 of fan_out is 3") as caught:
        await server.call(misused, name)
    assert caught.value.code == 400
    assert [line for line in log if name in line] in ([], [name, f"refund {name} 409", f"finally {name}"])


# Durable functions.


@pytest.mark.parametrize("error", [ValueError("plain"), SystemExit(3), TerminalError("terminal")], ids=repr)
def test_a_durable_function_that_fails_compensates_first(session: Session, error: BaseException) -> None:
    seen: list[str] = []

    async def order(ctx: restate.Context, item: int) -> None:
        async def bad() -> None:
            await ctx.sleep(timedelta(milliseconds=50))
            raise error

        await fan_out_fail(ctx, [charging(ctx, seen), bad])

    with pytest.raises(InvocationFailed, match=type(error).__name__.replace("TerminalError", "terminal")):
        rnb.call(order, 1, session=session)
    assert seen == UNDONE
    seen.clear()
    job = rnb.map(order, [1], name="compensates", fresh=True, show=False, session=session)
    assert list(job.result()["status"]) == ["error"]
    assert seen == UNDONE


def test_it_compensates_only_once_no_attempt_is_left(session: Session) -> None:
    seen: list[str] = []
    tries: list[int] = []

    async def order(ctx: restate.Context, item: int) -> None:
        async def bad() -> None:
            await ctx.sleep(timedelta(milliseconds=50))
            tries.append(len(seen))
            raise ValueError("plain")

        await fan_out_fail(ctx, [charging(ctx, seen), bad])

    retry = rnb.Retry(max_attempts=3, initial_interval=0.01)
    job = rnb.map(order, [1], retry=retry, name="retried", fresh=True, show=False, session=session)
    assert list(job.result()["status"]) == ["error"]
    assert tries == [1, 1, 1], "only the charge was done before, in each attempt"
    assert seen == UNDONE


def test_a_cancelled_durable_function_compensates(session: Session) -> None:
    seen: list[str] = []

    async def order(ctx: restate.Context, item: int) -> None:
        await fan_out(ctx, [charging(ctx, seen)])

    job = rnb.map(order, [1], name="cancelled", fresh=True, show=False, session=session)
    eventually(lambda: seen == ["charge"])
    job.cancel()
    assert list(job.result()["status"]) == ["cancelled"]
    assert seen == UNDONE
