"""Proves the life of what jobs have in the session's store, by figures of the disk: it goes when its job does, whoever
dies in the middle; what no job names is swept; and what a job names, in any session and any version, never is."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.backends.job_store import read_folders
from restate_nb.errors import ServerError
from restate_nb.session.session import Session
from restate_nb.store.base import HOUR
from tests.support import eventually, run_python, start_python

SIZE = 100_000


def value(number: int) -> bytes:
    return bytes([number]) * SIZE


def length(item: bytes) -> int:
    return len(item)


def on_disk(data_dir: Path, session: str = "life") -> dict[str, int]:
    """Bytes in each folder that the session has, as `du` counts them."""
    root = data_dir / "values" / session
    if not root.is_dir():
        return {}
    return {
        folder.name: sum(each.stat().st_blocks * 512 for each in folder.iterdir())
        for folder in root.iterdir()
        if folder.is_dir()
    }


def run(session: Session, name: str = "job", count: int = 10, **options: Any) -> rnb.Job[Any]:
    job: rnb.Job[Any] = rnb.map(value, range(count), name=name, session=session, show=False, **options)
    job.wait(30)
    return job


def make_old(data_dir: Path, session: str = "life") -> None:
    then = time.time() - 2 * HOUR
    for each in (data_dir / "values" / session).rglob("*"):
        os.utime(each, (then, then))


def swept(session: Session) -> None:
    """Have the session look once more for what nobody names, and wait for that."""
    session.io.run(session.sweeper.sweep_store())


def test_small_jobs_have_nothing_in_the_store(data_dir: Path) -> None:
    with Session("life", data_dir) as session:
        rnb.map(abs, range(1_000), session=session, show=False).wait(30)
        assert on_disk(data_dir) == {}


def test_delete_gives_back_the_disk_of_this_job_alone(data_dir: Path) -> None:
    with Session("life", data_dir) as session:
        kept = run(session, "kept")
        before = on_disk(data_dir)
        job = run(session, "job", 40)
        assert sum(on_disk(data_dir).values()) >= sum(before.values()) + 40 * SIZE
        job.delete()
        eventually(lambda: on_disk(data_dir) == before)
        assert kept.values() == [value(number) for number in range(10)]


def test_fresh_gives_back_what_the_job_before_had(data_dir: Path) -> None:
    with Session("life", data_dir) as session:
        run(session)
        first = on_disk(data_dir)
        again = run(session, fresh=True)
        eventually(lambda: len(on_disk(data_dir)) == 1)
        assert on_disk(data_dir).keys() != first.keys()
        assert sum(on_disk(data_dir).values()) == sum(first.values())
        assert again.values() == [value(number) for number in range(10)]


def test_items_that_are_given_once_more_leave_no_second_folder(data_dir: Path) -> None:
    items = [value(number) for number in range(20)]
    with Session("life", data_dir) as session:
        rnb.map(length, items, name="job", session=session, show=False).wait(30)
        before = on_disk(data_dir)
        assert sum(before.values()) >= 20 * SIZE
        again = rnb.map(length, items, name="job", session=session, show=False)
        assert again.attached == 20
        assert on_disk(data_dir) == before
        with pytest.raises(rnb.JobMismatch):
            rnb.map(length, items[:5], name="job", session=session, show=False)
        assert on_disk(data_dir) == before


def test_retention_gives_back_the_disk_when_it_is_over(data_dir: Path) -> None:
    often = {"RESTATE_WORKER__CLEANUP_INTERVAL": "1s"}
    with Session("life", data_dir, retention=timedelta(seconds=2), server_env=often) as session:
        run(session)
        assert sum(on_disk(data_dir).values()) >= 10 * SIZE
        eventually(lambda: not on_disk(data_dir))


@pytest.mark.parametrize("dies_in", ["Admin.purge", "LocalStore.drop"])
def test_a_kill_in_the_middle_of_a_delete_leaves_nothing_in_the_store(data_dir: Path, dies_in: str) -> None:
    """The next session goes on with it."""
    script = """
        import os, signal, sys
        from pathlib import Path
        import restate_nb as rnb
        from restate_nb.server.admin import Admin
        from restate_nb.session.session import Session
        from restate_nb.store.local import LocalStore

        def value(number):
            return bytes([number]) * 100_000
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        with Session("life", Path(sys.argv[1])) as session:
            job = rnb.map(value, range(10), name="job", session=session, show=False)
            job.wait(30)
            owner, _, name = sys.argv[2].partition(".")
            setattr(globals()[owner], name, die)
            job.delete()
            import time; time.sleep(20)
    """
    assert run_python(script, data_dir, dies_in, check=False).returncode == -9
    assert sum(on_disk(data_dir).values()) >= 10 * SIZE
    with Session("life", data_dir) as session:
        eventually(lambda: not on_disk(data_dir))
        assert len(session.list_jobs()) == 0


def test_what_was_written_for_a_job_that_never_began_is_swept_when_it_is_old(data_dir: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        import restate_nb as rnb
        from restate_nb.backends.job_store import ObjectJobStore
        from restate_nb.session.session import Session

        async def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        with Session("life", Path(sys.argv[1])) as session:
            ObjectJobStore.open = die
            rnb.map(len, [bytes([n]) * 100_000 for n in range(20)], name="never", session=session, show=False)
    """
    with Session("life", data_dir) as session:
        run(session)
    named = on_disk(data_dir)
    assert run_python(script, data_dir, check=False).returncode == -9
    left = on_disk(data_dir)
    assert len(left) == 2
    assert sum(left.values()) >= 30 * SIZE
    with Session("life", data_dir) as session:  # it may belong to a process that is about to begin its job
        swept(session)
        assert on_disk(data_dir) == left
    make_old(data_dir)
    with Session("life", data_dir) as session:
        eventually(lambda: on_disk(data_dir).keys() == named.keys())
        swept(session)
        assert on_disk(data_dir) == named
        assert session.job("job").values() == [value(number) for number in range(10)]


