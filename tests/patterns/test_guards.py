"""What the helpers find out for their users: mistakes that pass unseen elsewhere, and limits that are not theirs."""

# ruff: noqa: B023 - functions that do not bind the loop's variable are what this is about

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
import restate
from restate.logging import getLogger

import restate_nb as rnb
from restate_nb.errors import InvalidInput, NotDurable
from restate_nb.patterns import fan_out, fan_out_fail, group, map_concurrent
from restate_nb.patterns.mismatch import mismatch_of
from restate_nb.session.session import Session
from restate_nb.testing import LocalServer, mock_context, running_server

service = restate.Service("Guards")
lines: list[str] = []  # what the handlers logged

logger = getLogger("tests.guards")


class Keeping(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        lines.append(record.getMessage())


# Libraries on anyio.


async def test_libraries_on_anyio_are_refused_as_others_are() -> None:
    """Two at once: their cancel scopes lie across each other in the one task that runs both."""
    ctx = mock_context()

    async def by_checkpoint(n: int) -> None:
        with anyio.CancelScope():
            await anyio.lowlevel.checkpoint()

    async def by_lock(n: int) -> None:
        async with anyio.Lock():
            pass

    async def by_timeout(n: int) -> None:
        with anyio.fail_after(5):
            await anyio.sleep(1)

    for operation in (by_checkpoint, by_lock, by_timeout):
        with pytest.raises(NotDurable, match=rf"operation 0 \({operation.__name__}, 0\) of map_concurrent") as caught:
            await map_concurrent(ctx, range(2), operation)
        assert "right: await ctx.run_typed" in str(caught.value)


async def test_httpx_is_refused_with_the_right_code() -> None:
    ctx = mock_context()

    async def fetch(n: int) -> int:
        async with httpx.AsyncClient() as client:
            return (await client.get("http://127.0.0.1:9/")).status_code

    with pytest.raises(NotDurable, match=r"right: await ctx\.run_typed"):
        await map_concurrent(ctx, range(3), fetch)


# Functions made in a loop.


def made_elsewhere(ctx: Any, items: list[str]) -> list[Callable[[], Any]]:
    return [lambda: ctx.run_typed(item, lambda: item) for item in items]


def _loop_variable(ctx: Any, items: list[str]) -> Any:
    return [lambda: ctx.run_typed("a", lambda: item) for item in items]


def _append(ctx: Any, items: list[str]) -> Any:
    made = []
    for _, item in enumerate(items):
        made.append(lambda: item)
    return made


def _set_in_the_body(ctx: Any, items: list[str]) -> Any:
    made = []
    for n in range(len(items)):
        item = items[n]

        async def operation() -> str:
            return item

        made.append(operation)
    return made


def _generator(ctx: Any, items: list[str]) -> Any:
    return (lambda: item for item in items)


def _while_loop(ctx: Any, items: list[str]) -> Any:
    made, left = [], list(items)
    while left:
        item = left.pop()
        made.append(lambda: item)
    return made


@pytest.mark.parametrize(
    "make",
    [_loop_variable, _append, _set_in_the_body, _generator, _while_loop, made_elsewhere],
    ids=lambda f: f.__name__,
)
async def test_functions_that_all_see_the_last_item_are_refused(make: Any) -> None:
    ctx = mock_context()
    with pytest.raises(InvalidInput, match="Operations 0 and 1 of fan_out use the variable 'item' of the loop"):
        await fan_out(ctx, make(ctx, ["a", "b", "c"]))


async def test_that_is_found_in_a_group_too_unless_the_first_has_ended() -> None:
    ctx = mock_context()
    with pytest.raises(InvalidInput, match="Operations 0 and 1 of group use the variable 'item'"):
        async with group(ctx) as g:
            for item in "ab":
                g.start(lambda: ctx.run_typed("a", lambda: item))
    got = []
    async with group(ctx) as g:
        for item in "ab":
            got.append(await g.start(lambda: ctx.run_typed("a", lambda: item)))
    assert got == ["a", "b"]


async def test_functions_that_share_what_no_loop_sets_are_fine() -> None:
    ctx = mock_context()
    batches, total = [["a", "b"], ["c"]], 0

    async def one(item: str) -> str:
        return item

    def same() -> int:
        return 1

    assert (await fan_out(ctx, [lambda item=item: one(item) for item in "ab"])).results == ["a", "b"]
    assert (await fan_out(ctx, [partial(one, item) for item in "ab"])).results == ["a", "b"]
    assert (await fan_out(ctx, [lambda: ctx.run_typed("a", same) for _ in range(3)])).results == [1, 1, 1]
    assert (await fan_out(ctx, [same] * 3)).results == [1, 1, 1]
    for batch in batches:
        total += sum((await fan_out(ctx, [lambda: len(batch) for _ in range(2)])).values())
    assert total == 6


async def test_a_function_that_needs_arguments_is_refused_and_its_own_type_errors_are_not() -> None:
    ctx = mock_context()

    async def fetch(item: str) -> str:
        return item

    def wrong() -> int:
        return len(5)  # type: ignore[arg-type]

    with pytest.raises(
        InvalidInput, match=r"operation 1 \(fetch\) of fan_out cannot be called: missing a required arg"
    ):
        await fan_out(ctx, [lambda: 1, fetch])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="has no len") as caught:
        await fan_out(ctx, [wrong])
    assert not isinstance(caught.value, InvalidInput)


# The SDK's logger.


