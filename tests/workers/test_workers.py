"""Proves that workers in other processes run jobs as the session does; killing or stopping them loses nothing."""

from __future__ import annotations

import dataclasses
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.backends import shards
from restate_nb.errors import InvalidInput
from restate_nb.service import shard_wire
from restate_nb.session.session import Session
from tests.workers import work
from tests.workers.crew import Worker, executions, free_port


class Crew:
    """A session, and workers behind one port."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self.port = free_port()
        self.workers: list[Worker] = []

    def start(self, *more: str) -> Worker:
        admin, key = self.session.server.admin.url, self.session.server.identity_key
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Worker(log, self.session.name, self.port, "--admin", admin, "--identity-key", key, *more)
        self.workers.append(worker)
        return worker

    def doubles(self, path: Path, count: int, seconds: float = 0.02, **options: Any) -> rnb.Job[Any]:
        items = [(str(path), number, seconds) for number in range(count)]
        return rnb.starmap("tests.workers.work:double", items, session=self.session, show=False, **options)


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    folder = tmp_path_factory.mktemp("crew")
    with Session("crew", folder / ".restate", listen="tcp") as session:
        made = Crew(session, folder)
        try:
            with pytest.raises(InvalidInput, match="has no workers"):
                rnb.map("tests.workers.work:even", [1], session=session, show=False)
            made.start()
            made.start()
            yield made
        finally:
            for worker in made.workers:
                worker.kill()


def test_values_errors_and_attempts_come_back_on_the_index(crew: Crew) -> None:
    job = rnb.map(work.even, {"a": 2, "b": 3}, on="workers", session=crew.session, show=False)
    frame = job.result(30)
    assert frame["status"].to_dict() == {"a": "ok", "b": "error"}
    assert (frame.loc["a", "value"], frame.loc["b", "error"]) == ("even", "3 is odd")
    assert job.errors()["where"].iloc[0].startswith("work.py:")
    assert (frame["run_s"] < 5).all()
    row = job.workers().iloc[0]
    assert row["process"] in [worker.process.pid for worker in crew.workers]
    assert f"serves tests.workers.work:even, code {row['code']}" in crew.workers[0].said


def test_items_have_the_seeds_that_they_would_have_here(crew: Crew) -> None:
    executors: tuple[Any, ...] = ("auto", "process")
    for executor in executors:
        options = {"name": f"seeds {executor}", "session": crew.session, "show": False}
        there = rnb.map(work.seeds, range(40), on="workers", executor=executor, **options).values()
        assert there == rnb.map(work.seeds, range(40), **options).values()
        assert len({seed for pair in there for seed in pair}) == 80


def test_retries_are_those_of_the_recipe(crew: Crew, tmp_path: Path) -> None:
    retry = rnb.Retry(max_attempts=3, initial_interval=0.01, retry_on=ConnectionError)
    job = rnb.map(work.once, [str(tmp_path / "x")], on="workers", retry=retry, session=crew.session, show=False)
    assert job.values() == ["came again"]
    assert job.attempts()["error_type"].tolist()[0] == "ConnectionError"


def test_dicts_reach_functions_of_workers_by_name(crew: Crew, tmp_path: Path) -> None:
    items = [{"number": number, "path": str(tmp_path / "runs")} for number in range(3)]
    job = rnb.starmap("tests.workers.work:double", items, session=crew.session, show=False)
    assert job.values() == [0, 2, 4]


def test_no_more_run_at_once_than_concurrency_on_all_workers_together(crew: Crew, tmp_path: Path) -> None:
    job = crew.doubles(tmp_path / "runs", 60, 0.05, concurrency=7)
    frame = job.result(60)
    events = sorted([(at, 1) for at in frame["started_at"]] + [(at, -1) for at in frame["finished_at"]])
    running = peak = 0
    for _, step in events:
        running += step
        peak = max(peak, running)
    assert 2 <= peak <= 7
    assert Counter(executions(tmp_path / "runs")) == Counter(range(60))


def test_workers_behind_one_address_share_the_work_also_with_a_later_one(crew: Crew, tmp_path: Path) -> None:
    """Restate is left as it comes: it would send all over one connection, to one worker."""
    job = crew.doubles(tmp_path / "runs", 9_600, 0.1, concurrency=32)
    living = [worker for worker in crew.workers if worker.process.poll() is None]
    assert len(living) >= 2
    while not {worker.process.pid for worker in living} <= set(job.workers()["process"]):
        assert not job.done(), job.workers()
        time.sleep(0.1)
    later = crew.start()
    while later.process.pid not in list(job.workers()["process"]):
        assert not job.done(), job.workers()
        time.sleep(0.1)
    job.cancel()
    assert job.wait(60)
    assert set(Counter(executions(tmp_path / "runs")).values()) == {1}  # changing connections runs nothing twice


def test_a_second_cell_attaches_and_runs_nothing_again(crew: Crew, tmp_path: Path) -> None:
    first = crew.doubles(tmp_path / "runs", 30, name="twice", concurrency=20)
    first.result(30)
    again = crew.session.job("twice")
    assert again.frame()["status"].eq("ok").all()
    crew.doubles(tmp_path / "runs", 30, name="twice", concurrency=20).result(30)
    assert len(executions(tmp_path / "runs")) == 30
    with pytest.raises(InvalidInput, match="concurrency=20 is the least"):
        crew.doubles(tmp_path / "runs", 30, name="twice", concurrency=3)


def test_a_job_of_the_session_and_one_of_its_workers_may_share_a_name(crew: Crew) -> None:
    there = rnb.map(work.even, [2, 4], on="workers", name="same", session=crew.session, show=False)
    here = rnb.map(len, ["a", "bb", "ccc"], name="same", session=crew.session, show=False)
    assert (there.values(), here.values()) == (["even", "even"], [1, 2, 3])
    with pytest.raises(InvalidInput, match=r"two jobs named 'same'.*on='here'\) or on='workers'"):
        rnb.job("same", crew.session)
    assert rnb.job("same", crew.session, on="workers") is there
    assert rnb.job("same", crew.session, on="here") is here
    crew.session.forget_handles()  # as in another process
    assert rnb.job("same", crew.session, on="workers").result(20)["value"].tolist() == ["even", "even"]
    again = rnb.job("same", crew.session, on="here")
    assert again.result(20)["value"].tolist() == [1, 2, 3]
    again.delete()
    assert rnb.job("same", crew.session).result(20)["item"].tolist() == [2, 4], "the workers' is the only one"
    with pytest.raises(InvalidInput, match="has no job 'same'"):
        rnb.job("same", crew.session, on="here")
    with pytest.raises(InvalidInput, match="on= must be 'here' or 'workers'"):
        rnb.job("same", crew.session, on="moon")  # type: ignore[arg-type]


def test_what_workers_do_not_serve_is_an_error_that_says_what_they_do(crew: Crew) -> None:
    for name in ("os:system", "tests.workers.work:system", "tests.workers.work:nothing"):
        frame = rnb.map(name, ["true"], session=crew.session, show=False).result(30)
        assert frame["status"].tolist() == ["error"]
        assert f"does not serve {name}. It serves tests.workers.work:" in frame["error"].iloc[0]


@pytest.mark.parametrize("asked", [1, 3], ids=["of before", "to come"])
def test_shards_of_another_version_are_run_or_refused_with_what_to_do(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """What a session of an earlier version sends is answered so that it can read it."""

    def encoded(request: shard_wire.ShardRequest) -> bytes:
        if asked == 1:
            return shard_wire.encode_request(dataclasses.replace(request, version=1))
        return shard_wire.encode_request(request).replace(b"version\2", b"version\3")

    def decoded(body: bytes) -> shard_wire.ShardOutput:
        versions.append(shard_wire.decode_output(body).version)
        return shard_wire.decode_output(body)

    versions: list[int] = []
    monkeypatch.setattr(shards, "encode_request", encoded)
    monkeypatch.setattr("restate_nb.backends.workers.decode_output", decoded)
    job = rnb.map(work.even, [2, 4], on="workers", session=crew.session, show=False, fresh=True)
    frame = job.result(30)
    if asked == 1:
        assert frame["value"].tolist() == ["even", "even"]
        assert set(versions) == {1}
    else:
        assert "written by a newer restate_nb (format 3)" in frame["error"].iloc[0]
        assert "install the same version there" in frame["error"].iloc[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_per_second": 5}, "count in one process"),
        ({"limit": rnb.Limit("x", concurrency=1)}, "count in one process"),
        ({"on": "moon"}, 'on is "workers"'),
    ],
)
def test_options_that_cannot_hold_are_refused(crew: Crew, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        rnb.map("tests.workers.work:even", [2], session=crew.session, show=False, **options)


def test_a_name_is_refused_where_workers_are_not_asked(crew: Crew) -> None:
    name: Any = "tests.workers.work:even"
    with pytest.raises(InvalidInput, match="which only workers can make a function of"):
        rnb.batch(name, [2], batch_size=1, session=crew.session)
    with pytest.raises(InvalidInput, match="An operation is a function without arguments"):
        rnb.fan_out([name], session=crew.session)


def test_a_durable_function_is_refused(crew: Crew) -> None:
    async def order(ctx: Any, number: int) -> int:
        return number

    with pytest.raises(InvalidInput, match="deploy it as a handler of a Restate service"):
        rnb.map(order, [1], on="workers", session=crew.session, show=False)


def test_concurrency_and_executor_of_a_running_job_are_what_was_sent(crew: Crew, tmp_path: Path) -> None:
    job = crew.doubles(tmp_path / "runs", 400, 0.1, concurrency=40)
    with pytest.raises(InvalidInput, match=r"carries its executor with it.*job.cancel\(\)"):
        job.executor = "process"
    assert job.executor == "auto"
    with pytest.raises(InvalidInput, match=r"carries its concurrency with it.*job.cancel\(\)"):
        job.concurrency = 5
    assert job.progress().note == "on workers: Restate runs 32 shards at once, and 1 or 2 items at a time in each"
    job.cancel()


def test_a_function_of_a_notebook_is_refused(crew: Crew) -> None:
    with pytest.raises(InvalidInput, match="Workers find functions by name, and lambda is of this notebook"):
        rnb.map(lambda item: item, [1], on="workers", session=crew.session, show=False)


def test_cancel_ends_what_runs_and_what_waits(crew: Crew, tmp_path: Path) -> None:
    job = crew.doubles(tmp_path / "runs", 400, 0.2, concurrency=8)
    while job.counts["ok"] < 8:
        time.sleep(0.02)
    job.cancel()
    assert job.wait(30)
    counts = job.counts
    assert counts["cancelled"] > 300, counts
    assert counts["ok"] + counts["cancelled"] == 400
    begun = len(executions(tmp_path / "runs"))
    time.sleep(0.5)
    assert len(executions(tmp_path / "runs")) == begun
    # a further round takes up what was not run
    job.retry_failed(lambda failed: failed.index < 40)
    assert job.result(60)["value"].iloc[:40].tolist() == [2 * number for number in range(40)]


def test_beginning_anew_ends_what_the_job_before_has_on_workers(crew: Crew, tmp_path: Path) -> None:
    before = crew.doubles(tmp_path / "before", 400, 0.2, concurrency=8, name="anew")
    while before.counts["ok"] < 8:
        time.sleep(0.02)
    job = crew.doubles(tmp_path / "after", 60, 0.02, concurrency=8, name="anew", fresh=True)
    assert job.result(60)["status"].eq("ok").all()
    begun = len(executions(tmp_path / "before"))
    time.sleep(1)
    assert len(executions(tmp_path / "before")) == begun < 300
    assert before.wait(30)
    assert before.counts["cancelled"] > 100


def paused(crew: Crew, path: Path, name: str) -> rnb.Job[Any]:
    """A job of 400 items that was paused after its first ones, and has come to rest."""
    job = crew.doubles(path, 400, 0.1, concurrency=8, name=name)
    while job.counts["ok"] < 8:
        time.sleep(0.02)
    job.pause()
    begun = -1
    while begun != len(executions(path)):
        begun = len(executions(path))
        time.sleep(1)
    assert not job.done() and job.status == "paused" and begun < 200
    return job


def test_a_paused_job_of_workers_starts_nothing_until_it_is_resumed(crew: Crew, tmp_path: Path) -> None:
    job = paused(crew, tmp_path / "runs", "paused")
    assert "It is paused" in str(job.diagnose())
    job.resume()
    assert job.result(60)["value"].tolist() == [2 * number for number in range(400)]
    runs = Counter(executions(tmp_path / "runs"))
    assert set(runs) == set(range(400)) and runs.total() <= 400 + 2 * 8


def test_a_job_stays_paused_for_whoever_comes_next(crew: Crew, tmp_path: Path) -> None:
    job = paused(crew, tmp_path / "runs", "paused for long")
    begun = len(executions(tmp_path / "runs"))
    crew.session.forget_job(job)
    again = crew.session.job("paused for long")
    assert again is not job and again.status == "paused"
    time.sleep(1)
    assert len(executions(tmp_path / "runs")) == begun
    again.resume()
    assert again.result(60)["value"].tolist() == [2 * number for number in range(400)]


def test_a_paused_job_can_be_cancelled(crew: Crew, tmp_path: Path) -> None:
    job = paused(crew, tmp_path / "runs", "paused and ended")
    job.cancel()
    assert job.wait(30) and job.counts["cancelled"] > 200


def test_a_pause_that_comes_while_a_long_item_runs_is_taken_back_with_the_others(crew: Crew, tmp_path: Path) -> None:
    """Restate pauses an invocation when its step ends, which may be after `resume`."""
    job = crew.doubles(tmp_path / "runs", 6, 3.0, concurrency=2, name="long items")
    while len(executions(tmp_path / "runs")) < 2:
        time.sleep(0.02)
    job.pause()
    time.sleep(0.5)
    job.resume()
    assert job.result(60)["status"].eq("ok").all()


def test_fail_fast_ends_the_job(crew: Crew) -> None:
    job = rnb.map(work.even, range(1, 400), on="workers", fail_fast=3, concurrency=4, session=crew.session, show=False)
    with pytest.raises(rnb.JobError, match="failed"):
        job.result(60)
    assert job.counts["cancelled"] > 0


def test_a_killed_worker_loses_nothing(crew: Crew, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    path = tmp_path / "runs"
    job = crew.doubles(path, 300, 0.05, concurrency=10)
    kills = 0
    for share in (0.2, 0.5):
        while len(executions(path)) < 300 * share:
            time.sleep(0.01)
        victim = rng.choice([worker for worker in crew.workers if worker.process.poll() is None])
        victim.kill()
        kills += 1
        crew.start()
    frame = job.result(90)
    assert frame["value"].tolist() == [2 * number for number in range(300)]
    runs = Counter(executions(path))
    assert set(runs) == set(range(300))
    assert runs.total() - 300 <= kills * 2 * 10  # what was in flight, or just over and not recorded
    assert kills == 2


def test_a_stopped_worker_lets_items_end_and_leaves_the_rest_to_others(crew: Crew, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    job = crew.doubles(path, 60, 0.3, concurrency=6)
    while len(executions(path)) < 12:
        time.sleep(0.01)
    living = [worker for worker in crew.workers if worker.process.poll() is None]
    crew.start()  # before, so that somebody is there
    for worker in living:
        worker.process.send_signal(signal.SIGTERM)
    assert [worker.process.wait(30) for worker in living] == [0] * len(living)
    assert all("stopping: items that run have 30 s to end" in worker.said for worker in living)
    assert job.result(90)["value"].tolist() == [2 * number for number in range(60)]
    assert Counter(executions(path)) == Counter(range(60))  # no item was run twice


def test_a_worker_whose_output_nobody_reads_any_more_still_stops_well() -> None:
    words = ["tests.workers.work", "--session", "s", "--bind", f"127.0.0.1:{free_port()}", "--no-register"]
    command = [sys.executable, "-m", "restate_nb.cli", "worker", *words, "--no-identity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None and worker.stderr is not None
        while not worker.stdout.readline().startswith("ready: "):
            assert worker.poll() is None
        worker.stdout.close()
        worker.send_signal(signal.SIGTERM)
        assert (worker.wait(30), worker.stderr.read()) == (0, "")


def test_a_worker_waits_until_restate_can_reach_it(crew: Crew, tmp_path: Path) -> None:
    """As in Kubernetes, where a service leads to a worker some seconds after it has begun to listen."""
    log, behind, front = tmp_path / "worker.log", free_port(), free_port()
    leads = threading.Thread(target=lead_there, args=(log, front, behind), daemon=True)
    leads.start()
    server = crew.session.server
    options = ("--advertise", f"http://127.0.0.1:{front}", "--admin", server.admin.url)
    worker = Worker(log, "late", behind, *options, "--identity-key", server.identity_key)
    try:
        assert f"ready: session 'late' at http://127.0.0.1:{front}" in worker.said
        assert re.search(r"waiting, up to 60 s: .* could not be told of this worker: .* --advertise", worker.said)
    finally:
        worker.kill()


def lead_there(log: Path, front: int, behind: int) -> None:
    """Once the worker has said that it waits, take a connection at `front` and hand its bytes on, and back."""
    while not log.exists() or "waiting" not in log.read_text():
        time.sleep(0.02)
    with socket.create_server(("127.0.0.1", front)) as listening:
        listening.settimeout(60)
        while True:
            try:
                taken, _ = listening.accept()
                there = socket.create_connection(("127.0.0.1", behind))
            except OSError:
                return  # the worker is gone, or the test has been over for long
            for each in ((taken, there), (there, taken)):
                threading.Thread(target=hand_on, args=each, daemon=True).start()


def hand_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass  # one side is gone
    finally:
        for each in (source, target):
            each.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tests.workers.work", "--admin", "http://127.0.0.1:1"], "Give --identity-key"),
        (["tests.workers.work", "--no-identity"], "--admin is missing"),
        (["tests.no_such", "--no-identity", "--no-register"], "tests.no_such cannot be imported"),
        (["tests.workers.work:system", "--no-identity", "--no-register"], "defines no function system"),
    ],
)
def test_a_worker_that_cannot_start_says_what_to_do(words: list[str], says: str) -> None:
    command = [sys.executable, "-m", "restate_nb.cli", "worker", *words, "--session", "a", "--bind", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_value_that_cannot_be_kept_pauses_the_lanes(crew: Crew, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    items = [(str(path), number) for number in range(400)]
    job = rnb.starmap(
        work.unkeepable, items, on="workers", concurrency=2, retry=rnb.Retry(), session=crew.session, show=False
    )
    with pytest.raises(rnb.JobError, match=r"is paused: what item .* cannot be kept"):
        job.result(60)
    assert len(executions(path)) < 300
    assert (job.frame()["attempts"] <= 1).all()
    job.cancel()
