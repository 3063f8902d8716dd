"""The helpers on the real restate-server: a randomised stress, cancellation, edits."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import restate
from restate import TerminalError

from restate_nb.errors import InvocationFailed
from restate_nb.patterns import OperationFailed, fan_out, fan_out_fail, map_concurrent
from restate_nb.testing import LocalServer, running_server
from tests.patterns.kill_server import stress
from tests.patterns.stress_program import attempts, crashes, echo_service, program_service

ROOT = Path(__file__).parents[2]
service = restate.Service("OnServer")
log: list[str] = []  # what the handlers below did


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "always_replay"])
def server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    with running_server(service, echo_service, program_service, always_replay=request.param) as running:
        yield running


@pytest.fixture
def sdk_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="restate")
    return caplog


def assert_no_mismatch(server: LocalServer, sdk_log: pytest.LogCaptureFixture) -> None:
    """Neither log knows of a journal mismatch."""
    for text in (server.log(), sdk_log.text):
        assert "RT0016" not in text and "(570)" not in text and "Journal mismatch" not in text


async def test_random_programs_equal_the_oracle(server: LocalServer, sdk_log: pytest.LogCaptureFixture) -> None:
    """75 programs in each mode, with forced failures: the results are the oracle's, and no journal mismatches."""
    before = sum(crashes.values())
    await stress(server, range(75), "ci-")
    assert sum(attempts.values()) > 75, "failures were forced"
    assert sum(crashes.values()) > before
    crashes.clear()
    assert_no_mismatch(server, sdk_log)


@pytest.mark.soak
async def test_random_programs_equal_the_oracle_for_long(
    server: LocalServer, sdk_log: pytest.LogCaptureFixture
) -> None:
    """pytest -m soak tests/patterns; STRESS_SEED and STRESS_COUNT repeat a run."""
    start = int(os.environ.get("STRESS_SEED", random.randrange(10**9)))
    count = int(os.environ.get("STRESS_COUNT", "400"))
    print(f"STRESS_SEED={start} STRESS_COUNT={count}")
    await stress(server, range(start, start + count), "soak-")
    crashes.clear()
    assert_no_mismatch(server, sdk_log)


async def test_programs_survive_kills_of_the_server() -> None:
    """40 programs, three kills: every one ends with the oracle's result.

    In a process of its own: hypercorn leaves coroutines of the cut connections behind, which Python warns of late.
    """
    command = [sys.executable, "-m", "tests.patterns.kill_server"]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "40 programs are right" in done.stdout


# Cancellation, failing fast.


@service.handler()
async def wait_side_by_side(ctx: restate.Context, name: str) -> None:
    async def operation(n: int) -> None:
        try:
            await ctx.run_typed("begin", lambda: log.append(f"{name} begins {n}"))
            await ctx.sleep(timedelta(days=1))
        except TerminalError as error:
            line = f"{name} undoes {n} after {error.status_code}"
            await ctx.run_typed("undo", lambda: log.append(line))
            raise

    await fan_out(ctx, [lambda: operation(0), lambda: map_concurrent(ctx, [1, 2], operation)])


async def test_cancellation_reaches_every_operation(server: LocalServer, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    invocation = await server.send(wait_side_by_side, name)
    while sum(line.startswith(f"{name} begins") for line in log) < 3:
        await asyncio.sleep(0.01)
    await server.cancel(invocation)
    with pytest.raises(InvocationFailed) as caught:
        await server.result(invocation)
    assert caught.value.code == 409
    undone = {line for line in log if line.startswith(f"{name} undoes")}
    assert undone == {f"{name} undoes {n} after 409" for n in range(3)}


@service.handler()
async def endless(ctx: restate.Context, name: str) -> None:
    await ctx.sleep(timedelta(days=1))


@service.handler()
async def fail_beside_calls(ctx: restate.Context, name: str) -> str:
    async def failing() -> None:
        await ctx.sleep(timedelta(milliseconds=100))
        raise TerminalError("no", 418)

    try:
        await fan_out_fail(ctx, [lambda: ctx.service_call(endless, name), failing])
    except OperationFailed as error:
        return f"{error.index} {error.status_code}"
    return "no failure"


async def test_the_first_failure_cancels_calls_in_flight(server: LocalServer, request: pytest.FixtureRequest) -> None:
    assert await server.call(fail_beside_calls, request.node.name) == "1 418"
    for _ in range(200):
        rows = await server.query(
            "select status, completion_result from sys_invocation where target_handler_name = 'endless'"
        )
        if rows and all(row["status"] == "completed" for row in rows):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(rows)


@service.handler()
async def many(ctx: restate.Context, count: int) -> int:
    async def one() -> int:
        return 1

    return sum(await map_concurrent(ctx, range(count), lambda _: ctx.run_typed("step", one)))


async def test_two_thousand_operations_just_work(sdk_log: pytest.LogCaptureFixture) -> None:
    with running_server(service) as server:
        assert await server.call(many, 2000) == 2000
        assert_no_mismatch(server, sdk_log)


# Edited between two attempts.

_edits: dict[str, int] = {}


@service.handler()
async def edited(ctx: restate.Context, name: str) -> int:
    _edits[name] = _edits.get(name, 0) + 1
    first = _edits[name] == 1

    async def enrich() -> int:
        await ctx.run_typed("fetch", lambda: 1)
        await ctx.run_typed("price" if first else "cost", lambda: 1)
        if first:
            raise RuntimeError("first attempt")
        return 1

    return (await fan_out(ctx, [lambda: 1, enrich])).success


async def test_an_edited_operation_is_named_in_the_log_and_its_step_by_the_server(
    sdk_log: pytest.LogCaptureFixture,
) -> None:
    """The native core tells the server of the step before Python knows of the error; the operation is in our log."""
    with running_server(service) as server:
        invocation = await server.send(edited, "once")
        for _ in range(300):
            if "JournalMismatch" in sdk_log.text:
                break
            await asyncio.sleep(0.02)
        assert (
            "JournalMismatch: operation 1 (enrich) of fan_out, after 1 of its steps: its 'run' (entry 2) is another "
            "one than in the journal, where the first is recorded: name: price != cost. Either its code was changed"
        ) in sdk_log.text
        rows: list[dict[str, Any]] = []
        while not (rows and rows[0].get("last_failure")):
            rows = await server.query(f"select last_failure from sys_invocation where id = '{invocation}'")
        assert "name: price != cost" in rows[0]["last_failure"]
