"""Proves that journals of real invocations show whether changed handlers can go on with them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import restate
from restate import Context, ObjectContext, TerminalError

from restate_nb.errors import InvalidInput, JournalMismatch
from restate_nb.patterns import map_concurrent
from restate_nb.testing import LocalServer, RecordedJournal, replay, server

callee = restate.Service("RecordedCallee")
recorded = restate.VirtualObject("Recorded")


@callee.handler()
async def double(ctx: Context, number: int) -> int:
    return number * 2


async def begin(ctx: ObjectContext) -> int:
    await ctx.run_typed("charge", lambda: CHARGES.append(1))
    return await ctx.service_call(double, 4)


CHARGES: list[int] = []


@recorded.handler()
async def everything(ctx: ObjectContext, number: int) -> list[Any]:
    before = await ctx.get("total", type_hint=int)
    ctx.set("total", number)
    names = await ctx.state_keys()
    called = await begin(ctx)
    try:
        await ctx.run_typed("refused", refuse)
    except TerminalError as error:
        names.append(error.message)
    await ctx.sleep(timedelta(milliseconds=5))
    sent = ctx.service_send(double, 5)
    attached = await ctx.attach_invocation(await sent.invocation_id(), type_hint=int)
    name, future = ctx.awakeable(type_hint=int)
    ctx.resolve_awakeable(name, 3)
    mapped = await map_concurrent(ctx, range(5), lambda n: ctx.run_typed("each", lambda: n))
    ctx.clear("total")
    return [before, await ctx.get("total", type_hint=int), names, called, attached, await future, mapped]


def refuse() -> None:
    raise TerminalError("refused", 409)


@recorded.handler()
async def waits(ctx: ObjectContext) -> str:
    await begin(ctx)
    approval = await ctx.run_typed("note", lambda: "noted")
    await ctx.sleep(timedelta(hours=1))
    return approval


changed = restate.VirtualObject("Recorded")


@changed.handler("waits")
async def waits_with_a_step_after(ctx: ObjectContext) -> str:
    await begin(ctx)
    await ctx.run_typed("note", lambda: "noted")
    await ctx.sleep(timedelta(hours=1))
    return await ctx.run_typed("new", lambda: "new")


@changed.handler("waits2")
async def waits_with_a_step_between(ctx: ObjectContext) -> str:
    await begin(ctx)
    await ctx.run_typed("check", lambda: "checked")
    await ctx.run_typed("note", lambda: "noted")
    return "done"


@changed.handler("waits3")
async def waits_no_more(ctx: ObjectContext) -> str:
    await begin(ctx)
    return "done"


restate_server = server(callee, recorded)


async def recording(running: LocalServer, target: str, until: int) -> RecordedJournal:
    """The journal of the invocation of a handler, once it has so many steps."""
    for _ in range(200):
        found = await running.query(f"select id from sys_invocation where target_handler_name = '{target}'")
        if found:
            journal = await running.journal(found[0]["id"])
            if len(journal.entries) >= until:
                return journal
    raise AssertionError("it was not recorded")


async def test_a_finished_invocation_is_replayed_to_its_result_and_nothing_is_done(
    restate_server: LocalServer, tmp_path: Path
) -> None:
    CHARGES.clear()
    result = await restate_server.call(everything, 7, key="k")
    journal = await recording(restate_server, "everything", 16)
    journal.save(tmp_path / "everything.json")
    again = await replay(everything, tmp_path / "everything.json")
    assert (again.finished, again.value, again.steps) == (True, result, len(journal.entries))
    assert len(CHARGES) == 1


async def test_changed_handlers_go_on_or_show_both_journals(restate_server: LocalServer) -> None:
    await restate_server.send(waits, key="k")
    journal = await recording(restate_server, "waits", 4)
    assert [str(entry) for entry in journal.entries] == [
        "run charge",
        "call RecordedCallee/double",
        "run note",
        "sleep",
    ]
    for handler in (waits, waits_with_a_step_after):
        assert await replay(handler, journal) == await replay(waits, journal)
        assert not (await replay(handler, journal)).finished
    with pytest.raises(JournalMismatch, match=r">\s+2\s+run note\s+run check"):
        await replay(waits_with_a_step_between, journal)
    with pytest.raises(JournalMismatch, match=r">\s+2\s+run note"):
        await replay(waits_no_more, journal)


async def test_what_is_no_journal_or_no_handler_is_refused(restate_server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InvalidInput, match="no journal that"):
        await replay(waits, tmp_path / "other.json")
    with pytest.raises(InvalidInput, match="no id of an invocation"):
        await restate_server.journal("inv_none")
    with pytest.raises(InvalidInput, match="no longer kept"):
        await restate_server.journal("inv_10T5Thwsbi8d1Edc0OXCapCuk9SUXaSGfT")
    with pytest.raises(InvalidInput, match="no Restate handler"):
        await replay(begin, RecordedJournal("a/b", "", "inv_1", ()))
