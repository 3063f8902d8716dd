"""Invocations are submitted, attached to and asked for over the real ingress, through every kind of trouble."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import restate

from restate_nb.errors import InvalidInput, InvocationFailed
from restate_nb.server.address import Address
from restate_nb.server.admin import Admin
from restate_nb.server.http import Rejected, UnknownInvocation, Unreachable
from restate_nb.server.ingress import Ingress, written_key
from restate_nb.server.lifecycle import ServerHandle, start_server
from tests.server.serverlab import endpoint
from tests.support import eventually

DAY = timedelta(days=1)


class Gate:
    """Holds the handlers of one test back, and counts them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0


gate = Gate()
STRANGE = [
    "a/b c",
    "..",
    ".",
    "ü",
    "日本語 🎌",
    " blanks ",
    "   ",
    "50%",
    "a%2Fb",
    "a\tb\nc",
    "?x=1&y#z",
    "'\"\\",
    "x" * 3000,
]

texts = restate.Service("Texts", idempotency_retention=DAY, journal_retention=DAY)


@texts.handler()
async def echo(ctx: restate.Context, text: str) -> str:
    return text


@texts.handler()
async def wait(ctx: restate.Context, number: int) -> int:
    async def until_open() -> int:
        gate.waiting += 1
        await gate.open.wait()
        return number

    return await ctx.run_typed("wait", until_open)


@texts.handler()
async def refuse(ctx: restate.Context, code: int) -> str:
    raise restate.TerminalError("not found" if code == 404 else f"no {code}", status_code=code)


keyed = restate.VirtualObject("Keyed")


@keyed.handler()
async def key_of(ctx: restate.ObjectContext, _: str) -> str:
    return ctx.key()


async def register(handle: ServerHandle, url: str) -> None:
    async with Admin(handle.admin) as admin:
        await admin.point(["Texts", "Keyed"], url)


@pytest.fixture
async def ingress(server: ServerHandle) -> AsyncIterator[Ingress]:
    """A client of a server on which the services above are registered."""
    gate.reset()
    async with endpoint(texts, keyed, keys=[server.identity_key]) as url, Ingress(server.ingress) as client:
        await register(server, url)
        yield client
        gate.open.set()


async def test_call_gives_the_result(ingress: Ingress) -> None:
    """A call returns the handler's output as it was written."""
    assert await ingress.call("Texts", "echo", b'"hello"') == b'"hello"'
    assert await ingress.healthy()


async def test_an_invocation_is_sent_once_and_attached_to(ingress: Ingress) -> None:
    """An invocation can be waited for and asked for, by its idempotency key and by its id."""
    sent = await ingress.send("Texts", "wait", b"7", idempotency_key="seven")
    assert await ingress.send("Texts", "wait", b"8", idempotency_key="seven") == sent
    waiting = [
        asyncio.create_task(ingress.attach("Texts", "wait", "seven")),
        asyncio.create_task(ingress.attach_id(sent)),
    ]
    await asyncio.sleep(0.05)
    gate.open.set()
    assert await asyncio.gather(*waiting) == [b"7", b"7"]


async def test_a_delayed_invocation_starts_later(ingress: Ingress) -> None:
    """`delay` takes seconds or a timedelta, and is kept."""
    began = time.monotonic()
    for number, delay in enumerate((0.3, timedelta(milliseconds=300))):
        await ingress.send("Texts", "echo", b'"late"', idempotency_key=f"late-{number}", delay=delay)
        assert await ingress.attach("Texts", "echo", f"late-{number}") == b'"late"'
    assert time.monotonic() - began >= 0.6


async def test_a_failure_has_code_reason_and_id(ingress: Ingress) -> None:
    """A terminal error arrives with its code, message and invocation, at a call and at an attach."""
    sent = await ingress.send("Texts", "refuse", b"418", idempotency_key="teapot")
    for request in (
        ingress.attach("Texts", "refuse", "teapot"),
        ingress.attach_id(sent),
        ingress.call("Texts", "refuse", b"418", idempotency_key="teapot"),
    ):
        with pytest.raises(InvocationFailed, match="no 418") as caught:
            await request
        assert (caught.value.code, caught.value.reason, caught.value.invocation_id) == (418, "no 418", sent)


