"""The notebook that the kill tests kill: `python -m tests.durability.notebook FOLDER TOTAL HOW`.

HOW is where its items run: `loop`, `thread`, or `process` (in batches, since they are short). With `stored ` before it,
items and values are arrays, which lie in the store.

Every execution of an item is a line of FOLDER/runs, on disk before the item goes on: `begin ITEM ATTEMPT PROCESS` and
`end ITEM ATTEMPT PROCESS`, where PROCESS is the kernel's, and ATTEMPT tells executions of the item in it apart. Every
outcome that the job calls recorded is a line of FOLDER/recorded. Prints `submitted`, `attached COUNT`, and `finished`
at the end.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import numpy as np

import restate_nb as rnb
from restate_nb.engine.record import OK
from restate_nb.handle.job import runner_of
from restate_nb.session.session import Session
from tests.durability.outcomes import final_outcomes

CONCURRENCY = 20
SECONDS = 0.05
CELLS = 1_000  # of an array in the store: 8 kB
if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    RUNS = os.open(FOLDER / "runs", os.O_CREAT | os.O_WRONLY | os.O_APPEND)


ATTEMPTS = Counter[int]()
SHORT = 0.002  # seconds that an item of a batch takes


async def on_loop(item: int) -> int:
    begin(item)
    await asyncio.sleep(SECONDS)
    return end(item)


def in_thread(item: int) -> int:
    begin(item)
    time.sleep(SECONDS)
    return end(item)


def begin(item: int) -> None:
    ATTEMPTS[item] += 1
    note(RUNS, f"begin {item} {ATTEMPTS[item]} {os.getpid()}")


def end(item: int) -> int:
    note(RUNS, f"end {item} {ATTEMPTS[item]} {os.getpid()}")
    return item * item


def in_process(path: str, item: int) -> int:
    """In a worker, whose parent is the kernel."""
    runs = os.open(path, os.O_WRONLY | os.O_APPEND)
    # Not os.getppid(): a worker may begin an item in the very moment in which its kernel is killed.
    told = f"{item} {os.getpid()}{time.monotonic_ns() % 10**9:09} {os.environ['RNB_TEST_KERNEL']}"
    note(runs, f"begin {told}")
    time.sleep(SHORT)
    note(runs, f"end {told}")
    os.close(runs)
    return item * item


def array_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which takes arrays full of a number, and returns such."""
    if asyncio.iscoroutinefunction(function):

        async def on_loop(item: Any) -> Any:
            return array_of(await function(int(item[0])))

        return on_loop
    return functools.partial(array_in, function)


def array_in(function: Callable[[int], int], item: Any) -> Any:
    time.sleep(5 * SHORT)  # since what has ended is recorded a little later than where nothing goes to the store
    return array_of(function(int(item[0])))


def array_of(number: int) -> Any:
    return np.full(CELLS, number, dtype=np.int64)


def note(runs: int, line: str) -> None:
    """A line of 64 bytes: one that crossed a page could be torn by a kill."""
    os.write(runs, f"{line:<63}\n".encode())
    os.fsync(runs)


HOW: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "loop": (on_loop, {"concurrency": CONCURRENCY}),
    "thread": (in_thread, {"concurrency": CONCURRENCY}),
    "process": (in_process, {"executor": "process", "concurrency": 2}),
}


def main() -> None:
    total, how = int(sys.argv[2]), sys.argv[3].removeprefix("stored ")
    stored = how != sys.argv[3]
    os.environ["RNB_TEST_KERNEL"] = str(os.getpid())  # its workers see it
    function, options = HOW[how]
    if how == "process":
        function = functools.partial(function, str(FOLDER / "runs"))
    with redirect_stdout(sys.stderr):  # which tells of unfinished jobs
        session = rnb.start("killed", data_dir=FOLDER / ".restate")
    with session:
        if stored:
            function = array_on(function)
        items = [*map(array_of, range(total))] if stored else range(total)
        job = rnb.map(function, items, show=False, **options)
        print("submitted", flush=True)
        threading.Thread(target=watch, args=(job, FOLDER / "recorded"), daemon=True).start()
        frame = job.result(timeout=300)
        values = frame["value"].tolist()
        if stored:
            assert {(value.shape, value.min() == value.max()) for value in values} == {((CELLS,), True)}
            values = [int(value[0]) for value in values]
            check_store(session, job)
        assert values == [item * item for item in range(total)]
        assert frame["status"].eq("ok").all()
        assert final_outcomes(session, job) == dict.fromkeys(range(total), 1)
        print("attached", job.attached, flush=True)
        print("finished", flush=True)


def check_store(session: Session, job: rnb.Job[Any]) -> None:
    """What kernels have left that died before their job was theirs is swept away, and nothing else is left."""
    store, mine = session.connection.store, runner_of(job).data.manifest.folder
    assert store is not None
    left = {each.name for each in store.folders()} - {mine}
    for folder in left:
        store.drop(folder)
    print(f"{len(left)} folders of kernels that died while they read the items", file=sys.stderr)


def watch(job: rnb.Job[int], path: Path) -> None:
    told: set[int] = set()
    with path.open("a") as file:
        while True:
            recorded = set(
                runner_of(job).data.ledger.positions(OK)
            )  # what job.frame() shows, without a second of loading pandas
            file.writelines(f"{position}\n" for position in sorted(recorded - told))
            file.flush()
            told = recorded
            threading.Event().wait(0.005)


if __name__ == "__main__":
    main()