def test_folders_of_a_process_that_still_reads_its_items_stay_however_old(data_dir: Path) -> None:
    """Items that come from a slow source: its last large one was written hours ago, and its job has not begun."""
    slow = start_python(
        """
        import sys
        from pathlib import Path
        import restate_nb as rnb
        from restate_nb.session.session import Session
        def items():
            yield from (bytes([number]) * 1_000_000 for number in range(20))
            print("waits", flush=True)
            sys.stdin.readline()
        with Session("life", Path(sys.argv[1])) as session:
            job = rnb.map(len, items(), name="slow", session=session, show=False)
            print(sum(job.values()), flush=True)
        """,
        data_dir,
    )
    assert slow.stdout is not None
    assert slow.stdin is not None
    with Session("life", data_dir) as session:
        assert slow.stdout.readline() == "waits\n"
        make_old(data_dir)
        left = on_disk(data_dir)
        assert len(left) == 1
        swept(session)
        assert on_disk(data_dir) == left
        slow.stdin.write("\n")
        slow.stdin.flush()
        assert slow.stdout.readline() == "20000000\n"
        slow.communicate(timeout=30)


def test_sessions_of_one_server_sweep_nothing_of_each_other(data_dir: Path) -> None:
    with Session("life", data_dir) as session, Session("beside", data_dir) as beside:
        run(session)
        run(beside, "another")
        for name in ("life", "beside"):
            make_old(data_dir, name)
        swept(session)
        swept(beside)
        assert session.job("job").values() == beside.job("another").values()


class Records:
    """Stands for an admin interface, of which only the records of jobs matter."""

    def __init__(self, texts: dict[str, list[str | None]]) -> None:
        self.texts = texts

    async def query(self, query: str, texts: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        if "octet_length" in query:
            return [
                {"service_name": f"rnb-{session}-jobs", "service_key": f"job {number}", "size": 10}
                for session, each in self.texts.items()
                for number in range(len(each))
            ]
        [session] = [each for each in self.texts if f"'rnb-{each}-jobs'" in query]
        return [{"value_utf8": text} for text in self.texts[session]]


def test_what_records_of_any_version_name_is_known_and_a_variable_hides_none() -> None:
    texts: dict[str, list[str | None]] = {
        "life": [
            '{"version":99,"what":"nobody can read","folder":"aaa-1"}',
            '{"name":"\\"folder\\":\\"no\\"","made":[{"parts":{"folder":"d1"}}],"folder":"bbb","placed":""}',
        ],
        "life-workers": ['{"folder":"ccc"}', '{"folder":""}'],
        "other": ['{"folder":"ddd"}'],
    }
    found = asyncio.run(read_folders(Records(texts), ["life", "life-workers"]))  # type: ignore[arg-type]
    assert found == {"aaa-1", "bbb", "ccc", "d1"}


def test_nothing_is_swept_where_a_record_cannot_be_had() -> None:
    with pytest.raises(ServerError, match="cannot be read"):
        asyncio.run(read_folders(Records({"life": [None]}), ["life"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["database", "values"])
def test_a_copy_that_is_taken_while_a_job_runs_opens_or_says_what_is_missing(
    data_dir: Path, tmp_path: Path, first: str
) -> None:
    """What is copied before the values names values that are there; if they are copied before, some may be missing."""
    copy = tmp_path / "copy"
    copy.mkdir()
    with Session("life", data_dir) as session:
        run(session, "done")
        running = rnb.map(slow_value, range(200), name="running", concurrency=4, session=session, show=False)
        for part in ("values", "database") if first == "values" else ("database", "values"):
            wanted = running.counts["ok"] + 20
            eventually(partial(has, running, wanted))
            of = [each for each in data_dir.iterdir() if (each.name == "values") == (part == "values")]
            subprocess.run(["cp", "-r", *of, copy], check=False)  # sockets cannot be copied, which it says
        running.cancel()
        session.job("done").delete()  # which takes nothing from the copy
        running.delete()
    with Session("life", copy) as session:
        assert session.job("done").values() == [value(number) for number in range(10)]
        again = rnb.map(slow_value, range(200), name="running", concurrency=64, session=session, show=False)
        again.wait(60)
        assert again.counts["ok"] == 200
        if first == "database":
            assert again.values() == [value(number) for number in range(200)]
        else:
            with pytest.raises(rnb.JobError, match=rf"cannot be read: {copy}/values/life/.*\.seg has .* bytes, "):
                again.values()
            kept = [each for each in again.frame()["value"] if isinstance(each, bytes)]
            assert 20 < len(kept) < 200
            assert kept == [value(each[0]) for each in kept]


def has(job: rnb.Job[Any], count: int) -> bool:
    return job.counts["ok"] > count


def slow_value(number: int) -> bytes:
    time.sleep(0.03)
    return value(number)


def test_values_that_are_missing_in_a_copy_say_what_is_missing(data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / ".restate"
    with Session("life", data_dir) as session:
        run(session)
    shutil.copytree(data_dir, copy, ignore=lambda _, names: [each for each in names if each.endswith(".sock")])
    shutil.rmtree(copy / "values")
    with Session("life", copy) as session:
        job = session.job("job")
        job.wait(20)
        assert job.counts["ok"] == 10
        with pytest.raises(rnb.JobError, match=rf"cannot be read: {copy}/values/life/.*\.seg is not there.* in a copy"):
            job.values()
