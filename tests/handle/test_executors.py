"""Proves where items run: worker processes that die, hang or are killed cost one attempt and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import nbformat
import psutil
import pytest
import restate
from nbclient import NotebookClient

import restate_nb as rnb
from restate_nb.engine import processes
from restate_nb.engine.cpus import cpus
from restate_nb.engine.process_worker import Worker
from restate_nb.session.session import Session
from tests import support
from tests.handle.counted import Calls, look, look_awaited, variable
from tests.results.shapes import Answer, ask

submit = partial(support.submit, executor="process")


def workers() -> list[psutil.Process]:
    """The worker processes of this process."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if "restate_nb.engine.process_child" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:
            pass
    return found


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it may end between the two questions
        return False


def gone(pids: Any, seconds: float = 5) -> bool:
    """Whether these end in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


def together(calls: Calls, count: int) -> Callable[[int], int]:
    """A function whose items end once so many processes have begun with one."""

    def work(item: int) -> int:
        calls.note(os.getpid())
        while len(calls.counts()) < count:
            time.sleep(0.01)
        return os.getpid()

    return work


def test_items_run_in_as_many_processes_as_there_are_processors(session: Session, calls: Calls) -> None:
    pids = set(submit(session, together(calls, cpus()), range(20)).values())
    assert os.getpid() not in pids
    assert len(pids) == cpus()


def test_a_worker_that_dies_costs_one_attempt_of_its_own_item_only(session: Session, calls: Calls) -> None:
    def work(item: int) -> int:
        calls.note(item)
        time.sleep(0.02)
        if item % 10 == 3:
            os._exit(7)
        if item % 10 == 6:
            os.kill(os.getpid(), signal.SIGSEGV)
        if item % 10 == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    frame = submit(session, work, range(60), concurrency=6).result(60)
    for item, row in enumerate(frame.itertuples()):
        bad = item % 10 in (3, 6, 8)
        assert (row.status, row.attempts) == ("error" if bad else "ok", 1), row
        assert not bad or row.error_type == "WorkerDied"
    assert calls.counts() == {str(item): 1 for item in range(60)}, "an item ran twice, or not at all"
    assert "exit code 7" in frame["error"][3]
    assert "SIGSEGV" in frame["error"][6]
    assert "memory" in frame["error"][8]


def test_an_item_whose_worker_died_is_tried_again_like_any_other(session: Session, calls: Calls) -> None:
    def work(item: int) -> int:
        calls.note(item)
        if item == 1 and calls.counts()["1"] < 3:
            os._exit(1)
        return item

    retry = rnb.Retry(max_attempts=3, initial_interval=0.01, retry_on=rnb.WorkerDied)
    frame = submit(session, work, range(3), retry=retry).result(30)
    assert frame["value"].tolist() == [0, 1, 2]
    assert frame["attempts"].tolist() == [1, 3, 1]


def test_a_worker_that_dies_between_items_is_replaced_and_nobody_is_charged(session: Session) -> None:
    def work(item: int) -> int:
        time.sleep(0.05)
        if item == 0:
            time.sleep(3)
        return os.getpid()

    job = submit(session, work, range(3), concurrency=3, name="idle")
    while job.counts["ok"] < 2:
        time.sleep(0.01)
    for pid in job.frame()["value"].dropna():
        os.kill(int(pid), signal.SIGKILL)
    assert job.result(30)["status"].tolist() == ["ok"] * 3
    again = submit(session, work, range(1, 30), concurrency=3, name="idle-2")
    time.sleep(0.5)
    assert again.result(30)["attempts"].tolist() == [1] * 29


def test_a_timeout_ends_the_hung_process_and_what_it_has_started(session: Session, calls: Calls) -> None:
    def work(item: int) -> int:
        if item == 2:
            child = subprocess.Popen(["sleep", "600"])
            calls.note(os.getpid())
            calls.note(child.pid)
            while True:
                pass
        return item

    began = time.monotonic()
    frame = submit(session, work, range(8), timeout=0.7).result(30)
    assert frame["status"].tolist() == ["ok", "ok", "timeout", *["ok"] * 5]
    assert frame["error_type"][2] == "ItemTimeout"
    assert 0.6 < frame["run_s"][2] < 5
    assert time.monotonic() - began < 15
    assert gone([int(pid) for pid in calls.counts()])


def test_cancel_ends_running_processes_at_once(session: Session, calls: Calls) -> None:
    def work(item: int) -> None:
        calls.note(os.getpid())
        while True:
            pass

    job = submit(session, work, range(4), concurrency=2, name="endless")
    while len(calls.counts()) < 2:
        time.sleep(0.01)
    job.cancel()
    assert job.result(5)["status"].tolist() == ["cancelled"] * 4
    assert gone([int(pid) for pid in calls.counts()])


@pytest.mark.parametrize("in_flight", [False, True])
def test_no_process_is_left_after_stop(data_dir: Path, in_flight: bool) -> None:
    def work(item: int) -> int:
        time.sleep(60 if in_flight else 0.01)
        return os.getpid()

    before = {each.pid for each in workers()}
    with Session("leaves", data_dir) as session:
        job = submit(session, work, range(4), concurrency=2)
        if in_flight:
            while job.counts["running"] < 2 or len({each.pid for each in workers()} - before) < 2:
                time.sleep(0.01)
        else:
            job.result(20)
        pids = {each.pid for each in workers()} - before
        assert len(pids) == 2
    assert gone(pids)


def test_workers_are_kept_for_the_next_job_and_more_of_them_than_processors_end(
    session: Session, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    monkeypatch.setattr(processes, "IDLE", 0.2)
    most = cpus() + 2
    pids = set(submit(session, together(calls, most), range(most), concurrency=most, name="many workers").values())
    assert len(pids) == most
    deadline = time.monotonic() + 5
    while sum(map(alive, pids)) > cpus() and time.monotonic() < deadline:
        time.sleep(0.02)
    kept = {pid for pid in pids if alive(pid)}
    assert len(kept) == cpus()
    assert set(submit(session, together(calls, cpus()), range(most), name="the next job").values()) <= kept


def test_a_killed_parent_takes_its_workers_with_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            import restate_nb as rnb

            def work(item):
                print(os.getpid(), flush=True)
                while True:
                    pass

            rnb.start()
            rnb.map(work, range(2), executor="process", concurrency=2, show=False)
            time.sleep(60)
            """
        )
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    assert gone(pids, 10)


