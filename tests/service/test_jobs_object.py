"""The object that keeps a session's jobs, on the real server: one job of a name, nothing of an earlier generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from restate_nb.errors import InvocationFailed
from restate_nb.notebook.records import Kept
from restate_nb.notebook.session import Session
from restate_nb.server.ingress import Ingress
from restate_nb.service.wire import Change, Manifest, Round, encode, jobs_service


async def nothing() -> None:
    """The session serves the object already."""


Ask = Callable[[Callable[[Kept], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def ask(session: Session) -> Ask:
    """Runs questions to the object."""

    def ask(question: Callable[[Kept], Coroutine[Any, Any, Any]]) -> Any:
        async def asked() -> Any:
            async with Ingress(session.server.ingress) as ingress, asyncio.timeout(20):
                return await question(Kept(ingress, "tests", nothing))

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
