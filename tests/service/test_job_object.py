"""The object that keeps a session's jobs, on the real server: one job of a name, nothing of an earlier generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from restate_nb.backends.job_store import ObjectJobStore
from restate_nb.errors import InvocationFailed
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.server.ingress import Ingress
from restate_nb.service.wire import (
    UNPURGED,
    Change,
    Forget,
    Manifest,
    Round,
    Summary,
    Unpurged,
    encode,
    items_service,
    jobs_service,
    unpurged_decoder,
)
from restate_nb.session.session import Session


async def nothing() -> None:
    """The session serves the object already."""


Ask = Callable[[Callable[[ObjectJobStore], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def ask(session: Session) -> Ask:
    """Runs questions to the object."""

    def ask(question: Callable[[ObjectJobStore], Coroutine[Any, Any, Any]]) -> Any:
        async def asked() -> Any:
            async with Ingress(session.server.ingress) as ingress, asyncio.timeout(20):
                return await question(ObjectJobStore(ingress, "tests", nothing))

        return asyncio.run(asked())

    return ask


def manifest(name: str, created: float = 1.0) -> Manifest:
    return Manifest(
        name=name,
        function="f",
        items="digest",
        options="",
        total=2,
        created=created,
        rounds=[Round(positions=None, code="c", started=1.0)],
    )


def test_the_first_manifest_of_a_name_stays_and_others_are_told_of_it(ask: Ask) -> None:
    first, ours = ask(lambda kept: kept.open(manifest("one", 1.0), fresh=False))
    assert (first.generation, first.created, ours) == (1, 1.0, True)
    again, ours = ask(lambda kept: kept.open(manifest("one", 2.0), fresh=False))
    assert (again, ours) == (first, False)


def test_what_starts_afresh_is_another_generation_and_changes_of_the_one_before_are_refused(ask: Ask) -> None:
    first, _ = ask(lambda kept: kept.open(manifest("afresh"), fresh=False))
    for generation in (2, 3):
        fresh, ours = ask(lambda kept: kept.open(manifest("afresh", 5.0), fresh=True))
        assert (fresh.generation, ours) == (generation, True)
    with pytest.raises(InvocationFailed, match="deleted or started afresh elsewhere") as caught:
        ask(lambda kept: kept.change(first, Change(generation=1, cancelled=True)))
    assert caught.value.code == 409
    there, _ = ask(lambda kept: kept.open(manifest("afresh"), fresh=False))
    assert (there.generation, there.cancelled) == (3, False)
    changed = ask(lambda kept: kept.change(there, Change(generation=3, cancelled=True)))
    assert changed.cancelled


def test_only_the_generation_that_is_meant_is_forgotten(ask: Ask) -> None:
    first, _ = ask(lambda kept: kept.open(manifest("forgotten"), fresh=False))
    second, _ = ask(lambda kept: kept.open(manifest("forgotten", 2.0), fresh=True))
    ask(lambda kept: kept.forget(first))
    there, _ = ask(lambda kept: kept.open(manifest("forgotten", 3.0), fresh=False))
    assert there == second
    ask(lambda kept: kept.forget(second))
    ask(lambda kept: kept.forget(second))  # it is gone already
    with pytest.raises(InvocationFailed, match="deleted or started afresh elsewhere"):
        ask(lambda kept: kept.change(second, Change(generation=2, paused=True)))
    new, ours = ask(lambda kept: kept.open(manifest("forgotten", 4.0), fresh=False))
    assert (new.generation, ours) == (3, True), "what invocations of the deleted job left is not taken for its own"


def test_a_job_that_never_was_can_be_forgotten_and_not_changed(ask: Ask) -> None:
    ask(lambda kept: kept.forget(manifest("never")))
    with pytest.raises(InvocationFailed) as caught:
        ask(lambda kept: kept.change(manifest("never"), Change(generation=1, paused=True)))
    assert caught.value.code == 409


@pytest.mark.parametrize("handler", ["open", "change", "forget"])
def test_a_request_without_a_body_is_refused_at_once(session: Session, handler: str) -> None:
    async def asked() -> None:
        async with Ingress(session.server.ingress) as ingress, asyncio.timeout(10):
            await ingress.call(jobs_service("tests"), handler, b"", key="empty")

    with pytest.raises(InvocationFailed, match="no body") as caught:
        asyncio.run(asked())
    assert caught.value.code == 400


def test_a_change_that_cannot_be_is_refused_and_changes_nothing(ask: Ask, session: Session) -> None:
    there, _ = ask(lambda kept: kept.open(manifest("wrong"), fresh=False))
    with pytest.raises(InvocationFailed, match="there is no round 9") as caught:
        ask(lambda kept: kept.change(there, Change(generation=1, submitted=9, paused=True)))
    assert caught.value.code == 400
    assert encode(ask(lambda kept: kept.open(manifest("wrong"), fresh=False))[0]) == encode(there)


def state(session: Session, name: str) -> dict[str, str]:
    """What the object keeps under this key."""

    async def asked() -> dict[str, str]:
        async with Admin(session.server.admin) as admin:
            rows = await admin.query(
                f"select key, value_utf8 from state where service_name = {sql_literal(jobs_service('tests'))} "
                f"and service_key = {sql_literal(name)}"
            )
            return {row["key"]: row["value_utf8"] for row in rows}

    return asyncio.run(asked())


def send_forget(session: Session, name: str, forget: Forget) -> None:
    async def asked() -> None:
        async with Ingress(session.server.ingress) as ingress:
            await ingress.call(jobs_service("tests"), "forget", encode(forget), key=name)

    asyncio.run(asked())


def test_a_job_that_is_dropped_leaves_word_of_what_is_to_be_purged(ask: Ask, session: Session) -> None:
    first, _ = ask(lambda kept: kept.open(manifest("left"), fresh=False))
    ask(lambda kept: kept.forget(first))
    ask(lambda kept: kept.open(manifest("left"), fresh=False))
    ask(lambda kept: kept.open(manifest("left", 3.0), fresh=True))
    left = [Unpurged(generation=number, service=items_service("tests")) for number in (1, 2)]
    assert unpurged_decoder.decode(state(session, "left")[UNPURGED]) == left

    async def purged() -> None:
        async with Ingress(session.server.ingress) as ingress:
            for each in left:
                await ingress.call(jobs_service("tests"), "purged", encode(each), key="left")

    asyncio.run(purged())
    assert state(session, "left").keys() == {"manifest", "generation"}


def test_what_retention_ends_is_a_job_that_has_ended_and_was_not_opened_again(ask: Ask, session: Session) -> None:
    """`Forget` without `now` comes when a retention is over; without `ended`, from a version that counted from the
    job's begin."""
    job, _ = ask(lambda kept: kept.open(manifest("retained"), fresh=False))
    for early in (Forget(generation=1), Forget(generation=1, ended=5.0)):
        send_forget(session, "retained", early)
        assert "manifest" in state(session, "retained"), "it runs"
    ended = Summary(ok=2, failed=0, cancelled=0, at=7.0)
    ask(lambda kept: kept.change(job, Change(generation=1, summary=ended)))
    for other in (Forget(generation=1), Forget(generation=1, ended=5.0), Forget(generation=2, ended=7.0)):
        send_forget(session, "retained", other)
        assert "manifest" in state(session, "retained"), "it ended at another time"
    again = Round.over([1], 2, code="c", started=8.0)
    ask(lambda kept: kept.change(job, Change(generation=1, add_round=again)))
    send_forget(session, "retained", Forget(generation=1, ended=7.0))
    assert "manifest" in state(session, "retained"), "it runs again"
    ask(lambda kept: kept.change(job, Change(generation=1, summary=ended)))
    send_forget(session, "retained", Forget(generation=1, ended=7.0))
    assert state(session, "retained").keys() == {"generation", UNPURGED}


