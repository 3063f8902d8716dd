"""Proves what becomes of items that worker processes get in batches: each runs once, ends as it would alone, and prints
for itself, however its worker or the items beside it end; and jobs that share workers do not see one another."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from restate_nb.engine import processes as module
from restate_nb.engine.attempt import ItemCall, Remote
from restate_nb.engine.function import Function
from restate_nb.engine.outbox import ShardQueue, entries
from restate_nb.engine.output import OutputCapture
from restate_nb.engine.pool import Pool
from restate_nb.engine.process_frames import FUNCTION, OUTCOMES, framed
from restate_nb.engine.process_worker import Worker
from restate_nb.engine.processes import Processes
from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT, Attempt
from restate_nb.limits import Range
from restate_nb.policy import NO_RETRY, Retry, RunPolicy
from restate_nb.values.codec import decode, encode
from tests.handle.counted import Calls

SEED = random.SystemRandom().randrange(1_000_000)


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Workers of a session."""
    processes = Processes()
    yield processes
    processes.close()
    assert processes.wait_until_gone(time.monotonic() + 10)


@pytest.fixture
async def pool(processes: Processes) -> AsyncIterator[Pool]:
    pool = Pool(asyncio.get_running_loop(), "test", processes=processes)
    yield pool
    pool.close()


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


def queue_of(*items: Any) -> ShardQueue:
    payloads = {position: encode(item) for position, item in enumerate(items)}
    return ShardQueue(len(payloads), lambda: entries(payloads, {}))


async def outcomes(pool: Pool, queue: ShardQueue, seconds: float = 60) -> list[Attempt]:
    """All attempts of a queue, in the order in which they ended."""
    attempts: list[Attempt] = []
    while queue.waiting or queue.open or queue.outcomes_waiting or queue.in_group:
        group = await asyncio.wait_for(queue.next_attempts(), seconds)
        queue.acknowledge(group)
        pool.recorded()
        attempts += group
    return attempts


def call_of(fn: Callable[..., Any], output: OutputCapture | None = None, retry: Retry = NO_RETRY) -> ItemCall:
    call = Function(fn, executor="process").item_call(retry)
    return call if output is None else replace(call, context=output.context(bounded=False))


async def run(pool: Pool, fn: Callable[..., Any], *items: Any, **policy: Any) -> dict[int, Attempt]:
    """Run items; their last attempts by position."""
    output = policy.pop("output", None)
    queue = queue_of(*items)
    options = RunPolicy(**{"concurrency": 2} | policy)
    pool.provide(call_of(fn, output, options.retry), options)
    pool.add(queue)
    return {each.position: each for each in await outcomes(pool, queue)}


def values(attempts: dict[int, Attempt]) -> list[Any]:
    assert all(each.failure is None for each in attempts.values()), attempts
    return [decode(attempts[position].value) for position in sorted(attempts)]


def said(output: OutputCapture, position: int, stream: str = "stdout") -> list[str]:
    return [line.text for line in output.lines() if (line.position, line.stream) == (position, stream)]


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


def compute(item: int) -> int:
    return item * 2


# ---------------------------------------------------------------- deaths


@pytest.mark.parametrize("quick", [True, False])
async def test_a_worker_that_dies_in_a_batch_costs_its_own_item_one_attempt(
    pool: Pool, calls: Calls, quick: bool
) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    count = 3_000 if quick else 60
    dies = {item: chance.choice(["exit", "kill"]) for item in chance.sample(range(count), 8)}

    def work(item: int) -> int:
        calls.note(item)
        if not quick:
            time.sleep(0.005)
        if dies.get(item) == "exit":
            os._exit(3)
        if dies.get(item) == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return item * 2

    attempts = await run(pool, work, *range(count))
    for item in range(count):
        if item in dies:
            assert attempts[item].status == ERROR
            failure = attempts[item].failure
            assert failure is not None and failure.type == "WorkerDied"
            assert ("exit code 3" if dies[item] == "exit" else "SIGKILL") in failure.message
        else:
            assert attempts[item].status == OK and decode(attempts[item].value) == item * 2, attempts[item]
    assert calls.counts() == {str(item): 1 for item in range(count)}, "an item ran twice, or not at all"


