"""Deployments are registered and moved, invocations are steered, SQL is quoted; and only our server reaches us."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import restate
from aiohttp import web
from aiohttp.test_utils import TestServer

from restate_nb.errors import InvocationFailed
from restate_nb.server.address import Address
from restate_nb.server.admin import AT_ONCE, Admin, order_all, sql_literal
from restate_nb.server.http import Rejected, UnknownInvocation
from restate_nb.server.identity import base58
from restate_nb.server.ingress import Ingress
from restate_nb.server.lifecycle import ServerHandle, start_server
from tests.server.serverlab import endpoint

DAY = timedelta(days=1)
NEVER = restate.InvocationRetryPolicy(initial_interval=timedelta(hours=1))


def service(name: str, **answers: str) -> restate.Service:
    """A service whose handlers give fixed answers, or raise where the answer is empty."""
    made = restate.Service(name, idempotency_retention=DAY, journal_retention=DAY, invocation_retry_policy=NEVER)

    def add(handler: str, answer: str) -> None:
        @made.handler(handler)
        async def run(ctx: restate.Context, _: str) -> str:
            if not answer:
                raise ConnectionError("not today")
            return answer

    for handler, answer in answers.items():
        add(handler, answer)
    return made


def sleeper(name: str) -> restate.Service:
    """A service that sleeps durably for the seconds it is given."""
    made = restate.Service(
        name, idempotency_retention=DAY, journal_retention=DAY, inactivity_timeout=timedelta(milliseconds=50)
    )

    @made.handler()
    async def sleep(ctx: restate.Context, seconds: float) -> str:
        await ctx.sleep(timedelta(seconds=seconds))
        return "slept"

    return made


@pytest.fixture
async def admin(server: ServerHandle) -> AsyncIterator[Admin]:
    async with Admin(server.admin) as client:
        yield client


@pytest.fixture
async def ingress(server: ServerHandle) -> AsyncIterator[Ingress]:
    async with Ingress(server.ingress) as client:
        yield client


async def status_of(admin: Admin, invocation: str) -> str:
    row = await admin.invocation(invocation)
    return "unknown" if row is None else str(row["status"])


async def until(admin: Admin, invocation: str, *statuses: str) -> None:
    async with asyncio.timeout(10):
        while await status_of(admin, invocation) not in statuses:
            await asyncio.sleep(0.01)


# -- deployments


async def test_a_service_moves_with_its_endpoint(admin: Admin, ingress: Ingress) -> None:
    """Pointing again keeps the deployment, follows the endpoint, and takes up changed handlers at the old url too."""
    async with endpoint(service("Moving", a="1", b="2")) as first:
        deployment = await admin.point(["Moving"], first)
        assert await ingress.call("Moving", "a", b'""') == b'"1"'
    port = int(first.rpartition(":")[2])
    async with endpoint(service("Moving", a="changed", c="3")) as second:
        assert await admin.point(["Moving"], second) == deployment
        assert await ingress.call("Moving", "a", b'""') == b'"changed"'
        assert await ingress.call("Moving", "c", b'""') == b'"3"'
        with pytest.raises(Rejected, match="handler 'b' was not found"):
            await ingress.call("Moving", "b", b'""')
    async with endpoint(service("Moving", d="4"), port=port) as third:
        assert third == first
        assert await admin.point(["Moving"], third) == deployment
        assert await ingress.call("Moving", "d", b'""') == b'"4"'
        assert await admin.point(["Moving"], third) == deployment  # nothing changed: no harm
    async with endpoint(service("Moving", d="4"), service("Added", e="5")) as fourth:
        assert await admin.point(["Moving", "Added"], fourth) == deployment
        assert await ingress.call("Added", "e", b'""') == b'"5"'


async def test_a_reused_port_is_not_taken_for_the_deployment_that_had_it(
    server: ServerHandle, admin: Admin, ingress: Ingress
) -> None:
    """A session whose port belonged to a dead one gets a deployment of its own, and the dead one's stays as it was."""
    async with endpoint(service("Dead", a="dead")) as url:
        dead = await admin.point(["Dead"], url)
    port = int(url.rpartition(":")[2])
    async with endpoint(service("Heir", a="heir"), keys=[server.identity_key], port=port) as same:
        assert same == url
        heir = await admin.point(["Heir"], same)
        assert heir != dead
        assert await ingress.call("Heir", "a", b'""') == b'"heir"'
        assert await admin.point(["Heir"], same) == heir
        names = {d["id"]: [s["name"] for s in d["services"]] for d in await admin.deployments()}
        assert names[dead] == ["Dead"] and names[heir] == ["Heir"]
    async with endpoint(service("Dead", a="back")) as url:
        assert await admin.point(["Dead"], url) == dead
        assert await ingress.call("Dead", "a", b'""') == b'"back"'