def test_a_record_that_cannot_be_read_is_refused_and_begun_anew_with_fresh(ask: Ask, session: Session) -> None:
    async def spoil(name: str, raw: bytes) -> None:
        async with Admin(session.server.admin) as admin:
            changed = {"object_key": name, "new_state": {"manifest": list(raw)}}
            answer = await admin._request("POST", f"/services/{jobs_service('tests')}/state", changed)
            assert answer.status < 300, answer.reason
            while (
                await admin.query(
                    "select value_utf8 from state where key = 'manifest' and service_name = "
                    f"{sql_literal(jobs_service('tests'))} and service_key = {sql_literal(name)}"
                )
            )[0]["value_utf8"] != raw.decode():
                await asyncio.sleep(0.02)

    for name, raw, generation in (("torn", b'{"name":"torn","generation":4,"tot', 5), ("other", b"nothing", 1001)):
        ask(lambda kept, name=name: kept.open(manifest(name), fresh=False))  # type: ignore[misc]
        asyncio.run(spoil(name, raw))
        for question in (
            lambda kept, name=name: kept.open(manifest(name), fresh=False),
            lambda kept, name=name: kept.change(manifest(name), Change(generation=1, paused=True)),
        ):
            with pytest.raises(InvocationFailed, match=r"cannot be read .* fresh=True"):
                ask(question)  # type: ignore[arg-type]
        new, ours = ask(lambda kept, name=name: kept.open(manifest(name, 1000.0), fresh=True))  # type: ignore[misc]
        assert (new.generation, ours) == (generation, True)