async def test_workers_that_are_killed_from_outside_cost_what_they_were_in_only(pool: Pool, calls: Calls) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)

    def work(item: int) -> int:
        calls.note(item)
        total = 0
        for number in range(2_000):
            total += number
        return item

    queue = queue_of(*range(10_000))
    pool.provide(call_of(work), RunPolicy(concurrency=2))
    pool.add(queue)
    done = asyncio.ensure_future(outcomes(pool, queue))
    killed = 0
    for left in range(9_000, 500, -1_000):
        await until(lambda left=left: len(queue.open) < left or done.done(), 60)  # type: ignore[misc]
        children = psutil.Process().children()
        if children:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                chance.choice(children).kill()
                killed += 1
    attempts = {each.position: each for each in await done}
    assert killed > 3
    assert len(attempts) == 10_000
    died = [each for each in attempts.values() if each.status != OK]
    assert len(died) <= killed
    assert all(each.failure is not None and each.failure.type == "WorkerDied" for each in died)
    ran = calls.counts()
    assert max(ran.values()) == 1, "an item ran twice"
    assert all(str(position) in ran for position, each in attempts.items() if each.status == OK)


async def test_a_timeout_in_a_batch_ends_its_own_item_and_begins_when_that_does(pool: Pool, calls: Calls) -> None:
    def work(item: int) -> int:
        calls.note(item)
        if item in {500, 900}:
            time.sleep(60)
        time.sleep(0.0005)
        return item

    attempts = await run(pool, work, *range(1_500), timeout=0.5)
    late = {position for position, each in attempts.items() if each.status == TIMEOUT}
    assert late == {500, 900}
    assert all(each.status == OK for position, each in attempts.items() if position not in late)
    assert all(0.4 < attempts[position].ran < 5 for position in late)
    assert calls.counts() == {str(item): 1 for item in range(1_500)}


async def test_an_item_whose_worker_has_to_load_the_function_first_is_not_late(pool: Pool) -> None:
    class Slow:
        def __call__(self, item: int) -> int:
            return item

        def __reduce__(self) -> Any:
            return load, ()

    def load() -> Callable[[int], int]:
        time.sleep(0.6)
        return lambda item: item

    attempts = await run(pool, Slow(), 1, 2, timeout=0.3)
    assert values(attempts) == [1, 2]


async def test_what_ends_before_a_long_item_is_known_while_that_runs(pool: Pool) -> None:
    def work(item: int) -> int:
        if item == 200:
            time.sleep(30)
        return item

    queue = queue_of(*range(201))
    pool.provide(call_of(work), RunPolicy(concurrency=1))
    pool.add(queue)
    attempts: list[Attempt] = []
    began = time.monotonic()
    while len(attempts) < 200:
        group = await asyncio.wait_for(queue.next_attempts(), 10)
        queue.acknowledge(group)
        attempts += group
    assert time.monotonic() - began < 20
    assert {each.position for each in attempts} == set(range(200))
    pool.cancel(queue)


async def test_items_that_end_their_process_by_an_exception_end_alone(pool: Pool) -> None:
    def work(item: int) -> int:
        if item % 10 == 3:
            raise SystemExit(3)
        if item % 10 == 6:
            raise KeyboardInterrupt
        return os.getpid()

    attempts = await run(pool, work, *range(300))
    kinds = {position: each.failure.type for position, each in attempts.items() if each.failure is not None}
    assert kinds == {
        item: "SystemExit" if item % 10 == 3 else "KeyboardInterrupt" for item in range(300) if item % 10 in {3, 6}
    }
    assert len({decode(each.value) for each in attempts.values() if each.failure is None}) <= 2, "no worker ended"


async def test_what_cannot_be_sent_fails_alone(pool: Pool) -> None:
    call = call_of(compute)
    assert call.remote is not None
    pack = call.remote.pack

    def picky(payload: bytes) -> bytes:
        if decode(payload) % 7 == 0:
            raise ValueError("it cannot be pickled")
        return pack(payload)

    queue = queue_of(*range(500))
    pool.provide(replace(call, remote=Remote(call.remote.function, picky)), RunPolicy(concurrency=2))
    pool.add(queue)
    attempts = {each.position: each for each in await outcomes(pool, queue)}
    assert {position for position, each in attempts.items() if each.failure} == set(range(0, 500, 7))
    assert [decode(attempts[item].value) for item in range(500) if item % 7] == [2 * i for i in range(500) if i % 7]


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 100, b"\1" + b"\0" * 90, framed(OUTCOMES, b"\x90"), framed(FUNCTION, b"f")]
)
async def test_a_function_that_writes_to_its_workers_socket_fails_and_is_told_so(pool: Pool, garbage: bytes) -> None:
    def work(item: int) -> int:
        if item == 50:
            import socket
            import stat

            for descriptor in range(3, 50):
                try:
                    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                        found = socket.socket(fileno=descriptor)
                        found.sendall(garbage)
                        found.detach()
                except OSError:
                    pass
            time.sleep(0.3)
        return item

    attempts = await run(pool, work, *range(200))
    bad = attempts[50].failure
    assert bad is not None and "answered something else than it was asked" in bad.message
    assert sum(each.status == OK for each in attempts.values()) == 199