NOTEBOOK = """
from __future__ import annotations
import dataclasses, os
import restate_nb as rnb

@dataclasses.dataclass
class Size:
    high: int

@dataclasses.dataclass
class Box:
    name: str
    size: Size

class Wrong(Exception):
    pass

FACTOR = 3

def helper(size: Size) -> int:
    if size.high == 13:
        raise Wrong("thirteen")
    return size.high * FACTOR

def work(box: Box) -> Box:
    return Box(box.name + "!", Size(helper(box.size)))

def check():
    items = [{"name": "a", "size": {"high": 1}}, {"name": "b", "size": {"high": 13}}]
    retry = rnb.Retry(max_attempts=2, initial_interval=0, retry_on=Wrong)
    frame = rnb.map(work, items, executor="process", retry=retry, show=False).result(60)
    assert frame["value"][0] == Box("a!", Size(3)), frame["value"][0]
    assert frame["error_type"][1] == "Wrong" and frame["attempts"][1] == 2, frame
    print("fine")
"""


def test_functions_and_classes_of_a_script_work_without_a_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{NOTEBOOK}\nrnb.start()\ncheck()\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_functions_and_classes_of_a_notebook_work_and_can_be_redefined(tmp_path: Path) -> None:
    again = NOTEBOOK.replace("FACTOR = 3", "FACTOR = 4").replace("Size(3))", "Size(4))")
    cells = [NOTEBOOK, "rnb.start()\ncheck()", f"{again}\ncheck()", "rnb.start().stop()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    asyncio.run(NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).async_execute())
    said = [each.get("text", "") for cell in notebook.cells for each in cell.outputs]
    assert "".join(said).count("fine") == 2


def test_a_function_that_is_defined_anew_is_used_for_what_is_still_to_start(session: Session) -> None:
    def old(item: int) -> str:
        time.sleep(0.1)
        return "old"

    def new(item: int) -> str:
        return "new"

    job = submit(session, old, range(30), concurrency=2, name="anew")
    while job.counts["ok"] < 2:
        time.sleep(0.01)
    with pytest.warns(rnb.OlderResults, match="of an older `new`"):
        values = submit(session, new, range(30), concurrency=2, name="anew").values()
    assert values[:2] == ["old", "old"]
    assert values[-20:] == ["new"] * 20


def test_typed_items_and_values_large_ones_and_exceptions_cross_the_border(session: Session) -> None:
    assert submit(session, ask, ["a", "bb"]).values() == [Answer("a", 1), Answer("bb", 2)]
    large = submit(session, lambda text: text + "!", ["x" * 5_000_000] * 3, name="large").values()
    assert [len(each) for each in large] == [5_000_001] * 3
    frame = submit(session, lambda item: object() if item else 1 / item, [0, 1], name="wrong").result(20)
    assert frame["error_type"].tolist() == ["ZeroDivisionError", "NotEncodable"]
    assert rnb.starmap(pow, [(2, 3), (3, 2)], executor="process", session=session, show=False).values() == [8, 9]
    dicts = [{"base": 2, "exp": 3}, {"base": 3, "exp": 2, "mod": 5}]
    assert rnb.starmap(pow, dicts, executor="process", session=session, show=False).values() == [8, 4]


def test_an_answer_to_slow_down_is_heard_from_a_process(session: Session) -> None:
    def work(item: int) -> int:
        if item == 9:
            request = httpx.Request("GET", "http://localhost")
            raise httpx.HTTPStatusError("", request=request, response=httpx.Response(429, request=request))
        time.sleep(0.02)
        return item

    job = submit(session, work, range(10), concurrency=(1, 4), name="slow down")
    job.result(20)
    assert job.concurrency < 4


async def twice(item: int) -> Any:
    await asyncio.sleep(0.001)
    return [2 * item, os.getpid(), id(asyncio.get_running_loop()), threading.current_thread().name]


def test_coroutine_functions_run_in_processes_and_in_threads(session: Session) -> None:
    values = submit(session, twice, range(6), concurrency=1, name="co process").values()
    assert [each[0] for each in values] == [0, 2, 4, 6, 8, 10]
    assert len({(each[1], each[2]) for each in values}) == 1, "one loop a worker"
    values = submit(session, twice, range(6), executor="thread", name="co thread").values()
    assert [each[0] for each in values] == [0, 2, 4, 6, 8, 10]
    assert all(each[1] == os.getpid() and each[3].startswith("rnb-co thread") for each in values)


def test_threads_see_the_cells_context_and_processes_do_not(session: Session) -> None:
    token = variable.set("cell")
    assert submit(session, look_awaited, [1], executor="thread", name="sees").values() == ["cell"]
    assert submit(session, look, [1], executor="process", name="does not").values() == ["unset"]
    variable.reset(token)


def test_too_many_hung_threads_are_told_of_with_the_way_out(session: Session) -> None:
    release = threading.Event()

    def work(item: int) -> int:
        release.wait(20)
        return item

    frame = submit(session, work, range(4), executor="thread", concurrency=2, timeout=0.1, name="hung").result(20)
    assert frame["status"].tolist() == ["timeout"] * 4
    assert "threads are still busy" not in frame["error"][0]
    assert frame["error"][3].endswith('use executor="process", which ends the process of an item.')
    release.set()


async def durable(ctx: restate.Context, item: int) -> int:
    return item


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("fn", "options", "says"),
    [
        (str, {"executor": "gpu"}, r'executor is "auto".*not \'gpu\''),
        (lambda item, lock=threading.Lock(): item, {}, r"cannot be sent to a process.*inside the function"),  # noqa: B008
        (durable, {}, r"durable is a durable function.*takes no executor"),
    ],
    ids=["unknown", "a lock", "durable"],
)
def test_what_cannot_run_in_a_worker_process_is_refused_with_advice(
    session: Session, fn: Any, options: Any, says: str
) -> None:
    before = len(session.jobs)
    with pytest.raises(rnb.InvalidInput, match=f"(?s){says}"):
        submit(session, fn, [1], **options)
    assert len(session.jobs) == before