def test_a_record_that_outgrows_what_restate_moves_is_refused_and_stays_as_it_was(
    ask: Ask, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, _ = ask(lambda kept: kept.open(manifest("large"), fresh=False))
    monkeypatch.setattr("restate_nb.service.job_object.MAX_RECORD_BYTES", 400)
    rounds = Round.over([1], 2, code="c" * 300, started=1.0)
    with pytest.raises(InvocationFailed, match="fresh=True") as caught:
        ask(lambda kept: kept.change(there, Change(generation=1, add_round=rounds)))
    assert caught.value.code == 413
    assert ask(lambda kept: kept.open(manifest("large"), fresh=False))[0] == there


def test_requests_that_are_tried_in_vain_are_killed_before_a_job_begins_anew(
    ask: Ask, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were when a record had outgrown what Restate moves: it holds up all that come after it."""
    there, _ = ask(lambda kept: kept.open(manifest("in vain"), fresh=False))

    def outgrown(*_: object) -> Manifest:
        raise RuntimeError("too large to be sent")

    async def change_in_vain() -> None:
        async with Ingress(session.server.ingress) as ingress:
            change = encode(Change(generation=1, paused=True))
            await ingress.send(jobs_service("tests"), "change", change, key="in vain")

    async def clear() -> None:
        async with Admin(session.server.admin) as admin, Ingress(session.server.ingress) as ingress:
            end = time.monotonic() + 20
            vain = (
                "select retry_count from sys_invocation where status = 'backing-off' and target_service_key = 'in vain'"
            )
            while not any(row["retry_count"] >= 5 for row in await admin.query(vain)):
                assert time.monotonic() < end
                await asyncio.sleep(0.1)
            await ObjectJobStore(ingress, "tests", nothing).kill_stuck_requests("in vain", admin)

    monkeypatch.setattr("restate_nb.service.job_object.apply_change", outgrown)
    asyncio.run(change_in_vain())
    asyncio.run(clear())
    monkeypatch.undo()
    fresh, ours = ask(lambda kept: kept.open(manifest("in vain", 2.0), fresh=True))
    assert (fresh.generation, ours) == (2, True)
    assert there.generation == 1