async def test_a_function_may_close_what_it_prints_to_and_all_descriptors(pool: Pool) -> None:
    def work(item: int) -> int:
        if item == 10:
            os.close(1)
            os.close(2)
        if item == 20:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if item == 30:
            sys.stdout = None
        return item

    assert values(await run(pool, work, *range(100))) == list(range(100))

    def closes_all(item: int) -> int:
        if item == 10:
            os.closerange(3, 200)
        return item

    attempts = await run(pool, closes_all, *range(100))
    assert len(attempts) == 100
    assert {each.position for each in attempts.values() if each.failure} <= {10}


async def test_a_child_that_a_function_forks_and_that_returns_is_not_the_worker(pool: Pool, calls: Calls) -> None:
    def work(item: int) -> int:
        if item == 20 and os.fork() == 0:
            return -1
        calls.note(item)
        return item

    assert values(await run(pool, work, *range(100))) == list(range(100))
    assert max(calls.counts().values()) == 1


# ---------------------------------------------------------------- what is printed


async def test_what_each_of_many_quick_items_prints_is_its_own(pool: Pool) -> None:
    def speak(item: int) -> int:
        print("line", item)
        print("no end", item, end="", flush=True)
        os.write(1, f"\nraw {item}\n".encode())
        print("error", item, file=sys.stderr)
        return item

    output = OutputCapture()
    assert values(await run(pool, speak, *range(2_000), output=output)) == list(range(2_000))
    for item in (0, 1, 2, 777, 1_998, 1_999):
        assert sorted(said(output, item)) == sorted([f"line {item}", f"no end {item}", f"raw {item}"])
        assert said(output, item, "stderr") == [f"error {item}"]
    assert len(output.lines()) == 8_000


async def test_programs_that_items_start_print_for_them(pool: Pool) -> None:
    def speak(item: int) -> int:
        subprocess.run([sys.executable, "-Sc", f"print('program', {item})"], check=True)
        return item

    output = OutputCapture()
    await run(pool, speak, *range(12), output=output)
    assert [said(output, item) for item in range(12)] == [[f"program {item}"] for item in range(12)]