async def test_an_endpoint_that_does_not_answer_is_refused(admin: Admin) -> None:
    """Registering what is not there gives the server's reason."""
    with pytest.raises(Rejected, match="Connection refused"):
        await admin.point(["Absent"], "http://127.0.0.1:1")


async def test_unfinished_invocations_go_on_at_the_new_endpoint(admin: Admin, ingress: Ingress) -> None:
    """Those that wait an hour for their next attempt, or are paused, go on at once; those asleep need no help."""
    async with endpoint(service("Stuck", a=""), sleeper("Asleep")) as url:
        deployment = await admin.point(["Stuck", "Asleep"], url)
        for number in range(60):
            await ingress.send("Stuck", "a", b'""', idempotency_key=f"{number}")
        paused = await ingress.send("Stuck", "a", b'""', idempotency_key="paused")
        asleep = await ingress.send("Asleep", "sleep", b"1.5", idempotency_key="asleep")
        await until(admin, paused, "backing-off")
        await admin.pause(paused)
        await until(admin, paused, "paused")
        await until(admin, asleep, "suspended")
        async with asyncio.timeout(10):
            while await admin.query("SELECT id FROM sys_invocation WHERE status = 'running'"):
                await asyncio.sleep(0.01)
    async with endpoint(service("Stuck", a="done"), sleeper("Asleep")) as url:
        assert await admin.point(["Stuck", "Asleep"], url) == deployment
        assert await admin.resume_stuck(deployment, paused=False) == 60
        async with asyncio.timeout(10):
            for number in range(60):
                assert await ingress.attach("Stuck", "a", f"{number}") == b'"done"'
        assert await status_of(admin, paused) == "paused"
        assert await admin.resume_stuck(deployment) == 1
        async with asyncio.timeout(10):
            assert await ingress.attach("Stuck", "a", "paused") == b'"done"'
            assert await ingress.attach_id(asleep) == b'"slept"'
        assert await admin.resume_stuck(deployment) == 0


# -- invocations


async def test_invocations_are_steered(admin: Admin, ingress: Ingress) -> None:
    """cancel, kill, pause, resume and purge do what they say, and say whether there was something to do."""
    async with endpoint(sleeper("Steered")) as url:
        await admin.point(["Steered"], url)
        names = ("cancelled", "killed")
        ids = {name: await ingress.send("Steered", "sleep", b"60", idempotency_key=name) for name in names}
        for invocation in ids.values():
            await until(admin, invocation, "suspended")
        assert await admin.cancel(ids["cancelled"]) and await admin.kill(ids["killed"])
        for name in names:
            with pytest.raises(InvocationFailed) as caught:
                await ingress.attach("Steered", "sleep", name)
            assert caught.value.code == 409
            for order in (admin.cancel, admin.kill, admin.pause, admin.resume):
                assert not await order(ids[name])
            assert await admin.purge(ids[name])
            assert await admin.invocation(ids[name]) is None
            for order in (admin.cancel, admin.kill, admin.pause, admin.resume, admin.purge):
                with pytest.raises(UnknownInvocation):
                    await order(ids[name])
    with pytest.raises(UnknownInvocation, match="inv_nonsense"):
        await admin.kill("inv_nonsense")


async def test_many_invocations_are_cancelled_and_the_unknown_are_passed_over(admin: Admin, ingress: Ingress) -> None:
    """More than are cancelled side by side: all of them end, and only those that had not ended are counted."""
    async with endpoint(sleeper("Many")) as url:
        await admin.point(["Many"], url)
        ids = [await ingress.send("Many", "sleep", b"60", idempotency_key=f"{number}") for number in range(AT_ONCE + 5)]
        await until(admin, ids[-1], "suspended")
        assert await admin.cancel_all([*ids, "inv_nonsense"]) == len(ids)
        for number in range(len(ids)):
            with pytest.raises(InvocationFailed):
                await ingress.attach("Many", "sleep", f"{number}")
        assert await order_all(admin.kill, ids) == 0
        assert await admin.cancel_all([]) == 0


# -- SQL


async def test_any_text_survives_sql(admin: Admin) -> None:
    """Seeded texts full of quotes, backslashes and comments come back as they were, and never as SQL."""
    rng = random.Random(5)
    texts = ["", "it's", "'; DROP TABLE state; --", "\\'", "\\", "日本", "\n\t\0?$1:x{}%"]
    texts += ["".join(rng.choices("'\"\\;-$?ü ab", k=8)) for _ in range(20)]
    columns = ", ".join(f"{sql_literal(text)} AS c{number}" for number, text in enumerate(texts))
    (row,) = await admin.query(f"SELECT {columns}")
    assert [row[f"c{number}"] for number in range(len(texts))] == texts
    (row,) = await admin.query(f"SELECT {sql_literal(3)} AS i, {sql_literal(True)} AS b, {sql_literal(None)} AS n")
    assert (row["i"], row["b"], row.get("n")) == (3, True, None)
    for wrong in (float("nan"), float("inf"), b"x", ["x"]):
        with pytest.raises(TypeError):
            sql_literal(wrong)  # type: ignore[arg-type]


