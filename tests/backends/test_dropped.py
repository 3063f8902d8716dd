"""Proves that a job is dropped in one step, wherever its process dies, that nothing of another job goes with it, and
that it is kept for as long as was asked from its end on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.server.admin import Admin
from restate_nb.service.wire import items_service
from restate_nb.session.session import Session
from tests.support import eventually, run_python


def keys(session: Session) -> list[str]:
    """The idempotency keys of the invocations that run the session's items."""

    async def asked() -> list[str]:
        async with Admin(session.server.admin) as admin:
            rows = await admin.query(
                "select idempotency_key from sys_invocation "
                f"where target_service_name = '{items_service(session.name)}'"
            )
            return sorted(str(row["idempotency_key"]) for row in rows)

    return asyncio.run(asked())


@pytest.mark.parametrize("kind", ["map", "durable"])
def test_a_kill_in_the_middle_of_a_delete_leaves_nothing_that_is_found_again(
    kind: str, data_dir: Path, tmp_path: Path
) -> None:
    """The next run of the cell is a job of its own, at once, whatever is still to be purged; then nothing is left."""
    script = f"""
        import os, signal, sys, time
        from pathlib import Path
        import restate_nb as rnb
        from restate_nb.session.session import Session
        from restate_nb.backends import local
        from restate_nb.server.admin import Admin

        local.MAX_SHARD_ITEMS = 10
        runs = Path({str(tmp_path / "runs")!r})
        def plain(item):
            with runs.open("a") as file:
                file.write(f"{{item}}\\n")
            return item
        async def durable(ctx, item):
            return await ctx.run_typed("step", lambda: plain(item))

        with Session("dropped", Path({str(data_dir)!r})) as session:
            options = dict(name="job", session=session, show=False)
            if {kind!r} == "map":
                job = rnb.map(plain, range(40), **options)
            else:
                job = rnb.map(durable, range(40), **options)
            frame = job.result(30)
            assert frame["value"].tolist() == list(range(40)), frame
            print("attached", job.attached, flush=True)
            if sys.argv[1] == "die":
                purge, purged = Admin.purge, []
                async def dying(self, invocation):
                    purged.append(await purge(self, invocation))
                    if len(purged) == 2:
                        os.kill(os.getpid(), signal.SIGKILL)
                Admin.purge = dying
                job.delete()
            left = "select idempotency_key as key from sys_invocation where target_service_name = 'rnb-dropped'"
            end = time.monotonic() + 10
            while True:
                found = {{row["key"].rsplit("/", 2)[0] for row in session.io.run(session.connection.admin.query(left))}}
                if "job/1" not in found or time.monotonic() > end:
                    break
                time.sleep(0.05)
            print(sorted(found), flush=True)
    """

    def run(how: str) -> str:
        return run_python(script, how, check=how != "die").stdout

    assert run("die") == "attached 0\n"
    assert run("again").splitlines()[-2:] == ["attached 0", "['job/2']"]
    assert run("again").splitlines()[-2:] == ["attached 40", "['job/2']"]
    assert set(Counter((tmp_path / "runs").read_text().split()).values()) == {2}