class EndsWhenLoaded:
    """A function that ends the process which unpickles it."""

    def __call__(self, item: int) -> int:
        return item

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return os._exit, (3,)


def test_a_function_that_ends_each_worker_is_given_up_for_all_items_after_a_few(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = Worker.__init__

    def counted(self: Worker) -> None:
        started.append(1)
        start(self)

    monkeypatch.setattr(Worker, "__init__", counted)
    job = submit(session, EndsWhenLoaded(), range(40), concurrency=2, name="ends when loaded")
    frame = job.result(60)
    assert frame["error_type"].tolist() == ["WorkerDied"] * 40
    assert (
        frame["error"].str.contains("in a row ended before they could begin; the last one ended with exit code 3").all()
    )
    assert len(started) <= 4 * 3, "and not three for each item"
    job.retry_failed().result(60)
    assert len(started) <= 4 * 3 + 2 * 3, "and three more where it is tried again"


def test_workers_that_the_machine_does_not_give_are_waited_for_while_others_run(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Worker.__init__
    most, started = 1, 0

    def refused(self: Worker) -> None:
        nonlocal started
        if started == most:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(self)
        started += 1

    monkeypatch.setattr(Worker, "__init__", refused)
    job = submit(session, abs, range(-9, 0), concurrency=4, name="few workers")
    assert job.values() == list(range(9, 0, -1)), job.diagnose()
    assert started == 1
    with Session("without-workers", session.data_dir.parent / "other") as other:
        frame = submit(other, str, range(3), concurrency=2, name="no worker").result(20)
    assert frame["error"].str.contains("No worker process can be started").all()