async def test_what_an_item_prints_is_seen_while_it_runs(pool: Pool, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def speak(item: int) -> int:
        print("before", item, flush=True)
        while not go.exists():
            time.sleep(0.01)
        print("after", item)
        return item

    output = OutputCapture()
    queue = queue_of(7)
    pool.provide(call_of(speak, output), RunPolicy(concurrency=1))
    pool.add(queue)
    await until(lambda: said(output, 0) == ["before 7"])
    go.touch()
    await outcomes(pool, queue)
    assert said(output, 0) == ["before 7", "after 7"]


async def test_large_values_and_much_output_come_through(pool: Pool) -> None:
    def work(item: int) -> str:
        for _ in range(20):
            print("x" * 1_000_000)
        return "y" * (16 * 1024 * 1024 - 10)

    output = OutputCapture()
    attempts = await run(pool, work, *range(3), output=output)
    assert [len(each) for each in values(attempts)] == [16 * 1024 * 1024 - 10] * 3
    assert [len(said(output, item)) for item in range(3)] == [20] * 3


async def test_a_program_that_empties_what_was_printed_disturbs_nobody(pool: Pool) -> None:
    def speak(item: int) -> int:
        print("line", item)
        if item == 50:
            os.ftruncate(1, 0)
        return item

    output = OutputCapture()
    assert values(await run(pool, speak, *range(100), output=output)) == list(range(100))
    assert said(output, 99) == ["line 99"]


async def test_where_nothing_can_be_printed_the_items_end_well(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> int:
            raise OSError("the terminal is gone")

        def flush(self) -> None:
            pass

    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def speak(item: int) -> int:
        print(item)
        return item

    call = call_of(speak)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Broken())
        queue = queue_of(1, 2, 3)
        pool.provide(call, RunPolicy(concurrency=1))
        pool.add(queue)
        attempts = {each.position: each for each in await outcomes(pool, queue)}
    assert values(attempts) == [1, 2, 3]
    assert "the terminal is gone" in str(told[0].exc_value)


# ---------------------------------------------------------------- how many, and which


async def test_never_more_run_than_are_allowed_while_that_changes(pool: Pool, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    path = tmp_path / "spy"

    def work(item: int) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"+")
        time.sleep(0.0005)
        os.write(descriptor, b"-")
        os.close(descriptor)
        return item

    def from_here_on(limit: int) -> None:
        with path.open("ab") as spy:
            spy.write(str(limit).encode())

    queue = queue_of(*range(8_000))
    from_here_on(1)
    pool.provide(call_of(work), RunPolicy(concurrency=1))
    pool.add(queue)
    done = asyncio.ensure_future(outcomes(pool, queue))
    limit = 1
    while not done.done():
        await asyncio.sleep(chance.uniform(0.1, 0.3))
        before, limit = limit, chance.randint(1, 4)
        if limit > before:
            from_here_on(limit)
        pool.set_concurrency(Range(limit, limit))
        if limit < before:
            await until(lambda: pool.running <= limit)  # noqa: B023
            from_here_on(limit)
    assert len({each.position for each in await done}) == 8_000
    now, allowed, reached = 0, 0, set()
    for each in path.read_text():
        if each in "+-":
            now += 1 if each == "+" else -1
            assert now <= allowed, f"{now} ran, {allowed} were allowed"
            reached.add((now, allowed))
        else:
            allowed = int(each)
    assert any(number == limit > 1 for number, limit in reached)


async def test_a_pause_takes_back_what_has_not_begun(pool: Pool, calls: Calls) -> None:
    def work(item: int) -> int:
        calls.note(item)
        time.sleep(0.002)
        return item

    queue = queue_of(*range(2_000))
    pool.provide(call_of(work), RunPolicy(concurrency=2))
    pool.add(queue)
    await until(lambda: len(calls.counts()) > 100)
    pool.pause()
    await until(lambda: not pool.running)
    begun = len(calls.counts())
    await asyncio.sleep(0.3)
    assert len(calls.counts()) == begun < 2_000
    pool.resume()
    assert {each.position for each in await outcomes(pool, queue)} == set(range(2_000))
    assert set(calls.counts().values()) == {1}


async def test_a_cancelled_queue_ends_the_worker_that_is_in_an_item_of_it_only(pool: Pool, calls: Calls) -> None:
    def work(item: int) -> int:
        calls.note(f"{item} {os.getpid()}")
        if item < 0:
            time.sleep(60)
        time.sleep(0.001)
        return item

    stays, goes = queue_of(*range(1_500)), queue_of(*[-1] * 20)
    pool.provide(call_of(work), RunPolicy(concurrency=2))
    pool.add(stays)
    await until(lambda: len(calls.counts()) > 50)
    pool.add(goes)
    done = asyncio.ensure_future(outcomes(pool, stays))
    await done
    await until(lambda: sum(line.startswith("-1 ") for line in calls.counts()) == 2)
    pool.cancel(goes)
    ended = await asyncio.wait_for(outcomes(pool, goes), 10)
    assert [each.status for each in ended] == [CANCELLED] * 20
    assert sorted(each.started > 0 for each in ended) == [False] * 18 + [True] * 2
    assert all(each.status == OK for each in await done)
    assert all(count == 1 for line, count in calls.counts().items() if not line.startswith("-1"))
    assert values(await run(pool, compute, 1, 2)) == [2, 4]


async def test_what_waits_behind_a_long_item_is_done_by_who_is_free(pool: Pool) -> None:
    def work(item: int) -> int:
        time.sleep(2 if item == 400 else 0.001)
        return item

    began = time.monotonic()
    attempts = await run(pool, work, *range(1_000))
    assert len(attempts) == 1_000
    after = [each.started for each in attempts.values() if each.position != 400]
    long = attempts[400]
    assert max(after) < long.started + long.ran, "they waited for it"
    assert time.monotonic() - began < 30


async def test_a_function_that_changes_while_items_run_is_used_from_then_on(pool: Pool) -> None:
    def old(item: int) -> str:
        time.sleep(0.002)
        return "old"

    def new(item: int) -> str:
        time.sleep(0.002)
        return "new"

    queue = queue_of(*range(1_000))
    pool.provide(call_of(old), RunPolicy(concurrency=2))
    pool.add(queue)
    done = asyncio.ensure_future(outcomes(pool, queue))
    await until(lambda: pool.running == 2)
    await asyncio.sleep(0.3)
    before = time.time()
    pool.provide(call_of(new), RunPolicy(concurrency=2))
    since = time.time()
    attempts = await done
    late = [decode(each.value) for each in attempts if each.started > since + 0.2]
    assert set(late) == {"new"} and len(late) > 50
    assert all(decode(each.value) == "old" for each in attempts if each.started < before)


async def test_failed_items_are_tried_again_and_in_other_batches(pool: Pool, calls: Calls) -> None:
    def work(item: int) -> int:
        calls.note(item)
        if item % 100 == 0 and calls.counts()[str(item)] < 2:
            raise ValueError("at first")
        return item

    retry = Retry(max_attempts=2, initial_interval=0.05, jitter=0)
    assert values(await run(pool, work, *range(500), retry=retry)) == list(range(500))
    assert calls.counts() == {str(item): 2 if item % 100 == 0 else 1 for item in range(500)}


# ---------------------------------------------------------------- workers and jobs


async def test_two_jobs_share_the_workers_and_nothing_else(processes: Processes) -> None:
    loop = asyncio.get_running_loop()
    pools = [Pool(loop, name, processes=processes) for name in ("one", "two")]
    outputs = [OutputCapture(), OutputCapture()]

    def job(name: str) -> Callable[[int], list[Any]]:
        def work(item: int) -> list[Any]:
            print(name, item)
            return [name, item, os.getpid()]

        return work

    each = [
        run(pool, job(name), *range(1_500), output=output)
        for pool, name, output in zip(pools, ("one", "two"), outputs, strict=True)
    ]
    found = [values(attempts) for attempts in await asyncio.gather(*each)]
    for name, output, of_job in zip(("one", "two"), outputs, found, strict=True):
        assert [value[:2] for value in of_job] == [[name, item] for item in range(1_500)]
        assert sorted(line.text for line in output.lines()) == sorted(f"{name} {item}" for item in range(1_500))
        assert all(line.text.endswith(f" {line.position}") for line in output.lines())
    there = {child.pid for child in psutil.Process().children()}
    later = {value[2] for value in values(await run(pools[0], job("later"), *range(50)))}
    assert later <= there, "the workers were kept"
    for pool in pools:
        pool.close()


async def test_nothing_of_a_job_is_left_in_a_worker_soon_after_it(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORGET", 0.2)

    class Heavy:
        def __init__(self) -> None:
            self.data = b"x" * 100_000_000
            self.me = self  # only the garbage collector frees it

    heavy = Heavy()

    def work(item: str) -> list[int]:
        return [len(heavy.data), os.getpid()]

    def look(item: int) -> list[Any]:
        import gc

        left = [type(each).__name__ for each in gc.get_objects() if type(each).__name__ in {"Heavy", "Loaded"}]
        return [left, os.getpid()]

    pids = {pid for _, pid in values(await run(pool, work, *["item"] * 20))}
    await until(lambda: all(psutil.Process(pid).memory_info().rss < 100_000_000 for pid in pids))
    left = values(await run(pool, look, *range(20)))
    assert {pid for _, pid in left} & pids
    assert all(of_worker == ["Loaded"] for of_worker, pid in left if pid in pids), "its own, and no other"


async def test_a_worker_that_has_grown_is_replaced(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORGET", 0.2)
    monkeypatch.setattr(module, "GROWN", 30_000_000)

    def leak(item: int) -> int:
        import builtins

        builtins.kept = bytearray(60_000_000)  # type: ignore[attr-defined]
        return os.getpid()

    pids = set(values(await run(pool, leak, 1, 2, concurrency=1)))
    await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert not set(values(await run(pool, lambda item: os.getpid(), 1, 2))) & pids


async def test_a_worker_that_a_job_has_changed_is_not_given_to_another(processes: Processes, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    one, two = (Pool(loop, name, processes=processes) for name in ("one", "two"))

    def look(item: int) -> list[Any]:
        return [os.getpid(), str(Path.cwd()), os.environ.get("LEFT_BEHIND"), "left" in sys.path]

    async def unchanged(pids: set[int]) -> None:
        for pid, directory, variable, path in values(await run(two, look, *range(20))):
            assert (directory, variable, path) == (str(Path.cwd()), None, False)
            assert pid not in pids

    def moves(item: int) -> int:
        os.chdir(tmp_path)
        return os.getpid()

    def sets(item: int) -> int:
        os.environ["LEFT_BEHIND"] = "1"
        return os.getpid()

    def adds(item: int) -> int:
        sys.path.append("left")
        return os.getpid()

    def closes(item: int) -> int:
        os.closerange(1, 2)
        return os.getpid()

    for changes in (moves, sets, adds, closes):
        await unchanged(set(values(await run(one, changes, *range(20)))))
    one.close()
    two.close()


async def test_a_new_function_sees_new_surroundings_and_edited_modules(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(item: int) -> list[Any]:
        import lies_around  # type: ignore[import-not-found]

        return [lies_around.VALUE, os.environ.get("OF_THE_CELL"), str(Path.cwd())]

    (tmp_path / "lies_around.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    here = str(Path.cwd())
    assert values(await run(pool, look, *range(6))) == [[1, None, here]] * 6
    (tmp_path / "lies_around.py").write_text("VALUE = 1 + 1\n")
    assert values(await run(pool, look, *range(6))) == [[2, None, here]] * 6
    monkeypatch.setenv("OF_THE_CELL", "set")
    assert values(await run(pool, look, *range(6))) == [[2, "set", here]] * 6
    monkeypatch.chdir(tmp_path)
    assert values(await run(pool, look, *range(6))) == [[2, "set", str(tmp_path)]] * 6


async def test_workers_start_before_items_come_and_without_what_few_items_need(
    pool: Pool, processes: Processes
) -> None:
    def look(item: int) -> list[Any]:
        return [os.getpid(), "asyncio" in sys.modules]

    pool.provide(call_of(look), RunPolicy(concurrency=2))
    await until(lambda: len(psutil.Process().children()) >= 2)
    early = {child.pid for child in psutil.Process().children()}
    queue = queue_of(*range(20))
    pool.add(queue)
    found = [decode(each.value) for each in await outcomes(pool, queue)]
    assert {pid for pid, _ in found} <= early
    assert not any(imported for _, imported in found)


async def test_each_worker_draws_its_own_random_numbers(pool: Pool) -> None:
    """They are new processes, and no forks: nothing of a generator's state is handed on."""

    def draw(item: int) -> list[Any]:
        import numpy

        time.sleep(0.1)
        return [os.getpid(), random.random(), numpy.random.random()]

    random.seed(1)
    found = values(await run(pool, draw, *range(8)))
    assert len({pid for pid, _, _ in found}) == 2
    assert len({number for _, number, _ in found}) == len({number for _, _, number in found}) == 8


async def test_an_interrupt_of_the_parents_group_reaches_no_worker(pool: Pool) -> None:
    def work(item: int) -> int:
        if item == 5:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return os.getpgid(0)

    assert os.getpgid(0) not in values(await run(pool, work, *range(20)))


async def test_a_defect_of_the_thread_that_looks_after_workers_ends_their_items(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def fails(self: Worker) -> None:
        raise ZeroDivisionError("a defect")

    def slow(item: int) -> int:
        time.sleep(0.5)
        return item

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "forward_running", fails)
        attempts = await run(pool, slow, 1)
        await until(lambda: told)
    assert attempts[0].failure is not None and attempts[0].failure.type == "ZeroDivisionError"
    assert told[0].exc_type is ZeroDivisionError
    assert values(await run(pool, compute, 1, 2)) == [2, 4], "what comes later has a new one"


async def test_workers_that_an_item_has_taught_already_need_not_be_prepared(
    pool: Pool, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor is changed while items wait: some may run before the order to have workers load the function."""
    prepare, orders = Processes.prepare, list[Any]()
    monkeypatch.setattr(Processes, "prepare", lambda _, *order: orders.append(order))
    assert values(await run(pool, abs, -1, -2)) == [1, 2]
    (order,) = orders
    prepare(processes, *order)
    queue = queue_of(-3, -4)
    pool.add(queue)
    assert sorted(decode(each.value) for each in await outcomes(pool, queue, 20)) == [3, 4]