def test_what_a_delete_could_not_purge_is_purged_later(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = rnb.map(abs, range(3), name="later", session=session, show=False)
    job.result(20)
    purge = Admin.purge

    async def away(self: Admin, invocation: str) -> bool:
        raise rnb.ServerError("the admin API answered 503")

    monkeypatch.setattr(Admin, "purge", away)
    job.delete()
    assert "later" not in rnb.jobs(session)["name"].tolist()
    assert "later/1/0/0" in keys(session)
    again = rnb.map(abs, range(3), name="later", session=session, show=False)
    assert (again.values(), again.attached) == ([0, 1, 2], 0)
    monkeypatch.setattr(Admin, "purge", purge)
    session.sweeper.soon()
    eventually(lambda: "later/1/0/0" not in keys(session))
    assert "later/2/0/0" in keys(session)


def test_a_delete_takes_nothing_of_jobs_whose_names_begin_alike_or_of_other_sessions(
    session: Session, tmp_path: Path
) -> None:
    """The keys of `a/1` begin with what those of the first generation of `a` do; sessions share a server."""
    jobs = {name: rnb.map(abs, range(3), name=name, session=session, show=False) for name in ("a", "a/1", "a/1/1")}
    assert session.data_dir is not None
    with Session("neighbour", session.data_dir) as neighbour:
        other = rnb.map(abs, range(3), name="a", session=neighbour, show=False)
        for job in (*jobs.values(), other):
            job.result(20)
        jobs["a"].delete()
        left = keys(session)
        assert "a/1/0/0" not in left
        assert {"a/1/1/0/0", "a/1/1/1/0/0"} <= set(left)
        assert keys(neighbour) == ["a/1/0/0"]
        jobs["a/1"].delete()
        assert "a/1/1/1/0/0" in keys(session)


def test_what_fresh_drops_is_purged(session: Session) -> None:
    rnb.map(abs, range(3), name="anew", session=session, show=False).result(20)
    rnb.map(abs, range(3), name="anew", session=session, show=False, fresh=True).result(20)
    eventually(lambda: "anew/1/0/0" not in keys(session))
    assert "anew/2/0/0" in keys(session)


def test_a_delete_goes_on_past_invocations_that_are_gone(session: Session) -> None:
    job = rnb.map(abs, range(3), name="half gone", session=session, show=False)
    job.result(20)

    async def purge() -> None:
        async with Admin(session.server.admin) as admin:
            (row,) = await admin.query("select id from sys_invocation where idempotency_key = 'half gone/1/0/0'")
            await admin.purge(row["id"])

    asyncio.run(purge())
    job.delete()
    assert "half gone" not in rnb.jobs(session)["name"].tolist()


def test_items_whose_outcomes_were_purged_are_cancelled_and_can_be_run_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restate_nb.backends.local.MAX_SHARD_ITEMS", 3)

    async def purge(session: Session) -> None:
        async with Admin(session.server.admin) as admin:
            (row,) = await admin.query("select id from sys_invocation where idempotency_key = 'purged/1/0/1'")
            await admin.purge(row["id"])

    with Session("purged", data_dir) as session:
        rnb.map(abs, range(6), name="purged", session=session, show=False).result(20)
        asyncio.run(purge(session))
    with Session("purged", data_dir) as session:
        job = rnb.map(abs, range(6), name="purged", session=session, show=False)
        frame = job.result(20)
        assert frame["status"].tolist() == ["ok"] * 3 + ["cancelled"] * 3
        assert "Restate keeps this part of the job no longer" in frame["error"].iloc[5]
        assert job.retry_failed().values() == list(range(6))


def test_a_job_is_kept_while_it_runs_is_paused_or_is_tried_again_and_from_its_end_on(data_dir: Path) -> None:
    """However short the retention is: it counts from the end."""
    gate, calls = threading.Event(), Counter[int]()

    def work(item: int) -> int:
        calls[item] += 1
        if item and not gate.wait(20):
            raise TimeoutError
        if item == 2 and calls[2] == 1:
            raise ValueError("once")
        return item

    def job(**more: Any) -> rnb.Job[int]:
        return rnb.map(work, range(3), name="kept", session=session, show=False, **more)

    def listed() -> bool:
        return "kept" in rnb.jobs(session)["name"].tolist()

    with Session("kept", data_dir, retention=timedelta(seconds=1.5)) as session:
        running = job()
        eventually(lambda: running.counts["running"] == 2)
        running.pause()
        time.sleep(2)
        assert listed()
        gate.set()
        running.resume()
        assert running.result(20)["status"].tolist() == ["ok", "ok", "error"]
        gate.clear()
        running.retry_failed()
        time.sleep(2)
        assert listed(), "the first end does not count any more"
        gate.set()
        assert running.result(20)["status"].tolist() == ["ok"] * 3
        assert job().attached == 3
        assert calls == {0: 1, 1: 1, 2: 2}
        eventually(lambda: not listed())
        eventually(lambda: keys(session) == [])


def test_single_calls_are_kept_for_as_long_as_jobs_and_what_belongs_to_a_job_is_left(data_dir: Path) -> None:
    """They run in the service whose invocations are kept until their job is dropped."""

    async def double(ctx: Any, item: int) -> int:
        return 2 * item

    with Session("calls", data_dir, retention=timedelta(seconds=2)) as session:
        job = rnb.map(double, [1, 2], name="a job", session=session, show=False)
        assert job.values() == [2, 4]
        assert rnb.call(double, 3, session=session) == 6
        assert len(keys(session)) == 3
        session.io.run(session.sweeper.sweep())
        assert len(keys(session)) == 3
        time.sleep(2.1)
        session.io.run(session.sweeper.purge_calls(session.connection.admin))
        assert set(keys(session)) <= {"a job/1/0/0", "a job/1/0/1"}


def test_cancelling_a_durable_job_leaves_one_whose_name_begins_alike(session: Session) -> None:
    gate = threading.Event()

    async def wait(ctx: Any, item: int) -> int:
        while not gate.is_set():
            await ctx.sleep(timedelta(milliseconds=50))
        return item

    short, long = (rnb.map(wait, [1, 2], name=name, session=session, show=False) for name in ("d", "d/1"))
    eventually(lambda: {"d/1/0/1", "d/1/1/0/1"} <= set(keys(session)))
    short.cancel()
    gate.set()
    assert short.result(20)["status"].tolist() == ["cancelled"] * 2
    assert long.result(20)["status"].tolist() == ["ok"] * 2