async def test_a_wrong_query_is_refused_at_once(admin: Admin) -> None:
    """A query with a mistake is an error with the server's words, and is not repeated."""
    began = time.monotonic()
    for query, words in (("SELEC", "SQL error"), ("SELECT * FROM nowhere", "'restate.public.nowhere' not found")):
        with pytest.raises(Rejected, match=words):
            await admin.query(query)
    assert time.monotonic() - began < 1


async def test_a_query_right_after_a_restart_is_answered(data_dir: Path) -> None:
    """Right after its start the server answers 500 to queries; the client tries again until it knows."""
    with start_server(data_dir) as handle:
        async with Admin(handle.admin) as admin:
            for _ in range(3):
                assert await admin.query("SELECT count(*) AS n FROM sys_invocation") == [{"n": 0}]
                assert handle.pid is not None
                os.kill(handle.pid, signal.SIGKILL)
            assert await admin.version() == handle.version


PASSING = [
    (500, "Internal error: No such scanner. It could have expired due to a long period of inactivity."),
    (500, "Internal error: Unable to open a remote scanner.\nThis issue was likely caused by a bug."),
    (500, "Internal error: Failed to locate target nodes: none is alive"),
    (500, "External error: remote scanner 3 connection lost to N2:1"),
    (500, "Internal error: External error: partition 1 doesn't exist on this node, this is benign"),
    (500, "External error: node lookup for partition 2 failed"),
    (429, "Rate limited"),
    (503, "Query service is not available"),
]
LASTING = [
    (400, "SQL error: ParserError"),
    (500, "Arrow error: Divide by zero error"),
    (500, "Execution error: the scanner of a timestamp found none"),
    (500, "Internal error: type mismatch in binary expression.\nThis is a bug; mention the connection in your report"),
    (500, "Resources exhausted: Failed to allocate"),
]
"""As the server words them (crates/storage-query-datafusion)."""


@asynccontextmanager
async def answering(*answers: tuple[int, str]) -> AsyncIterator[tuple[Admin, Iterator[tuple[int, str]]]]:
    """An admin whose server gives these answers to queries, each once, and then rows; and what it has not given."""
    left = iter(answers)

    async def query(_: web.Request) -> web.Response:
        status, says = next(left, (200, ""))
        if status == 200:
            return web.json_response({"rows": [{"n": 0}]})
        return web.json_response({"message": f"Datafusion error: {says}"}, status=status)

    app = web.Application()
    app.router.add_post("/query", query)
    async with TestServer(app) as server, Admin(Address(str(server.make_url("/"))), patience=10) as admin:
        yield admin, left


async def test_what_passes_when_a_cluster_changes_is_asked_again() -> None:
    """A node or a partition that is not there for the moment: the query is repeated until it is answered."""
    async with answering(*PASSING) as (admin, left):
        assert await admin.query("SELECT 1") == [{"n": 0}]
        assert not list(left)


@pytest.mark.parametrize("answer", LASTING, ids=lambda answer: answer[1][:20])
async def test_what_is_wrong_with_a_query_itself_is_refused_at_the_first_answer(answer: tuple[int, str]) -> None:
    """Errors of the query, or of the engine over it: asking again would not help."""
    async with answering(answer, answer) as (admin, left):
        with pytest.raises(Rejected):
            await admin.query("SELECT 1")
        assert len(list(left)) == 1


# -- request identity


def test_base58_is_that_of_bitcoin() -> None:
    """Known pairs, leading zeros included."""
    known = {b"": "", b"\0": "1", b"\0\0\x01": "112", b"Hello World!": "2NEpo7TZRRrLZSi2U"}
    assert {data: base58(data) for data in known} == known


async def test_only_our_server_reaches_the_endpoint(server: ServerHandle, data_dir: Path) -> None:
    """An endpoint with our key takes our server's requests; unsigned ones and those of another server get 401."""
    with start_server(data_dir) as other:
        assert other.identity_key != server.identity_key and server.identity_key.startswith("publickeyv1_")
        async with (
            endpoint(service("Guarded", a="in"), keys=[server.identity_key]) as url,
            Admin(server.admin) as admin,
            Ingress(server.ingress) as ingress,
            Admin(other.admin) as stranger,
            aiohttp.ClientSession() as nobody,
        ):
            await admin.point(["Guarded"], url)
            assert await ingress.call("Guarded", "a", b'""') == b'"in"'
            with pytest.raises(Rejected, match="401"):
                await stranger.point(["Guarded"], url)
            for path in ("/discover", "/invoke/Guarded/a"):
                async with nobody.request("POST" if "invoke" in path else "GET", url + path) as response:
                    assert response.status == 401, path
    with start_server(data_dir) as again:
        assert again.identity_key == other.identity_key
