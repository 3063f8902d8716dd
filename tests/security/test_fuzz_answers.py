"""Proves that mutated answers of a real server are read as what they are, or refused with the documented errors, by all
that asks: whatever the status, whoever the error is said to come from. 10,000 cases, each with several requests."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.api.invoke import invoke  # noqa: F401 - loaded before memory is measured
from restate_nb.errors import InvocationFailed, ServerError
from restate_nb.server.address import Address
from restate_nb.server.admin import Admin
from restate_nb.server.http import Answer, HttpClient
from restate_nb.server.ingress import Ingress, Reply
from restate_nb.session.session import Session
from tests.security.test_fuzz import CASES, fuzzed

STATUSES = (200, 200, 200, 202, 204, 302, 400, 404, 404, 409, 470, 500, 503, 599)
SOURCES = ("", "", "ingress", "invocation", "INVOCATION", "nobody")
SERVICE, HANDLER = "rnb-fuzz", "shard"


class Played:
    """Stands for HTTP: gives one answer to whatever is asked, and perhaps a good one to what is asked before it."""

    def __init__(self) -> None:
        self.answer = Answer(200, {}, b"")
        self.deployments: Answer | None = None

    async def request(self, method: str, path: str, **_: Any) -> Answer:
        if (method, path) == ("GET", "/deployments") and self.deployments is not None:
            return self.deployments
        return self.answer


def requests(ingress: Ingress, admin: Admin) -> dict[str, tuple[Callable[[], Awaitable[Any]], Callable[[Any], bool]]]:
    """Everything that is asked of a server, and what any result of it is."""
    at = SERVICE, HANDLER, "i"
    return {
        "services": (lambda: ingress.services(patience=0), are_texts),
        "is_current": (ingress.is_current, lambda it: isinstance(it, bool)),
        "send": (lambda: ingress.send(SERVICE, HANDLER, b"1", patience=0), is_text),
        "call": (lambda: ingress.call(SERVICE, HANDLER, b"1", idempotency_key="i", patience=0), is_bytes),
        "invoke": (lambda: ingress.invoke(SERVICE, HANDLER, b"1", patience=0), lambda it: isinstance(it, Reply)),
        "attach": (lambda: ingress.attach(*at, patience=0), is_bytes),
        "attach_id": (lambda: ingress.attach_id("inv_1", patience=0), is_bytes),
        "attach_reply": (lambda: ingress.attach_reply("inv_1", patience=0), lambda it: isinstance(it, Reply)),
        "lookup": (lambda: ingress.lookup(*at), is_text),
        "version": (admin.version, is_text),
        "deployments": (admin.deployments, are_rows),
        "point": (lambda: admin.point([SERVICE], "http://h:1"), is_text),
        "register": (lambda: admin.register(["s"], "http://h:1"), is_text),
        "redirect": (lambda: admin.redirect("dp", "http://h:1"), lambda it: it is None),
        "in_use": (admin.in_use, lambda it: isinstance(it, set) and all(map(is_text, it))),
        "resume_stuck": (lambda: admin.resume_stuck("dp"), lambda it: isinstance(it, int)),
        "query": (lambda: admin.query("select 1"), are_rows),
        "query of texts": (lambda: admin.query("select 1", texts=["id"]), are_rows_with_id),
        "invocation": (lambda: admin.invocation("inv_1"), lambda it: it is None or isinstance(it, dict)),
        "cancel": (lambda: admin.cancel("inv_1"), lambda it: isinstance(it, bool)),
    }


async def awaited(request: Awaitable[Any]) -> Any:
    return await request


def is_text(found: Any) -> bool:
    return isinstance(found, str)


def is_bytes(found: Any) -> bool:
    return isinstance(found, bytes)


def are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(map(is_text, found))


def are_rows(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(row, dict) for row in found)


def are_rows_with_id(found: Any) -> bool:
    return are_rows(found) and all(is_text(row["id"]) for row in found)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Mapping[str, str], bytes]]:
    """An answer of a real server, with a job on it, to each request."""
    recorded: dict[str, tuple[Mapping[str, str], bytes]] = {}
    name = ""

    async def record(ingress: Address, admin: Address) -> None:
        nonlocal name
        async with Ingress(ingress) as here, Admin(admin, patience=0.5) as there:
            for client in (here, there):
                http: HttpClient = client.http

                async def noted(*words: Any, _ask: Any = http.request, **options: Any) -> Answer:
                    answer: Answer = await _ask(*words, **options)
                    recorded[name] = dict(answer.headers), answer.body
                    return answer

                http.request = noted  # type: ignore[method-assign]
            asked = requests(here, there)
            for changing in ("point", "register", "redirect"):
                del asked[changing]
            for each, (ask, _) in asked.items():
                name = each
                try:
                    await asyncio.wait_for(ask(), 20)
                except (ServerError, InvocationFailed):
                    continue  # an error is an answer, too
            uri = (await there.deployments())[0]["uri"]
            name = "register"
            await there.register([SERVICE], uri)  # as it is
            name = "rows"
            await there.query("select * from sys_invocation")
            name = "journal"
            await there.query("select * from sys_journal")

    with Session("fuzz", tmp_path_factory.mktemp("fuzz") / ".restate") as session:
        rnb.map(len, ["a", "bb", 3], name="job", session=session, show=False).result(30)
        asyncio.run(record(session.server.ingress, session.server.admin))
    assert {"rows", "journal", "services", "deployments", "attach", "send", "version", "query"} <= recorded.keys()
    assert b"inv_" in recorded["rows"][1] and b"rnb-fuzz" in recorded["services"][1]
    return recorded


def test_answers_of_a_real_server_are_read_or_refused_however_they_are_changed(
    real: dict[str, tuple[Mapping[str, str], bytes]],
) -> None:
    played = Played()
    ingress, admin = Ingress(Address("http://127.0.0.1:1")), Admin(Address("http://127.0.0.1:1"), patience=0)
    for client in (ingress, admin):
        client.http = played  # type: ignore[assignment]
    asked = requests(ingress, admin)
    unread = set(asked)
    bodies = sorted({body for _, body in real.values() if body})

    def read(raw: bytes) -> None:
        """Three requests get it for an answer. It counts as read when one of them took it."""
        rng = random.Random(zlib.crc32(raw))
        took = False
        for name in rng.sample(sorted(asked), 3):
            headers = dict(rng.choice(list(real.values()))[0])
            if rng.random() < 0.7:
                headers |= {
                    "x-restate-error-source": rng.choice(SOURCES),
                    "x-restate-id": rng.choice(["", "i" * 9_000]),
                }
            played.answer = Answer(rng.choice(STATUSES), headers, raw)
            good = name in ("register", "point") and rng.random() < 0.5
            played.deployments = Answer(200, *real["deployments"]) if good else None
            ask, fits = asked[name]
            try:
                found = loop.run(awaited(ask()))
            except (ServerError, InvocationFailed) as error:
                assert len(str(error)) < 20_000, name
                continue
            assert fits(found), f"{name} gave {found!r:.300}"
            unread.discard(name)
            took = True
        if not took:
            raise ServerError("nobody took it")

    def read_sample(raw: bytes) -> None:
        try:
            read(raw)
        except ServerError:
            if raw not in bodies:
                raise

    with asyncio.Runner() as loop:
        fuzzed("real answers", bodies, read_sample, (ServerError,), CASES // 5)
    assert not unread, "nothing was ever read by these"


def test_what_the_clients_read_of_an_answer_as_it_is(real: dict[str, tuple[Mapping[str, str], bytes]]) -> None:
    """The mechanism itself: as they came, the answers are read by those who asked for them."""
    played = Played()
    ingress, admin = Ingress(Address("http://127.0.0.1:1")), Admin(Address("http://127.0.0.1:1"), patience=0)
    for client in (ingress, admin):
        client.http = played  # type: ignore[assignment]
    asked = requests(ingress, admin)
    for name in ("services", "version", "deployments", "query", "lookup"):
        headers, body = real[name]
        played.answer = Answer(200, headers, body)
        ask, fits = asked[name]
        assert fits(asyncio.run(awaited(ask()))), name