@service.handler()
async def logs(ctx: restate.Context, name: str) -> None:
    async def operation(n: int) -> None:
        await ctx.sleep(timedelta(milliseconds=10))
        logger.info(f"{name} first {n}")
        await ctx.sleep(timedelta(milliseconds=10))
        logger.info(f"{name} second {n}")

    await ctx.sleep(timedelta(milliseconds=10))
    await map_concurrent(ctx, range(3), operation)
    logger.info(f"{name} after")
    async with group(ctx) as g:
        handle = g.start(operation, 3)
        await ctx.sleep(timedelta(milliseconds=1))
        logger.info(f"{name} block")
        await handle
        logger.info(f"{name} handle")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "always_replay"])
def server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    with running_server(service, always_replay=request.param) as running:
        yield running


async def test_the_replay_aware_logger_loses_no_line(server: LocalServer, request: pytest.FixtureRequest) -> None:
    """A replay may repeat a line that stands before a wait for others, and never drops one."""
    handler, name = Keeping(), request.node.name
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        await server.call(logs, name)
    finally:
        logger.removeHandler(handler)
    seen = Counter(line.removeprefix(name + " ") for line in lines if line.startswith(name))
    expected = {f"{which} {n}" for which in ("first", "second") for n in range(4)} | {"after", "block", "handle"}
    assert set(seen) == expected
    if "always_replay" not in name:
        assert set(seen.values()) == {1}


# Plain functions as actions.


class Crowd:
    """Counts how many are in it at once, and lets none out before `wanted` are in, or a while is over."""

    def __init__(self, wanted: int) -> None:
        self._condition = threading.Condition()
        self._wanted, self._inside, self.peak = wanted, 0, 0

    def visit(self) -> int:
        with self._condition:
            self._inside += 1
            self.peak = max(self.peak, self._inside)
            self._condition.notify_all()
            self._condition.wait_for(lambda: self.peak >= self._wanted, 20)
        time.sleep(0.01)
        with self._condition:
            self._inside -= 1
        return 1


crowds: dict[str, Crowd] = {}


@service.handler()
async def crowded(ctx: restate.Context, arg: dict[str, Any]) -> int:
    visit = crowds[arg["name"]].visit
    return sum(await map_concurrent(ctx, range(60), lambda _: ctx.run_typed("v", visit), max_concurrent=arg["window"]))


@pytest.mark.parametrize("window", [3, 48])
async def test_as_many_plain_actions_run_at_once_as_operations(server: LocalServer, window: int) -> None:
    """More than the threads that asyncio shares: min(32, cpus + 4)."""
    crowd = crowds[f"of {window}"] = Crowd(window)
    assert await server.call(crowded, {"name": f"of {window}", "window": window}) == 60
    assert crowd.peak == window


def test_that_holds_in_a_durable_function(session: Session) -> None:
    crowd = Crowd(48)

    async def fn(ctx: restate.Context, count: int) -> int:
        return sum(
            await map_concurrent(ctx, range(count), lambda _: ctx.run_typed("v", crowd.visit), max_concurrent=48)
        )

    assert rnb.call(fn, 60, session=session) == 60
    assert crowd.peak == 48


@pytest.mark.parametrize("error", [StopIteration("end"), SystemExit(3), ValueError("plain")], ids=repr)
def test_what_a_plain_action_raises_is_its_steps_error(session: Session, error: BaseException) -> None:
    def action() -> int:
        raise error

    async def fn(ctx: restate.Context, item: int) -> str:
        step = restate.RunOptions[int](max_attempts=1)
        (outcome,) = await fan_out(ctx, [lambda: ctx.run_typed("a", action, step)])
        return str(outcome.error)

    assert type(error).__name__ in rnb.call(fn, 1, session=session)


async def test_actions_are_as_they_were_after_the_operations() -> None:
    ctx = mock_context()
    seen: list[str] = []

    def action() -> int:
        seen.append(threading.current_thread().name)
        return 1

    await fan_out_fail(ctx, [lambda: ctx.run_typed("a", action)])
    await ctx.run_typed("b", action)
    assert seen[0].startswith("ctx.run") and seen[1].startswith("asyncio_")


# What the native core says.

_FOUND = (
    "(570) Found a mismatch between the code paths taken during the previous execution and the paths taken during this "
    "execution.\nThis typically happens when some parts of the code are non-deterministic.\n"
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            " - The previous execution ran and recorded the following: 'run' (index '2')\n - The current execution "
            "attempts to perform the following: 'sleep'\nRelated command: sleep [2]",
            "the journal has a 'run' there (entry 2), and the code now asks for a 'sleep'. Either its code",
        ),
        (
            "- The mismatch happened while executing 'call' (index '1')\n- Difference:\n   parameter: '1' != '2'\n"
            "   key: 'x' != 'y'\nRelated command: call [1]",
            "its 'call' (entry 1) is another one than in the journal, where the first is recorded: parameter: "
            "'1' != '2'; key: 'x' != 'y'. Either its code",
        ),
        ("something that is not known yet", "(570) Found a mismatch"),
    ],
    ids=["another kind", "another value", "unknown"],
)
def test_a_mismatch_is_told_as_a_sentence_that_names_the_operation(text: str, told: str) -> None:
    """The native core's texts, as they came from restate-sdk 1.3."""
    cause = RuntimeError(_FOUND + text)
    error = mismatch_of("operation 1 (enrich) of fan_out", 3, cause)
    assert str(error).startswith(f"operation 1 (enrich) of fan_out, after 3 of its steps: {told}")
    assert "(570)" in str(error) and error.__cause__ is cause
