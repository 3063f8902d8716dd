"""Stress on the real server; run as a script, with kills of the server meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from restate_nb.server.http import Unreachable
from restate_nb.testing import LocalServer, running_server
from tests.patterns.stress_program import echo_service, expected, make_program, program_service


async def stress(server: LocalServer, seeds: range, name: str, *, together: int = 12) -> None:
    """Run programs on the server, some at a time, and compare each with the oracle."""
    places = asyncio.Semaphore(together)

    async def one(seed: int) -> str | None:
        program = make_program(seed)
        async with places:
            invocation = await submit(server, program, f"{name}{seed}")
            async with asyncio.timeout(120):
                got = await server.result(invocation)
        return None if got == expected(program) else f"seed {seed}: got {got}, expected {expected(program)}"

    wrong = [answer for answer in await asyncio.gather(*(one(seed) for seed in seeds)) if answer]
    assert not wrong, "\n".join(wrong)


async def submit(server: LocalServer, program: object, key: str) -> str:
    """Submit a program. A kill may come before the answer; a workflow is the same one when it is submitted again."""
    while True:
        with contextlib.suppress(Unreachable):
            return await server.send("StressProgram/run_program", program, key=key)


async def main() -> None:
    with running_server(echo_service, program_service) as server:

        async def kill() -> None:
            for _ in range(3):
                await asyncio.sleep(0.4)
                if (pid := server.handle.pid) is not None:
                    os.kill(pid, signal.SIGKILL)

        killer = asyncio.create_task(kill())
        await stress(server, range(2000, 2040), "kill-")
        await killer
        assert "RT0016" not in server.log()
    print("40 programs are right")


if __name__ == "__main__":
    asyncio.run(main())
