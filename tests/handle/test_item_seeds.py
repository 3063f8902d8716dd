"""Proves that each item has a seed of its own, and has it at every attempt, wherever it runs."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import restate

import restate_nb as rnb
from restate_nb.patterns import run_each
from restate_nb.session.session import Session
from tests.handle.counted import Calls
from tests.support import defined, run_python, submit


def both(item: int) -> list[int]:
    """Without a base, and with one."""
    return [rnb.item_seed(), rnb.item_seed(42)]


async def both_awaited(item: int) -> list[int]:
    await asyncio.sleep(0)
    return await asyncio.to_thread(both, item)


async def both_durable(ctx: restate.Context, item: int) -> list[int]:
    seeds = both(item)
    await ctx.sleep(timedelta(milliseconds=5))
    assert both(item) == seeds
    return seeds


@pytest.fixture
def seeds_of(tmp_path: Path) -> Any:
    """The seeds of a job on a server of its own."""

    def of(fn: Any, count: int = 50, **options: Any) -> Any:
        with Session("seeds", tmp_path / f"data {len(list(tmp_path.iterdir()))}") as session:
            return submit(session, fn, range(count), **{"name": "seeds", **options}).values()

    return of


def test_they_are_the_same_by_every_executor_and_in_every_session(seeds_of: Any) -> None:
    expected = seeds_of(both)
    assert len({seed for pair in expected for seed in pair}) == 100
    assert all(0 <= seed < 2**63 for pair in expected for seed in pair)
    assert seeds_of(both, executor="process") == expected
    assert seeds_of(both_awaited) == expected
    assert seeds_of(both_awaited, executor="process") == expected
    assert seeds_of(both_awaited, executor="thread") == expected
    assert seeds_of(both_durable) == expected


def test_another_job_and_one_that_begins_anew_draw_others_unless_there_is_a_base(session: Session) -> None:
    first = submit(session, both, range(50), name="first").values()
    other = submit(session, both, range(50), name="other").values()
    fresh = submit(session, both, range(50), name="first", fresh=True).values()
    assert len({pair[0] for job in (first, other, fresh) for pair in job}) == 150
    assert [pair[1] for pair in first] == [pair[1] for pair in other] == [pair[1] for pair in fresh]


def test_they_are_these_numbers_for_good(session: Session) -> None:
    """A notebook draws the same in years, and a job that was begun by one version goes on with another."""
    bases = 42, "noise", None
    job = submit(session, lambda item: [rnb.item_seed(base) for base in bases], range(2), name="for good")
    assert job.values() == [
        [6985438441525619132, 5196828745489335854, 338845130234292374],
        [6708390212445155723, 4135534353661852085, 2146160467712860431],
    ]


def test_bases_that_differ_draw_others_within_one_item(session: Session) -> None:
    bases = (0, 1, -1, "0", "1", "", 2**100, None)
    (seeds,) = submit(session, lambda item: [rnb.item_seed(base) for base in bases], [1], name="bases").values()
    assert len(set(seeds)) == len(bases)


def test_an_item_has_its_seed_again_when_it_is_tried_again(any_session: Session, tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")

    def fails_twice(item: int) -> int:
        run = f"{item} {rnb.item_seed()}"
        calls.note(run)
        if calls.counts()[run] < 3:
            raise OSError("again")
        return item

    retry = rnb.Retry(10, initial_interval=0.05)
    job = submit(any_session, fails_twice, range(20), retry=retry, name="again", concurrency=3)
    job.executor = "process"
    assert job.values() == list(range(20))
    assert list(calls.counts().values()) == [3] * 20


def test_an_item_that_is_run_again_by_hand_or_later_has_its_seed(session: Session) -> None:
    healed = threading.Event()
    seen: dict[int, list[int]] = {}

    async def fails(item: int) -> int:
        seen.setdefault(item, []).append(rnb.item_seed())
        if not healed.is_set():
            raise ValueError("not yet")
        return rnb.item_seed(1)

    job = submit(session, fails, range(5), name="by hand")
    job.result(20)
    healed.set()
    assert job.rerun_locally(3) == job.retry_failed().values()[3]
    assert [len(set(each)) for each in seen.values()] == [1] * 5
    assert len(seen[3]) == 3


def test_it_is_the_seed_of_the_killed_kernel_for_what_it_had_in_flight(tmp_path: Path) -> None:
    code = """
        import os
        import sys
        from functools import partial
        from pathlib import Path
        from restate_nb.session.session import Session
        from tests.handle.counted import Calls
        from tests.handle.test_item_seeds import noted
        from tests.support import submit

        folder, executor, kills = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "kills"
        work = partial(noted, Calls(folder / "calls"), os.getpid() if kills else 0)
        with Session("killed", folder / ".restate") as session:
            submit(session, work, range(60), name="killed", concurrency=4, executor=executor, version=1).result(60)
        """
    died = run_python(code, tmp_path, "process", "kills", check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    calls = Calls(tmp_path / "calls").counts()
    assert 10 < len(calls) < 60
    run_python(code, tmp_path, "thread", "goes on")
    calls = Calls(tmp_path / "calls").counts()
    assert len(calls) == len({line.split()[0] for line in calls}) == 60
    assert max(calls.values()) == 2, "something was in flight"


def noted(calls: Calls, kernel: int, item: int) -> int:
    """Kills the kernel at item 30, if it is given one."""
    calls.note(f"{item} {rnb.item_seed()} {rnb.item_seed(7)}")
    time.sleep(0.01)
    if item == 30 and kernel:
        os.kill(kernel, signal.SIGKILL)
        time.sleep(5)
    return item


def test_items_within_items_draw_others(session: Session) -> None:
    async def outer(ctx: restate.Context, item: int) -> list[list[int]]:
        return (await run_each(ctx, both, range(10))).values()

    jobs = submit(session, outer, range(5), name="outer").values()
    assert len({seed for job in jobs for pair in job for seed in pair}) == 100

    def begins(item: int) -> list[list[int]]:
        return [rnb.item_seed(), *(seed for seed, _ in submit(session, both, range(10), name=f"in {item}").values())]

    begun = submit(session, begins, range(3), name="begins").values()
    assert len({seed for seeds in begun for seed in seeds}) == 33


def test_a_durable_function_that_is_called_once_has_a_seed(session: Session) -> None:
    first, second = (rnb.call(both_durable, 1, session=session) for _ in range(2))
    assert first[0] != second[0]
    assert first[1] == second[1]


@pytest.mark.parametrize("executor", ["auto", "process"])
def test_generators_take_them_and_two_workers_never_draw_the_same_numbers(session: Session, executor: Any) -> None:
    def draws(item: int) -> list[float]:
        seed = rnb.item_seed(2026)
        state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
        return [random.Random(seed).random(), float(np.random.default_rng(seed).random()), float(state.rand())]

    drawn = submit(session, draws, range(200), executor=executor, name=f"draws {executor}").values()
    assert len({number for numbers in drawn for number in numbers}) == 600
    assert drawn == submit(session, draws, range(200), name="draws again").values()


def of_a_cell(kind: str) -> Any:
    """A function of a notebook that draws from a generator, in one of the ways in which people write that."""
    cell = defined(
        """
        import functools
        import random

        import numpy as np

        rng, state, own = np.random.default_rng(1), np.random.RandomState(1), random.Random(1)
        unused = random.Random(2)

        def globally(item):
            return float(rng.random())

        def indirectly(item):
            return globally(item)

        def in_a_comprehension(item):
            return [state.rand() for _ in range(2)]

        def by_default(item, generator=own):
            return generator.random()

        def enclosing():
            inner = random.Random(3)
            return lambda item: inner.random()

        class Draws:
            def __init__(self):
                self.source = random.Random(4)

            def __call__(self, item):
                return self.source.random()

            def method(self, item):
                return self.source.random()

        enclosed, bound = enclosing(), functools.partial(by_default, generator=own)
        called, method = Draws(), Draws().method

        def safe(item):
            generator = random.Random(item)
            return generator.random() + random.random() + np.random.default_rng(item).random()
        """
    )
    return cell[kind]


COPIED = {
    "globally": "rng",
    "indirectly": "rng",
    "in_a_comprehension": "state",
    "by_default": "a default value",
    "enclosed": "inner",
    "bound": "generator",
    "called": "source",
    "method": "source",
}


@pytest.mark.parametrize("kind", COPIED)
def test_a_generator_of_which_each_process_would_have_a_copy_is_warned_of(session: Session, kind: str) -> None:
    says = rf"uses the random generator .*`{COPIED[kind]}`.*each worker process has a copy.*rnb\.item_seed"
    with pytest.warns(UserWarning, match=says):
        job = submit(session, of_a_cell(kind), range(2), executor="process", name=f"copied {kind}")
    job.result(20)
    job = submit(session, of_a_cell(kind), range(2), name=f"not copied {kind}")
    with pytest.warns(UserWarning, match=says):
        job.executor = "process"
    job.result(20)


def test_generators_that_are_made_there_are_not_warned_of(session: Session) -> None:
    submit(session, of_a_cell("safe"), range(2), executor="process", name="not warned of").result(20)


@pytest.mark.parametrize("base", [1.5, True, [1], b"x"])
def test_a_base_that_is_none_is_refused(session: Session, base: Any) -> None:
    frame = submit(session, lambda item: rnb.item_seed(base), [1], name=f"base {base!r}").result(20)
    assert frame["error"][0].startswith("The base of a seed is a whole number or a text, such as rnb.item_seed(42)")


def test_outside_of_an_item_it_says_what_to_do(session: Session) -> None:
    with pytest.raises(rnb.InvalidInput, match=r"pass the seed on.*rerun_locally"):
        rnb.item_seed()
    with pytest.raises(rnb.InvalidInput, match="for the code of an item"):
        rnb.item_seed(42)

    def in_a_thread(item: int) -> str:
        says: list[str] = []

        def asks() -> None:
            try:
                rnb.item_seed()
            except rnb.InvalidInput as error:
                says.append(str(error))

        thread = threading.Thread(target=asks)
        thread.start()
        thread.join()
        return says[0]

    assert "A thread or a process that an item starts" in submit(session, in_a_thread, [1], name="thread").values()[0]