@pytest.mark.parametrize("code", [400, 404, 470, 500, 503])
async def test_a_handlers_error_is_never_taken_for_the_servers(ingress: Ingress, code: int) -> None:
    """A handler may end with any code, 404 "not found" and 503 among them: that is its result, at once."""
    name = f"code-{code}"
    await ingress.send("Texts", "refuse", str(code).encode(), idempotency_key=name)
    for request in (
        ingress.attach("Texts", "refuse", name, patience=5),
        ingress.call("Texts", "refuse", str(code).encode(), idempotency_key=name),
    ):
        with pytest.raises(InvocationFailed) as caught:
            await request
        assert caught.value.code == code


async def test_an_unknown_invocation_is_said_to_be_unknown(ingress: Ingress) -> None:
    """What was never submitted is a LookupError, by key and by id, and not a failure or a wait."""
    for request in (
        ingress.attach("Texts", "echo", "never"),
        ingress.attach_id("inv_1nonsense"),
    ):
        with pytest.raises(UnknownInvocation, match="never submitted, or its result is no longer kept") as caught:
            await request
        assert isinstance(caught.value, LookupError)


async def test_a_refused_submission_says_why(ingress: Ingress) -> None:
    """Unknown services and handlers, and bodies over 32 MiB, are refused with the server's words."""
    with pytest.raises(Rejected, match="service 'Nobody' not found") as caught:
        await ingress.send("Nobody", "echo", b'""')
    assert caught.value.status == 404
    with pytest.raises(Rejected, match="handler 'nothing' was not found"):
        await ingress.call("Texts", "nothing", b'""')
    with pytest.raises(Rejected) as caught:
        await ingress.send("Texts", "echo", b'"' + b"x" * (33 << 20) + b'"', idempotency_key="large")
    assert caught.value.status == 413


async def test_a_service_that_comes_within_a_second_is_waited_for(server: ServerHandle) -> None:
    """A server that has just started says of every service that it does not exist, until it has read what there is."""
    late = restate.Service("Late")
    taken: list[int] = []

    @late.handler()
    async def note(ctx: restate.Context, number: int) -> int:
        taken.append(number)
        return number

    async with endpoint(late, keys=[server.identity_key]) as url, Ingress(server.ingress) as client:
        call = asyncio.create_task(client.call("Late", "note", b"1"))
        send = asyncio.create_task(client.send("Late", "note", b"2"))
        await asyncio.sleep(0.3)
        assert not call.done() and not send.done()
        async with Admin(server.admin) as admin:
            await admin.point(["Late"], url)
        assert await call == b"1"
        await client.attach_id(await send)
        assert sorted(taken) == [1, 2]


async def test_a_service_that_was_there_is_waited_for_longer(server: ServerHandle) -> None:
    """But not a handler that the service does not have."""
    again = restate.Service("Again")

    @again.handler()
    async def echo(ctx: restate.Context, number: int) -> int:
        return number

    async with (
        endpoint(again, keys=[server.identity_key]) as url,
        Ingress(server.ingress) as client,
        Admin(server.admin) as admin,
    ):
        deployment = await admin.point(["Again"], url)
        assert await client.call("Again", "echo", b"1") == b"1"
        began = time.monotonic()
        with pytest.raises(Rejected, match="handler 'nothing' was not found"):
            await client.call("Again", "nothing", b"1")
        assert time.monotonic() - began < 5
        await admin._http.request("DELETE", f"/deployments/{deployment}?force=true")
        call = asyncio.create_task(client.call("Again", "echo", b"2"))
        await asyncio.sleep(2)
        assert not call.done()
        await admin.point(["Again"], url)
        assert await call == b"2"


async def test_a_service_that_nobody_knows_is_refused_after_a_second(server: ServerHandle) -> None:
    async with Ingress(server.ingress) as client:
        began = time.monotonic()
        with pytest.raises(Rejected, match="service 'Nobody' not found"):
            await client.call("Nobody", "echo", b"1", patience=None)
        assert 1 <= time.monotonic() - began < 5
        began = time.monotonic()
        with pytest.raises(Rejected, match="service 'Nobody' not found"):
            await client.send("Nobody", "echo", b"1", patience=0)
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("text", STRANGE)
async def test_any_text_is_a_key(ingress: Ingress, text: str) -> None:
    """Keys of objects and idempotency keys may be any text; they arrive whole."""
    assert json.loads(await ingress.call("Keyed", "key_of", b'""', key=text)) == text
    await ingress.send("Texts", "echo", b'"x"', idempotency_key=text)
    assert await ingress.attach("Texts", "echo", text) == b'"x"'
    await ingress.send("Keyed", "key_of", b'""', key=text, idempotency_key=text)
    assert json.loads(await ingress.attach("Keyed", "key_of", text, key=text)) == text


def test_different_keys_stay_different() -> None:
    """Writing a key for the server is injective, plain ASCII is untouched, and an empty key is refused."""
    rng = random.Random(11)
    keys = {"".join(rng.choices(" %2059aé日/\n", k=rng.randint(1, 5))) for _ in range(3000)} | set(STRANGE)
    assert len({written_key(key) for key in keys}) == len(keys)
    assert all(written_key(key).isascii() and written_key(key).strip() == written_key(key) for key in keys)
    assert written_key("job/3/shard 7?") == "job/3/shard 7?"
    with pytest.raises(InvalidInput):
        written_key("")


async def test_a_thousand_attached_at_once(ingress: Ingress) -> None:
    """A thousand invocations are awaited at once on connections of their own; none waits for another."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < 8192 else 8192, hard))
    try:
        await asyncio.gather(
            *(ingress.send("Texts", "wait", b"%d" % n, idempotency_key=f"many-{n}") for n in range(1000))
        )
        waiting = [asyncio.create_task(ingress.attach("Texts", "wait", f"many-{n}")) for n in range(1000)]
        while gate.waiting < 1000:
            await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        began = time.monotonic()
        gate.open.set()
        assert [int(value) for value in await asyncio.gather(*waiting)] == list(range(1000))
        assert time.monotonic() - began < 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_requests_ride_out_a_killed_server(data_dir: Path) -> None:
    """While the server is killed again and again, attached requests and idempotent ones end as if nothing was."""
    gate.reset()
    with start_server(data_dir) as handle:
        async with endpoint(texts, keyed) as url, Ingress(handle.ingress) as client:
            await register(handle, url)
            await client.send("Texts", "wait", b"1", idempotency_key="one")
            attached = asyncio.create_task(client.attach("Texts", "wait", "one"))
            results = []
            for number in range(3):
                killed = handle.pid
                assert killed is not None
                os.kill(killed, signal.SIGKILL)
                results.append(await client.call("Texts", "echo", b'"%d"' % number, idempotency_key=f"{number}"))
            assert results == [b'"0"', b'"1"', b'"2"'] and not attached.done()
            gate.open.set()
            assert await attached == b"1"


async def test_a_call_that_may_have_been_taken_is_not_repeated(data_dir: Path) -> None:
    """Without idempotency key a broken connection is an error; a server that is away is still waited for."""
    gate.reset()
    with start_server(data_dir) as handle:
        async with endpoint(texts, keyed) as url, Ingress(handle.ingress) as client:
            await register(handle, url)
            call = asyncio.create_task(client.call("Texts", "wait", b"1"))
            while gate.waiting == 0:
                await asyncio.sleep(0.01)
            killed = handle.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            with pytest.raises(Unreachable, match="whether it took the request is unknown"):
                await call
            eventually(lambda: handle.pid != killed)  # its socket is closed now, so that nothing can be sent
            assert await client.call("Texts", "echo", b'"again"') == b'"again"'
            gate.open.set()


async def test_patience_ends(tmp_path: Path) -> None:
    """A server that is not there is waited for as long as the caller says, and no longer."""
    async with Ingress(Address("http://localhost", tmp_path / "nowhere.sock")) as client:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="did not serve the request within"):
            await client.attach("Texts", "echo", "x", patience=0.3)
        assert 0.3 <= time.monotonic() - began < 2
        assert not await client.healthy()
    async with Ingress(Address("http://127.0.0.1:1")) as client:
        with pytest.raises(Unreachable):
            await client.send("Texts", "echo", b"", patience=0)
